"""UR arms through ur_rtde: servoL along waypoints, load and tool set and looked up, and in words what stopped it.

    device: {address: 192.168.56.20, payload: 0.82, payload_centre: [0, 0, 0.06],
      payload_inertia: [0.001106, 0.001106, 0.001106], speed_slider: 0.3}

A thread tells the controller a pose `rate` times a second. The controller's script is given a watchdog: where it
hears nothing for 100 ms, because this process was killed or the cable is out, it stops the arm by itself. After that,
and after a protective stop, only a person's word (`recover`) brings the script back.
"""

from __future__ import annotations

import atexit
import threading
import time
from typing import TYPE_CHECKING

import numpy as np

from rdt2.devices.arm_drivers._aside import ANSWER_SECONDS, Turns
from rdt2.devices.arm_drivers._ur_checks import settings_of
from rdt2.devices.arm_drivers._ur_link import URLink
from rdt2.devices.arm_drivers._ur_options import UROptions
from rdt2.devices.drivers import Driver, Opening
from rdt2.devices.stamps import ClockMap
from rdt2.errors import ConfigError, RDT2Error, RobotError, SafetyError
from rdt2.pose import matrix_to_pose, pose_to_matrix
from rdt2.robot.device import BaseDevice
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import ArmState, Check, Timing
from rdt2.threads import prefer

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.devices.joint_stream import JointStream

STALE = 0.1
"""Seconds without a new state after which the controller counts as lost."""
TOLD = 1.0
"""Seconds until a state tells of what was set."""
STILL = 0.05
"""rad/s: joints that are slower stand."""
BRAKES = 0.3
"""Seconds that closing waits for the way to rest: the controller ends it where the arm has not got there."""
EXPLAINED = 0.05
"""Seconds within which a state says why the controller has ended the script."""
SCRIPT_ENDED = (
    "the script on its controller has ended: it heard nothing for 100 ms, or somebody stopped it on the pendant. See "
    "that the arm is free, then recover"
)
JOINTS = 6
SERVO_STOP = 10.0
"""rad/s^2 with which the controller ends the servo mode of an arm that stands."""


