"""What is asked of the hands, in words, and whether it was done.

Success is the paper's: *pick*, the target is lifted 10 cm above where it stood and held there for 3 s by the
hand that was named; *place*, the target lies at rest in the bowl and no finger touches it; *press*, the named
hand pushed the button in.

`followed` is about the sentence only: the hand that was named acted first, on the object that was named. To
act is to lift an object by 2 cm, to hold it between both fingers for a fifth of a second, or to push a button
in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import TaskError
from rdt2.robot.protocols import ARMS
from rdt2.sim.scene import BOWL_HEIGHT, BOWL_RADIUS, TASK_KINDS, ObjectSpec, Scene

if TYPE_CHECKING:
    from numpy.random import Generator

    from rdt2.sim.cell import Cell

PERIOD = 1 / 30
LIFT = 0.10
"""Metres above its resting height."""
HOLD_TIME = 3.0
"""Seconds."""
PRESS_DEPTH = 0.006
ACT_LIFT = 0.02
ACT_GRASP_TIME = 0.2
REST_SPEED = 0.02
"""Metres a second."""
REST_TIME = 0.3

_SENTENCES = {
    "pick": "Pick up the {target} with the {hand} hand.",
    "place": "Put the {target} in the bowl with the {hand} hand.",
    "press": "Press the {target} with the {hand} hand.",
}


@dataclass(frozen=True)
class Task:
    """One thing to do: which hand, to which object, and the sentence that says so."""

    kind: str
    hand: str
    target: str
    colour: str
    shape: str
    instruction: str


def make_task(kind: str, hand: str, target: ObjectSpec) -> Task:
    """The task `kind` with this object and hand.

    Raises:
        TaskError: unknown kind or hand, or an object the task cannot be about (a bowl cannot be picked).
    """
    if kind not in TASK_KINDS or hand not in ARMS:
        raise TaskError(f"task is {kind!r} with the {hand!r} hand, expected one of {TASK_KINDS} and {ARMS}.")
    if target.kind != ("button" if kind == "press" else "object"):
        raise TaskError(f"cannot {kind} the {target.name}: it is a {target.kind}.")
    sentence = _SENTENCES[kind].format(target=target.name, hand=hand)
    return Task(kind, hand, target.name, target.colour, target.shape, sentence)


def task_for(scene: Scene) -> Task:
    """The task that the scene was drawn for."""
    return make_task(scene.task_kind, scene.hand, scene.object(scene.target))


def swapped(scene: Scene, rng: Generator) -> Task:
    """Another sentence for the same scene: another object, the other hand, or both (a third of the cases
    each).
    """
    wanted = "button" if scene.task_kind == "press" else "object"
    others = [o for o in scene.objects if o.kind == wanted and o.name != scene.target]
    target, hand = scene.object(scene.target), scene.hand
    change = int(rng.integers(3))
    if change != 0:
        target = others[int(rng.integers(len(others)))]
    if change != 1:
        hand = "left" if hand == "right" else "right"
    return make_task(scene.task_kind, hand, target)


class Monitor:
    """Watches a cell for one task. It listens to the cell's 30 Hz tick; `update` may also be called by hand.

    Attributes:
        success: the task is done. Once true it stays true.
        acted: the (hand, object) of the first act, or None.
    """

    def __init__(self, cell: Cell, task: Task) -> None:
        self._cell, self.task = cell, task
        cell.scene.object(task.target)
        self.success = False
        self.acted: tuple[str, str] | None = None
        self._rest = {
            o.name: cell.object_pose(o.name)[2, 3] for o in cell.scene.objects if o.kind == "object"
        }
        self._grasped: dict[tuple[str, str], float] = {}
        self._since: float | None = None
        self._last = cell.time
        self.height = 0.0
        """How far the target is above its resting height now, metres (0 for a button)."""
        cell.listeners.append(self.update)

    @property
    def followed(self) -> bool:
        """The first act was the named hand's on the named object. False as long as no hand acted."""
        return self.acted == (self.task.hand, self.task.target)

    @property
    def done(self) -> bool:
        """Nothing is left to watch for."""
        return self.success

    def close(self) -> None:
        """Stop listening to the cell."""
        if self.update in self._cell.listeners:
            self._cell.listeners.remove(self.update)

    def update(self) -> None:
        """Look at the cell now."""
        cell, task, now = self._cell, self.task, self._cell.time
        if self._last == now:
            return
        elapsed, self._last = now - self._last, now
        touching = cell.touching()
        if self.acted is None:
            self.acted = self._first_act(touching, elapsed)
        if self.success:
            return
        if task.kind == "press":
            pressed = cell.button_depth(task.target) >= PRESS_DEPTH
            self.success = pressed and (task.hand, task.target) in touching
            return
        self.height = float(cell.object_pose(task.target)[2, 3] - self._rest[task.target])
        if task.kind == "pick":
            reached = self.height >= LIFT and task.hand in _holders(touching, task.target)
            needed = HOLD_TIME
        else:
            reached = self._lies_in_bowl() and not _holders(touching, task.target)
            needed = REST_TIME
        if not reached:
            self._since = None
        elif self._since is None:
            self._since = now
        self.success = self._since is not None and now - self._since >= needed - 1e-6

    def _first_act(self, touching: set[tuple[str, str]], elapsed: float) -> tuple[str, str] | None:
        cell = self._cell
        for hand, name in sorted(touching):
            if name in self._rest:
                lifted = cell.object_pose(name)[2, 3] - self._rest[name] >= ACT_LIFT
                held = cell.grasping(hand, name)
                self._grasped[hand, name] = self._grasped.get((hand, name), 0.0) + elapsed if held else 0.0
                if lifted or self._grasped[hand, name] >= ACT_GRASP_TIME:
                    return hand, name
            elif cell.scene.object(name).kind == "button" and cell.button_depth(name) >= PRESS_DEPTH:
                return hand, name
        return None

    def _lies_in_bowl(self) -> bool:
        cell, target = self._cell, self.task.target
        offset = cell.object_pose(target)[:3, 3] - cell.object_pose("bowl")[:3, 3]
        inside = float(np.hypot(offset[0], offset[1])) < BOWL_RADIUS and 0 < offset[2] < BOWL_HEIGHT + 0.03
        return inside and cell.object_speed(target) < REST_SPEED


def _holders(touching: set[tuple[str, str]], name: str) -> set[str]:
    return {hand for hand, other in touching if other == name}
