"""The life of a device, as drivers and the cell's devices share it: what it needs before it may move."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from rdt2.errors import RobotError, SafetyError
from rdt2.robot.protocols import WATCHDOG, Health, Timing


class BaseDevice:
    """Connected, enabled, stopped, fault; and the watchdog. A device says how it brakes and how it rests.

    Args:
        name: for messages, "left arm".
        timing: how far its times can be trusted.
    """

    def __init__(self, name: str, timing: Timing | None = None) -> None:
        self.name, self.timing = name, timing or Timing()
        self._connected = self._enabled = self._stopped = False
        self._fault = ""
        self._heard = float("-inf")
        self._stops, self._stopping = 0, threading.RLock()
        self._unbraked = False

    def _brake(self) -> None:
        """Begin to decelerate and forget what is pending."""

    def _rest(self) -> None:
        """Take the place where it is as the place to stay.

        Raises:
            RobotError: it still moves.
        """

    def connect(self) -> None:
        """Reach the device; nothing moves."""
        self._connected = True

    def enable(self) -> None:
        """Let it take commands; it stays where it is.

        Raises:
            RobotError: it is not connected, or still moves.
        """
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        if not self._enabled:
            self._rest()
        self._enabled = True

    def health(self) -> Health:
        """Whether it may be used, and why not."""
        return Health(self._connected, self._enabled, self._stopped, self._fault)

    def stop(self) -> None:
        """Brake, and stay stopped until `recover`; also one that is being recovered. Does nothing else where it is not
        connected, or has braked already: a brake that failed is tried again."""
        with self._stopping:
            self._stops += 1
            begins = self._connected and (self._unbraked or not self._stopped)
            if begins:
                self._stopped, self._unbraked = True, False
        if begins:
            try:
                self._brake()
            except BaseException:
                self._unbraked = True
                raise

    def fail(self, reason: str) -> None:
        """Stop with a fault; the first reason is kept."""
        self._fault = self._fault or reason
        self.stop()

    def recover(self) -> None:
        """After a person's word: forget the fault and take commands again, from where it is.

        Raises:
            RobotError: it still moves, or was stopped again meanwhile.
        """
        stops = self._stops
        if self._stopped:
            self._rest()
        self._resume(stops)

    def _resume(self, stops: int) -> None:
        """The end of `recover`: the stop and the fault are over, unless it was stopped more than `stops` times.

        Raises:
            RobotError: it was: a person's word counts for what was before it.
        """
        with self._stopping:
            if self._stops != stops:
                raise RobotError(
                    f"the {self.name} was stopped again while it was being recovered, and stays stopped"
                    f"{f': {self._fault}' if self._fault else ''}. When it is safe to move, recover() it once more."
                )
            self._stopped, self._unbraked, self._fault = False, False, ""

    def close(self) -> None:
        """Stop, and let go of the device."""
        try:
            self.stop()
        finally:
            self._connected = self._enabled = self._stopped = self._unbraked = False
            self._fault = ""

    def require_ready(self) -> None:
        """Raises SafetyError, with what to do, unless it may move."""
        require_ready(self.name, self.health())

    def watch(self, now: float, *, until: float) -> None:
        """Stop when nothing was heard for too long although the commanded motion lasts `until` after `now`."""
        if now < until and now - self._heard > WATCHDOG + 1e-9 and not self._stopped:
            self.fail(f"heard nothing for {1e3 * WATCHDOG:.0f} ms")


def require_ready(name: str, health: Health) -> None:
    """Raises SafetyError, with what to do, unless a device of this health may move."""
    if health.ok:
        return
    do = "recover() it" if health.connected and health.enabled else "connect() and enable() it"
    raise SafetyError(f"the {name} takes no command: {health}. When it is safe to move, {do} first.")


def require_widths(name: str, widths: Sequence[float], stroke: float) -> None:
    """Raises SafetyError for openings that a gripper does not have, metres."""
    for width in widths:
        if not -1e-6 <= width <= stroke + 1e-6:
            raise SafetyError(
                f"the {name} refuses a width of {1e3 * width:.1f} mm, expected 0 to {1e3 * stroke:.0f} mm. "
                "Check the gripper scale."
            )
