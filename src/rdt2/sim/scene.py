"""What stands on the table: objects, colours, textures, light. Drawn from a seed, kept as plain data, built
exactly.

`make_scene` draws a `Scene`; `Scene.to_dict` and `Scene.from_dict` store it; `build_scene` makes the MjSpec
from it. Scenes used for training are *seen*: some families of textures and light, the table within 1.5 cm of its
height. `unseen_scene=True` draws from other families, and the table is up to 3 cm higher or lower;
`unseen_shapes=True` draws objects of other shapes in the same colours.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.errors import TaskError
from rdt2.sim import textures

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.random import Generator

TASK_KINDS = ("pick", "place", "press")

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
SEEN_HEIGHT, UNSEEN_HEIGHT = 0.015, 0.03
"""The table top lies within these of z = 0, in scenes of training and in those of other looks, metres."""
FLOOR_Z = -0.75
REACH_X, REACH_Y = 0.14, 0.12
"""Objects stand within these of the table's centre, so that either hand reaches each while the other waits.
"""
GAP = 0.045
"""Free space between any two things on the table, metres: a finger and a little more."""
BOWL_RADIUS, BOWL_HEIGHT = 0.070, 0.045
BUTTON_TRAVEL = 0.010
START_Y = 0.30
"""How far from the middle the hands wait."""
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
    unseen_scene: bool
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


# ------------------------------------------------------------------------------------------------------
# drawing


def make_scene(
    task_kind: str, seed: int, *, unseen_scene: bool = False, unseen_shapes: bool = False
) -> Scene:
    """Draw a scene. The same arguments give the same scene, on every machine.

    Raises:
        TaskError: `task_kind` is not one of "pick", "place", "press".
    """
    if task_kind not in TASK_KINDS:
        raise TaskError(f"task is {task_kind!r}, expected one of {TASK_KINDS}.")
    rng = np.random.default_rng(
        [int(seed), TASK_KINDS.index(task_kind), int(unseen_scene), int(unseen_shapes)]
    )
    colours = [str(c) for c in rng.permutation(list(COLOURS))[:3]]
    if task_kind == "press":
        objects = tuple(_button(c) for c in colours)
    else:
        shapes = UNSEEN_SHAPES if unseen_shapes else SEEN_SHAPES
        objects = tuple(_object(rng, str(rng.choice(shapes)), c) for c in colours)
        if task_kind == "place":
            objects += (_bowl(),)
    objects = _lay_out(rng, objects)
    hand = str(rng.choice(["right", "left"]))
    starts = {side: _start(rng, side) for side in ("right", "left")}
    return Scene(
        task_kind=task_kind,
        seed=int(seed),
        unseen_scene=unseen_scene,
        unseen_shapes=unseen_shapes,
        table_height=float(rng.uniform(-1, 1) * (UNSEEN_HEIGHT if unseen_scene else SEEN_HEIGHT)),
        objects=objects,
        target=objects[0].name,
        hand=hand,
        starts=starts,
        look=_look(rng, unseen=unseen_scene),
        sleeves={side: _sleeve(rng) for side in ("right", "left")},
        posts=tuple(tube for side in (-1.0, 1.0) for tube in _post(rng, side)),
    )


def _object(rng: Generator, shape: str, colour: str) -> ObjectSpec:
    if shape == "cube":
        half = (float(rng.uniform(0.0185, 0.0225)),) * 3
    elif shape == "cylinder":
        radius = float(rng.uniform(0.019, 0.0225))
        half = (radius, radius, float(rng.uniform(0.018, 0.022)))
    elif shape == "brick":
        half = (
            float(rng.uniform(0.016, 0.020)),
            float(rng.uniform(0.028, 0.034)),
            float(rng.uniform(0.016, 0.020)),
        )
    elif shape == "ball":
        half = (float(rng.uniform(0.020, 0.024)),) * 3
    elif shape == "prism":
        radius = float(rng.uniform(0.020, 0.024))
        half = (radius, radius, float(rng.uniform(0.018, 0.026)))
    else:  # a bar
        half = (
            float(rng.uniform(0.013, 0.016)),
            float(rng.uniform(0.042, 0.050)),
            float(rng.uniform(0.013, 0.016)),
        )
    name = f"{colour} {shape}"
    return ObjectSpec(name, "object", shape, colour, _shade(rng, colour), half, (0.0, 0.0), 0.0)


def _shade(rng: Generator, colour: str) -> tuple[float, float, float]:
    shade = np.array(COLOURS[colour]) * rng.uniform(0.9, 1.05) + rng.uniform(-0.02, 0.02, 3)
    r, g, b = np.clip(shade, 0, 1)
    return float(r), float(g), float(b)


def _button(colour: str) -> ObjectSpec:
    return ObjectSpec(
        f"{colour} button",
        "button",
        "button",
        colour,
        COLOURS[colour],
        (0.036, 0.036, 0.014),
        (0.0, 0.0),
        0.0,
    )


def _bowl() -> ObjectSpec:
    half = (BOWL_RADIUS, BOWL_RADIUS, BOWL_HEIGHT / 2)
    return ObjectSpec("bowl", "bowl", "bowl", "pink", (0.95, 0.4, 0.7), half, (0.0, 0.0), 0.0)


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


def _look(rng: Generator, *, unseen: bool) -> Look:
    azimuth, elevation = rng.uniform(0, 2 * np.pi), np.deg2rad(rng.uniform(50, 80))
    light = np.array(
        [np.cos(azimuth) * np.cos(elevation), np.sin(azimuth) * np.cos(elevation), np.sin(elevation)]
    )
    level = rng.uniform(0.40, 0.62)
    warmth = rng.uniform(-0.10, 0.10) if unseen else rng.uniform(-0.04, 0.04)
    colour = level * np.array([1 + warmth, 1.0, 1 - warmth])
    return Look(
        table=textures.draw(rng, "table", unseen=unseen),
        floor=textures.draw(rng, "floor", unseen=unseen),
        wall=textures.wall_colour(rng),
        light_direction=_triple(-light),
        light_colour=_triple(colour),
        ambient=float(rng.uniform(0.30, 0.42)),
        # The one thing without a colour in its name always looks alike.
        bowl=textures.hsv(rng.uniform(0.885, 0.915), rng.uniform(0.55, 0.75), rng.uniform(0.85, 0.98)),
    )


def _sleeve(rng: Generator) -> tuple[Tube, ...]:
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
        tubes.append(Tube(_triple(start), _triple(end), float(rng.uniform(0.03, 0.065)), _drab(rng)))
        start = end
    return tuple(tubes)


def _post(rng: Generator, side: float) -> tuple[Tube, ...]:
    """A stand behind the table on one side, and a beam from its top, or nothing."""
    if rng.random() < 0.25:
        return ()
    foot = np.array([rng.uniform(-0.62, -0.46), side * rng.uniform(0.06, 0.40), FLOOR_Z])
    top = foot.copy()
    top[2] = rng.uniform(0.0, 0.35)
    beam = top + np.array([rng.uniform(-0.3, 0.1), rng.uniform(-0.2, 0.2), rng.uniform(0.25, 0.60)])
    width = rng.uniform(0.05, 0.11)
    return (
        Tube(_triple(foot), _triple(top), float(width), _drab(rng)),
        Tube(_triple(top), _triple(beam), float(width * rng.uniform(0.5, 0.9)), _drab(rng)),
    )


def _direction(rng: Generator) -> Float[ndarray, 3]:
    """Any direction, all equally likely."""
    vector = rng.normal(size=3)
    return vector / np.linalg.norm(vector)


def _drab(rng: Generator) -> tuple[float, float, float]:
    """Greys from black to white, cloth blues and skin: nothing as saturated as an object."""
    return textures.hsv(
        rng.choice([rng.uniform(0.54, 0.64), rng.uniform(0.04, 0.10)]),
        rng.choice([0.04, rng.uniform(0.1, 0.5)]), rng.uniform(0.12, 0.9),
    )  # fmt: skip


def _triple(values: Any) -> tuple[float, float, float]:
    a, b, c = values
    return float(a), float(b), float(c)


# -----------------------------------------------------------------------------------------------------
# building


def build_scene(scene: Scene) -> mujoco.MjSpec:
    """Table, light, front camera, objects: all but the arms and the room. Bodies are called as the objects
    are.
    """
    import mujoco

    spec = mujoco.MjSpec()
    spec.modelname = f"rdt2-{scene.task_kind}-{scene.seed}"
    spec.compiler.degree = False
    spec.option.timestep = 0.002
    spec.option.integrator = mujoco.mjtIntegrator.mjINT_IMPLICITFAST
    spec.option.cone = mujoco.mjtCone.mjCONE_ELLIPTIC
    spec.option.impratio = 10
    spec.option.iterations = 30
    spec.option.ls_iterations = 20
    spec.visual.map.znear = 0.01
    spec.visual.map.zfar = 14.0
    spec.stat.extent = 1.0
    spec.stat.center = (0, 0, 0.1)
    _add_surroundings(spec, scene)
    for item in scene.objects:
        builder = {"object": _add_object, "bowl": _add_bowl, "button": _add_button}[item.kind]
        builder(spec, scene, item)
    return spec


def _add_surroundings(spec: mujoco.MjSpec, scene: Scene) -> None:
    import mujoco

    look, world = scene.look, spec.worldbody
    head = spec.visual.headlight
    head.ambient = (look.ambient,) * 3
    head.diffuse = (0.28,) * 3
    head.specular = (0.05,) * 3
    world.add_light(
        type=mujoco.mjtLightType.mjLIGHT_DIRECTIONAL,
        pos=(0, 0, 2.5), dir=look.light_direction, diffuse=look.light_colour, specular=(0.15,) * 3,
        castshadow=False,
    )  # fmt: skip
    _add_texture(spec, "table", look.table, 512)
    table = world.add_body(name="table", pos=(0, 0, scene.table_height))
    half = np.divide(TABLE_SIZE, 2)
    table.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, size=half, pos=(0, 0, -half[2]), material="table",
        friction=(0.9, 0.01, 0.001), condim=4,
    )  # fmt: skip
    leg_height = (scene.table_height - TABLE_SIZE[2] - FLOOR_Z) / 2
    for sx in (-1, 1):
        for sy in (-1, 1):
            table.add_geom(
                type=mujoco.mjtGeom.mjGEOM_BOX, size=(0.022, 0.022, leg_height), contype=0, conaffinity=0,
                pos=(sx * (half[0] - 0.05), sy * (half[1] - 0.05), -TABLE_SIZE[2] - leg_height),
                rgba=(0.3, 0.31, 0.33, 1),
            )  # fmt: skip
    eye, look_at = (1.42, 0.0, 0.98), (-0.16, 0.0, 0.21)
    world.add_camera(name="front", pos=eye, fovy=44.0, quat=_look_at(eye, look_at))


def add_tubes(body: mujoco.MjsBody, tubes: tuple[Tube, ...]) -> None:
    """Tubes as capsules on a body: seen, weightless, and met by nothing."""
    import mujoco

    for tube in tubes:
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_CAPSULE, size=(tube.radius, 0, 0), fromto=(*tube.start, *tube.end),
            rgba=(*tube.rgb, 1), mass=0, contype=0, conaffinity=0,
        )  # fmt: skip


def add_room(spec: mujoco.MjSpec, scene: Scene) -> None:
    """Floor and walls. Called when all else is there: what is drawn last costs nothing where it is hidden."""
    import mujoco

    _add_texture(spec, "floor", scene.look.floor, 128, uniform=True)
    # plain colours: a painted backdrop would cost each wrist picture a fifth of its time
    spec.add_material(name="wall", rgba=(*scene.look.wall, 1), specular=0.0, emission=0.25)
    room = spec.worldbody.add_body(name="room")
    plane, half = mujoco.mjtGeom.mjGEOM_PLANE, 3.5
    ghost = {"type": plane, "size": (half, half, 1), "contype": 0, "conaffinity": 0}
    room.add_geom(name="floor", pos=(0, 0, FLOOR_Z), material="floor", **ghost)
    for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1)):
        # a plane is seen from the side its z points to: inwards
        quat = Rotation.align_vectors([[-x, -y, 0], [0, 0, 1]], [[0, 0, 1], [1, 0, 0]])[0].as_quat(
            scalar_first=True
        )
        room.add_geom(pos=(x * half, y * half, FLOOR_Z + half), quat=quat, material="wall", **ghost)


def _add_texture(
    spec: mujoco.MjSpec, name: str, texture: textures.Texture, size: int, *, uniform: bool = False
) -> None:
    """A painted material called `name`; `uniform`: one copy a metre, else one copy for the whole surface."""
    import mujoco

    kind = mujoco.mjtTexture.mjTEXTURE_2D
    picture = spec.add_texture(name=name, type=kind, width=size, height=size, nchannel=3)
    picture.data = textures.paint(texture, size).tobytes()
    material = spec.add_material(name=name, specular=0.1, shininess=0.2, texuniform=uniform)
    material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


def _look_at(eye: Any, target: Any) -> Any:
    """Quaternion of a camera at `eye` that looks at `target`, with the world's z up in the picture."""
    back = np.subtract(eye, target)
    back = back / np.linalg.norm(back)
    right = np.cross((0, 0, 1), back)
    right /= np.linalg.norm(right)
    axes = np.column_stack([right, np.cross(back, right), back])
    return Rotation.from_matrix(axes).as_quat(scalar_first=True)


