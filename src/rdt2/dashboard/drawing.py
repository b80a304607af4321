"""The page's 3-D view: bodies that move, what the policy wants as paths and ghost grippers, and where the TCPs were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.dashboard.figure import Solid
from rdt2.dashboard.messages import Chunk, Scene, Shot

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.dashboard.history import History

Rgb = tuple[int, int, int]
RAW, MADE, SENT, MEASURED = (124, 58, 237), (234, 120, 20), (40, 40, 40), (14, 130, 200)
"""Colours: the chunk, what safety made of it, what was sent, what was measured."""
GHOSTS = 12, 24
"""Rows of the chunk at which a ghost of the gripper stands."""
GHOST_OPACITY = 0.35
TRAIL = 3.0
"""Seconds of the way behind a TCP that are drawn."""
SIDES_OF_A_CYLINDER = 28
WIDE = (-0.95, -0.28, 1.5), (0.1, -0.28, 0.05)
"""Where one looks from and to, metres in the cell frame: from behind the robot, whose left arm is on the left; to the
right of its middle, which the panel covers."""
TALL = (-1.45, 0.0, 1.75), (-0.12, 0.0, -0.62)
"""The same on a phone, where the panel covers the lower half."""


class Drawing:
    """What is drawn on a viser scene."""

    def __init__(self, server: Any) -> None:
        self._server = server
        self._root: Any = None
        self._bodies: list[Any] = []
        self._ghosts: dict[tuple[str, int], list[Any]] = {}
        self._paths: dict[tuple[str, str], Any] = {}
        self._placed: ndarray | None = None
        self._chunk: Chunk | None = None
        server.scene.set_up_direction("+z")
        server.initial_camera.position, server.initial_camera.look_at = WIDE
        server.on_client_connect(_welcome)

    def begin(self, scene: Scene) -> None:
        """Draw another scene."""
        self._bodies, self._ghosts, self._paths = [], {}, {}
        self._placed = self._chunk = None
        if self._root is not None:
            self._root.remove()
        api = self._server.scene
        self._grippers = scene.grippers
        self._root = api.add_frame("/cell", show_axes=False)
        for k, body in enumerate(scene.bodies):
            name = f"/cell/{k}"
            self._bodies.append(api.add_frame(name, show_axes=False))
            self._add_solids(name, body.solids)
        for side in scene.sides:
            for row in GHOSTS:
                parts = []
                gripper = scene.grippers[side]
                for k, solids in enumerate((gripper.palm, *gripper.fingers)):
                    name = f"/cell/ghost_{side}_{row}_{k}"
                    parts.append(api.add_frame(name, show_axes=False, visible=False))
                    self._add_solids(name, solids, ghost=True)
                self._ghosts[side, row] = parts
            for kind, colour, thickness in (("raw", RAW, 5), ("made", MADE, 4), ("measured", MEASURED, 3)):
                self._paths[kind, side] = api.add_line_segments(
                    f"/cell/{kind}_{side}",
                    np.zeros((1, 2, 3), np.float32),
                    np.array(colour, np.uint8),
                    thickness=thickness,
                    thickness_units="screen",
                    visible=False,
                )

    def show(self, shot: Shot, chunk: Chunk | None, history: History) -> None:
        """The moment of a shot, with the chunk that was driven then."""
        moved = self._placed is None or np.abs(shot.places - self._placed).max(axis=1) > 1e-5
        for k, (frame, place) in enumerate(zip(self._bodies, shot.places, strict=True)):
            if moved is True or moved[k]:
                frame.position, frame.wxyz = place[:3], place[3:]
        self._placed = shot.places
        since = shot.since
        for (kind, side), handle in self._paths.items():
            if kind == "raw":
                points = np.zeros((0, 3)) if chunk is None else chunk.poses[side][:, :3, 3]
            else:
                points = np.zeros((0, 3)) if since is None else history.trail(kind, side, since, TRAIL)
            self._draw_path(handle, points, fresh=kind != "raw" or chunk is not self._chunk)
        if chunk is not self._chunk:
            self._draw_ghosts(chunk)
        self._chunk = chunk

    @staticmethod
    def _draw_path(handle: Any, points: Float[ndarray, "n 3"], *, fresh: bool) -> None:
        if handle.visible != (len(points) > 1):
            handle.visible = len(points) > 1
        if fresh and len(points) > 1:
            handle.points = np.stack([points[:-1], points[1:]], axis=1).astype(np.float32)

    def _draw_ghosts(self, chunk: Chunk | None) -> None:
        for (side, row), parts in self._ghosts.items():
            for part in parts:
                part.visible = chunk is not None
            if chunk is None:
                continue
            row = min(row, len(chunk.poses[side]) - 1)
            places = self._grippers[side].places(chunk.poses[side][row], float(chunk.widths[side][row]))
            for part, pose in zip(parts, places, strict=True):
                part.position = pose[:3, 3]
                part.wxyz = Rotation.from_matrix(pose[:3, :3]).as_quat(scalar_first=True)

    def _add_solids(self, name: str, solids: Sequence[Solid], *, ghost: bool = False) -> None:
        """Meshes below a frame, one for each colour."""
        for k, (colour, (vertices, faces)) in enumerate(meshes(solids).items()):
            self._server.scene.add_mesh_simple(
                f"{name}/{k}",
                vertices,
                faces,
                color=RAW if ghost else colour,
                opacity=GHOST_OPACITY if ghost else None,
                flat_shading=True,
                side="double",
                cast_shadow=not ghost,
                receive_shadow=not ghost,
            )


def _welcome(client: Any) -> None:
    """Somebody opens the page."""
    if client.camera.aspect < 1.0:
        client.camera.position, client.camera.look_at = TALL


def meshes(solids: Sequence[Solid]) -> Mapping[Rgb, tuple[ndarray, ndarray]]:
    """Vertices (metres, in the body's frame) and faces by colour."""
    found: dict[Rgb, tuple[list[ndarray], list[ndarray]]] = {}
    for solid in solids:
        red, green, blue = (round(255 * min(max(value, 0.0), 1.0)) for value in solid.colour)
        vertices, faces = found.setdefault((red, green, blue), ([], []))
        points, triangles = _triangles(solid)
        offset = sum(map(len, vertices))
        vertices.append(points @ solid.pose[:3, :3].T + solid.pose[:3, 3])
        faces.append(triangles + offset)
    return {
        colour: (np.concatenate(vertices).astype(np.float32), np.concatenate(faces).astype(np.uint32))
        for colour, (vertices, faces) in found.items()
    }


def _triangles(solid: Solid) -> tuple[ndarray, ndarray]:
    if solid.vertices is not None and solid.faces is not None:
        return solid.vertices, solid.faces
    from trimesh import creation

    a, b, _ = solid.size
    if solid.kind == "box":
        mesh = creation.box(extents=[2 * extent for extent in solid.size])
    elif solid.kind == "sphere":
        mesh = creation.icosphere(subdivisions=3, radius=a)
    elif solid.kind == "capsule":
        mesh = creation.capsule(height=2 * b, radius=a, count=[SIDES_OF_A_CYLINDER, 16])
    else:
        mesh = creation.cylinder(radius=a, height=2 * b, sections=SIDES_OF_A_CYLINDER)
    points = np.asarray(mesh.vertices)
    return points - 0.5 * (points.max(axis=0) + points.min(axis=0)), np.asarray(mesh.faces)
