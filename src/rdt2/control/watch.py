"""Whether what devices say may be believed, and how much doubt is too much.

A stamp must be finite, not from the future, and not old; a measurement must have come anew; pictures of both wrists
must show the same moment; a camera on an arm that moved must show another picture than before.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import FPS
from rdt2.errors import SafetyError
from rdt2.pose import geodesic_angle
from rdt2.robot.protocols import WATCHDOG

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot import ArmState, Frame, GripperState
    from rdt2.robot.settings import RobotSettings

MOVED, TURNED = 0.005, 0.02
"""Metres, or radians, after which a wrist camera cannot see the very same picture any more."""


class Watch:
    """Remembers when each device last said something new."""

    def __init__(self, settings: RobotSettings) -> None:
        self._safety = settings.safety
        self._error = {
            f"{side} {kind}": device.clock_error
            for side, arm in settings.arms.items()
            for kind, device in (("arm", arm), ("gripper", arm.gripper), ("camera", arm.camera))
        }
        self._news: dict[str, tuple[int, float]] = {}
        self._shown: dict[str, tuple[ndarray, ndarray]] = {}

    def states(
        self, arms: Mapping[str, ArmState], grippers: Mapping[str, GripperState], *, now: float
    ) -> None:
        """Raises SafetyError for states of arms and grippers that must not be acted upon."""
        most = min(self._safety.max_age, WATCHDOG)
        for side, state in arms.items():
            force = () if state.wrench is None else state.wrench
            if not all(np.isfinite(each).all() for each in (state.pose, state.velocity, state.joints, force)):
                raise SafetyError(
                    f"the state of the {side} arm holds NaN or infinite values. Check its driver."
                )
            self._fresh(f"{side} arm", "state", state.timestamp, state.sequence, now, most)
        for side, opening in grippers.items():
            if not np.isfinite(opening.width):
                raise SafetyError(f"the width of the {side} gripper is {opening.width}. Check its driver.")
            self._fresh(f"{side} gripper", "width", opening.timestamp, opening.sequence, now, most)

    def pictures(
        self, frames: Mapping[str, Frame], was: Callable[[str, float], Float[ndarray, "4 4"]], *, now: float
    ) -> None:
        """Raises SafetyError for pictures that must not be acted upon.

        Args:
            frames: of each wrist camera.
            was: where an arm's TCP (4, 4) was measured to be at a time, metres.
            now: on the robot's clock.
        """
        for side, frame in frames.items():
            self._fresh(
                f"{side} camera", "picture", frame.timestamp, frame.sequence, now, self._safety.max_age
            )
        if (apart := _apart(frames)) > self._safety.max_skew:
            older = min(frames, key=lambda side: frames[side].timestamp)
            raise SafetyError(
                f"the pictures of the two wrists were taken {1e3 * apart:.0f} ms apart, the limit is "
                f"{1e3 * self._safety.max_skew:.0f} ms: the one of the {older} camera is the older. Check that it runs "
                "at its rate."
            )
        for side, frame in frames.items():
            pose = was(side, frame.timestamp)
            image, before = self._shown.get(side, (None, pose))
            if image is None or not np.array_equal(image, frame.image):
                self._shown[side] = (frame.image, pose)
                continue
            moved = float(np.linalg.norm(pose[:3, 3] - before[:3, 3]))
            turned = float(geodesic_angle(pose[:3, :3], before[:3, :3]))
            if moved > MOVED or turned > TURNED:
                raise SafetyError(
                    f"the {side} camera shows the very same picture since the arm moved by {1e3 * moved:.0f} mm and "
                    f"turned by {np.degrees(turned):.0f} degrees: it is frozen. Restart its stream."
                )

    def awaits(self, frames: Mapping[str, Frame]) -> bool:
        """Whether the pictures are further apart than is allowed, by a period at most: of cameras in step one has its
        next picture, and that of the other is on its way."""
        return 0 < _apart(frames) - self._safety.max_skew <= 1 / FPS

    def _fresh(self, device: str, what: str, stamp: float, sequence: int, now: float, most: float) -> None:
        said, since = self._news.get(device, (None, now))
        if said != sequence:
            self._news[device] = (sequence, since := now)
        if not np.isfinite(stamp) or stamp > now + self._error[device]:
            raise SafetyError(
                f"the {what} of the {device} is stamped {stamp - now:.3f} s ahead of the robot's clock, its error may "
                f"be {self._error[device]:.3f} s. Synchronise the clocks."
            )
        age = max(now - stamp, now - since)
        if age > most:
            raise SafetyError(
                f"the {what} of the {device} is {age:.2f} s old, the limit is {most:.2f} s. Check the device's stream."
            )


def _apart(frames: Mapping[str, Frame]) -> float:
    """Seconds between the exposures."""
    stamps = [frame.timestamp for frame in frames.values()]
    return max(stamps) - min(stamps)


@dataclass
class Budget:
    """How much may go wrong before the arms stop for good: so many faults in a minute at most, each so many seconds."""

    per_minute: int
    seconds: float

    def __post_init__(self) -> None:
        self._faults: deque[float] = deque()
        self._since: float | None = None

    @property
    def ongoing(self) -> bool:
        """Whether something has been wrong since all was well."""
        return self._since is not None

    def fault(self, now: float) -> str:
        """Note that something is wrong at `now`. Returns why the budget is used up, or nothing."""
        if self._since is None:
            self._since = now
            self._faults.append(now)
        while self._faults and self._faults[0] < now - 60.0:
            self._faults.popleft()
        if now - self._since > self.seconds:
            return f"it went on for {now - self._since:.1f} s, the limit is {self.seconds:.1f} s"
        if len(self._faults) > self.per_minute:
            return f"it was fault {len(self._faults)} within a minute, the limit is {self.per_minute}"
        return ""

    def good(self) -> None:
        """Note that all is well again."""
        self._since = None

    def pass_over(self, seconds: float) -> None:
        """So long nobody looked whether it still is wrong: these seconds count for nothing."""
        if self._since is not None:
            self._since += seconds
