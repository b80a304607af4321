"""Franka Research 3 through franky, libfranka's high-level library: joint impedance along waypoints, tool, load and
thresholds set and looked up, and in words what stopped it.

    device: {address: 172.16.0.2, payload: 1.9, payload_centre: [0, 0, 0.06], payload_inertia: [0.001, 0.001, 0.001]}

franky holds the robot's loop of 1 kHz in a thread of its own, outside of Python; here it is told the joints to go to
250 times a second. Without a real-time kernel (`realtime: false`) that loop may miss packets on a busy machine, and the
robot then stops by itself. The better way is a small real-time host beside the arm: see `rdt2 robot serve`.
"""

from __future__ import annotations

import atexit
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.devices.arm_drivers._aside import NoAnswer, Turns, within
from rdt2.devices.arm_drivers._franky_checks import matrix, settings_of
from rdt2.devices.arm_drivers._franky_options import TORQUE_STEP, FrankyOptions
from rdt2.devices.arm_drivers._franky_words import of_mode, of_refusal
from rdt2.devices.drivers import Driver, Opening
from rdt2.errors import ConfigError, RobotError, SafetyError
from rdt2.robot.device import BaseDevice
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import ArmState, Check, Health, Timing
from rdt2.threads import hurry

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.devices.joint_stream import JointStream
    from rdt2.robot.kinematics import ArmKinematics

PORT = 1337
"""Of the robot's interface (FCI)."""
REACHED = 5.0
PERIOD = 0.004
STALE = 0.1
"""Seconds without a new state after which the robot counts as lost."""
STILL = 0.05
"""rad/s: joints that are slower stand."""
SOON = 0.3
"""Seconds in which a button that was just released is seen to be."""
TOLD = 1.0
"""Seconds until a state tells of what was set."""
ENDED = 3.0
LET_GO = 0.25
"""Seconds in which a robot that is closed has been braked."""
_EYE = tuple(np.eye(4).T.ravel())


