"""The connection to a UR controller through ur_rtde, and what has to be known of that library.

Its constructors and destructors hold Python's lock: for tenths of a second, for ten where nobody answers; whatever
else this process does, driving the other arm for one, stands still meanwhile. So nobody is called who has not answered
a plain socket first, nothing is waited for inside of a constructor, and what was made is never destroyed, but
disconnected, which holds nothing. A call may wait for the controller for minutes: here each has a bound.

While a script takes no command yet, who gives one spins, and so does a thread of the library: at real-time priority
two arms would leave nobody a core, nor those whom they wait for. Its threads only get more (`prefer`).

A connection that ends makes it connect again by itself until the process crashes: it speaks through a relay, which lets
nobody connect twice (`_ur_relay`), and is told to let go at once (`abandon`).
"""

from __future__ import annotations

import contextlib
import ctypes
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.arm_drivers._aside import ANSWER_SECONDS, NoAnswer, aside, within
from rdt2.devices.arm_drivers._ur_checks import ROUNDED
from rdt2.devices.arm_drivers._ur_words import PROTECTIVE, of_modes, of_refusal
from rdt2.errors import RobotError
from rdt2.pose import matrix_to_pose, pose_to_matrix
from rdt2.robot.protocols import WATCHDOG
from rdt2.threads import prefer

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.devices.arm_drivers._ur_options import UROptions

PORTS = {30004: "RTDE", 30003: "scripts", 29999: "the dashboard"}
REACHED = 5.0
BEGINS = 2.0
"""Seconds in which a script that was started takes its first settings."""


