"""Paths of poses in time, and how a new waypoint joins a path that is being driven.

Between waypoints a `Path` is linear in position and slerp in rotation; it is still before the first and after
the last. A waypoint that asks for more speed than allowed arrives later instead of faster.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import PoseError
from rdt2.pose import geodesic_angle, interpolate

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


@dataclass(frozen=True, eq=False)
class Path:
    """Poses (n, 4, 4) in metres at strictly increasing `times` (n,) in seconds.

    Raises:
        PoseError: times that do not increase strictly, or not one time a pose.
    """

    times: Float[ndarray, " n"]
    poses: Float[ndarray, "n 4 4"]

    def __post_init__(self) -> None:
        times = np.array(self.times, dtype=np.float64).reshape(-1)
        poses = np.array(self.poses, dtype=np.float64)
        if poses.shape != (len(times), 4, 4) or len(times) == 0:
            raise PoseError(
                f"a path has {len(times)} times and poses {poses.shape}, expected (n, 4, 4) and n > 0."
            )
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise PoseError(
                "the times of a path must be finite and increase strictly. Drop waypoints that are past."
            )
        object.__setattr__(self, "times", times)
        object.__setattr__(self, "poses", poses)

    def at(self, time: float) -> Float[ndarray, "4 4"]:
        """Pose at one time."""
        return interpolate(self.times, self.poses, np.array([time]))[0]

    def trim(self, start: float, end: float) -> Path:
        """The same motion between two times, with waypoints at both (one, if they are equal)."""
        inside = (self.times > start) & (self.times < end)
        times = np.unique(np.concatenate([[start], self.times[inside], [end]]))
        return Path(times, interpolate(self.times, self.poses, times))

    def drive_to(
        self,
        pose: Float[ndarray, "4 4"],
        time: float,
        *,
        now: float,
        max_speed: float = np.inf,
        max_turn_rate: float = np.inf,
    ) -> Path:
        """From where the path is `now` straight to `pose`, at `time` or later if the speeds want it."""
        here = self.at(now)
        arrival = now + max(max(time, now) - now, travel_time(here, pose, max_speed, max_turn_rate))
        return Path(np.array([now, arrival]), np.stack([here, pose]))

    def schedule(
        self,
        pose: Float[ndarray, "4 4"],
        time: float,
        *,
        now: float | None = None,
        last_scheduled: float | None = None,
        max_speed: float = np.inf,
        max_turn_rate: float = np.inf,
    ) -> Path:
        """The path with one more waypoint.

        What was driven before `now` is forgotten, and of what is planned only the part up to `last_scheduled`
        is kept: beyond it the path is nobody's plan. A waypoint before `last_scheduled` replaces the whole
        plan, and one that is already past changes nothing.

        Args:
            pose: (4, 4), metres.
            time: when to be there, seconds.
            now: current time; the motion driven so far stays when it is not given.
            last_scheduled: time of the last waypoint asked for.
            max_speed: m/s; the waypoint arrives later rather than faster.
            max_turn_rate: rad/s.

        Raises:
            PoseError: without `now`, a time that is not after the start of the path.
        """
        start, end = float(self.times[0]), float(self.times[-1])
        if now is not None:
            if time <= now:
                return self
            start = max(now, start)
            end = now if last_scheduled is None or time <= last_scheduled else max(last_scheduled, now)
        end = min(end, time)
        start = min(start, end)
        kept = self.trim(start, end)
        duration = max(time - end, travel_time(kept.at(end), pose, max_speed, max_turn_rate))
        if duration <= 0 and len(kept.times) == 1:
            raise PoseError(
                f"a waypoint at {time:.3f} s is before the path begins, at {self.times[0]:.3f} s."
            )
        return Path(np.append(kept.times, end + duration), np.concatenate([kept.poses, pose[None]]))


def travel_time(
    start: Float[ndarray, "4 4"], end: Float[ndarray, "4 4"], max_speed: float, max_turn_rate: float
) -> float:
    """Least seconds between two poses (metres) under a speed (m/s) and a turn rate (rad/s)."""
    distance = float(np.linalg.norm(end[:3, 3] - start[:3, 3]))
    angle = float(geodesic_angle(start[:3, :3], end[:3, :3]))
    return max(distance / max_speed, angle / max_turn_rate)