def _place(scene: Scene, item: ObjectSpec, z: float = 0.0) -> dict[str, Any]:
    quat = (np.cos(item.yaw / 2), 0, 0, np.sin(item.yaw / 2))
    return {"pos": (*item.position, scene.table_height + z), "quat": quat}


def _add_object(spec: mujoco.MjSpec, scene: Scene, item: ObjectSpec) -> None:
    import mujoco

    half = item.half_size
    body = spec.worldbody.add_body(name=item.name, **_place(scene, item, half[2] + 0.0002))
    body.add_freejoint(name=item.name)
    material = spec.add_material(
        name=item.name, rgba=(*item.rgb, 1), specular=0.25, shininess=0.5, emission=0.12
    )
    look = {
        "name": item.name, "material": material.name, "mass": OBJECT_MASS, "condim": 4,
        "friction": (0.9, 0.01, 0.001),
    }  # fmt: skip
    # condim 6: rolling friction lets what is round come to rest
    rolls = {"condim": 6, "friction": (0.9, 0.01, 0.004)}
    kinds = mujoco.mjtGeom
    if item.shape in ("cube", "brick", "bar"):
        body.add_geom(type=kinds.mjGEOM_BOX, size=half, **look)
    elif item.shape == "cylinder":
        body.add_geom(type=kinds.mjGEOM_CYLINDER, size=(half[0], half[2], 0), **{**look, **rolls})
    elif item.shape == "ball":
        body.add_geom(type=kinds.mjGEOM_SPHERE, size=(half[0], 0, 0), **{**look, **rolls})
    else:
        corners = np.arange(6) * np.pi / 3 + np.pi / 6
        ring = np.stack([half[0] * np.cos(corners), half[0] * np.sin(corners)], axis=1)
        points = np.concatenate([np.c_[ring, np.full(6, -half[2])], np.c_[ring, np.full(6, half[2])]])
        spec.add_mesh(name=item.name, uservert=points.ravel(), smoothnormal=False)
        body.add_geom(type=kinds.mjGEOM_MESH, meshname=item.name, **look)


