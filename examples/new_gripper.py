"""A gripper of your own, in one file. Over TCP this one is told "W 0.05" to open to 5 cm, and asked "?" how far it is
open; it answers both with that.

    gripper: {..., device: {type: "new_gripper:DRIVER", address: 192.168.0.7}}

and this folder is put on Python's path: PYTHONPATH=examples rdt2 ... --robot examples/new_gripper.yaml
"""

import socket
import threading

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
        self._lock, self._number, self._thread = threading.RLock(), 0, None

    def _say(self, line: str) -> None:
        began = self._clock.now()
        print(line, file=self._line, flush=True)
        width, self._number = float(self._line.readline()), self._number + 1
        self._state = GripperState((began + self._clock.now()) / 2, self._number, width)

    def connect(self) -> None:
        if self._connected:
            return
        address = self._options.address, self._options.port
        try:
            with socket.create_connection(address, timeout=0.5) as connection:
                self._line = connection.makefile("rw")  # it lasts as long as this
            self._say("?")
        except (OSError, ValueError) as error:
            raise RobotError(f"the {self.name} does not answer at {address}: {error}. Is it on?") from error
        self._path, self._moved = WidthTrajectory(self._state.width), False
        super().connect()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:  # a thread of its own: whoever sends widths never waits for the gripper
        try:
            with self._line:
                while self._connected:
                    with self._lock:
                        now = self._clock.now()
                        self.watch(now, until=self._path.end[0])
                        line = f"W {self._path.at(now):.4f}" if self._moved else "?"  # untold, it holds on
                    self._say(line)
                    self._clock.sleep_until(now + 0.02)
        except (OSError, ValueError) as error:  # gone, or it says what is no number
            self.fail(f"it does not answer ({error}). See that it is on, then close and connect it again")

    def _brake(self) -> None:  # and stays, with what it holds
        with self._lock:
            self._path.stay(self._path.at(self._clock.now()), now=self._clock.now())

    def _rest(self) -> None:
        if self._line.closed:  # a fault has ended the thread
            raise RobotError(f"the {self.name} is not connected any more. Close and connect it again.")

    def close(self) -> None:
        super().close()
        if self._thread is not None:
            self._thread.join(1.0)  # which closes the connection

    def state(self) -> GripperState:
        return self._state

    def execute(self, times, widths) -> None:
        with self._lock:
            self.require_ready()
            now = self._clock.now()
            path = self._path if self._moved else WidthTrajectory(self._state.width, now)  # where it is now
            require_widths(self.name, path.checked(times, widths, now=now)[1], self.stroke)
            path.execute(times, widths, now=now)
            self._path, self._moved, self._heard = path, True, now  # what is refused is no sign of life


DRIVER = Driver(open=LineGripper, options=LineOptions, extra="")
