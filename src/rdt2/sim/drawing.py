"""How a scene is drawn from a seed: objects in their places, hands where they wait, surroundings.

What the task is about comes from its kind (`rdt2.sim.tasks`), the surroundings from a scenery (`rdt2.sim.sceneries`):
those of training are *seen*, *unseen* ones lie outside of all that training has. `unseen_shapes=True` draws objects of
other shapes in the same colours.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import TaskError
from rdt2.sim.scene import COLOURS, FLOOR_Z, ObjectSpec, Scene, Start, Tube, triple
from rdt2.sim.sceneries import SCENERIES, Scenery
from rdt2.sim.tasks import TASKS

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.random import Generator

REACH_X, REACH_Y = 0.14, 0.12
"""Objects stand within these of the table's centre, so that either hand reaches each while the other waits.
"""
GAP = 0.045
"""Free space between any two things on the table, metres: a finger and a little more."""
START_Y = 0.30
"""How far from the middle the hands wait."""


def make_scene(task: str, seed: int, *, scenery: str = "seen", unseen_shapes: bool = False) -> Scene:
    """Draw a scene. The same arguments give the same scene, on every machine.

    Raises:
        TaskError: no such task or scenery; says which there are.
    """
    kind, surroundings = TASKS[task], SCENERIES[scenery]
    rng = np.random.default_rng([int(seed), kind.stream, surroundings.stream, int(unseen_shapes)])
    colours = [str(c) for c in rng.permutation(list(COLOURS))[:3]]
    objects = _lay_out(rng, kind.draw(rng, colours, unseen_shapes=unseen_shapes))
    hand = str(rng.choice(["right", "left"]))
    starts = {side: _start(rng, side) for side in ("right", "left")}
    return Scene(
        task_kind=task,
        seed=int(seed),
        scenery=scenery,
        unseen_shapes=unseen_shapes,
        table_height=surroundings.draw_height(rng),
        objects=objects,
        target=objects[0].name,
        hand=hand,
        starts=starts,
        look=surroundings.draw_look(rng),
        sleeves={side: _sleeve(rng, surroundings) for side in ("right", "left")},
        posts=tuple(tube for side in (-1.0, 1.0) for tube in _post(rng, side, surroundings)),
    )


def _lay_out(rng: Generator, objects: tuple[ObjectSpec, ...]) -> tuple[ObjectSpec, ...]:
    """Places within reach with free space between all, by rejection; each turned by up to 30 degrees."""
    radii = np.array([o.radius for o in objects])
    apart = radii[:, None] + radii[None, :] + GAP
    np.fill_diagonal(apart, 0)
    limit = np.array([REACH_X, REACH_Y])
    for _ in range(20_000):
        places = rng.uniform(-limit, limit, (len(objects), 2))
        if (np.linalg.norm(places[:, None] - places[None, :], axis=-1) >= apart).all():
            break
    else:
        raise TaskError(f"found no room for {[o.name for o in objects]} on the table. Use smaller objects.")
    yaws = rng.uniform(-np.pi / 6, np.pi / 6, len(objects))
    return tuple(
        dataclasses.replace(o, position=(float(p[0]), float(p[1])), yaw=float(yaw))
        for o, p, yaw in zip(objects, places, yaws, strict=True)
    )


def _start(rng: Generator, side: str) -> Start:
    outward = -1.0 if side == "right" else 1.0
    x, y, z = rng.uniform((-0.03, START_Y - 0.02, 0.23), (0.03, START_Y + 0.02, 0.30))
    yaw, lean, pitch = np.deg2rad(rng.uniform((-8, 9, -4), (8, 17, 4)))
    width = float(rng.uniform(0.075, 0.088))
    return Start((float(x), float(outward * y), float(z)), float(yaw), float(lean), float(pitch), width)


def _sleeve(rng: Generator, scenery: Scenery) -> tuple[Tube, ...]:
    """A forearm and an upper arm, in the thickness and direction of a person's or not at all.

    A hand's camera sees the other hand's sleeve. Drawn anew in every scene, it teaches a policy that what
    holds a gripper does not matter.
    """
    if rng.random() < 0.15:
        return ()
    tubes, start, back = [], np.array([0.0, 0.0, -rng.uniform(0.03, 0.06)]), np.array([0.0, 0.0, -1.0])
    for length, spread in ((rng.uniform(0.08, 0.30), 0.6), (rng.uniform(0.20, 0.45), 1.2)):
        turn = Rotation.from_rotvec(_direction(rng) * abs(rng.normal(0, spread)))
        back = turn.apply(back)
        end = start + length * back
        tubes.append(
            Tube(triple(start), triple(end), float(rng.uniform(0.03, 0.065)), scenery.draw_cloth(rng))
        )
        start = end
    return tuple(tubes)


def _post(rng: Generator, side: float, scenery: Scenery) -> tuple[Tube, ...]:
    """A stand behind the table on one side, and a beam from its top, or nothing."""
    if rng.random() < 0.25:
        return ()
    foot = np.array([rng.uniform(-0.62, -0.46), side * rng.uniform(0.06, 0.40), FLOOR_Z])
    top = foot.copy()
    top[2] = rng.uniform(0.0, 0.35)
    beam = top + np.array([rng.uniform(-0.3, 0.1), rng.uniform(-0.2, 0.2), rng.uniform(0.25, 0.60)])
    width = rng.uniform(0.05, 0.11)
    return (
        Tube(triple(foot), triple(top), float(width), scenery.draw_cloth(rng)),
        Tube(triple(top), triple(beam), float(width * rng.uniform(0.5, 0.9)), scenery.draw_cloth(rng)),
    )


def _direction(rng: Generator) -> Float[ndarray, 3]:
    """Any direction, all equally likely."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)
