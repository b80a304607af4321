"""Press: the named hand pushes the target in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rdt2.sim.objects import button
from rdt2.sim.tasks import PRESS_DEPTH, TaskKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from rdt2.sim.scene import ObjectSpec
    from rdt2.sim.tasks import Monitor


def _draw(rng: Generator, colours: Sequence[str], *, unseen_shapes: bool) -> tuple[ObjectSpec, ...]:
    return tuple(button(colour) for colour in colours)


def _pushed_in(watch: Monitor) -> bool:
    return watch.cell.button_depth(watch.task.target) >= PRESS_DEPTH and watch.task.hand in watch.holders


TASK = TaskKind(
    stream=2,
    sentence="Press the {target} with the {hand} hand.",
    about="button",
    draw=_draw,
    reached=_pushed_in,
    seconds=0.0,
)
