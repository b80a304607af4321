"""A gripper of your own, in one file. This one is told "W 0.05" over TCP to open to 5 cm, and asked "?" how far it is.

    gripper: {..., device: {type: "new_gripper:DRIVER", address: 192.168.0.7}}

and this folder is put on Python's path: PYTHONPATH=examples rdt2 ... --robot examples/new_gripper.yaml
"""

import socket
import threading
import time

from pydantic import Field

from rdt2.devices import Driver, Options
from rdt2.errors import RobotError
from rdt2.robot import GripperState, Timing, WidthTrajectory
from rdt2.robot.device import BaseDevice, require_widths


class LineOptions(Options):
    address: str = Field(description="Its IP address.")
    port: int = Field(default=5000, description="Its TCP port.")


class LineGripper(BaseDevice):
    def __init__(self, opening):
        super().__init__(opening.name, Timing(opening.gripper.latency, opening.gripper.clock_error))
        self.stroke, self._options, self._clock = opening.gripper.stroke, opening.options, opening.clock
        self._lock, self._path, self._number = threading.RLock(), WidthTrajectory(0.0), 0

    def _say(self, line: str) -> str:
        print(line, file=self._line, flush=True)
        return self._line.readline()

    def _measure(self) -> None:
        began, width = self._clock.now(), float(self._say("?"))
        self._number += 1
        self._state = GripperState((began + self._clock.now()) / 2, self._number, width)

    def connect(self) -> None:
        if not self._connected:
            try:
                address = self._options.address, self._options.port
                self._line = socket.create_connection(address, timeout=0.5).makefile("rw")
                self._measure()
            except (OSError, ValueError) as error:
                raise RobotError(
                    f"the {self.name} does not answer at {address}: {error}. Is it on?"
                ) from error
            super().connect()
            threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:  # a thread of its own: whoever sends widths never waits for the gripper
        while self._connected:
            with self._lock:
                now = self._clock.now()
                self.watch(now, until=self._path.end[0])
                width = self._path.at(now) if self._enabled else None
            try:
                if width is not None:
                    self._say(f"W {width:.4f}")
                self._measure()
            except (OSError, ValueError) as error:  # gone, or it says what is no number
                self.fail(f"it does not answer ({error}). See that it is on, then close and connect it again")
                return
            time.sleep(0.02)

    def _brake(self) -> None:  # and stays, with what it holds
        with self._lock:
            self._path.stay(self._path.at(self._clock.now()), now=self._clock.now())

    def enable(self) -> None:
        if self._connected and not self._enabled:
            self._path.stay(self._state.width, now=self._clock.now())
        super().enable()

    def state(self) -> GripperState:
        return self._state

    def execute(self, times, widths) -> None:
        with self._lock:
            self.require_ready()
            self._heard = now = self._clock.now()
            require_widths(self.name, self._path.checked(times, widths, now=now)[1], self.stroke)
            self._path.execute(times, widths, now=now)


DRIVER = Driver(open=LineGripper, options=LineOptions, extra="")
