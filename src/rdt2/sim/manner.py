"""What differs between recorded episodes: how a person does the task, what happens to the hand, and where it begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdt2.sim.scene import Scene, Start

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True)
class Manner:
    """How one episode is done: what differs between people and between days."""

    speed: float
    curve: float
    """Sideways part of the motion far from the goal; 0 is straight."""
    tilt: tuple[float, float]
    """Radians by which the grasping hand is not quite vertical."""
    lift: float
    """Height of the TCP above the table where a lifted object is held."""
    open_width: float
    sway: tuple[float, float, float]
    """Amplitude of the idle hand's sway, metres."""
    disturbances: tuple[Disturbance, ...]


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to the hand once the way left is shorter than ``distance``."""

    kind: Literal["push", "close", "miss", "drop"]
    """Pushed by ``shift`` and turned by ``turn`` within ``seconds``; the jaws close for ``seconds``; the hand goes
    ``shift`` beside its goal, at most ``seconds`` long, as if that were it: there it may slide on, close and rise
    (miss), or lets go (drop)."""
    phase: Literal["reach", "carry"]
    distance: float
    seconds: float
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    turn: tuple[float, float, float] = (0.0, 0.0, 0.0)
    slide: tuple[float, float] = (0.0, 0.0)
    """Of a miss: so many metres along the table, so many radians beside the way to the object."""
    closes: bool = False
    rise: float = 0.0


def draw_manner(rng: Generator, *, kind: str, open_width: float) -> Manner:
    """Draw the manner of an episode."""
    return Manner(
        speed=float(np.clip(rng.normal(1.0, 0.06), 0.85, 1.15)),
        curve=float(np.clip(rng.normal(0.0, 0.05), -0.12, 0.12)),
        tilt=tuple(np.deg2rad(rng.normal(0.0, 1.2, 2)).tolist()),  # type: ignore[arg-type]
        lift=float(rng.uniform(0.20, 0.22)),
        open_width=open_width,
        sway=tuple(rng.uniform(0.0, 0.0005, 3).tolist()),  # type: ignore[arg-type]
        disturbances=tuple(_draw_disturbances(rng, kind)),
    )


def _draw_disturbances(rng: Generator, kind: str) -> Iterator[Disturbance]:
    count = int(rng.choice([0, 1, 2], p=[0.40, 0.42, 0.18]))
    for _ in range(count):
        phase: Literal["reach", "carry"] = "carry" if kind == "place" and rng.random() < 0.35 else "reach"
        closes = kind != "press" and phase == "reach" and rng.random() < 0.15
        direction = rng.normal(size=3) * (1.0, 1.0, 0.7)
        shift = direction / np.linalg.norm(direction) * rng.uniform(0.015, 0.09)
        turn = rng.normal(size=3) * np.deg2rad((3.0, 3.0, 5.0))
        # Half of them near the goal, where precision is learnt.
        distance = rng.uniform(0.004, 0.05) if rng.random() < 0.5 else rng.uniform(0.05, 0.30)
        yield Disturbance(
            kind="close" if closes else "push",
            phase=phase,
            distance=float(distance),
            seconds=float(rng.uniform(0.2, 0.45)),
            shift=tuple(shift.tolist()),
            turn=tuple(turn.tolist()),
        )
    for _ in range(int(rng.choice([0, 1, 2], p=[0.45, 0.42, 0.13]))):
        yield _draw_miss(rng, kind)
    if kind == "place" and rng.random() < 0.15:
        beside = _around(rng, rng.uniform(0.10, 0.15))
        yield Disturbance("drop", "carry", 0.30, 1.5, (*beside, 0.0))


def _draw_miss(rng: Generator, kind: str) -> Disturbance:
    """As far beside the target as a policy errs, at its height, below or above; or low, and on along the table."""
    closes = kind != "press" and rng.random() < 0.6
    slides = kind != "press" and rng.random() < 0.3
    beside = _around(rng, rng.uniform(0.03, 0.07) if slides else rng.uniform(0.0, 0.06))
    low = slides or kind == "press" or rng.random() < 0.6
    above = rng.uniform(-0.02, 0.01) if low else rng.uniform(0.01, 0.06)
    slide = (rng.uniform(0.06, 0.18), rng.normal(0.0, 0.8)) if slides else (0.0, 0.0)
    rise = rng.uniform(0.0, 0.18) if closes and rng.random() < 0.6 else 0.0
    return Disturbance(
        "miss", "reach", float(rng.uniform(0.05, 0.25)), 1.5, (*beside, float(above)),
        slide=(float(slide[0]), float(slide[1])), closes=closes, rise=float(rise),
    )  # fmt: skip


def _around(rng: Generator, distance: float) -> tuple[float, float]:
    """A shift by so much to any side."""
    angle = rng.uniform(0, 2 * np.pi)
    return float(distance * np.cos(angle)), float(distance * np.sin(angle))


def wandered_start(rng: Generator, start: Start, side: str) -> Start:
    """A place for the idle hand where it does not usually wait, clear of the objects."""
    outward = -1.0 if side == "right" else 1.0
    x, y, z = rng.uniform((-0.12, 0.22, 0.11), (0.12, 0.42, 0.34))
    return dataclasses.replace(start, position=(float(x), float(outward * y), float(z)))


def perturbed_start(rng: Generator, scene: Scene, side: str) -> Start:
    """A place for the working hand that is not where hands wait: around, above, or beside the target,
    sometimes low.

    At places lower than the objects' tops the hand is clear of all of them.
    """
    target = scene.object(scene.target)
    inward = 1.0 if side == "right" else -1.0
    low = rng.random() < 0.35
    close = rng.random() < 0.4
    for _ in range(500):
        spread = 0.06 if close else 0.125
        offset = rng.uniform(-spread, spread, 2)
        z = rng.uniform(0.025, 0.09) if low else rng.uniform(0.09, 0.28)
        x, y = np.add(target.position, offset)
        clear = min(float(np.hypot(x - o.position[0], y - o.position[1])) - o.radius for o in scene.objects)
        if (z > 0.105 or clear > 0.060) and inward * y < 0.14:
            break
    else:
        z = 0.15
    closed = scene.task_kind == "press" or rng.random() < 0.12
    width = 0.0 if closed else float(rng.uniform(0.075, 0.088))
    yaw, lean, pitch = np.deg2rad(rng.normal(0.0, (8.0, 6.0, 3.0)))
    return Start(
        (float(x), float(y), float(z + scene.table_height)),
        float(np.clip(yaw, -0.3, 0.3)), float(np.clip(lean, -0.2, 0.28)), float(pitch), width,
    )  # fmt: skip
