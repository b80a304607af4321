"""An HTC Vive tracker, or another that SteamVR follows.

SteamVR must run on this machine with its base stations on; it needs no headset where its settings say
`requireHmd: false`. A thread asks for the pose 120 times a second; SteamVR gives it for that very moment.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Driver, Found, Opening, Options
from rdt2.devices.tracker_drivers import TURN
from rdt2.devices.tracker_drivers._believing import BelievingTracker
from rdt2.errors import RobotError
from rdt2.robot.protocols import Timing

PERIOD = 1 / 120
CLOCK_ERROR = 0.005
START_SECONDS = 2.0
FROZEN = 0.1
"""Seconds with the very same pose, which no tracker measures twice, after which nobody measures any more."""

_system: Any = None
_users = 0
_guard = threading.Lock()


class OpenVROptions(Options):
    """Which tracker, and in which frame."""

    serial: str = Field(
        default="", description="Its serial number, LHR-...; left out where SteamVR knows one tracker only."
    )
    universe: Literal["standing", "seated", "raw"] = Field(
        default="standing",
        description="SteamVR's frame: standing or seated, which a new room setup moves, or raw, that of the stations.",
    )


class OpenVRTracker(BelievingTracker):
    """The driver."""

    def __init__(self, opening: Opening[OpenVROptions]) -> None:
        super().__init__(opening.name, opening.clock, Timing(0.0, CLOCK_ERROR))
        self._options = opening.options
        self._ending = threading.Event()
        self._thread: threading.Thread | None = None

    def connect(self) -> None:
        """Find the tracker in SteamVR, and begin to read it.

        Raises:
            RobotError: SteamVR does not run, or knows no such tracker.
        """
        if self._connected:
            return
        vr = _openvr()
        system = _open(vr, self.name)
        try:
            index = self._index(vr, system)
        except BaseException:
            _close(vr)
            raise
        self._ending.clear()
        super().connect()
        self._thread = threading.Thread(
            target=self._run, args=(vr, system, index), daemon=True, name=self.name
        )
        self._thread.start()
        until = time.monotonic() + START_SECONDS
        while self._latest is None:
            if time.monotonic() > until:
                reason = self._missed or "it has no pose"
                self.close()
                raise RobotError(
                    f"the {self.name} is not tracked: {reason}. See that it is on and that two base stations see it."
                )
            time.sleep(PERIOD)

    def _index(self, vr: Any, system: Any) -> int:
        trackers = _trackers(vr, system)
        matching = [index for index, serial in trackers.items() if self._options.serial in ("", serial)]
        if len(matching) == 1:
            return matching[0]
        known = ", ".join(trackers.values()) or "none"
        if matching:
            raise RobotError(
                f"{len(matching)} trackers could be the {self.name}: {known}. Say one's serial number."
            )
        raise RobotError(
            f"SteamVR knows no tracker {self._options.serial} for the {self.name}, only: {known}. Switch it on, "
            "pair it, or mend its serial number."
        )

    def _run(self, vr: Any, system: Any, index: int) -> None:
        """Ask again and again, until it is closed or SteamVR ends."""
        universe = {
            "standing": vr.TrackingUniverseStanding,
            "seated": vr.TrackingUniverseSeated,
            "raw": vr.TrackingUniverseRawAndUncalibrated,
        }[self._options.universe]
        results = {
            getattr(vr, name): name.removeprefix("TrackingResult_").replace("_", " ")
            for name in dir(vr)
            if name.startswith("TrackingResult_")
        }
        poses = (vr.TrackedDevicePose_t * vr.k_unMaxTrackedDeviceCount)()
        event = vr.VREvent_t()
        last, new = np.zeros((3, 4)), self._clock.now()
        try:
            while not self._ending.wait(PERIOD):
                while system.pollNextEvent(event):
                    if event.eventType == vr.VREvent_Quit:
                        system.acknowledgeQuit_Exiting()
                        self._lose(
                            "SteamVR is shutting down. Start it, then close and connect the tracker again"
                        )
                        return
                system.getDeviceToAbsoluteTrackingPose(universe, 0.0, poses)
                now, told = self._clock.now(), poses[index]
                matrix = np.array([list(row) for row in told.mDeviceToAbsoluteTracking.m])
                if not told.bDeviceIsConnected:
                    self._miss(now, "it is switched off or out of radio reach")
                elif not told.bPoseIsValid or told.eTrackingResult != vr.TrackingResult_Running_OK:
                    said = results.get(told.eTrackingResult, told.eTrackingResult)
                    self._miss(now, f"the stations do not see it (SteamVR: {said})")
                elif not np.array_equal(matrix, last):
                    last, new = matrix, now
                    self._take(now, np.vstack([matrix, (0, 0, 0, 1)]) @ TURN)
                elif now - new > FROZEN:
                    self._miss(now, f"SteamVR has given the same pose for {now - new:.1f} s: it hangs")
        except Exception as error:  # of ctypes, where SteamVR has gone: nobody measures any more
            self._lose(
                f"SteamVR does not answer ({type(error).__name__}: {error}). Start it, then connect again"
            )
        finally:
            _close(vr)

    def _lose(self, reason: str) -> None:
        with self._lock:
            self._miss(self._clock.now(), reason)
            self.fail(reason)

    def close(self) -> None:
        """End the thread, and let go of SteamVR."""
        self._ending.set()
        if self._thread is not None:
            self._thread.join(START_SECONDS)
        super().close()


def _openvr() -> Any:
    try:
        import openvr
    except ImportError as error:
        raise RobotError(
            "a Vive tracker is asked through openvr, which is not installed. Run pip install 'rdt2[vive]'."
        ) from error
    return openvr


def _open(vr: Any, name: str) -> Any:
    """SteamVR, one connection for all trackers of this process."""
    global _system, _users
    with _guard:
        if _users == 0:
            try:
                _system = vr.init(vr.VRApplication_Other)
            except Exception as error:  # openvr's own, and what its library makes of it
                words = str(error) or type(error).__name__
                raise RobotError(
                    f"the {name} cannot be asked for: SteamVR does not answer ({words}). Start SteamVR on this machine "
                    "and wait until its base stations are green."
                ) from error
        _users += 1
        return _system


def _close(vr: Any) -> None:
    global _system, _users
    with _guard:
        _users -= 1
        if _users == 0:
            _system = None
            vr.shutdown()


def _trackers(vr: Any, system: Any) -> dict[int, str]:
    """Serial numbers of the trackers that SteamVR knows, by their number there."""
    return {
        index: system.getStringTrackedDeviceProperty(index, vr.Prop_SerialNumber_String)
        for index in range(vr.k_unMaxTrackedDeviceCount)
        if system.getTrackedDeviceClass(index) == vr.TrackedDeviceClass_GenericTracker
    }


def find() -> list[Found]:
    """Trackers that SteamVR knows; none where it does not run."""
    vr = _openvr()
    try:
        system = _open(vr, "tracker")
    except RobotError:
        return []
    try:
        return [
            Found(
                {"serial": serial}, system.getStringTrackedDeviceProperty(index, vr.Prop_ModelNumber_String)
            )
            for index, serial in _trackers(vr, system).items()
        ]
    finally:
        _close(vr)


DRIVER = Driver(open=OpenVRTracker, options=OpenVROptions, extra="vive", find=find)
