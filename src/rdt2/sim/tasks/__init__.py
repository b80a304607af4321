"""What is asked of the hands, in words, and whether it was done. A file each.

A file of this folder is a task of its name: one variable, `TASK`, says what stands on the table, how it is asked for,
and when it is done. Success is the paper's: see *pick*, *place* and *press*.

`followed` is about the sentence only: the hand that was named acted first, on the object that was named. To
act is to lift an object by 2 cm, to hold it between both fingers for a fifth of a second, or to push a button
in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rdt2.action import ARMS
from rdt2.errors import TaskError
from rdt2.registry import Registry
from rdt2.sim.scene import ObjectSpec, Scene

if TYPE_CHECKING:
    from numpy.random import Generator

    from rdt2.sim.cell import Cell

PRESS_DEPTH = 0.006
"""Metres a button has to go in."""
ACT_LIFT = 0.02
ACT_GRASP_TIME = 0.2


class Draw(Protocol):
    """Draws what stands on the table, the target first; the places come later."""

    def __call__(
        self, rng: Generator, colours: Sequence[str], *, unseen_shapes: bool
    ) -> tuple[ObjectSpec, ...]:
        """Objects of some of the colours; with `unseen_shapes`, of shapes that no recording holds."""
        ...


@dataclass(frozen=True)
class TaskKind:
    """What all tasks of one name have in common."""

    stream: int
    """A number that no other task has: part of the seed of its scenes."""
    sentence: str
    """With {target} and {hand}."""
    about: str
    """Kind of the things that can be its target: "object" or "button"."""
    draw: Draw
    reached: Callable[[Monitor], bool]
    """Whether what is asked for holds at this moment."""
    seconds: float
    """How long it has to hold."""

    def __post_init__(self) -> None:
        try:
            self.sentence.format(target="red cube", hand="left")
        except (LookupError, ValueError, AttributeError) as error:
            raise TaskError(
                f"the sentence {self.sentence!r} has other places than {{target}} and {{hand}} "
                f"({type(error).__name__}: {error})."
            ) from None


TASKS = Registry("task", "rdt2.sim.tasks", variable="TASK", kind=TaskKind, error=TaskError)
"""All kinds of tasks by name."""


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
    if hand not in ARMS:
        raise TaskError(f"there is no {hand!r} hand, only {' and '.join(ARMS)}.")
    if target.kind != TASKS[kind].about:
        raise TaskError(f"cannot {kind} the {target.name}: it is a {target.kind}.")
    sentence = TASKS[kind].sentence.format(target=target.name, hand=hand)
    return Task(kind, hand, target.name, target.colour, target.shape, sentence)


def task_for(scene: Scene) -> Task:
    """The task that the scene was drawn for."""
    return make_task(scene.task_kind, scene.hand, scene.object(scene.target))


def swapped(scene: Scene, rng: Generator) -> Task:
    """Another sentence for the same scene: another object, the other hand, or both (a third of the cases
    each).
    """
    about = TASKS[scene.task_kind].about
    others = [o for o in scene.objects if o.kind == about and o.name != scene.target]
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
        touching: all (hand, object) where a gripper touches an object now.
        height: how far the target is above its resting height now, metres (0 for a button).
        held_last: the hand that held the target last, with no other hand at it since; else None.
    """

    def __init__(self, cell: Cell, task: Task) -> None:
        self.cell, self.task, self._kind = cell, task, TASKS[task.kind]
        cell.scene.object(task.target)
        self.success = False
        self.acted: tuple[str, str] | None = None
        self.touching: set[tuple[str, str]] = set()
        self.height = 0.0
        self.held_last: str | None = None
        self._rest = {
            o.name: cell.object_pose(o.name)[2, 3] for o in cell.scene.objects if o.kind == "object"
        }
        self._grasped: dict[tuple[str, str], float] = {}
        self._since: float | None = None
        self._last = cell.time
        cell.listeners.append(self.update)

    @property
    def followed(self) -> bool:
        """The first act was the named hand's on the named object. False as long as no hand acted."""
        return self.acted == (self.task.hand, self.task.target)

    @property
    def done(self) -> bool:
        """Nothing is left to watch for."""
        return self.success

    @property
    def holders(self) -> set[str]:
        """The hands that touch the target now."""
        return {hand for hand, name in self.touching if name == self.task.target}

    def close(self) -> None:
        """Stop listening to the cell."""
        if self.update in self.cell.listeners:
            self.cell.listeners.remove(self.update)

    def update(self) -> None:
        """Look at the cell now."""
        cell, now = self.cell, self.cell.time
        if self._last == now:
            return
        elapsed, self._last = now - self._last, now
        self.touching = cell.touching()
        if self.acted is None:
            self.acted = self._first_act(elapsed)
        if self.success:
            return
        if self.task.target in self._rest:
            self.height = float(cell.object_pose(self.task.target)[2, 3] - self._rest[self.task.target])
            self._remember_holder()
        if not self._kind.reached(self):
            self._since = None
        elif self._since is None:
            self._since = now
        self.success = self._since is not None and now - self._since >= self._kind.seconds - 1e-6

    def _remember_holder(self) -> None:
        for hand in self.holders:
            if self.cell.grasping(hand, self.task.target):
                self.held_last = hand
            elif hand != self.held_last:
                self.held_last = None

    def _first_act(self, elapsed: float) -> tuple[str, str] | None:
        cell = self.cell
        for hand, name in sorted(self.touching):
            if name in self._rest:
                lifted = cell.object_pose(name)[2, 3] - self._rest[name] >= ACT_LIFT
                held = cell.grasping(hand, name)
                self._grasped[hand, name] = self._grasped.get((hand, name), 0.0) + elapsed if held else 0.0
                if lifted or self._grasped[hand, name] >= ACT_GRASP_TIME:
                    return hand, name
            elif cell.scene.object(name).kind == "button" and cell.button_depth(name) >= PRESS_DEPTH:
                return hand, name
        return None