class URLink:
    """One controller; `open` it first.

    Args:
        name: of the arm, for messages.
        options: its driver's.
    """

    def __init__(self, name: str, options: UROptions) -> None:
        self.name, self.options = name, options
        self.receive: Any = None
        self.control: Any = None
        self._inputs: Any = None
        self._relay: Any = None
        self._guarded = self._abandoned = False

    def open(self) -> None:
        """Hear the controller, and have it take our script.

        Raises:
            RobotError: it cannot be reached, and what to look at.
        """
        try:
            from rtde_control import RTDEControlInterface
            from rtde_io import RTDEIOInterface
            from rtde_receive import RTDEReceiveInterface
        except ImportError as error:
            raise RobotError(
                f"the {self.name} is spoken to through ur_rtde, which cannot be used here ({error}). Run pip install "
                "'rdt2[ur]' (Linux, Python 3.10 to 3.12)."
            ) from error

        address, rate = self.options.address, self.options.rate
        for port, what in PORTS.items():
            try:
                socket.create_connection((address, port), timeout=REACHED).close()
            except OSError as error:
                raise RobotError(
                    of_refusal(f"{error}, at port {port}, of {what}", address, self.name)
                ) from error

        relay, through = _relay(address)
        made = list[Any]()

        def make() -> None:
            flags = RTDEControlInterface.FLAG_UPLOAD_SCRIPT | RTDEControlInterface.FLAG_NO_WAIT
            made.append(_kept(RTDEReceiveInterface(through, rate)))
            made.append(_kept(RTDEControlInterface(through, rate, flags)))
            made.append(_kept(RTDEIOInterface(through)))

        try:
            self.within("let itself be connected", make)
        except (RobotError, RuntimeError) as error:
            aside(lambda: _disconnect(made, relay))  # what was made before the one that was refused, too
            if isinstance(error, RobotError):
                raise
            raise RobotError(of_refusal(str(error), address, self.name)) from error
        self._relay = relay
        self.receive, self.control, self._inputs = made
        self._abandoned = False
        try:
            self.wait_for("show a state", lambda: self.receive.getTimestamp() > 0)
        except RobotError:
            self.close()
            raise

    @property
    def lost(self) -> bool:
        """Whether a connection has ended."""
        if self._abandoned or self.receive is None:
            return True
        return not (self.receive.isConnected() and self.control.isConnected())

    def abandon(self) -> None:
        """Have the library let go of connections that have ended, at once. Again: nothing happens."""
        if self.receive is not None and not self._abandoned:
            self._abandoned = True
            self._let_go()

    def _let_go(self, *first: Callable[[], Any]) -> None:
        """Beside everything else, after what is done first: the library takes half a second."""
        connections, relay = (self.control, self.receive, self._inputs), self._relay

        def end() -> None:
            for call in first:
                with contextlib.suppress(RuntimeError):  # there is no script to be ended any more
                    call()
            _disconnect(connections, relay)

        aside(end)

    def close(self) -> None:
        """End the script, and the connections."""
        if self.lost:
            self.abandon()
        else:
            self._let_go(self.control.stopScript)
        self.receive = self.control = self._inputs = None
        self._guarded = self._abandoned = False

    @property
    def trouble(self) -> str:
        """Why the controller does not let the arm move, as it said last, and what to do; "" where it does."""
        return of_modes(self.receive.getRobotMode(), self.receive.getSafetyMode())

    @property
    def slowed(self) -> str:
        """That a person keeps the arm slower than the yaml says, and what to do; "" where nobody does."""
        slider, wanted = self.receive.getTargetSpeedFraction(), self.options.speed_slider
        if slider > wanted - ROUNDED:
            return ""
        return (
            f"its speed slider stands at {100 * slider:.0f} %, expected {100 * wanted:.0f} %. Turn it up on the "
            "pendant, or write the lower share as speed_slider"
        )

    def take_control(self, tool: Float[ndarray, "4 4"]) -> Float[ndarray, "4 4"]:
        """Have the script run, with load and tool set, and the slider where it is higher than the yaml says.

        Args:
            tool: the TCP in the frame of the flange, metres.

        Returns:
            The TCP that the controller says it has.

        Raises:
            RobotError: the script does not run, or refuses something.
        """
        options, control = self.options, self.control
        if self._guarded:  # the script that waits to hear something may end at any moment
            self._guarded = False
            self.within("end its script", control.stopScript)
            self.wait_for("end its script", lambda: not control.isProgramRunning())
        self._have_script_run()
        # the script takes a centre of exactly zero for "as it was"
        centre = list(options.payload_centre) if any(options.payload_centre) else [0.0, 0.0, 1e-6]
        load = options.payload, centre, [*options.payload_inertia, 0.0, 0.0, 0.0]
        if self.receive.getTargetSpeedFraction() > options.speed_slider:  # who turned it down wants it so
            self._settle("take its speed slider", lambda: self._inputs.setSpeedSlider(options.speed_slider))
        self._settle("take its payload", lambda: control.setTargetPayload(*load))
        self._settle("take its tool", lambda: control.setTcp(matrix_to_pose(tool).tolist()))
        return pose_to_matrix(np.array(self._settle("say its tool", control.getTCPOffset)))

    def _settle(self, what: str, call: Callable[[], Any]) -> Any:
        """What the script answers; one that has only just begun takes nothing yet, or ends again.

        Raises:
            RobotError: it refuses for `BEGINS`, or is lost.
        """
        until, said = time.monotonic() + BEGINS, None
        while True:
            try:
                if answer := self.within(what, call):
                    return answer
            except RuntimeError as error:  # how the library says that a question was not answered
                said = error
            if self.lost:
                raise RobotError(
                    f"the {self.name} was lost while it was set up. Look at its cable, then try again."
                )
            if time.monotonic() > until:
                raise RobotError(f"the {self.name} does not {what}. Look at the pendant.") from said
            self._have_script_run()

    def _have_script_run(self) -> None:
        if not self.within("say whether its script runs", self.control.isProgramRunning):
            self.within("take the script", self.control.reuploadScript)
            self.wait_for("run the script", self.control.isProgramRunning)

    def guard(self) -> None:
        """From now on the controller stops the arm where it hears nothing for 100 ms.

        Raises:
            RobotError: it does not take that.
        """
        self._guarded = True
        if not self.within("take a watchdog", lambda: self.control.setWatchdog(1 / WATCHDOG)):
            raise RobotError(f"the {self.name} takes no watchdog. Look at the pendant.")

    def unlock(self) -> None:
        """End a protective stop, if there is one.

        Raises:
            RobotError: the controller's words, where it does not.
        """
        from dashboard_client import DashboardClient

        if self.receive.getSafetyMode() != PROTECTIVE:
            return

        def ask() -> None:
            dashboard = _kept(DashboardClient(self.options.address))
            dashboard.connect()
            try:
                dashboard.closeSafetyPopup()
                dashboard.unlockProtectiveStop()
            finally:
                dashboard.disconnect()

        try:
            self.within("end its protective stop", ask)
        except RuntimeError as error:
            raise RobotError(f"the {self.name} is still in its protective stop: {error}") from error
        self.wait_for("leave its protective stop", lambda: self.receive.getSafetyMode() != PROTECTIVE)

    def wait_for(self, what: str, condition: Callable[[], bool]) -> None:
        """Raises RobotError: it is not so for `ANSWER_SECONDS`."""
        until = time.monotonic() + ANSWER_SECONDS
        while not condition():
            if time.monotonic() > until:
                raise RobotError(self._silent(what))
            time.sleep(0.005)

    def within(self, what: str, call: Callable[[], Any]) -> Any:
        """The answer of a call that may hang in the library.

        Raises:
            RobotError: it does. And what the call raises.
        """

        def ask() -> Any:
            prefer()  # and with it the threads of the library that it starts
            return call()

        try:
            return within(ask)
        except NoAnswer:
            raise RobotError(self._silent(what)) from None

    def _silent(self, what: str) -> str:
        trouble = self.trouble if self.receive is not None else ""
        return (
            f"the {self.name} at {self.options.address} did not {what} within {ANSWER_SECONDS:.0f} s: "
            + (trouble or "look at the pendant for a message, and that it is in remote control")
            + "."
        )


def _disconnect(connections: Sequence[Any], relay: subprocess.Popen[str]) -> None:
    """Let go of a controller, which may have gone; then nobody passes anything on any more."""
    for connection in connections:
        with contextlib.suppress(RuntimeError):  # nobody is there any more: its threads end all the same
            connection.disconnect()
    relay.kill()
    relay.wait()


def _relay(controller: str) -> tuple[subprocess.Popen[str], str]:
    """One to a controller, and the address at which it listens. Raises RobotError: there is none."""
    relay = subprocess.Popen(
        [sys.executable, "-I", str(Path(__file__).with_name("_ur_relay.py")), controller],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for the process that stops the arms
    )
    assert relay.stdout is not None
    with relay.stdout:
        address = relay.stdout.readline().strip()
    if not address:
        raise RobotError("the relay to the UR controller did not come up: see its words above.")
    return relay, address


def _kept(made: Any) -> Any:
    """Not destroyed before the process ends, and not then either: see above."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(made))
    return made
