"""Which scenes an evaluation runs: balanced over hands and colours, and none of them ever in training data.

Recordings draw their scenes from seeds at `rdt2.sim.recording.FIRST_SCENE_SEED` (1e9) and above.
Evaluations draw theirs below: evaluation seed S owns the scene seeds S * 100,000 to S * 100,000 + 99,999.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from rdt2.action import ARMS
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Task

SCENE_SEEDS_EACH = 100_000
"""Scene seeds that belong to one evaluation seed."""


@dataclass(frozen=True)
class Trial:
    """One episode to run: everything that decides it, as plain values."""

    index: int
    seed: int
    """Of the scene; the policy's noise follows from it too."""
    task_kind: str
    scenery: str = "seen"
    unseen_shapes: bool = False
    swap_instruction: bool = False
    instruction: str | None = None
    """A sentence of the user's own instead of the scene's."""

    def scene(self) -> Scene:
        """The scene of this trial."""
        from rdt2.sim.drawing import make_scene

        return make_scene(self.task_kind, self.seed, scenery=self.scenery, unseen_shapes=self.unseen_shapes)

    def task(self, scene: Scene) -> Task | None:
        """What is asked for in its scene; None where the user's own sentence names no task of it."""
        import numpy as np

        from rdt2.sim.tasks import swapped, task_for

        if self.instruction is not None:
            return task_named(scene, self.instruction)
        return (
            swapped(scene, np.random.default_rng([self.seed, 7]))
            if self.swap_instruction
            else task_for(scene)
        )


def task_named(scene: Scene, instruction: str) -> Task | None:
    """The task of a scene that a sentence asks for; case, spaces and full stop do not matter."""
    from rdt2.sim.tasks import TASKS, make_task

    wanted = _words(instruction)
    for item in scene.objects:
        for hand in ARMS:
            if item.kind == TASKS[scene.task_kind].about:
                task = make_task(scene.task_kind, hand, item)
                if _words(task.instruction) == wanted:
                    return task
    return None


def _words(sentence: str) -> list[str]:
    return sentence.casefold().strip().rstrip(".").split()


def draw_trials(
    task_kind: str,
    episodes: int,
    seed: int,
    *,
    scenery: str = "seen",
    unseen_shapes: bool = False,
    swap_instruction: bool = False,
    hands: Sequence[str] = ARMS,
) -> list[Trial]:
    """The trials of an evaluation: hands alternate, colours take turns, each with the first scene that fits.

    Any number of episodes is balanced: hands to within one, colours to within two. A robot with one arm is asked for
    that hand alone: `hands`.

    Raises:
        ConfigError: no episodes, or a seed whose scenes would reach those of training.
        TaskError: an unknown task.
    """
    from rdt2.sim.drawing import make_scene
    from rdt2.sim.recording import FIRST_SCENE_SEED
    from rdt2.sim.scene import COLOURS

    seeds = FIRST_SCENE_SEED // SCENE_SEEDS_EACH
    if not 0 <= seed < seeds:
        raise ConfigError(f"seed is {seed}, expected 0 to {seeds - 1}: others belong to training scenes.")
    if not 1 <= episodes <= SCENE_SEEDS_EACH // 20:
        raise ConfigError(f"episodes is {episodes}, expected 1 to {SCENE_SEEDS_EACH // 20}.")
    waiting: dict[tuple[str, str], list[int]] = {}
    for index in range(episodes):
        waiting.setdefault(_wanted(index, list(COLOURS), hands), []).append(index)
    found: dict[int, Trial] = {}
    for scene_seed in range(seed * SCENE_SEEDS_EACH, (seed + 1) * SCENE_SEEDS_EACH):
        scene = make_scene(task_kind, scene_seed, scenery=scenery, unseen_shapes=unseen_shapes)
        queue = waiting.get((scene.hand, scene.object(scene.target).colour))
        if queue:
            index = queue.pop(0)
            found[index] = Trial(index, scene_seed, task_kind, scenery, unseen_shapes, swap_instruction)
            if len(found) == episodes:
                return [found[index] for index in range(episodes)]
    raise ConfigError(
        f"seed {seed}: its scenes do not cover {episodes} balanced episodes. Take another seed."
    )


def trials_for(instruction: str, kinds: Sequence[str], episodes: int, seed: int) -> list[Trial]:
    """Trials for a sentence of the user's own, in scenes where it names a task; without any such scene, in
    the first.

    Raises:
        ConfigError: as `draw_trials`.
    """
    found: list[Trial] = []
    for kind in kinds:
        # Scenes are cheap to draw and hold three of six colours, so a sentence that fits any is met soon.
        for trial in draw_trials(kind, 120, seed):
            asked = replace(trial, index=len(found), instruction=instruction)
            if asked.task(asked.scene()) is not None:
                found.append(asked)
            if len(found) == episodes:
                return found
    if found:
        return found
    return [replace(trial, instruction=instruction) for trial in draw_trials(kinds[0], episodes, seed)]


def _wanted(index: int, colours: list[str], hands: Sequence[str]) -> tuple[str, str]:
    """Hand and colour of an episode: hands alternate; each goes through all colours, half a turn apart."""
    turn, other = divmod(index, len(hands))
    return hands[other], colours[(turn + other * (len(colours) // 2)) % len(colours)]
