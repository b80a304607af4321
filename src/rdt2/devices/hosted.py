"""A device that another machine moves, as its host keeps it: whose it is, what it is asked for, why it is stopped."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import LateError, RDT2Error, RobotError
from rdt2.robot.protocols import WATCHDOG, Arm, Checked, Clock, Gripper, Health, JointArm
from rdt2.threads import hurry
from rdt2.wire import packed

if TYPE_CHECKING:
    from websockets.sync.server import ServerConnection

    from rdt2.devices.host import Session
    from rdt2.robot.settings import ArmSettings

log = logging.getLogger(__name__)

PROTOCOL = 2
LOST = 1.0
"""Seconds of silence after which a client counts as gone."""
STOPS = 16
"""Connections for stopping one device that are open at a time."""
UNSTOPPED = "it could not be stopped"
LARGER_LEAD = (
    "if that is the network's way, give its driver a larger lead (and the latency beside it as much more)"
)
"""What to do where commands come too late, in a client's yaml."""
POSE_JOINTS = 6
"""An arm of more joints holds its elbow by where it begins from."""
_LOOK = 0.01
_STATE = {"arm": ("pose", "velocity", "joints", "wrench"), "gripper": ("width",)}


def about_arm(arm: ArmSettings) -> dict[str, Any]:
    """What both machines have to agree on, for poses to mean the same places and arms to go the same ways there."""
    bounds, home = arm.bounds, arm.begins
    braking = bounds.acceleration, bounds.jerk, bounds.turn_acceleration, bounds.turn_jerk
    return {
        "base": arm.base,
        "model": arm.model,
        "tool": arm.tool,
        "braking": np.array(braking, dtype=np.float64),
        "home": home if home is not None and len(home) > POSE_JOINTS else None,
    }


class Sockets:
    """So many that are open at a time: one more ends the one that has been open longest."""

    def __init__(self, most: int) -> None:
        self._most, self._open, self._lock = most, dict[socket.socket, None](), threading.Lock()

    def take(self, one: socket.socket) -> None:
        """Count it, from any thread."""
        with self._lock:
            oldest = next(iter(self._open)) if len(self._open) >= self._most else None
            if oldest is not None:
                del self._open[oldest]
            self._open[one] = None
        if oldest is not None:
            with contextlib.suppress(OSError):  # it has just gone by itself
                oldest.shutdown(socket.SHUT_RDWR)

    def leave(self, one: socket.socket) -> None:
        """Count it no more. Again: nothing happens."""
        with self._lock:
            self._open.pop(one, None)


