"""The same data for rerun: a file, or a viewer that follows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.dashboard.drawing import MADE, MEASURED, RAW, SENT, meshes
from rdt2.dashboard.messages import Chunk, Pictures, Scene, Shot, State
from rdt2.dashboard.options import LIVE
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy import ndarray

QUALITY = 85
"""Of the pictures' JPEG."""


class Rerun:
    """Logs episodes one after the other: `episode_000`, `episode_001`, each on a time of its own.

    Args:
        where: a file, or "live".

    Raises:
        ConfigError: rerun is not installed, or the file cannot be written.
    """

    def __init__(self, where: str) -> None:
        try:
            import rerun as rr
            import trimesh  # noqa: F401 - what `meshes` needs, asked for before anything moves
        except ImportError as error:
            raise ConfigError(
                f"--rerun needs rerun-sdk and trimesh ({error}). Install the extra: pip install 'rdt2[view]'."
            ) from None
        self._rr: Any = rr
        self._stream = rr.RecordingStream("rdt2")
        if where == LIVE:
            self._stream.spawn()
        else:
            try:
                Path(where).expanduser().parent.mkdir(parents=True, exist_ok=True)
                self._stream.save(Path(where).expanduser())
            except OSError as error:
                raise ConfigError(f"--rerun {where}: cannot be written ({error.strerror}).") from error
        self._episodes = 0
        self._name = "robot"
        self._began: float | None = None
        self._state: State | None = None

    def take(self, message: Any) -> None:
        """Log one message."""
        if isinstance(message, Scene):
            self._begin(message)
        elif isinstance(message, Shot) and message.since is not None:
            self._began = message.time - message.since
            self._shot(message, message.since)
        elif isinstance(message, Chunk):
            for side, path in message.poses.items():
                self._log_path(f"{side}/chunk", path[:, :3, 3], RAW)
            self._number("timing/inference_ms", 1e3 * message.inference)
            self._number("timing/picture_to_chunk_ms", 1e3 * message.delay)
        elif isinstance(message, Pictures) and self._began is not None:
            self._stream.set_time("time", duration=max(0.0, message.time - self._began))
            for side, image in message.images.items():
                self._log(f"{side}/wrist", self._rr.Image(image).compress(jpeg_quality=QUALITY))
        elif isinstance(message, State):
            self._say(message)

    def draw(self) -> None:
        """Everything was logged as it came."""

    def close(self) -> None:
        """See that the file is whole."""
        self._stream.flush()

    def _begin(self, scene: Scene) -> None:
        self._name, self._began = f"episode_{self._episodes:03d}", None
        self._episodes += 1
        self._bodies = [body.name for body in scene.bodies]
        self._log("title", self._rr.TextDocument(scene.title), static=True)
        for body in scene.bodies:
            for k, (colour, (vertices, faces)) in enumerate(meshes(body.solids).items()):
                solid = self._rr.Mesh3D(
                    vertex_positions=vertices, triangle_indices=faces, albedo_factor=(*colour, 255)
                )
                self._log(f"bodies/{body.name}/{k}", solid, static=True)

    def _shot(self, shot: Shot, since: float) -> None:
        self._stream.set_time("time", duration=since)
        for name, place in zip(self._bodies, shot.places, strict=True):
            w, x, y, z = place[3:]
            turn = self._rr.Quaternion(xyzw=(x, y, z, w))
            self._log(f"bodies/{name}", self._rr.Transform3D(translation=place[:3], quaternion=turn))
        sent = shot.made if shot.taken else {}
        for kind, poses, colour in (
            ("asked", shot.wish, RAW), ("after_safety", shot.made, MADE), ("sent", sent, SENT),
            ("measured", shot.measured, MEASURED),
        ):  # fmt: skip
            self._tcps(kind, poses, colour)
        for kind, widths in (
            ("asked", shot.wish_widths), ("after_safety", shot.made_widths), ("measured", shot.widths)
        ):  # fmt: skip
            for side, width in widths.items():
                self._number(f"{side}/{kind}/opening_mm", 1e3 * width)
        self._number("timing/servo_period_ms", 1e3 * shot.period)
        self._number("timing/age_of_states_ms", 1e3 * shot.age)
        for text in (shot.held, shot.fault):
            if text:
                self._log("safety", self._rr.TextLog(text))

    def _tcps(self, kind: str, poses: Mapping[str, ndarray], colour: tuple[int, int, int]) -> None:
        for side, pose in poses.items():
            self._log(f"{side}/{kind}", self._rr.Points3D([pose[:3, 3]], colors=[colour], radii=4e-3))
            for axis, value in zip("xyz", pose[:3, 3], strict=True):
                self._number(f"{side}/{kind}/{axis}_mm", 1e3 * float(value))

    def _say(self, state: State) -> None:
        before, self._state = self._state, state
        if before is None:
            return
        for name in ("stage", "sentence", "emergency", "mark", "ending"):
            value = getattr(state, name)
            if value != getattr(before, name) and value not in ("", None):
                self._log("operator", self._rr.TextLog(f"{name}: {value}"))

    def _log_path(self, name: str, points: ndarray, colour: tuple[int, int, int]) -> None:
        self._log(name, self._rr.LineStrips3D([np.asarray(points)], colors=[colour], radii=1e-3))

    def _number(self, name: str, value: float) -> None:
        self._log(name, self._rr.Scalars(value))

    def _log(self, name: str, what: Any, *, static: bool = False) -> None:
        self._stream.log(f"{self._name}/{name}", what, static=static)
