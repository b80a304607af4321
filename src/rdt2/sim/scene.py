"""What a scene is: all that varies between two episodes, as plain data.

`rdt2.sim.drawing.make_scene` draws a `Scene` from a seed, `rdt2.sim.building.build_scene` makes MuJoCo's model of it;
`Scene.to_dict` and `Scene.from_dict` store it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import TaskError
from rdt2.sim import textures

if TYPE_CHECKING:
    pass

COLOURS = {
    "red": (0.86, 0.08, 0.10),
    "green": (0.06, 0.62, 0.20),
    "blue": (0.08, 0.26, 0.90),
    "yellow": (0.98, 0.84, 0.06),
    "purple": (0.50, 0.12, 0.72),
    "orange": (1.00, 0.44, 0.03),
}
SEEN_SHAPES = ("cube", "cylinder", "brick")
UNSEEN_SHAPES = ("ball", "prism", "bar")

TABLE_SIZE = (0.90, 1.20, 0.04)
"""Metres along x (forward), y (left), z."""
FLOOR_Z = -0.75
BOWL_RADIUS, BOWL_HEIGHT = 0.070, 0.045
BOWL_FLOOR = 0.046
"""Radius of its flat bottom inside, metres."""
BUTTON_TRAVEL = 0.010
OBJECT_MASS = 0.06


@dataclass(frozen=True)
class ObjectSpec:
    """One thing on the table. `position` is the point of the table top under it, relative to the table's
    height.
    """

    name: str
    """As in a sentence: "red cube", "bowl", "blue button"."""
    kind: str
    """"object" (can be grasped), "bowl" or "button"."""
    shape: str
    colour: str
    rgb: tuple[float, float, float]
    half_size: tuple[float, float, float]
    """Half of the extent along its own x, y, z. x is its narrow side, where the jaws go."""
    position: tuple[float, float]
    yaw: float

    def __post_init__(self) -> None:
        """Raises TaskError for a thing that nobody can build: another one would stand there under its name."""
        shapes = {"object": (*SEEN_SHAPES, *UNSEEN_SHAPES), "bowl": (self.shape,), "button": (self.shape,)}
        if self.shape not in shapes.get(self.kind, ()):
            raise TaskError(
                f"{self.name!r} is of kind {self.kind!r} and shape {self.shape!r}, expected an object ("
                f"{', '.join(shapes['object'])}), a bowl or a button."
            )

    @property
    def radius(self) -> float:
        """Of the circle that holds it, seen from above."""
        if self.shape in ("cube", "brick", "bar"):
            return float(np.hypot(self.half_size[0], self.half_size[1]))
        return max(self.half_size[:2])


@dataclass(frozen=True)
class Look:
    """Textures and light. A texture is (family, seed, colours); see `rdt2.sim.textures`."""

    table: textures.Texture
    floor: textures.Texture
    wall: tuple[float, float, float]
    light_direction: tuple[float, float, float]
    light_colour: tuple[float, float, float]
    ambient: float
    bowl: tuple[float, float, float]


@dataclass(frozen=True)
class Tube:
    """A round thing that only meets the eye: part of a sleeve, a post beside the table. Metres."""

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    radius: float
    rgb: tuple[float, float, float]


@dataclass(frozen=True)
class Start:
    """Where a hand waits: position of its TCP (metres, cell frame), yaw and two tilts in radians, opening in
    metres.
    """

    position: tuple[float, float, float]
    yaw: float
    lean: float
    """Towards the middle of the table."""
    pitch: float
    width: float


@dataclass(frozen=True)
class Scene:
    """Everything that varies between two episodes, as plain numbers and strings."""

    task_kind: str
    seed: int
    scenery: str
    """Name of what the surroundings were drawn from; see `rdt2.sim.sceneries`."""
    unseen_shapes: bool
    table_height: float
    objects: tuple[ObjectSpec, ...]
    target: str
    """Name of the object that the task is about."""
    hand: str
    starts: dict[str, Start]
    look: Look
    sleeves: dict[str, tuple[Tube, ...]]
    """What carries a handheld gripper, of each hand, in the frame of its flange (z towards the fingers)."""
    posts: tuple[Tube, ...]
    """Furniture behind the table, cell frame. Robots stand there instead: only handheld cells show it."""

    def object(self, name: str) -> ObjectSpec:
        """The object called `name`.

        Raises:
            TaskError: no such object.
        """
        for item in self.objects:
            if item.name == name:
                return item
        raise TaskError(f"no object {name!r} in this scene; it has {[o.name for o in self.objects]}.")

    def to_dict(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings (JSON, YAML, msgpack)."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_dict(data: dict[str, Any]) -> Scene:
        """The inverse of `to_dict`, also after a trip through JSON."""
        return _restore(Scene, data)


_NESTED: dict[str, type] = {"look": Look, "table": textures.Texture, "floor": textures.Texture}


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, (list, tuple)) else value


def _restore(cls: type, data: dict[str, Any]) -> Any:
    names = {field.name for field in dataclasses.fields(cls)}
    if set(data) != names:
        raise TaskError(f"a stored {cls.__name__} has fields {sorted(data)}, expected {sorted(names)}.")
    values: dict[str, Any] = {}
    for key, value in data.items():
        if key in _NESTED:
            values[key] = _restore(_NESTED[key], value)
        elif key == "objects":
            values[key] = tuple(_restore(ObjectSpec, v) for v in value)
        elif key == "sleeves":
            values[key] = {side: tuple(_restore(Tube, v) for v in tubes) for side, tubes in value.items()}
        elif key == "posts":
            values[key] = tuple(_restore(Tube, v) for v in value)
        elif key == "starts":
            values[key] = {side: _restore(Start, v) for side, v in value.items()}
        else:
            values[key] = _tuples(value)
    return cls(**values)


def triple(values: Any) -> tuple[float, float, float]:
    """Three plain floats."""
    a, b, c = values
    return float(a), float(b), float(c)