class Hosted:
    """One device, and whoever moves it."""

    def __init__(self, name: str, device: Arm | Gripper, clock: Clock, about: dict[str, Any]) -> None:
        self.name, self.device, self.clock = name, device, clock
        self.kind = "arm" if name.endswith("arm") else "gripper"
        self.about = {**about, "name": name, "protocol": PROTOCOL, "joints": isinstance(device, JointArm)}
        self.session: Session | None = None
        self.until = float("-inf")
        """When the last commanded motion ends."""
        self.done, self.late = 0, 0
        self._late_by = 0.0
        self._fault, self._number, self._numbering = "", 0, threading.Lock()
        self._stops = Sockets(STOPS)

    @property
    def holder(self) -> str:
        """Who holds the session; empty: nobody."""
        session = self.session
        return "" if session is None else session.address

    def health(self) -> Health:
        """Of the device, with what this host has against it."""
        health = self.device.health()
        fault = self._fault or health.fault
        if self.late and "heard nothing" in fault:
            fault += (
                f". {self.late} commands came too late, by up to {1e3 * self._late_by:.0f} ms: {LARGER_LEAD}"
            )
        return Health(health.connected, health.enabled, health.stopped or bool(self._fault), fault)

    def status(self) -> dict[str, Any]:
        """How it is; numbered, because statuses take two ways to a client."""
        with self._numbering:
            self._number += 1
            health, state = self.health(), None
            if health.connected:
                with contextlib.suppress(
                    RobotError
                ):  # it has measured nothing yet, or is lost: health says so
                    measured: Any = self.device.state()
                    state = {"timestamp": measured.timestamp, "sequence": measured.sequence}
                    state |= {name: getattr(measured, name) for name in _STATE[self.kind]}
            return {
                "number": self._number,
                "now": self.clock.now(),
                "done": self.done,
                "late": self.late,
                "late_by": self._late_by,
                "health": [health.connected, health.enabled, health.stopped, health.fault],
                "state": state,
            }

    def do(self, what: str, session: Session) -> Any:
        """What the client of a session asks for. Raises what the device raises."""
        if what == "stop":
            return self.device.stop()
        if what == "checks":
            found = self.device.checks() if isinstance(self.device, Checked) else []
            return [[check.name, check.expected, check.got, check.ok] for check in found]
        if what in ("recover", "close"):
            self.until = float("-inf")
        getattr(self.device, what)()
        if what in ("recover", "close"):
            self._fault, self.late, self._late_by = "", 0, 0.0
        if session.lost:  # meanwhile: nobody is there who could stop what was asked to move
            self.fail(session.lost)
        return None

    def execute(self, number: int, times: Any, values: Any, *, joints: bool) -> None:
        """A command that nobody waits for: what is refused of it stops the device, and is its fault."""
        self.done = number
        if not self.health().ok:
            return  # it was right when it was sent: its sender hears what has happened
        try:
            if joints and isinstance(self.device, JointArm):
                self.device.execute_joints(times, values)
            else:
                self.device.execute(times, values)
        except LateError:
            self.late += 1
            self._late_by = max(self._late_by, self.clock.now() - float(times[-1]))
        except RDT2Error as error:
            self.fail(str(error))
        except Exception as error:
            self.fail(f"a command failed ({type(error).__name__}: {error})")
            log.exception("a command failed", extra={"device": self.name})
        else:
            self.until = float(times[-1])

    def fail(self, reason: str) -> None:
        """Stop it, and keep it stopped; the first reason is kept. A device that cannot be stopped is told as such."""
        health = self.device.health()
        if not (health.connected and health.enabled):
            return
        self._fault = self._fault or health.fault or reason
        try:
            self.device.stop()  # before it is logged, which a terminal that takes nothing holds up
        except Exception as error:  # whoever found the reason goes on watching, or lets the next one in
            if UNSTOPPED not in self._fault:
                self._fault += f"; {UNSTOPPED}: {str(error).rstrip('.')}"
            log.exception(UNSTOPPED, extra={"device": self.name, "reason": reason})
        else:
            log.warning("stopped", extra={"device": self.name, "reason": reason})

    def watch(self, ended: threading.Event) -> None:
        """Stop it when its client falls silent."""
        hurry()
        while not ended.wait(_LOOK):
            session = self.session
            if session is None:
                continue
            silent = time.monotonic() - session.heard
            if silent > LOST:
                session.drop(f"it was silent for {silent:.1f} s")
            elif silent > WATCHDOG and self.clock.now() < self.until and self.health().ok:
                self.fail(f"heard nothing for {1e3 * WATCHDOG:.0f} ms from {session.address}")

    def stops(self, connection: ServerConnection) -> None:
        """A connection whose every message stops the device."""
        self._stops.take(connection.socket)
        try:
            while True:
                connection.recv()
                error = None
                try:
                    self.device.stop()
                except Exception as failed:
                    error = told(failed)
                connection.send(packed({"error": error, "status": self.status()}))
        finally:
            self._stops.leave(connection.socket)

    def end(self) -> None:
        """The host ends: stop, send the client away, close."""
        session = self.session
        with contextlib.suppress(Exception):  # the others are to be stopped, too; closing stops once more
            self.device.stop()
        if session is not None:
            session.drop("the host ends")
        try:
            self.device.close()
        except Exception:
            log.exception("could not be closed", extra={"device": self.name})


def told(error: Exception) -> list[str]:
    """An error as it is sent: the name of its kind, and its words."""
    kind = type(error).__name__ if isinstance(error, RDT2Error) else "RobotError"
    return [kind, str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}"]
