"""Closed-loop evaluation: run a policy in the simulated cell and count what it achieves.

    result = evaluate_cell("demo-fm", "ur5e", "pick", episodes=100, seed=0, workers=2)
    print(result.success, "of", result.episodes, result.success_rate)

The loop that drives the arms is the one that drives robots, `rdt2.control.run_episode`. Simulated time stands
still while a policy predicts, so the cell runs on for a fixed `LATENCY` instead: results do not depend on how
busy the machine is.

With a file for the result, that file is whole and up to date after every episode, and an evaluation that was
interrupted goes on where it was, provided that everything that decides a result is still the same.
"""

from __future__ import annotations

import dataclasses
import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS
from rdt2.errors import ConfigError, SimulationError
from rdt2.evaluation.identity import (
    code_digest,
    differences,
    policy_identity,
    this_run,
    told,
    versions,
)
from rdt2.evaluation.judge import Judge
from rdt2.evaluation.policies import Deprived, open_policy
from rdt2.evaluation.results import CellEvaluation, EpisodeRecord, Event, read_evaluation, require_new
from rdt2.evaluation.scenes import Trial, draw_trials, task_named
from rdt2.files import plain, write_json
from rdt2.policy.spec import PolicySpec
from rdt2.progress import note
from rdt2.workers import worker_pool

if TYPE_CHECKING:
    from rdt2.control import EpisodeResult, LoopConfig, Mode, Recorder
    from rdt2.dashboard.desk import Desk
    from rdt2.evaluation.page import Page
    from rdt2.policy import Policy
    from rdt2.sim.cell import Cell

LATENCY = 0.1
"""Seconds of simulated time that a prediction takes, unless it is to take what it really takes."""
EXECUTE_STEPS = 6
"""Of a chunk, before the next look: where a hand is about to close, 12 steps are driven half blind."""
MAX_SECONDS = 20.0
"""Simulated length of an episode that does not succeed."""
ALL = "all"
"""Every task there is."""
BRIEF = 0.05
"""Seconds below which what the guard held back is counted and is no event."""


def loop_config(
    execute_steps: int = EXECUTE_STEPS, *, latency: float | None = LATENCY, mode: Mode | None = None
) -> LoopConfig:
    """How evaluations run the loop; `latency` in seconds. Raises ConfigError for steps that a chunk does not have."""
    from rdt2.control import LoopConfig

    return LoopConfig(latency=latency, execute_steps=execute_steps, mode=mode)


