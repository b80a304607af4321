"""How a scene is built in MuJoCo: table, light, room, objects; the same scene gives the same model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.sim import textures
from rdt2.sim.scene import (
    BOWL_FLOOR,
    BOWL_HEIGHT,
    BOWL_RADIUS,
    BUTTON_TRAVEL,
    FLOOR_Z,
    OBJECT_MASS,
    TABLE_SIZE,
    ObjectSpec,
    Scene,
    Tube,
)

if TYPE_CHECKING:
    import mujoco


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
    body.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=(BOWL_FLOOR, 0.003, 0), pos=(0, 0, 0.003), **touch
    )
    sides, inner, outer = 10, BOWL_FLOOR, 0.0675
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
