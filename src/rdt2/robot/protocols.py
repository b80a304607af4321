"""Arm, Gripper, Camera, Clock: the whole language between a policy's loop and a robot.

Poses are (4, 4) homogeneous matrices of the tool centre point (TCP) in the cell frame, metres. Widths are the
opening between the fingers in metres. Times are seconds of the robot's own `Clock`. Motion is given as waypoints
with a time; `rdt2.robot.waypoints` states the rule by which every device follows them.

A device is connected, then enabled, and moves only while it is both, has no fault, and is not stopped. What stops
it (`stop`, a fault, 100 ms without a command while it moves) lets it decelerate and keeps it stopped: only a
person's word, `recover`, lets it move again.

After its last waypoint a device stays there, also where it gets there fast. Who says one step at a time, as the loop
does, sends the way to rest behind every step: the next step replaces it, and where none comes, because the sender hangs
or is killed, the device is already on its way to rest when it stops by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray

    from rdt2.robot.description import ArmModel

WATCHDOG = 0.1
"""Seconds without `execute` after which a device that moves stops by itself."""


@dataclass(frozen=True)
class ArmState:
    """Where an arm was measured to be, and how it moved."""

    timestamp: float
    """When it was measured, seconds of the robot's clock."""
    sequence: int
    """Grows by one with each new measurement: a state read twice has the same."""
    pose: Float[ndarray, "4 4"]
    """TCP in the cell frame, metres."""
    velocity: Float[ndarray, " 6"]
    """Of the TCP along the cell's axes: m/s, then rad/s."""
    joints: Float[ndarray, " n"]
    """Joint angles in radians; empty for a device without joints."""
    wrench: Float[ndarray, " 6"] | None = None
    """What the TCP meets, along the cell's axes: N, then N m. None where nothing measures it."""


@dataclass(frozen=True)
class GripperState:
    """How far a gripper was measured to be open."""

    timestamp: float
    sequence: int
    """Grows by one with each new measurement."""
    width: float
    """Opening between the fingers, metres."""


@dataclass(frozen=True)
class TrackerState:
    """Where a tracker was measured to be, and whether that may be believed."""

    timestamp: float
    """When it was measured, seconds of the robot's clock."""
    sequence: int
    """Grows by one with each new measurement."""
    pose: Float[ndarray, "4 4"]
    """The tracker, with the axes of the handheld gripper (see `rdt2.devices.tracker_drivers`), in the base frame of its
    tracking system, metres. That frame need not have z up."""
    valid: bool
    """False: it was not seen, or jumped; the pose is then whatever was said."""
    reason: str = ""
    """Why it is not valid, in words."""


@dataclass(frozen=True)
class Frame:
    """One picture of a wrist camera."""

    timestamp: float
    """When the exposure happened, not when the picture arrived."""
    sequence: int
    """Grows by one with each new picture."""
    image: UInt8[ndarray, "384 384 3"]
    """RGB."""


@dataclass(frozen=True)
class Timing:
    """How far a device's times can be trusted, seconds."""

    latency: float = 0.0
    """Arm, gripper: from a command to the motion. Camera: from the exposure until `read` can give the picture."""
    clock_error: float = 0.0
    """Bound of what its stamps may be off the robot's clock."""


@dataclass(frozen=True)
class Health:
    """Whether a device may be used, and why not."""

    connected: bool
    enabled: bool
    stopped: bool = False
    """It was stopped and waits for `recover`."""
    fault: str = ""
    """What is wrong, in words; empty when nothing is."""

    @property
    def ok(self) -> bool:
        """Whether it takes commands (a camera: whether it gives pictures)."""
        return self.connected and self.enabled and not self.stopped and not self.fault

    def __str__(self) -> str:
        if self.ok:
            return "ok"
        if not self.connected:
            return self.fault or "not connected"
        stopped = "stopped" if self.stopped else "" if self.enabled else "not enabled"
        return ": ".join(word for word in (stopped, self.fault) if word)


@dataclass(frozen=True)
class Check:
    """Something that is set on a device, against what the robot's yaml says."""

    name: str
    """"payload", "speed slider", "tool", "exposure": what a person would look up."""
    expected: str
    """In words, with its unit: "0.82 kg"."""
    got: str
    """What the device says."""
    ok: bool