def _add_bowl(spec: mujoco.MjSpec, scene: Scene, item: ObjectSpec) -> None:
    """A bowl that stands fast: a lathed mesh to look at, a ring of slanted boxes to touch."""
    import mujoco

    body = spec.worldbody.add_body(name=item.name, **_place(scene, item))
    rgba = (*scene.look.bowl, 1)
    vertices, faces = _lathe(
        # radius and height, from the middle of the inside over the rim to the outside
        [(0.0, 0.006), (0.036, 0.006), (0.050, 0.014), (0.0655, BOWL_HEIGHT - 0.001), (0.0675, BOWL_HEIGHT),
         (BOWL_RADIUS, BOWL_HEIGHT - 0.001), (0.055, 0.010), (0.042, 0.0), (0.0, 0.0)],
        segments=36,
    )  # fmt: skip
    spec.add_mesh(
        name=item.name,
        uservert=vertices.ravel(),
        userface=faces.ravel(),
        inertia=mujoco.mjtMeshInertia.mjMESH_INERTIA_SHELL,
    )
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_MESH, meshname=item.name, rgba=rgba, contype=0, conaffinity=0)
    touch = {"group": 3, "rgba": rgba, "friction": (0.8, 0.01, 0.001), "condim": 4}
    body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(0.046, 0.003, 0), pos=(0, 0, 0.003), **touch)
    sides, inner, outer = 10, 0.046, 0.0675
    slant = np.arctan2(outer - inner, BOWL_HEIGHT)
    half_height = np.hypot(outer - inner, BOWL_HEIGHT) / 2
    for k in range(sides):
        angle = 2 * np.pi * k / sides
        middle = (inner + outer) / 2
        turn = Rotation.from_euler("z", angle) * Rotation.from_euler("y", slant)
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=(0.0025, outer * np.tan(np.pi / sides), half_height),
            pos=(middle * np.cos(angle), middle * np.sin(angle), BOWL_HEIGHT / 2),
            quat=turn.as_quat(scalar_first=True),
            **touch,
        )