class FrankyArm(BaseDevice):
    """See `rdt2.robot.protocols.JointArm`, and `GuidedArm`: an impedance without stiffness, gravity compensated."""

    def __init__(self, opening: Opening[FrankyOptions]) -> None:
        """Nothing is connected yet. Raises ConfigError for an arm of another model."""
        super().__init__(opening.name, Timing(opening.arm.latency, opening.arm.clock_error))
        if opening.arm.model != "fr3" or opening.arm.tool is None:
            raise ConfigError(
                f"the {opening.name} is driven by franky and of model {opening.arm.model!r}: expected fr3."
            )
        self.base, self.model = opening.arm.base, arm_model("fr3")
        self._opening, self._options, self._clock = opening, opening.options, opening.clock
        self._tool = np.asarray(opening.arm.tool)
        self._robot: Any = None
        self._motion: Any = None
        self._stream: JointStream | None = None
        self._beat: threading.Thread | None = None
        self._ending, self._turns = threading.Event(), Turns()
        self._measured: ArmState | None = None
        self._seen = float("-inf")
        self._in_hand = False
        self._changing = threading.RLock()

    # ------------------------------------------------------------------------------------------------ its life

    def connect(self) -> None:
        """Reach the robot and measure; nothing moves.

        Raises:
            RobotError: it cannot be reached; says what to do.
        """
        with self._changing:
            if not self._connected:
                self._reach()
                self._fault, self._stopped, self._enabled = "", False, False
                self._begin_beat()

    def _reach(self) -> None:
        """Connect and measure; whether it is enabled, stopped or has a fault stays as it was. Raises RobotError."""
        from rdt2.devices.joint_stream import JointStream

        self._end_beat()
        self._robot = self._reached()
        self._looking = self._kinematics()
        self._measured = None
        self._measure()
        now = self._clock.now()
        self._stream = JointStream(
            self.name, self._kinematics(), self._opening.arm.bounds, self._joints(), now
        )
        self._connected, self._in_hand = True, False
        atexit.register(self.close)  # libfranka's thread would end the whole process with an abort

    def _begin_beat(self) -> None:
        self._ending, self._turns = ending, turns = threading.Event(), Turns()
        self._beat = threading.Thread(target=self._run, args=(ending, turns), name=self.name, daemon=True)
        self._beat.start()

    def _kinematics(self) -> ArmKinematics:
        """Another one each time: what it computes in is for one thread."""
        found = self._opening.robot.kinematics()[self._opening.side]
        assert found is not None  # it is an fr3
        return found

    def _reached(self) -> Any:
        """The robot. Raises RobotError: what is in the way, and what to do."""
        import franky

        address = self._options.address
        try:  # libfranka itself waits for a minute
            socket.create_connection((address, PORT), timeout=REACHED).close()
        except ConnectionRefusedError as error:
            raise RobotError(
                f"the {self.name} at {address} refuses the connection: unlock its joints and activate FCI in Desk."
            ) from error
        except OSError as error:
            raise RobotError(
                f"the {self.name} at {address} does not answer ({error}). Is that the address of its control box, is "
                "it switched on, and is this machine in its network?"
            ) from error
        realtime = franky.RealtimeConfig.Enforce if self._options.realtime else franky.RealtimeConfig.Ignore
        try:
            return within(lambda: franky.Robot(address, realtime_config=realtime))
        except NoAnswer as error:  # libfranka waits for ever for one that has taken the connection
            raise RobotError(
                f"the {self.name} at {address} takes the connection and says nothing ({error}). Does another program "
                "have control of it? End that, or restart the control box."
            ) from error
        except Exception as error:  # of many kinds, which only franky knows
            raise RobotError(
                f"the {self.name} at {address} cannot be connected: {of_refusal(error)}"
            ) from error

    def enable(self) -> None:
        """Set the load and the collision limits, and begin to hold the arm where it is.

        Raises:
            RobotError: it is not connected, or reports an error.
        """
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        with self._changing:
            if self._enabled:
                return
            self._set_up()
            self._begin()
            self._enabled = True

    def _set_up(self) -> None:
        """Tool, load and thresholds. Raises RobotError: the robot refuses, or says something else than was set."""
        # No other name for the robot: its connection lasts as long as anybody holds it, also the frame of an error.
        options, state = self._options, self._robot.state
        if trouble := of_mode(state):
            raise RobotError(f"the {self.name} cannot be enabled: {trouble}")
        in_hand = np.linalg.inv(matrix(state.F_T_NE)) @ self._tool
        inertia = np.diag(options.payload_inertia)
        try:
            self._robot.set_ee(in_hand.T.ravel().tolist())
            self._robot.set_k(list(_EYE))
            self._robot.set_load(options.payload, list(options.payload_centre), inertia.T.ravel().tolist())
            self._robot.set_collision_behavior(options.torque_threshold, options.force_threshold)
        except Exception as error:
            raise RobotError(f"the {self.name} refuses its settings: {of_refusal(error)}") from error
        until = time.monotonic() + TOLD
        while wrong := [check for check in self._set(self._robot.state) if not check.ok]:
            if time.monotonic() > until:
                raise RobotError(
                    f"the {self.name} says of its {wrong[0].name}: {wrong[0].got}, after {wrong[0].expected} was set. "
                    "Look at the end effector's settings in Desk."
                )
            time.sleep(0.01)

    def checks(self) -> list[Check]:
        """Tool and load as the robot says them, once `enable` has set them.

        Raises:
            RobotError: it is not connected.
        """
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        state = self._robot.state
        trouble = of_mode(state)
        found = [Check("mode", "ready", trouble or "ready", not trouble)]
        return found + (self._set(state) if self._enabled else [])

    def _set(self, state: Any) -> list[Check]:
        expected = np.linalg.inv(self.base) @ self._kinematics().forward(state.q)
        return settings_of(state, self._options, self._tool, expected)

    def _begin(self) -> None:
        """Hold it where it is, by impedance. Raises RobotError."""
        import franky

        assert self._stream is not None
        self._stream.rest(self._joints(), self._clock.now())
        self._heard = self._clock.now()
        stiffness = np.array(self._options.stiffness)
        motion = franky.JointImpedanceTrackingMotion(stiffness, max_delta_tau=TORQUE_STEP)
        self._in_hand = False
        motion.set_reference(franky.JointReference(q=self._joints()))
        refused: list[Exception] = []

        def move() -> None:
            hurry()  # the thread of libfranka's loop, which is started here, as well
            try:
                self._robot.move(motion, asynchronous=True)
            except Exception as error:
                refused.append(error)

        thread = threading.Thread(target=move)
        thread.start()
        thread.join()
        if refused:
            why = refused[0]
            raise RobotError(f"the {self.name} does not take control: {of_refusal(why)}") from why
        self._motion = motion

    def recover(self) -> None:
        """Also after a reflex, a user stop that was released, and a lost connection, which is made again.

        Raises:
            RobotError: it is not connected, cannot go on yet, or was stopped again meanwhile; says why.
        """
        stops = self._stops
        with self._changing:
            if not self._connected:
                if self._robot is None:
                    raise RobotError(f"the {self.name} is not connected. Call connect() first.")
                self._reach()
                self._begin_beat()
            if hanging := self._turns.hanging:
                raise RobotError(f"the {self.name} cannot go on: {hanging}. Close it and connect again.")
            until = time.monotonic() + SOON
            while trouble := of_mode(state := self._robot.state, recoverable=True):
                if time.monotonic() > until:
                    raise RobotError(f"the {self.name} cannot go on: {trouble}")
                time.sleep(0.01)
            try:
                if self._robot.has_errors or of_mode(state):
                    self._robot.recover_from_errors()
            except Exception as error:
                raise RobotError(f"the {self.name} cannot go on: {of_refusal(error)}") from error
            self._rest()
            if self._in_hand:
                self._hold()
            if self._enabled and self._motion is None:
                self._set_up()
                self._begin()
            self._resume(stops)

    def _rest(self) -> None:
        assert self._stream is not None
        until = time.monotonic() + 1.0
        while np.abs(self._dq).max() > STILL:
            if time.monotonic() > until:
                raise RobotError(f"the {self.name} still moves. Wait until it rests.")
            time.sleep(0.01)
        self._stream.rest(self._joints(), self._clock.now())
        self._heard = self._clock.now()

    def _brake(self) -> None:
        try:
            if self._in_hand:
                self._hold()
        finally:  # whatever the robot says of its stiffness
            if self._stream is not None:
                self._stream.brake(self._clock.now())

    def stop(self) -> None:
        """Brake.

        Raises:
            RobotError: the driver hangs, so that nobody leads the arm to rest: franky's loop, outside of Python, holds
                the joints that it was told last, and where that hangs, too, the robot stops by itself after 20 ms.
        """
        super().stop()
        if hanging := self._turns.hanging:
            raise RobotError(
                f"{hanging}; its control loop holds the joints it was told last. Press the emergency stop if it moves."
            )

    def guide(self, on: bool) -> None:
        """See `rdt2.robot.protocols.GuidedArm`. What the yaml says of the load is what its joints hold meanwhile."""
        with self._changing:
            if on == self._in_hand:
                return
            if on:
                self._led()
                self._in_hand = True  # before it is: who stops it meanwhile sees that it has to be held
                self._set_stiffness(0.0)
                if self._stopped:
                    self._hold()
                    raise RobotError(f"the {self.name} was stopped, and is held. Recover it first.")
            elif np.abs(self._dq).max() > STILL:
                raise RobotError(f"the {self.name} still moves. Hold it still, then give it back.")
            else:
                self._hold()

    def _hold(self) -> None:
        """Stay where it is, taken from a person's hands. Raises RobotError: the driver hangs, and sees nothing."""
        if hanging := self._turns.hanging:  # held now, it would go back to where it was taken from
            raise RobotError(
                f"{hanging}; the arm stays in the hands that hold it. Hold it, and press the emergency stop."
            )
        assert self._stream is not None
        self._stream.rest(self._joints(), self._clock.now())
        self._set_stiffness(1.0)
        self._in_hand = False

    def _set_stiffness(self, share: float) -> None:
        """Of what the yaml says; the control loop gets there within tenths of a second."""
        import franky

        if self._motion is not None:
            stiffness = share * np.array(self._options.stiffness)
            self._motion.set_reference(franky.JointReference(q=self._joints()))  # it goes nowhere by that
            self._motion.set_gains(franky.JointImpedanceGains(stiffness=stiffness))  # critically damped

    def close(self) -> None:
        """Stop, wait for rest, and let go of the robot."""
        with self._changing:
            if self._connected and self._motion is not None:
                self._let_go()
            self._end_beat()
            super().close()
            self._robot = self._measured = self._stream = None
            atexit.unregister(self.close)

    def _let_go(self) -> None:
        """End the impedance by a brake: the robot then keeps its place by itself."""
        import franky

        self._motion = None
        try:
            ending = franky.TorqueStopMotion(ramp_duration=0.1, velocity_epsilon=STILL, max_duration=LET_GO)
            self._robot.move(ending, asynchronous=True)
            self._robot.join_motion(ENDED)
        except Exception as error:  # it is being closed: what else could be done with it
            self._fault = self._fault or of_refusal(error)

    def _end_beat(self) -> None:
        self._ending.set()
        if self._beat is not None:
            self._beat.join(ENDED)
        self._turns.end()
        self._beat = None

    # ------------------------------------------------------------------------------------------ what is asked of it

    def health(self) -> Health:
        """A fault of the robot counts as stopped."""
        return Health(self._connected, self._enabled, self._stopped or bool(self._fault), self._fault)

    def state(self) -> ArmState:
        """The last measurement of the thread that reads the robot.

        Raises:
            RobotError: it is not connected.
        """
        measured = self._measured
        if measured is None or not self._connected:
            raise RobotError(f"the {self.name} is not connected{f': {self._fault}' if self._fault else ''}.")
        return measured

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Follow poses of the TCP, cell frame, metres, at times of the robot's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        stream = self._led()
        with stream.lock:  # who sees the path in `watch` sees that it has just been heard, too
            now = self._clock.now()
            stream.execute(times, poses, now)
            self._heard = now

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Follow joint angles in radians, at times of the robot's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        stream = self._led()
        with stream.lock:
            now = self._clock.now()
            stream.execute_joints(times, joints, now)
            self._heard = now

    def _led(self) -> JointStream:
        self.require_ready()
        if self._in_hand:
            raise SafetyError(
                f"the {self.name} takes no command: it is in a person's hands. Call guide(False)."
            )
        if hanging := self._turns.hanging:
            raise SafetyError(f"the {self.name} takes no command: {hanging}.")
        if (age := time.monotonic() - self._seen) > STALE:
            raise SafetyError(f"the {self.name} takes no command: it has shown no new state for {age:.1f} s.")
        assert self._stream is not None
        return self._stream

    # --------------------------------------------------------------------------------------------------- the beat

    def _run(self, ending: threading.Event, turns: Turns) -> None:
        hurry()
        due = time.monotonic()
        while not ending.is_set():
            turns.begin()
            try:
                self._measure()
                self._lead()
            except Exception as error:  # of many kinds, which only franky knows
                if not ending.is_set():
                    self._lost(error)
                turns.end()
                return
            due = max(due + PERIOD, time.monotonic())
            ending.wait(due - time.monotonic())

    def _measure(self) -> None:
        """A new state, where there is one. Raises what franky raises."""
        state, now = self._robot.state, self._clock.now()
        sequence = round(1000 * state.time.to_sec())
        if self._measured is not None and sequence == self._measured.sequence:
            if time.monotonic() - self._seen > STALE and self._motion is not None:
                self.fail(
                    f"it has shown no new state for {1e3 * STALE:.0f} ms: look at its cable and its power"
                )
            return
        self._seen = time.monotonic()
        joints, speeds = np.array(state.q), np.array(state.dq)
        pose, jacobian = self._looking.jacobian(joints)
        turn = self.base[:3, :3]
        force = np.asarray(state.O_F_ext_hat_K)
        self._measured = ArmState(
            timestamp=now,  # a state is a millisecond old when it comes
            sequence=sequence,
            pose=pose,
            velocity=jacobian @ speeds,
            joints=joints,
            wrench=np.concatenate([turn @ force[:3], turn @ force[3:]]),
        )
        self._dq = speeds  # rad/s

    def _lead(self) -> None:
        """The joints of now, told to the loop. What has ended that is a fault."""
        if self._motion is None or self._stream is None:
            return
        import franky

        if not self._robot.is_in_control:
            self._motion = None
            try:
                self._robot.poll_motion()
                why = "its control loop has ended"
            except franky.NetworkException:
                raise
            except Exception as error:
                why = of_mode(self._robot.state) or of_refusal(error)
            self.fail(why)
            return
        now = self._clock.now()
        self.watch(now, until=self._stream.until)
        if self._stopped and self._stream.settled(now):
            self._stream.rest(self._joints(), now)  # it does not go on pressing on what it met
        try:
            joints, speeds = self._stream.step(now)
        except SafetyError as error:
            self.fail(str(error))
            joints, speeds = self._stream.step(now)
        self._motion.set_reference(franky.JointReference(q=joints, dq=speeds))

    def _lost(self, error: Exception) -> None:
        """The robot cannot be heard any more; it stops by itself where it does not hear us."""
        self._motion = None
        self.fail(f"the connection to {self._options.address} is lost: {of_refusal(error)}")
        self._connected = False

    def _joints(self) -> ndarray:
        assert self._measured is not None
        return self._measured.joints


DRIVER = Driver(open=FrankyArm, options=FrankyOptions, extra="fr3")