@runtime_checkable
class Checked(Protocol):
    """A device that can tell how it is set up; a driver offers it where it can."""

    def checks(self) -> list[Check]:
        """Look up what `device:` and the settings say of it; called when it is connected, and again when it is enabled.

        What only `enable` sets is left out before. What the device cannot tell is left out: a person is asked.

        Raises:
            RobotError: it does not answer.
        """
        ...


@runtime_checkable
class Clock(Protocol):
    """The robot's time: wall clock on hardware, simulated time in the cell."""

    def now(self) -> float:
        """Seconds; never goes back."""
        ...

    def sleep_until(self, time: float) -> None:
        """Return when `now() >= time`; at once if that is past. In simulation this is what advances the world."""
        ...


@runtime_checkable
class Device(Protocol):
    """What arms, grippers and cameras have in common."""

    timing: Timing

    def connect(self) -> None:
        """Open the connection; nothing moves. Again: nothing happens.

        Raises:
            RobotError: the device does not answer.
        """
        ...

    def enable(self) -> None:
        """Get ready to move (power, brakes, payload, mode), at rest where it is. Again: nothing happens.

        Raises:
            RobotError: not connected, or the device refuses.
        """
        ...

    def health(self) -> Health:
        """How it is; never raises for a device that fails, says so."""
        ...

    def stop(self) -> None:
        """Decelerate to rest, forget what is pending, and stay stopped. A gripper keeps what it holds."""
        ...

    def recover(self) -> None:
        """A person's word that it may move again: clears the stop and the fault, at rest where it is.

        Raises:
            RobotError: what caused the fault is still there.
        """
        ...

    def close(self) -> None:
        """Stop and end the connection. Again: nothing happens."""
        ...


@runtime_checkable
class Arm(Device, Protocol):
    """Six or seven joints that carry a gripper."""

    base: Float[ndarray, "4 4"]
    """Where its base stands in the cell frame, metres."""
    model: ArmModel | None
    """Links, joints, shapes and limits; None for what has no joints."""

    def state(self) -> ArmState:
        """The latest measured state."""
        ...

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Have the TCP be at `poses` (cell frame) at `times`, replacing what is pending at `times[0]` or later.

        Raises:
            SafetyError: it is stopped, has a fault or is not enabled; poses or times are not finite; a pose is none;
                the way asks for more speed than the arm allows. Nothing has changed then.
            LateError: the last waypoint is past; or those of a moment ago came too late to a device on another machine,
                which has been sent these.
        """
        ...


@runtime_checkable
class JointArm(Arm, Protocol):
    """An arm that can also be led along joint angles, which brings it home; a driver offers it where it can."""

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Have the joints be at `joints` (radians) at `times`, under the rules of `execute`.

        Raises:
            SafetyError, LateError: as `execute`.
        """
        ...


@runtime_checkable
class GuidedArm(Arm, Protocol):
    """An arm that a person can move by hand (freedrive); a driver offers it where it can."""

    def guide(self, on: bool) -> None:
        """On: let a person move it, from rest; it is sent no commands meanwhile. Off: hold it where it is, at rest, and
        follow commands again; `stop` ends it, too. Again: nothing happens.

        Raises:
            RobotError: it refuses, or it still moves when it is to be held.
        """
        ...


@runtime_checkable
class Gripper(Device, Protocol):
    """A parallel-jaw gripper."""

    stroke: float
    """Largest opening, metres."""

    def state(self) -> GripperState:
        """The latest measured width."""
        ...

    def execute(self, times: Float[ndarray, " n"], widths: Float[ndarray, " n"]) -> None:
        """Be open by `widths` (metres, 0 to `stroke`) at `times`, replacing what is pending at `times[0]` or later.

        Raises:
            SafetyError: as `Arm.execute`, or a width outside of the stroke. Nothing has changed then.
        """
        ...


@runtime_checkable
class Tracker(Device, Protocol):
    """Something that a tracking system follows: on a handheld gripper, or on an arm while it is calibrated."""

    def state(self) -> TrackerState:
        """The latest measurement; does not wait for another one.

        Raises:
            RobotError: not connected.
        """
        ...


@runtime_checkable
class Camera(Device, Protocol):
    """A wrist camera."""

    def read(self) -> Frame:
        """The newest picture; does not wait for another one.

        Raises:
            RobotError: not connected, or it has given no picture yet.
        """
        ...
