"""Small motions of one arm for a calibration: planned whole, checked whole, led by joints, and recorded meanwhile.

The way is checked as `rdt2 reset` checks its own (links, grippers and cameras against each other, the table and what
stands around), and kept off joint limits, singular postures and the end of the workspace besides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from scipy.ndimage import maximum_filter1d, minimum_filter1d

from rdt2.calibration.track import Track
from rdt2.control.guard import Guard
from rdt2.control.servo import TICK
from rdt2.control.way import Room, Way
from rdt2.errors import CalibrationError, SafetyError
from rdt2.operation.home import follow, openings, require_followed
from rdt2.robot.kinematics import ROTATION_WEIGHT
from rdt2.robot.protocols import JointArm

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.calibration.motion import Excitation
    from rdt2.control.recording import Recorder
    from rdt2.robot import Robot
    from rdt2.robot.protocols import ArmState, Frame, Tracker
    from rdt2.robot.settings import RobotSettings

SMALLER = (1.0, 0.8, 0.65, 0.5, 0.4, 0.3, 0.2)
"""How much of a motion is tried, one after the other, until its whole way is clear."""
JOINT_SPEED = np.radians(60.0)
"""rad/s that no joint exceeds in a calibrating motion, nor half of its top speed."""
TCP_SPEED = 0.25
"""m/s that a TCP does not exceed."""
LATE = 0.3
"""Seconds that fingers may be late by, in what is looked at for room."""
NEAR, TURNED = 5e-4, np.radians(0.1)
"""Metres and radians that joints may miss a planned pose by."""


def way_along(
    settings: RobotSettings,
    robot: Robot,
    side: str,
    poses: Callable[[ndarray], ndarray],
    seconds: float,
    *,
    width: Callable[[float], float] | None = None,
) -> Way:
    """Joints of one arm along poses, the other arm at rest.

    Args:
        settings: of the robot.
        robot: connected.
        side: of the arm that moves.
        poses: of its TCP at rest (4, 4), to poses (n, 4, 4) every `TICK`, both in the cell frame.
        seconds: how long that is.
        width: opening (metres) of its gripper by seconds since the way began; None: fingers stay where they are.

    Raises:
        CalibrationError: the robot has no joints that could be led.
        SafetyError: a joint limit, a singular posture, the end of the workspace, or something that would be touched.
    """
    states, known = {s: arm.state() for s, arm in robot.arms.items()}, settings.kinematics()
    kinematics = known[side]
    if kinematics is None:
        raise CalibrationError(
            f"robot {settings.name!r}: its {side} hand has no joints that could be led. Calibrate a robot with arms."
        )
    start = {s: np.asarray(state.joints, dtype=np.float64) for s, state in states.items()}
    widths = openings(settings, robot)
    guard = Guard(settings, known, period=TICK)  # joints that do not belong to the pose: a wrong base or tool
    guard.start({s: np.asarray(state.pose) for s, state in states.items()}, start, widths)
    asked = poses(kinematics.forward(start[side]))
    joints = np.empty((len(asked), len(start[side])))
    here, arm, safety = start[side], settings.arms[side], settings.safety
    low, high = kinematics.lower + safety.joint_margin, kinematics.upper - safety.joint_margin
    most = np.minimum(JOINT_SPEED, 0.5 * kinematics.speeds) * TICK
    for i, pose in enumerate(asked):
        before = here
        here, *_ = kinematics.step(here, pose, dt=TICK)
        here, *_ = kinematics.step(here, pose, dt=TICK)
        reached, jacobian = kinematics.jacobian(here)
        turned = np.arccos(np.clip((np.trace(reached[:3, :3].T @ pose[:3, :3]) - 1) / 2, -1, 1))
        where = f"after {100 * i / len(asked):.0f} % of the way"
        if np.linalg.norm(reached[:3, 3] - pose[:3, 3]) > NEAR or turned > TURNED:
            raise SafetyError(f"the {side} arm does not reach it, {where}")
        if ((here < low) | (here > high)).any():
            raise SafetyError(f"a joint of the {side} arm would be at its limit, {where}")
        jacobian[3:] *= ROTATION_WEIGHT
        if np.linalg.svd(jacobian, compute_uv=False)[-1] < safety.singularity_slow:
            raise SafetyError(f"the {side} arm's posture would be singular, {where}")
        if ((pose[:3, 3] < arm.bounds.low) | (pose[:3, 3] > arm.bounds.high)).any():
            raise SafetyError(f"the {side} arm would leave its workspace, {where}")
        if (np.abs(here - before) > most).any():
            raise SafetyError(f"a joint of the {side} arm would be too fast, {where}")
        joints[i] = here
    if len(asked) > 1 and np.linalg.norm(np.diff(asked[:, :3, 3], axis=0), axis=1).max() > TCP_SPEED * TICK:
        raise SafetyError(f"the {side} arm's TCP would be faster than {TCP_SPEED} m/s")
    still = {s: np.repeat(each[None], len(asked), axis=0) for s, each in start.items() if s != side}
    way = Way({**still, side: joints}, f"the {side} arm, {seconds:.0f} s")
    swept: dict[str, float | ndarray] = {**widths}
    if width is not None:
        told, late = (
            np.array([width(time) for time in TICK * np.arange(len(asked))]),
            2 * round(LATE / TICK) + 1,
        )
        swept[side] = np.stack([minimum_filter1d(told, late), maximum_filter1d(told, late)], axis=1)
    if reason := Room(settings, swept).touched(way):
        raise SafetyError(reason)
    if not isinstance(robot.arms[side], JointArm):
        require_followed(settings, side, way)
    return way


def planned(
    settings: RobotSettings,
    robot: Robot,
    side: str,
    motion: Excitation,
    *,
    width: Callable[[float], float] | None = None,
) -> tuple[Way, Excitation]:
    """The largest part of a motion whose whole way is clear, from where the arm stands, with fingers that open as
    `width` says (metres by seconds, see `way_along`).

    Raises:
        CalibrationError: not even a fifth of it is.
    """
    reason = ""
    for factor in SMALLER:
        smaller = motion.smaller(factor)
        times = TICK * np.arange(round(motion.seconds / TICK) + 1)
        along = partial(smaller.poses, times=times)
        try:
            return way_along(settings, robot, side, along, motion.seconds, width=width), smaller
        except SafetyError as error:
            reason = str(error)
    raise CalibrationError(
        f"there is no room for even {100 * SMALLER[-1]:.0f} % of the motion: {reason}. Move the {side} arm to where it "
        "has more room all around, by its pendant or 'rdt2 reset'."
    )


@dataclass
class Recording:
    """What was measured along a way, on the robot's clock."""

    times: list[float] = field(default_factory=list)
    """When each of the following was asked for, seconds."""
    since: list[float] = field(default_factory=list)
    """Seconds since the way began."""
    arm: list[ArmState] = field(default_factory=list)
    widths: list[tuple[float, float, float]] = field(default_factory=list)
    """Stamp, measured opening, commanded opening."""
    tracker: list[tuple[float, ndarray]] = field(default_factory=list)
    """Stamp and pose of what was valid."""
    frames: list[tuple[float, Frame]] = field(default_factory=list)
    """When each picture was first there, and it."""

    def arm_track(self, base: Float[ndarray, "4 4"]) -> Track:
        """The TCP in the arm's base (which stands at `base` in the cell), its noise smoothed."""
        seen = {state.timestamp: state.pose for state in self.arm}
        return Track(
            np.array(list(seen)), np.linalg.inv(base) @ np.stack(list(seen.values())), "arm"
        ).smoothed()

    def tracker_track(self) -> Track:
        """What the tracker measured.

        Raises:
            CalibrationError: it was hardly ever seen.
        """
        if not self.tracker:
            raise CalibrationError(
                "the tracker was never seen. Look whether two stations see it all the time."
            )
        return Track(
            np.array([stamp for stamp, _ in self.tracker]),
            np.stack([pose for _, pose in self.tracker]),
            "tracker",
        )


