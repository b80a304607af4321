"""What arms and grippers hit: each other, themselves, the table. Fingers on the task's objects do their work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS

if TYPE_CHECKING:
    from collections.abc import Iterable

    import mujoco

_FURNITURE, _OBJECT, _ARM, _FINGER = range(4)


@dataclass
class Collision:
    """Two parts that touched without a break."""

    parts: tuple[str, str]
    """Bodies in the order of the alphabet: "left/forearm", "right/gripper", "table", "red cube"."""
    began: float
    """Simulated seconds."""
    ended: float
    """When they were last seen to touch."""

    def __str__(self) -> str:
        one, other = self.parts
        return f"{one} against {other} at {self.began:.2f} s for {self.ended - self.began:.2f} s"


class CollisionWatch:
    """Collects the collisions of one compiled cell.

    Args:
        model: the cell. Everything of an arm and its gripper is called `{side}/...`.
        data: its state.
        objects: names of what the fingers may touch.
    """

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, objects: Iterable[str]) -> None:
        self._model, self._data = model, data
        kinds, sides = np.empty(model.ngeom, int), np.empty(model.ngeom, int)
        objects = tuple(objects)
        for geom in range(model.ngeom):
            name = model.body(model.geom_bodyid[geom]).name
            side, _, part = name.partition("/")
            sides[geom] = ARMS.index(side) if side in ARMS else -1
            if side in ARMS:
                kinds[geom] = _FINGER if part.startswith("finger") else _ARM
            else:
                kinds[geom] = _OBJECT if name.startswith(objects) else _FURNITURE
        one, other = kinds[:, None], kinds[None, :]
        works = (np.minimum(one, other) == _OBJECT) & (np.maximum(one, other) == _FINGER)
        closes = (one == _FINGER) & (other == _FINGER) & (sides[:, None] == sides[None, :])
        self._counts = (np.maximum(one, other) >= _ARM) & ~works & ~closes
        self.found: list[Collision] = []
        self._open: dict[tuple[str, str], Collision] = {}

    def clear(self) -> None:
        """Forget what was found."""
        self.found, self._open = [], {}

    def update(self) -> None:
        """Look at what touches now."""
        pairs = self._data.contact.geom
        hits = pairs[self._counts[pairs[:, 0], pairs[:, 1]]]
        if not len(hits):
            if self._open:
                self._open = {}
            return
        now, before, self._open = float(self._data.time), self._open, {}
        for geoms in hits:
            one, other = sorted(self._model.body(body).name for body in self._model.geom_bodyid[geoms])
            collision = before.get((one, other)) or self._open.get((one, other))
            if collision is None:
                collision = Collision((one, other), began=now, ended=now)
                self.found.append(collision)
            collision.ended = now
            self._open[one, other] = collision
