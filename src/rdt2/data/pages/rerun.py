"""Episodes in the rerun viewer: cameras, both paths in 3-D, widths, and the chunk at the cursor."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS, FPS, HORIZON
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

_COLOURS = {"right": (194, 87, 26), "left": (26, 111, 176)}
_QUALITY = 90


def write_rerun(episodes: Iterable[Episode], path: str | Path | None) -> int:
    """Log episodes to an ``.rrd`` file, or to a viewer that is started when ``path`` is None; returns how many.

    Raises:
        ConfigError: rerun is not installed.
    """
    try:
        import rerun as rr
    except ImportError:
        raise ConfigError("rerun is not installed. Install the extra: pip install 'rdt2[view]'.") from None
    stream = rr.RecordingStream("rdt2")
    if path is None:
        stream.spawn()
    else:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        stream.save(path)
    count = 0
    for episode in episodes:
        _log(rr, stream, f"episode_{count:03d}", episode)
        count += 1
    stream.flush()
    return count


def _log(rr: Any, stream: Any, name: str, episode: Episode) -> None:
    times = np.asarray(episode.timestamps) - episode.timestamps[0]
    stream.log(f"{name}/instruction", rr.TextDocument(" / ".join(episode.sentences)), static=True)
    for arm in ARMS:
        path = np.asarray(episode.poses[arm])[:, :3, 3]
        stream.log(
            f"{name}/{arm}/path", rr.LineStrips3D([path], colors=[_COLOURS[arm]], radii=5e-4), static=True
        )
    for frame, seconds in enumerate(times):
        stream.set_time("time", duration=float(seconds))
        ahead = (times >= seconds) & (times <= seconds + HORIZON / FPS + 1e-3)
        for arm in ARMS:
            place = np.asarray(episode.poses[arm][frame])
            stream.log(
                f"{name}/{arm}/gripper", rr.Transform3D(translation=place[:3, 3], mat3x3=place[:3, :3])
            )
            chunk = np.asarray(episode.poses[arm])[ahead][:, :3, 3]
            stream.log(f"{name}/{arm}/chunk", rr.LineStrips3D([chunk], colors=[_COLOURS[arm]], radii=2e-3))
            stream.log(f"{name}/{arm}/width", rr.Scalars(float(episode.widths[arm][frame])))
            stream.log(
                f"{name}/{arm}/camera",
                rr.EncodedImage(contents=_jpeg(episode.videos[arm][frame]), media_type="image/jpeg"),
            )


def _jpeg(picture: bytes | np.ndarray) -> bytes:
    if isinstance(picture, bytes):
        return picture
    import simplejpeg

    return simplejpeg.encode_jpeg(np.ascontiguousarray(picture), quality=_QUALITY, colorspace="RGB")