class URArm(BaseDevice):
    """See `rdt2.robot.protocols.JointArm`, and `GuidedArm`: by the controller's freedrive (teach mode)."""

    def __init__(self, opening: Opening[UROptions]) -> None:
        """Nothing is connected yet. Raises ConfigError for an arm that is none of UR's."""
        super().__init__(opening.name, Timing(opening.arm.latency, opening.arm.clock_error))
        model = None if opening.arm.model is None else arm_model(opening.arm.model)
        if model is None or opening.arm.tool is None or len(model.links) != JOINTS:
            raise ConfigError(
                f"the {opening.name} is driven by ur_rtde and of model {opening.arm.model!r}: expected an arm of six "
                "joints, such as ur5e; examples/new_arm.py describes a UR10e."
            )
        self.base, self.model = opening.arm.base, model
        self._opening, self._options, self._clock = opening, opening.options, opening.clock
        self._tool = np.asarray(opening.arm.tool)
        self._link = URLink(self.name, opening.options)
        self._stream: JointStream | None = None
        self._serving: threading.Thread | None = None
        self._ending, self._turns = threading.Event(), Turns()
        self._measured: ArmState | None = None
        self._stamps, self._stamp, self._seen, self._sequence = ClockMap(), float("-inf"), float("-inf"), 0
        self._tool_said: ndarray | None = None
        self._by_joints = False
        self._servos = False
        self._wants_hand = self._in_hand = False
        self._refused = False
        self._changing = threading.RLock()

    # ------------------------------------------------------------------------------------------------ its life

    def connect(self) -> None:
        """Reach the controller and measure; nothing moves.

        Raises:
            RobotError: the controller does not answer.
        """
        with self._changing:
            if self._connected:
                return
            self._link.open()
            self._make_stream()
            self._begin_serving()
            self._fault, self._stopped, self._enabled, self._connected = "", False, False, True
            atexit.unregister(self.close)
            atexit.register(self.close)

    def _make_stream(self) -> None:
        from rdt2.devices.joint_stream import JointStream

        self._stamps, self._stamp = ClockMap(), float("-inf")
        self._measure()
        kinematics = self._opening.robot.kinematics()[self._opening.side]
        assert kinematics is not None  # it has joints
        self._nominal = kinematics.tool
        bounds, now = self._opening.arm.bounds, self._clock.now()
        self._stream = JointStream(self.name, kinematics, bounds, self._joints(), now)

    def _begin_serving(self) -> None:
        self._ending, self._turns = threading.Event(), Turns()
        self._serving = threading.Thread(
            target=self._serve, args=(self._ending, self._turns), name=self.name, daemon=True
        )
        self._serving.start()

    def enable(self) -> None:
        """Start the control script and hold the arm where it is, with the controller's own watchdog.

        Raises:
            RobotError: it is not connected, is stopped by its safety system, or is not set up as the yaml says; its
                speed slider is lower than that: only a person turns it up.
        """
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        with self._changing:
            if self._enabled:
                return
            if trouble := self._fault or self._link.trouble or self._link.slowed:
                raise RobotError(f"the {self.name} cannot be enabled: {trouble}.")
            self._take_control()
            self._rest()
            self._link.guard()
            self._enabled = True

    def _take_control(self) -> None:
        """Raises RobotError: the controller does not run our script, or says something else than was set."""
        self._tool_said, self._servos = self._link.take_control(self._tool), False
        self._refused = False
        until = time.monotonic() + TOLD
        while wrong := [check for check in self._set() if not check.ok]:
            if time.monotonic() > until:
                raise RobotError(
                    f"the {self.name} refuses its settings: "
                    + "; ".join(f"its {c.name} is {c.got}, expected {c.expected}" for c in wrong)
                    + ". Look at the installation on the pendant (TCP, payload), and that nothing else drives the arm."
                )
            time.sleep(0.01)

    def recover(self) -> None:
        """Also after a protective stop, which is unlocked, and a lost connection, which is made again.

        Raises:
            RobotError: it is not connected, cannot go on yet, or was stopped again meanwhile; says why.
        """
        stops = self._stops
        with self._changing:
            if not self._connected:
                raise RobotError(f"the {self.name} is not connected. Call connect() first.")
            if not self._stopped:
                return
            self._wait_for_brake()  # the script that brakes is about to be ended
            if not self._end_serving():
                raise RobotError(
                    f"the {self.name} cannot go on: its driver still waits for its controller, to which it may yet say "
                    "where to go. Recover it again in some seconds, or close and connect it."
                )
            link = self._link
            try:
                if link.lost or self._is_old():
                    link.close()
                    link.open()
                link.unlock()
                if link.trouble:
                    raise RobotError(f"the {self.name} cannot go on: {link.trouble}.")
                self._wants_hand = self._in_hand = False
                if self._enabled:
                    self._take_control()
                self._rest()
                if self._enabled:
                    link.guard()  # late: from here on the controller wants to hear something all the time
                self._resume(stops)  # before it is heard again: what goes wrong from then on is a new fault
            finally:
                if link.receive is not None:
                    self._begin_serving()

    def _is_old(self) -> bool:
        """Whether the last state is not of now."""
        self._measure()
        return self._clock.now() - self._seen > STALE

    def _rest(self) -> None:
        until = time.monotonic() + 1.0
        while np.abs(self._link.receive.getActualQd()).max() > STILL:
            if time.monotonic() > until:
                raise RobotError(f"the {self.name} still moves. Recover it when it stands.")
            time.sleep(0.01)
        self._measure()
        self._stay()

    def _stay(self) -> None:
        """Where it is, is where it is to be: by the controller's own kinematics, which a factory has calibrated."""
        stream, measured = self._stream, self._measured
        assert stream is not None
        assert measured is not None
        with stream.lock:
            kinematics = stream.kinematics
            kinematics.tool = self._nominal
            nominal = kinematics.forward(measured.joints)
            kinematics.tool = self._nominal @ np.linalg.inv(nominal) @ measured.pose
            stream.rest(measured.joints, self._clock.now())
        self._by_joints, self._heard = False, self._clock.now()

    def _brake(self) -> None:
        self._wants_hand = False
        if self._stream is not None:
            self._stream.brake(self._clock.now())

    def guide(self, on: bool) -> None:
        """See `rdt2.robot.protocols.GuidedArm`. What the yaml says of the load is what its joints hold meanwhile."""
        if on == self._wants_hand:
            return
        if on:
            self.require_ready()
        elif np.abs(self._link.receive.getActualQd()).max() > STILL:
            raise RobotError(f"the {self.name} still moves. Hold it still, then give it back.")
        self._wants_hand, until = on, time.monotonic() + ANSWER_SECONDS
        # The thread that speaks to the controller says it; who was refused freedrive counts as in it until it is ended.
        while self._in_hand != on or (on and self._stopped):
            if self._stopped or time.monotonic() > until:
                self._wants_hand = False
                raise RobotError(
                    f"the {self.name} does not let itself be {'moved by hand' if on else 'held'}: "
                    + (self._fault or "its controller does not answer. Look at the pendant.")
                )
            time.sleep(0.002)

    def stop(self) -> None:
        """Brake.

        Raises:
            RobotError: the driver hangs, so that only the controller's own watchdog stops the arm.
        """
        super().stop()
        if hanging := self._turns.hanging:
            raise RobotError(
                f"{hanging}; its controller stops the arm by itself after 0.1 s. Press the emergency stop if it moves."
            )

    def fail(self, reason: str) -> None:
        """Stop with a fault, also where the driver hangs; the first reason is kept."""
        self._fault = self._fault or reason
        if not self._stopped:  # said again at each turn, it is no other stop for who recovers the arm
            super().stop()

    def close(self) -> None:
        """Brake, wait until it rests, end the control script, and let go of the controller."""
        with self._changing:
            if not self._connected:
                return
            super().stop()
            self._wait_for_brake()
            self._end_serving()
            if self._link.receive is not None:
                self._link.close()
            self._connected = False
            super().close()
            self._measured = self._stream = None

    def _wait_for_brake(self) -> None:
        until, stream = time.monotonic() + BRAKES, self._stream
        while self._servos and stream and not stream.braked(self._clock.now()) and time.monotonic() < until:
            time.sleep(0.005)

    def _end_serving(self) -> bool:
        """Whether the thread that speaks to the controller has ended; one that hangs in its library ends later."""
        self._ending.set()
        if self._serving is not None and self._serving is not threading.current_thread():
            self._serving.join(1.0)
            if self._serving.is_alive():
                return False
        self._serving = None
        return True

    # ------------------------------------------------------------------------------------------ what is asked of it

    def state(self) -> ArmState:
        """The last measurement of the thread that reads the controller.

        Raises:
            RobotError: it is not connected, or has lost its controller.
        """
        if self._measured is None or not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        if self._link.receive is None:
            raise RobotError(
                f"the {self.name} has lost its controller. Look at its cable and its power, then recover."
            )
        return self._measured

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Follow poses of the TCP, cell frame, metres, at times of the robot's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        stream = self._led()
        with stream.lock:  # who sees the path in `watch` sees that it has just been heard, too
            now = self._clock.now()
            stream.execute(times, poses, now)
            self._by_joints, self._heard = False, now

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Follow joint angles in radians, at times of the robot's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        stream = self._led()
        with stream.lock:
            now = self._clock.now()
            stream.execute_joints(times, joints, now)
            self._by_joints, self._heard = True, now

    def _led(self) -> JointStream:
        self.require_ready()
        if self._wants_hand:
            raise SafetyError(
                f"the {self.name} takes no command: it is in a person's hands. Call guide(False)."
            )
        if hanging := self._turns.hanging:
            raise SafetyError(f"the {self.name} takes no command: {hanging}.")
        assert self._stream is not None
        return self._stream

    def checks(self) -> list[Check]:
        """Load, tool and slider as the controller says them, once `enable` has set them.

        Raises:
            RobotError: it is not connected.
        """
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        trouble = self._link.trouble
        found = [Check("mode", "ready", trouble or "ready", not trouble)]
        return found + (self._set() if self._enabled else [])

    def _set(self) -> list[Check]:
        receive, said = self._link.receive, self._tool_said
        assert said is not None
        assert self._stream is not None
        joints, pose = (
            np.array(receive.getActualQ()),
            self.base @ pose_to_matrix(np.array(receive.getActualTCPPose())),
        )
        with self._stream.lock:
            kinematics = self._stream.kinematics
            kinematics.tool, aligned = self._nominal, kinematics.tool
            apart = float(np.linalg.norm((kinematics.forward(joints) - pose)[:3, 3]))
            kinematics.tool = aligned
        return settings_of(receive, self._options, self._tool, said, apart)

    # ----------------------------------------------------------------------------------------------------- its beat

    def _serve(self, ending: threading.Event, turns: Turns) -> None:
        """Hear and tell the controller, until the end."""
        prefer()  # not real-time priority: the library spins (`_ur_link`)
        period, due = 1 / self._options.rate, time.monotonic()
        while not ending.is_set():
            turns.begin()
            try:
                self._turn()
            except Exception as error:  # of the library, or of the path
                self._refused = self._refused or not isinstance(error, RDT2Error)
                self.fail(str(error) if isinstance(error, RDT2Error) else f"{type(error).__name__}: {error}")
            due = max(due + period, time.monotonic())
            ending.wait(due - time.monotonic())
        turns.end()

    def _turn(self) -> None:
        self._measure()
        now = self._clock.now()
        if trouble := self._link.trouble:
            self.fail(trouble)
            self._servos = False  # it is the controller that has stopped the arm
            return
        if lost := self._link.lost:
            self._link.abandon()
        if lost or (self._enabled and now - self._seen > STALE):
            controller = f"the controller at {self._options.address}"
            if lost:
                found = f"the data connection to {controller} has ended, and it"
            else:
                found = f"{controller} has shown no new state for {1e3 * STALE:.0f} ms, and"
            self.fail(f"{found} stops the arm by itself. Look at its cable and its power, then recover")
        if not self._enabled or self._refused or lost:
            return  # the library would say on the terminal at each turn that nobody listens
        stream = self._stream
        assert stream is not None
        self.watch(now, until=stream.until)
        if self._wants_hand != self._in_hand:
            self._change_hands(self._wants_hand)
        elif self._in_hand:
            self._kick()
        elif self._stopped and (not self._servos or stream.braked(now - self._options.lookahead_time)):
            self._halt()
        else:
            self._drive(now)

    def _halt(self) -> None:
        """It has braked: it keeps its place by itself, and gives way to nothing it presses on."""
        if self._servos:
            self._servos = False
            self._link.control.servoStop(SERVO_STOP)
        else:
            self._kick()

    def _kick(self) -> None:
        """Have the controller hear something."""
        if not self._link.control.kickWatchdog():
            self._refused = True
            self.fail(self._link.trouble or SCRIPT_ENDED)

    def _change_hands(self, on: bool) -> None:
        """From our commands into a person's hands, or back."""
        control = self._link.control
        if on and self._servos:
            self._servos = False
            control.servoStop(SERVO_STOP)
        taken = control.teachMode() if on else control.endTeachMode()
        if not taken:
            # A controller that does not end it hears nothing more: it ends its script then, and freedrive with that.
            self._refused = self._refused or not on
            self.fail(
                f"its controller refuses {'the beginning' if on else 'the end'} of freedrive. Look at the pendant"
            )
        elif not on and not self._stopped:
            self._measure()
            self._stay()
        self._in_hand = on or not taken

    def _drive(self, now: float) -> None:
        stream, options, control = self._stream, self._options, self._link.control
        assert stream is not None
        with stream.lock:
            joints, _ = stream.step(now)
            pose = np.linalg.inv(self.base) @ stream.kinematics.forward(joints)
        servo = 0.0, 0.0, 1 / options.rate, options.lookahead_time, options.gain
        self._servos = True
        if self._by_joints:
            taken = control.servoJ(joints.tolist(), *servo)
        else:
            taken = control.servoL(matrix_to_pose(pose).tolist(), *servo)
        if not taken:
            self._servos, self._refused = False, True
            until = time.monotonic() + EXPLAINED
            while (
                not self._link.trouble and time.monotonic() < until
            ):  # states may come later than the refusal
                time.sleep(0.002)
            self.fail(self._link.trouble or SCRIPT_ENDED)

    def _measure(self) -> None:
        """A new state, where there is one."""
        receive = self._link.receive
        stamp = receive.getTimestamp()
        if stamp == self._stamp or stamp == 0.0:
            return
        now = self._clock.now()
        if stamp < self._stamp:  # the controller was started again
            self._stamps = ClockMap()
        self._stamps.arrived(stamp, now)
        self._stamp, self._seen, self._sequence = stamp, now, self._sequence + 1
        turn = self.base[:3, :3]
        speed, force = np.array(receive.getActualTCPSpeed()), np.array(receive.getActualTCPForce())
        self._measured = ArmState(
            timestamp=self._stamps.time(stamp, 0.0),
            sequence=self._sequence,
            pose=self.base @ pose_to_matrix(np.array(receive.getActualTCPPose())),
            velocity=np.concatenate([turn @ speed[:3], turn @ speed[3:]]),
            joints=np.array(receive.getActualQ()),
            wrench=np.concatenate([turn @ force[:3], turn @ force[3:]]),
        )

    def _joints(self) -> ndarray:
        assert self._measured is not None
        return self._measured.joints


DRIVER = Driver(open=URArm, options=UROptions, extra="ur")
