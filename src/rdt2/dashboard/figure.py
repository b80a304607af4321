"""What the page draws: rigid bodies made of simple solids, and where they are.

Of a simulated cell it is the cell's own model, objects and table included; of a robot it is what its settings describe:
links, grippers, and a table of the height they say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control.bodies import OPENINGS, ArmBody
from rdt2.robot.grippers import GRIPPERS
from rdt2.robot.models import arm_model

if TYPE_CHECKING:
    import mujoco
    from jaxtyping import Float, Float32, Int32
    from numpy import ndarray

    from rdt2.robot import ArmState
    from rdt2.robot.description import Part, Shape
    from rdt2.robot.settings import ArmSettings, RobotSettings
    from rdt2.sim.cell import Cell

Colour = tuple[float, float, float]
TABLE = 1.2, 1.2, 0.03
"""Metres of the table that is drawn where only its height is known."""
TABLE_COLOUR = (0.80, 0.77, 0.72)
ROOM = "room"
"""Walls and floor of a cell would hide what stands between them."""
DRAWN_GROUPS = 3
"""MuJoCo's groups from here on are only there to be touched."""


@dataclass(frozen=True, eq=False)
class Solid:
    """A simple shape in the frame of its body."""

    kind: Literal["box", "cylinder", "capsule", "sphere", "mesh"]
    size: tuple[float, float, float]
    """Metres. Box: half extents; cylinder and capsule: radius, half the length along z; sphere: radius."""
    pose: Float[ndarray, "4 4"]
    colour: Colour
    vertices: Float32[ndarray, "v 3"] | None = None
    faces: Int32[ndarray, "f 3"] | None = None


@dataclass(frozen=True, eq=False)
class Body:
    """What moves as one."""

    name: str
    solids: tuple[Solid, ...]


@dataclass(frozen=True, eq=False)
class GripperShape:
    """One gripper, which may be drawn anywhere: a ghost."""

    in_tcp: Float[ndarray, "4 4"]
    """Its frame, in that of the TCP."""
    palm: tuple[Solid, ...]
    fingers: tuple[tuple[Solid, ...], tuple[Solid, ...]]
    finger_z: float
    """Height of the fingers' frames above the gripper's, metres."""

    @classmethod
    def of(cls, arm: ArmSettings) -> GripperShape:
        """Of an arm's settings."""
        gripper = GRIPPERS[arm.gripper.model]
        first, second = (tuple(map(_part, parts)) for parts in gripper.fingers)
        in_tcp = np.linalg.inv(_tool(arm))
        return cls(in_tcp, tuple(map(_part, gripper.palm)), (first, second), gripper.finger_z)

    def places(self, tcp: Float[ndarray, "4 4"], width: float) -> list[Float[ndarray, "4 4"]]:
        """Where palm and fingers are in the cell frame, for a TCP there and an opening in metres."""
        palm = tcp @ self.in_tcp
        found = [palm]
        for sign in (0.5, -0.5):
            finger = palm.copy()
            finger[:3, 3] += self.finger_z * palm[:3, 2] + sign * width * palm[:3, 1]
            found.append(finger)
        return found


@dataclass(frozen=True, eq=False)
class Figure:
    """All that is drawn of a robot and what is around it."""

    bodies: tuple[Body, ...]
    grippers: Mapping[str, GripperShape]
    places: Callable[[Mapping[str, ArmState], Mapping[str, float]], Float32[ndarray, "b 7"]]
    """Where the bodies are, from measured states and openings (metres): position in the cell frame (metres), then a
    quaternion w, x, y, z. Of a simulated cell, to be called by its own thread."""

    @classmethod
    def of_cell(cls, cell: Cell, settings: RobotSettings) -> Figure:
        """The cell's own model, as it is when it is asked."""
        model, data = cell.model, cell.data
        geoms: dict[int, list[Solid]] = {}
        for geom in range(model.ngeom):
            body = int(model.geom_bodyid[geom])
            if (
                model.geom_group[geom] < DRAWN_GROUPS
                and model.body(body).name != ROOM
                and (solid := _geom(model, geom)) is not None
            ):
                geoms.setdefault(body, []).append(solid)
        ids = np.array(sorted(geoms))

        def places(states: Mapping[str, ArmState], widths: Mapping[str, float]) -> Float32[ndarray, "b 7"]:
            return np.hstack([data.xpos[ids], data.xquat[ids]]).astype(np.float32)

        bodies = tuple(Body(model.body(i).name, tuple(geoms[i])) for i in ids)
        return cls(bodies, _grippers(settings), places)

    @classmethod
    def of_robot(cls, settings: RobotSettings) -> Figure:
        """What a robot's settings say of it."""
        grippers = _grippers(settings)
        arms: dict[str, ArmBody] = {}
        bodies = [Body("table", (_table(settings.safety.table_height),))]
        for side in settings.sides:
            arm, gripper = settings.arms[side], grippers[side]
            model = None if arm.model is None else arm_model(arm.model)
            arms[side] = ArmBody(
                model,
                base=np.asarray(arm.base),
                gripper=GRIPPERS[arm.gripper.model],
                mount=np.asarray(arm.gripper.mount),
                tool=_tool(arm),
            )
            links: list[tuple[Solid, ...]] = []
            if model is not None:
                links = [tuple(map(_shape, model.base_shapes))]
                links += [tuple(map(_shape, link.shapes)) for link in model.links]
            parts = [*links, gripper.palm, *gripper.fingers]
            bodies += [Body(f"{side}/{k}", solids) for k, solids in enumerate(parts)]

        def places(states: Mapping[str, ArmState], widths: Mapping[str, float]) -> Float32[ndarray, "b 7"]:
            rows = [np.array([[0, 0, 0, 1, 0, 0, 0]])]
            for side, body in arms.items():
                state = states[side]
                openings = np.full((1, OPENINGS), widths[side])
                frames = body.frames(state.joints[None], state.pose[None], openings)[0, : body.gripper + 3]
                quaternions = Rotation.from_matrix(frames[:, :3, :3]).as_quat(scalar_first=True)
                rows.append(np.hstack([frames[:, :3, 3], quaternions]))
            return np.concatenate(rows).astype(np.float32)

        return cls(tuple(bodies), grippers, places)