def evaluate_cell(
    policy: PolicySpec | Policy | str,
    robot: str,
    task: str,
    *,
    episodes: int = 20,
    seed: int = 0,
    scenery: str = "seen",
    unseen_shapes: bool = False,
    swap_instruction: bool = False,
    blind: bool = False,
    no_instruction: bool = False,
    workers: int = 1,
    config: LoopConfig | None = None,
    max_seconds: float = MAX_SECONDS,
    json: Path | None = None,
    resume: bool = False,
    page: Page | None = None,
    desk: Desk | None = None,
    on_start: Callable[[Sequence[EpisodeRecord]], None] | None = None,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
) -> CellEvaluation:
    """Run episodes and count.

    Args:
        policy: which one to load, or a loaded one with one worker.
        robot: which arms: ur5e, fr3, handheld, or the yaml of a robot of kind cell.
        task: what the sentences ask for, a name of `rdt2.sim.tasks.TASKS`, or "all".
        episodes: how many scenes of each task; hands and colours are balanced over them.
        seed: which scenes, never those of training, and the policy's noise.
        scenery: what textures, light and table height are drawn from: "seen" is what training has, "unseen" what it
            never has. See `rdt2.sim.sceneries`.
        unseen_shapes: shapes that training never had, in known colours; "all" are then the tasks that have such.
        swap_instruction: ask for another hand or object than the scene was made for.
        blind: show it black pictures.
        no_instruction: tell it `rdt2.evaluation.policies.NEUTRAL` in place of the sentence that is judged.
        workers: processes, one thread each; the records do not depend on their number.
        config: of the loop.
        max_seconds: simulated length of an episode that does not succeed.
        json: file that holds the result so far, whole, after every episode; a new one, unless `resume`.
        resume: go on with what that file holds; without the file, begin.
        page: which episodes are filmed; its films are there to be put together when this returns.
        desk: an operator who starts the first episode and may stop any; with one worker.
        on_start: called with the records that were there already, when the policy is loaded.
        on_episode: called with each record as it is finished.

    Raises:
        ConfigError: numbers that make no sense, an unknown robot, or a file that something else decided than would
            decide what is to come; says what. TaskError: unknown task.
        CheckpointError: the policy cannot be loaded. KeyboardInterrupt: Ctrl-C, also during an episode.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1.")
    if workers > 1 and not isinstance(policy, (str, PolicySpec)):
        raise ConfigError("several workers load the policy themselves: pass its name or a PolicySpec.")
    if workers > 1 and desk is not None:
        raise ConfigError("one operator looks at one cell: leave out --workers with --dashboard or --rerun.")
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds is {max_seconds}, expected more than 0.")
    if no_instruction and swap_instruction:
        raise ConfigError(
            "no_instruction and swap_instruction: a sentence that is not told cannot be swapped."
        )
    if resume and json is None:
        raise ConfigError("resume goes on with what a file holds: name it with json (--json FILE).")
    from rdt2.sim.cell import cell_settings
    from rdt2.sim.tasks import TASKS

    arms = cell_settings(robot)
    tasks = list(TASKS) if task == ALL else [task]
    if unseen_shapes:
        if task != ALL and TASKS[task].about != "object":
            raise ConfigError(
                f"nothing in {task} has a shape that training never had: ask for pick or place."
            )
        tasks = [name for name in tasks if TASKS[name].about == "object"]
    options: Any = {"scenery": scenery, "unseen_shapes": unseen_shapes, "swap_instruction": swap_instruction}
    hands = [side for side in ARMS if side in arms.sides]
    if swap_instruction and len(hands) < len(ARMS):
        raise ConfigError(
            f"{robot} has the {hands[0]} arm alone: swap_instruction would ask for the other hand, too."
        )
    trials = [trial for name in tasks for trial in draw_trials(name, episodes, seed, hands=hands, **options)]
    before = _before(json, resume, {(trial.task_kind, trial.index) for trial in trials})
    done = {record.trial for record in before.records} if before else set()
    left = [trial for trial in trials if (trial.task_kind, trial.index) not in done]
    runner = Runner(
        PolicySpec.of(policy) if isinstance(policy, str) else policy,
        robot, config or loop_config(), max_seconds, page, blind=blind, no_instruction=no_instruction, desk=desk,
    )  # fmt: skip
    started = time.perf_counter()
    with _running(runner, min(workers, max(1, len(left)))) as (described, run):
        settings = plain({
            **described,
            "robot": {"robot": robot, "settings": arms.model_dump()},
            "scenes": {"tasks": tasks, "seed": seed, **options},
            "versions": {**versions(), "rdt2 code": code_digest()},
            # at its real latency a policy is as good as the computer it has
            **({"computer": [platform.platform(), workers]} if runner.config.latency is None else {}),
        })  # fmt: skip
        if before is not None and (changed := differences(before.settings, settings)):
            raise ConfigError(
                f"{json} cannot go on: {told(changed, there='in the file', here='now')}. Episodes of both would make "
                "one number of two things: evaluate into another file."
            )
        result = CellEvaluation(
            settings,
            episodes,
            list(before.records) if before else [],
            before.wall_seconds if before else 0.0,
            [*(before.runs if before else ()), this_run()],
        )
        if page is not None:
            page.begin(settings, keep=before is not None)
        if on_start is not None:
            on_start(result.records)
        spent = result.wall_seconds
        for record in run(left):
            records = sorted([*result.records, record], key=lambda each: (tasks.index(each.task), each.index))
            seconds = spent + time.perf_counter() - started
            result = dataclasses.replace(result, records=records, wall_seconds=seconds)
            if json is not None and _is_regular(json):
                write_json(json, result.as_dict())
            if on_episode is not None:
                on_episode(record)
    return result


def _before(json: Path | None, resume: bool, trials: set[tuple[str, int]]) -> CellEvaluation | None:
    """What is gone on with, if anything.

    Raises:
        ConfigError: there is something in the file that would be lost, or episodes that nobody asked for.
    """
    if json is None or not json.is_file():
        return None
    if not resume:
        require_new(json)
        return None
    before = read_evaluation(json)
    if others := {record.trial for record in before.records} - trials:
        raise ConfigError(
            f"{json} holds {len(others)} episodes that are not asked for, such as number {min(others)[1]} of "
            f"{min(others)[0]}: ask for the same tasks, and as many episodes or more."
        )
    return before


def _is_regular(file: Path) -> bool:
    """Whether a file may be written again and again: not a pipe, and not the terminal."""
    return file.is_file() or not file.exists()


def run_trial(
    trial: Trial,
    policy: Policy,
    robot: str,
    *,
    config: LoopConfig,
    max_seconds: float = MAX_SECONDS,
    watch: Callable[[Cell], Recorder] | None = None,
    desk: Desk | None = None,
) -> tuple[EpisodeRecord, EpisodeResult]:
    """Run one trial.

    Args:
        trial: which scene and sentence.
        policy: what predicts.
        robot: which arms, as for `evaluate_cell`; the height of its table becomes that of the scene.
        config: of the loop.
        max_seconds: simulated.
        watch: makes a recorder for the trial's cell.
        desk: an operator who starts and stops it, and may say something else meanwhile; time does not run ahead then.

    Raises:
        TaskError: unknown robot. KeyboardInterrupt: Ctrl-C; the loop has stopped the arms.
    """
    from rdt2.control import EpisodeResult
    from rdt2.dashboard.figure import Figure
    from rdt2.operation.driving import Driven, drive
    from rdt2.operation.opening import at_its_table
    from rdt2.sim.cell import Cell, cell_settings
    from rdt2.sim.pace import Paced

    scene = trial.scene()
    task = trial.task(scene)
    sentence = trial.instruction or (task.instruction if task else "")
    settings = at_its_table(cell_settings(robot), scene)
    with Cell.of(settings, scene) as cell:
        driven_robot = cell.robot(settings.sides)
        if desk is not None:
            driven_robot = dataclasses.replace(driven_robot, clock=Paced(driven_robot.clock))

        def judge_of(say: Callable[[], str]) -> Judge:
            return Judge(cell, task if say() == sentence else task_named(scene, say()), say)

        driven: Driven[Judge] | None
        try:
            driven = drive(
                driven_robot,
                policy,
                sentence,
                settings=settings,
                config=config,
                max_seconds=max_seconds,
                seed=1000 * trial.seed,  # cycle k adds k: no two episodes of a task share noise
                figure=lambda: Figure.of_cell(cell, settings),
                title=f"{trial.task_kind} {trial.index} on {robot}",
                judge=judge_of,
                desk=desk,
                recorders=[watch(cell)] if watch is not None else [],
            )
        except SimulationError as error:  # physics that broke down: an episode that failed, as it would again
            driven = Driven(EpisodeResult(ending=str(error)), judge_of(lambda: sentence), None)
        if driven is None:
            raise KeyboardInterrupt
        judge, result = driven.judge, driven.result
        events = _events(result, cell, judge.told)
    if driven.interrupted:
        driven.obey()
    task = judge.task
    slowed: dict[str, float] = {}
    for held in result.slowed:
        slowed[held.what] = round(slowed.get(held.what, 0.0) + held.seconds, 3)
    record = EpisodeRecord(
        index=trial.index,
        task=trial.task_kind,
        seed=trial.seed,
        instruction=judge.sentence,
        hand=task.hand if task else None,
        target=task.target if task else None,
        colour=task.colour if task else None,
        success=result.success,
        followed=result.followed,
        judged=task is not None,
        mark=driven.mark,
        seconds=result.seconds,
        reason=result.ending,
        chunks=len(result.inference),
        pauses=len(result.pauses),
        slowed=dict(sorted(slowed.items(), key=lambda item: -item[1])),
        collisions=sum(event.kind == "collision" for event in events),
        inference_ms=1000 * float(np.median(result.inference)) if result.inference else None,
        events=events,
    )
    return record, result


def _events(result: EpisodeResult, cell: Cell, told: Sequence[Event]) -> tuple[Event, ...]:
    """What a person who looks for a mistake wants to know, in order."""
    began = cell.time - result.seconds
    found = [*told, *(Event(round(pause.time, 3), "pause", pause.reason) for pause in result.pauses)]
    found += [
        Event(round(held.time, 3), "held back", held.what, round(held.seconds, 3))
        for held in result.slowed
        if held.seconds >= BRIEF
    ]
    for hit in cell.collisions:
        seconds = round(hit.ended - hit.began, 3)
        found.append(Event(round(hit.began - began, 3), "collision", " against ".join(hit.parts), seconds))
    return tuple(sorted(found, key=lambda event: event.time))


# ------------------------------------------------------------------------------------------- worker processes


@dataclass(frozen=True)
class Runner:
    """Runs trials with one policy. It travels to worker processes, each of which loads the policy once."""

    policy: PolicySpec | Policy
    robot: str
    config: LoopConfig
    max_seconds: float
    page: Page | None
    blind: bool
    no_instruction: bool
    desk: Desk | None = None

    def describe(self) -> dict[str, Any]:
        """Policy and loop as plain values. Raises CheckpointError: the policy cannot be loaded."""
        from rdt2.control.config import chosen_mode

        policy = self._open()
        whole = policy.whole if isinstance(policy, Deprived) else policy
        spec = self.policy if isinstance(self.policy, PolicySpec) else None
        controls = {"blind": self.blind, "no_instruction": self.no_instruction}
        mode = chosen_mode(self.config, policy)
        loop = {**dataclasses.asdict(self.config), "mode": mode, "max_seconds": self.max_seconds}
        return {"policy": {**policy_identity(spec, whole), **controls}, "loop": loop}

    def run(self, trial: Trial) -> EpisodeRecord:
        """Run one trial, and film it where that is wanted.

        An episode that an operator stopped, or told something else, measures nothing: it is run once more.
        """
        from rdt2.evaluation.film import EpisodeFilm

        policy, page, films = self._open(), self.page, list[EpisodeFilm]()

        def watch(cell: Cell) -> EpisodeFilm:
            films.append(EpisodeFilm(cell))
            return films[-1]

        settings: Any = {"config": self.config, "max_seconds": self.max_seconds, "desk": self.desk}
        if page is not None and page.film != "none":
            settings["watch"] = watch
        record, result = run_trial(trial, policy, self.robot, **settings)
        while self.desk is not None and self.desk.touched:
            note(
                f"{trial.task_kind} {trial.index}: the operator stopped it or said something else; once more"
            )
            record, result = run_trial(trial, policy, self.robot, **settings)
        if page is not None and films and page.wants(record):
            title = f"{trial.task_kind} {trial.index} on {self.robot}"
            page.keep(record, films[-1].view(record, result, title=title))
        return record

    def _open(self) -> Policy:
        if isinstance(self.policy, PolicySpec):
            policy = _loaded.get(self.policy) or _loaded.setdefault(self.policy, open_policy(self.policy))
        else:
            policy = self.policy
        if self.blind or self.no_instruction:
            return Deprived(policy, blind=self.blind, deaf=self.no_instruction)
        return policy


_loaded: dict[PolicySpec, Policy] = {}
"""The policy of this process, loaded when it is first asked for."""


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # several processes with a thread for each core make one another wait


@contextmanager
def _running(
    runner: Runner, workers: int
) -> Iterator[tuple[Mapping[str, Any], Callable[[Sequence[Trial]], Iterable[EpisodeRecord]]]]:
    """What the runner says of itself, and a function that runs trials here or in worker processes, in any order."""
    if workers == 1 or not isinstance(runner.policy, PolicySpec):
        try:
            yield runner.describe(), lambda trials: map(runner.run, trials)
        finally:
            _loaded.clear()
        return
    from concurrent.futures import as_completed

    with worker_pool(workers, initializer=_one_thread) as pool:

        def run(trials: Sequence[Trial]) -> Iterator[EpisodeRecord]:
            for future in as_completed([pool.submit(runner.run, trial) for trial in trials]):
                yield future.result()

        yield pool.submit(runner.describe).result(), run