def record(
    robot: Robot,
    settings: RobotSettings,
    side: str,
    way: Way,
    *,
    permit: Callable[[], str],
    recorder: Recorder | None = None,
    tracker: Tracker | None = None,
    width: Callable[[float], float] | None = None,
    pictures: bool = False,
    ends: Callable[[ArmState, float], bool] | None = None,
) -> Recording:
    """Drive along a way and write down what is measured. The arms stand where it ended and may be led on when this
    returns: nothing was stopped, so nobody had to let them go on.

    Args:
        robot: connected and enabled.
        settings: of it.
        side: whose devices are looked at.
        way: that was found clear.
        permit: why the arms may not move; "" when they may.
        recorder: is shown where the arms are.
        tracker: on that arm's tool.
        width: opening (metres) that the gripper is to have, by seconds since the way began.
        pictures: whether the camera is read.
        ends: told each state and the seconds since the way began at which it was true; True ends the way there.

    Raises:
        SafetyError: somebody stopped it, a device has a fault, or an arm is not where it should be.
    """
    kept, last = Recording(), {"tracker": -1, "camera": -1}
    stroke = settings.arms[side].gripper.stroke

    def watch(now: float, since: float) -> bool:
        state = robot.arms[side].state()
        kept.times.append(now)
        kept.since.append(since)
        kept.arm.append(state)
        if width is not None:
            gripper = robot.grippers[side]
            told = gripper.state()
            kept.widths.append((told.timestamp, told.width, width(min(since, way.seconds))))
            ahead = TICK * np.arange(1, 16)
            ahead = ahead[since + ahead <= way.seconds]  # the fingers, too, stand where the way ends
            if len(ahead):
                wishes = [float(np.clip(width(since + t), 0.0, stroke)) for t in ahead]
                gripper.execute(now + ahead, np.array(wishes))
        if tracker is not None and (seen := tracker.state()).sequence != last["tracker"]:
            last["tracker"] = seen.sequence
            if seen.valid:
                kept.tracker.append((seen.timestamp, seen.pose))
        if pictures and (frame := robot.cameras[side].read()).sequence != last["camera"]:
            last["camera"] = frame.sequence
            kept.frames.append((now, frame))
        return ends is not None and ends(state, since - (now - state.timestamp))

    follow(
        robot,
        settings,
        way,
        permit=permit,
        recorder=recorder,
        watch=watch,
        doing="while they were calibrated",
        stays=True,
    )
    return kept
