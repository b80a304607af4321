"""A driver for an arm of your own, in one file. Over TCP this one is told "J 0.1 -1.2 ..." (radians) to be there now,
and asked "?" where it is; it answers both with its joints and their speeds, and stays where it is when nobody speaks.

    arms: {right: {..., model: ur5e, device: {type: "new_arm_driver:DRIVER", address: 192.168.0.8}}}

and this folder is put on Python's path, as for new_gripper.yaml, where the rest of such a file is. `model` is what the
arm is made of: new_arm.py describes another one. What the methods promise is said in rdt2/robot/protocols.py.
"""

import socket
import threading

import numpy as np
from pydantic import Field

from rdt2.devices import Driver, Options
from rdt2.devices.joint_stream import JointStream
from rdt2.errors import RobotError, SafetyError
from rdt2.robot import ArmState, Timing
from rdt2.robot.device import BaseDevice
from rdt2.robot.models import arm_model

PERIOD = 0.008


class LineOptions(Options):
    address: str = Field(description="Its IP address.")
    port: int = Field(default=5001, description="Its TCP port.")


class LineArm(BaseDevice):
    def __init__(self, opening):
        super().__init__(opening.name, Timing(opening.arm.latency, opening.arm.clock_error))
        self.base, self.model = opening.arm.base, arm_model(opening.arm.model)
        self._opening, self._options, self._clock = opening, opening.options, opening.clock
        self._number, self._thread = 0, None

    def _kinematics(self):  # one for each that computes with it
        return self._opening.robot.kinematics()[self._opening.side]

    def _say(self, line: str) -> None:
        began = self._clock.now()
        print(line, file=self._line, flush=True)
        said = np.array(self._line.readline().split(), np.float64)
        joints, self._speeds = said.reshape(2, len(self.model.links))
        pose, jacobian = self._looking.jacobian(joints)
        self._number, stamp = self._number + 1, (began + self._clock.now()) / 2
        self._state = ArmState(stamp, self._number, pose, jacobian @ self._speeds, joints)

    def connect(self) -> None:
        if self._connected:
            return
        address, self._looking = (self._options.address, self._options.port), self._kinematics()
        try:
            with socket.create_connection(address, timeout=0.5) as connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._line = connection.makefile("rw")  # it lasts as long as this
                self._say("?")
                connection.settimeout(0.2)  # from now on what is silent for longer is lost
        except (OSError, ValueError) as error:
            raise RobotError(f"the {self.name} does not answer at {address}: {error}. Is it on?") from error
        kinematics, bounds = self._kinematics(), self._opening.arm.bounds
        self._stream = JointStream(self.name, kinematics, bounds, self._state.joints, self._clock.now())
        super().connect()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:  # a thread of its own: whoever sends waypoints never waits for the arm
        try:
            with self._line:
                while self._connected:
                    now = self._clock.now()
                    self._say("J " + " ".join(map(str, self._next(now))) if self._enabled else "?")
                    self._clock.sleep_until(now + PERIOD)
        except (OSError, ValueError) as error:  # gone, or it says what are no joints
            self.fail(f"it does not answer ({error}). See that it is on, then close and connect it again")

    def _next(self, now):
        with self._stream.lock:
            self.watch(now, until=self._stream.until)
            if self._stopped and self._stream.settled(now):
                self._stream.rest(self._state.joints, now)  # it does not go on pressing on what it met
            try:
                return self._stream.step(now)[0]
            except SafetyError as error:
                self.fail(str(error))
                return self._stream.step(now)[0]

    def _brake(self) -> None:
        self._stream.brake(self._clock.now())

    def _rest(self) -> None:
        if self._line.closed:  # a fault has ended the thread
            raise RobotError(f"the {self.name} is not connected any more. Close and connect it again.")
        if not self._waited(lambda: np.abs(self._speeds).max() < 0.05):
            raise RobotError(f"the {self.name} still moves. Wait until it rests.")
        self._heard = self._clock.now()
        self._stream.rest(self._state.joints, self._heard)

    def _waited(self, for_it) -> bool:  # a second at most
        until = self._clock.now() + 1.0
        while not (for_it() or self._line.closed or self._clock.now() > until):
            self._clock.sleep_until(self._clock.now() + PERIOD)
        return for_it()

    def close(self) -> None:
        if self._connected:
            self.stop()
            self._waited(lambda: self._stream.braked(self._clock.now()))
        super().close()
        if self._thread is not None:
            self._thread.join(1.0)  # which closes the connection

    def state(self) -> ArmState:
        return self._state

    def execute(self, times, poses) -> None:
        self._follow(lambda now: self._stream.execute(times, poses, now))

    def execute_joints(self, times, joints) -> None:
        self._follow(lambda now: self._stream.execute_joints(times, joints, now))

    def _follow(self, path) -> None:
        self.require_ready()
        with self._stream.lock:  # who sees a path in `watch` sees that it was just heard, too
            now = self._clock.now()
            path(now)
            self._heard = now


DRIVER = Driver(open=LineArm, options=LineOptions, extra="")
