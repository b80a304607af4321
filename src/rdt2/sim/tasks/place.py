"""Place: the named hand put the target into the bowl and let go of it, and it lies at rest there.

In the bowl is what has its lowest point in the lower half of it and its middle above its floor. What is balanced on
the rim, leans over it or hangs between the fingers is not; a long thing that leans from the floor against the rim is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.sim.objects import bowl, graspable
from rdt2.sim.scene import BOWL_FLOOR, BOWL_HEIGHT, ObjectSpec
from rdt2.sim.tasks import TaskKind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.random import Generator

    from rdt2.sim.tasks import Monitor

REST_SPEED, REST_TURNING = 0.02, 0.5
"""m/s and rad/s of what counts as at rest."""


def _draw(rng: Generator, colours: Sequence[str], *, unseen_shapes: bool) -> tuple[ObjectSpec, ...]:
    return (*graspable(rng, colours, unseen_shapes=unseen_shapes), bowl())


def _lies_in_bowl(watch: Monitor) -> bool:
    cell, target = watch.cell, watch.task.target
    if watch.holders or watch.held_last != watch.task.hand:
        return False
    foot = cell.object_pose("bowl")[:3, 3]
    aside = float(np.hypot(*(cell.object_pose(target)[:2, 3] - foot[:2])))
    low = cell.lowest_point(target) - foot[2] < BOWL_HEIGHT / 2
    speed, turning = cell.object_speed(target)
    return aside < BOWL_FLOOR and low and speed < REST_SPEED and turning < REST_TURNING


TASK = TaskKind(
    stream=1,
    sentence="Put the {target} in the bowl with the {hand} hand.",
    about="object",
    draw=_draw,
    reached=_lies_in_bowl,
    seconds=0.3,
)