def _grippers(settings: RobotSettings) -> dict[str, GripperShape]:
    return {side: GripperShape.of(settings.arms[side]) for side in settings.sides}


def _tool(arm: ArmSettings) -> ndarray:
    """The TCP in the gripper's frame; a hand's gripper is where its policy's frame is."""
    tcp = np.linalg.inv(arm.policy_to_tcp) if arm.tool is None else np.asarray(arm.tool)
    return np.linalg.inv(arm.gripper.mount) @ tcp


def _table(height: float) -> Solid:
    pose = np.eye(4)
    pose[2, 3] = height - 0.5 * TABLE[2]
    x, y, z = (0.5 * extent for extent in TABLE)
    return Solid("box", (x, y, z), pose, TABLE_COLOUR)


def _part(part: Part) -> Solid:
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", part.tilt).as_matrix()
    pose[:3, 3] = part.position
    return Solid("box" if part.kind == "box" else "cylinder", part.half_size, pose, part.colour[:3])


def _shape(shape: Shape) -> Solid:
    start, end = np.array(shape.start), np.array(shape.end)
    length = float(np.linalg.norm(end - start))
    pose = np.eye(4)
    if length > 0:
        pose[:3, :3] = Rotation.align_vectors([(end - start) / length], [(0.0, 0.0, 1.0)])[0].as_matrix()
    pose[:3, 3] = 0.5 * (start + end)
    kind: Literal["capsule", "cylinder"] = "capsule" if shape.kind == "capsule" else "cylinder"
    return Solid(kind, (shape.radius, 0.5 * length, 0.0), pose, shape.colour[:3])


def _geom(model: mujoco.MjModel, geom: int) -> Solid | None:
    """A shape of MuJoCo's; None for kinds that have no end."""
    import mujoco

    kinds: dict[int, Literal["box", "cylinder", "capsule", "sphere", "mesh"]] = {
        int(mujoco.mjtGeom.mjGEOM_BOX): "box",
        int(mujoco.mjtGeom.mjGEOM_CYLINDER): "cylinder",
        int(mujoco.mjtGeom.mjGEOM_CAPSULE): "capsule",
        int(mujoco.mjtGeom.mjGEOM_SPHERE): "sphere",
        int(mujoco.mjtGeom.mjGEOM_MESH): "mesh",
    }
    kind = kinds.get(int(model.geom_type[geom]))
    if kind is None:
        return None
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_quat(model.geom_quat[geom], scalar_first=True).as_matrix()
    pose[:3, 3] = model.geom_pos[geom]
    vertices = faces = None
    if kind == "mesh":
        mesh = int(model.geom_dataid[geom])
        first, count = int(model.mesh_vertadr[mesh]), int(model.mesh_vertnum[mesh])
        vertices = np.array(model.mesh_vert[first : first + count], np.float32)
        first, count = int(model.mesh_faceadr[mesh]), int(model.mesh_facenum[mesh])
        faces = np.array(model.mesh_face[first : first + count], np.int32)
    a, b, c = (float(extent) for extent in model.geom_size[geom])
    return Solid(kind, (a, b, c), pose, _colour(model, geom), vertices, faces)


def _colour(model: mujoco.MjModel, geom: int) -> Colour:
    """Of a shape: its own, its material's, or the middle of the picture that is painted on it."""
    import mujoco

    material = int(model.geom_matid[geom])
    if material < 0:
        red, green, blue = model.geom_rgba[geom][:3]
        return float(red), float(green), float(blue)
    rgb = model.mat_rgba[material][:3]
    texture = int(model.mat_texid[material][mujoco.mjtTextureRole.mjTEXROLE_RGB])
    if texture >= 0:
        first, channels = int(model.tex_adr[texture]), int(model.tex_nchannel[texture])
        count = int(model.tex_height[texture]) * int(model.tex_width[texture])
        pixels = model.tex_data[first : first + count * channels].reshape(count, channels)
        rgb = rgb * pixels[:, :3].mean(axis=0) / 255
    red, green, blue = rgb
    return float(red), float(green), float(blue)
