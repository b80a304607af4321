"""Pick: the named hand lifts the target 10 cm above where it stood and holds it there for 3 s."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdt2.sim.objects import graspable
from rdt2.sim.tasks import TaskKind

if TYPE_CHECKING:
    from rdt2.sim.tasks import Monitor

LIFT = 0.10
"""Metres above its resting height."""


def _held_up(watch: Monitor) -> bool:
    return watch.height >= LIFT and watch.task.hand in watch.holders


TASK = TaskKind(
    stream=0,
    sentence="Pick up the {target} with the {hand} hand.",
    about="object",
    draw=graspable,
    reached=_held_up,
    seconds=3.0,
)