def _lathe(profile: list[tuple[float, float]], *, segments: int) -> tuple[np.ndarray, np.ndarray]:
    """Turn a profile of (radius, height) around z: vertices (n, 3), triangles (m, 3) facing outwards."""
    angles = 2 * np.pi * np.arange(segments) / segments
    radius, height = np.array(profile).T
    ring = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    vertices = np.concatenate(
        [radius[:, None, None] * ring, np.broadcast_to(height[:, None, None], (len(profile), segments, 1))],
        axis=2,
    )
    faces = []
    for i in range(len(profile) - 1):
        for j in range(segments):
            a, b = i * segments + j, i * segments + (j + 1) % segments
            c, d = a + segments, b + segments
            if radius[i] > 0:
                faces.append((a, c, b))
            if radius[i + 1] > 0:
                faces.append((b, c, d))
    return vertices.reshape(-1, 3), np.array(faces)


def _add_button(spec: mujoco.MjSpec, scene: Scene, item: ObjectSpec) -> None:
    """A dark housing that stands fast, and a coloured cap on a spring. Joint and body are called as the
    button is.
    """
    import mujoco

    body = spec.worldbody.add_body(name=f"{item.name} housing", **_place(scene, item))
    common = {"friction": (0.8, 0.01, 0.001), "condim": 3}
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_BOX,
        size=(0.034, 0.034, 0.009),
        pos=(0, 0, 0.009),
        rgba=(0.16, 0.16, 0.18, 1),
        **common,
    )
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(0.0285, 0.0015, 0), pos=(0, 0, 0.0195),
        rgba=(0.75, 0.76, 0.78, 1), contype=0, conaffinity=0,
    )  # fmt: skip
    cap = body.add_body(name=item.name, pos=(0, 0, 0.018))
    cap.add_joint(
        name=item.name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=(0, 0, 1), range=(-BUTTON_TRAVEL, 0),
        limited=True, stiffness=(300.0, 0, 0), damping=(4.0, 0, 0), springref=0.003, armature=0.02,
        solref_limit=(0.004, 1.0), solimp_limit=(0.98, 0.999, 0.0005, 0.5, 2),
    )  # fmt: skip
    spec.add_material(name=item.name, rgba=(*item.rgb, 1), specular=0.3, shininess=0.6, emission=0.12)
    cap.gravcomp = 1
    spec.add_exclude(bodyname1=body.name, bodyname2=cap.name)
    # MuJoCo lets a body touch its parent where that stands fast: the cap must sink into the housing
    spec.add_exclude(bodyname1=body.name, bodyname2=cap.name)
    cap.add_geom(
        name=item.name, type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(0.0245, 0.008, 0), pos=(0, 0, 0.009),
        mass=0.03, material=item.name, **common,
    )  # fmt: skip
