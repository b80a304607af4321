"""A tracker that was recorded: the same poses again, at their own pace, another, or as fast as they are asked for.

A recording is an .npz or a .json file with `times` (n,) in seconds and `poses` (n, 4, 4) in metres, in the axes of the
handheld gripper, and where it knows that, `valid` (n,); or a .txt file of the published calibration: a line a pose, 30
a second, position in metres and rotation vector in radians, in the tracker's own axes.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Driver, Opening, Options
from rdt2.devices.tracker_drivers import TURN
from rdt2.devices.tracker_drivers._believing import BelievingTracker
from rdt2.errors import ConfigError
from rdt2.pose import pose_to_matrix
from rdt2.robot.protocols import Health, Timing, TrackerState

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

RATE = 30.0
"""Poses a second of a published recording, which has no stamps."""
ENDED = "its recording has ended"


class RecordedOptions(Options):
    """Which recording."""

    file: str = Field(description="The recording: .npz or .json with times and poses, or a published .txt.")
    pace: float = Field(
        default=1.0,
        ge=0,
        le=1000,
        description="Times the recorded pace; 0: each reading gives the next pose.",
    )


class RecordedTracker(BelievingTracker):
    """The driver. It begins when it is connected; at its end it is not valid any more."""

    def __init__(self, opening: Opening[RecordedOptions]) -> None:
        super().__init__(opening.name, opening.clock, Timing())
        self._options = opening.options
        self._next = 0

    def connect(self) -> None:
        """Read the recording; its first pose is shown from now on.

        Raises:
            RobotError: the file is no recording of a tracker.
        """
        with self._lock:
            if self._connected:
                return
            self._times, self._poses, self._valid = read_recording(Path(self._options.file))
            self._next, self._began = 0, self._clock.now()
            super().connect()
            self._play_to(1)

    def _play_to(self, count: int) -> None:
        """Take the first so many, as far as they have not been taken."""
        for i in range(self._next, min(count, len(self._times))):
            stamp = self._began + float(self._times[i] - self._times[0]) / (self._options.pace or 1.0)
            if self._valid[i]:
                self._take(stamp, self._poses[i])
            else:
                self._miss(stamp, "it was not seen when this was recorded")
        self._next = max(self._next, min(count, len(self._times)))
        if count > len(self._times) and self._missed != ENDED:
            self._miss(self._clock.now(), ENDED)

    def _go_on(self) -> None:
        """At its own pace: all that is due by now."""
        if self._connected and self._options.pace:
            spent = (self._clock.now() - self._began) * self._options.pace
            since = self._times - self._times[0]
            self._play_to(
                int(np.searchsorted(since, spent, side="right")) + int(spent > since[-1] + 1 / RATE)
            )

    def state(self) -> TrackerState:
        """What the recording shows now; with a pace of 0, the next pose with each call."""
        with self._lock:
            self._go_on()
            told = super().state()
            if self._options.pace == 0:
                self._play_to(self._next + 1)
            return told

    def health(self) -> Health:
        """Whether it may be used, and why not, as of now."""
        with self._lock:
            self._go_on()
            return super().health()


def read_recording(path: Path) -> tuple[Float[ndarray, " n"], Float[ndarray, "n 4 4"], Bool[ndarray, " n"]]:
    """Times (seconds), poses (handheld gripper's axes, metres), and which of them were seen.

    Raises:
        ConfigError: no such file, or not one of a tracker's poses.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                values = {
                    key: np.asarray(arrays[key]) for key in ("times", "poses", "valid") if key in arrays
                }
        elif path.suffix == ".json":
            values = {key: np.asarray(value) for key, value in json.loads(path.read_text()).items()}
        else:
            table = np.loadtxt(path, ndmin=2)
            if table.shape[1] != 6:
                raise ValueError(f"{table.shape[1]} numbers a line, expected 6: position and rotation vector")
            values = {"times": np.arange(len(table)) / RATE, "poses": pose_to_matrix(table) @ TURN}
        times, poses = (np.asarray(values[key], dtype=np.float64) for key in ("times", "poses"))
        valid = np.asarray(values.get("valid", np.ones(len(times))), dtype=bool)
    except KeyError as error:
        raise ConfigError(f"{path} has no {error}, expected times (n,) and poses (n, 4, 4).") from error
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path} cannot be read as a tracker's recording: {error}. Expected .npz or .json with times (n,) and "
            "poses (n, 4, 4), or a published .txt of six numbers a line."
        ) from error
    n = times.size
    if n == 0 or times.shape != (n,) or poses.shape != (n, 4, 4) or valid.shape != (n,):
        raise ConfigError(
            f"{path} has times {times.shape}, poses {poses.shape} and valid {valid.shape}, expected (n,), (n, 4, 4) "
            "and (n,)."
        )
    if not (np.isfinite(times).all() and (np.diff(times) > 0).all()):
        raise ConfigError(
            f"{path} has times that do not increase, expected seconds, each later than the one before."
        )
    return times, poses, valid


DRIVER = Driver(open=RecordedTracker, options=RecordedOptions, extra="")
