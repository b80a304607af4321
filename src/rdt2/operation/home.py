"""Arms follow a way that is known, free and slow, and somebody may stop it: home to the joints that they begin from, or
wherever a calibration leads them."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from scipy.interpolate import CubicHermiteSpline

from rdt2.control.guard import Guard
from rdt2.control.recording import Moment
from rdt2.control.servo import TICK
from rdt2.control.signals import Asked
from rdt2.control.watch import Watch
from rdt2.control.way import Way, free_way
from rdt2.dashboard.messages import Shot
from rdt2.errors import ConfigError, RDT2Error, SafetyError
from rdt2.progress import note
from rdt2.robot.kinematics import rotation_vector
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import JointArm

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.recording import Recorder
    from rdt2.dashboard.figure import Figure
    from rdt2.robot import ArmState, Robot
    from rdt2.robot.kinematics import ArmKinematics
    from rdt2.robot.settings import RobotSettings

SLOWEST, FASTEST = 1.0, 30.0
"""Degrees a second."""
AHEAD = 0.15
"""Seconds of the way that an arm is told at once: what it goes on along where nothing more is heard."""
LATE = 0.1
"""Seconds by which an arm may be before or behind its way, beside its latency."""
OFF = 0.1
"""Radians that a joint may be off its way. Its TCP may be off by the tracking errors of the robot's settings."""
OPENED = 5e-3
"""Metres by which a gripper may be open otherwise than when its way was looked for."""
UNLIKE = 0.03
"""Radians by which joints may differ from the way where an arm is led by poses of its TCP."""
MOVED = 0.02
"""Radians that a joint may be from where its way begins."""
FRAME = 1 / 30
REST = 1.0
"""Seconds in which arms that are to be led on come to rest where their way ended, and are still watched."""
HALT = 0.2
"""Seconds in which an arm that has seen enough of its way goes back to where it was then, and stands."""


def home_joints(settings: RobotSettings) -> dict[str, Float[ndarray, " j"]]:
    """The joints that each arm begins from, radians: what its yaml says, in the cell those of the arm's description.

    Raises:
        ConfigError: an arm without joints, or whose yaml does not say.
    """
    found = {}
    for side in settings.sides:
        arm = settings.arms[side]
        if arm.model is None:
            raise ConfigError(f"robot {settings.name!r}: its {side} hand has no joints to bring home.")
        joints = arm.begins
        if joints is None and settings.kind != "cell":
            raise ConfigError(
                f"robot {settings.name!r} does not say where its {side} arm begins. Bring it there with its pendant, "
                f"and write its joints as arms.{side}.device.reset_degrees."
            )
        found[side] = np.array(arm_model(arm.model).home[side]) if joints is None else joints
    return found


def way_home(settings: RobotSettings, robot: Robot, *, speed: float) -> Way:
    """From where the arms are; nothing moves.

    Args:
        settings: of the robot.
        robot: connected.
        speed: degrees a second of the fastest joint at most.

    Raises:
        ConfigError: a speed that is none, or an arm that has no home. SafetyError: no way is free, or what an arm says
            of its joints and of its TCP does not belong together.
    """
    if not SLOWEST <= speed <= FASTEST:
        raise ConfigError(f"the speed is {speed:g} degrees/s, expected {SLOWEST:g} to {FASTEST:g}.")
    end = home_joints(settings)
    states = {side: arm.state() for side, arm in robot.arms.items()}
    widths = openings(settings, robot)
    start = {side: np.asarray(state.joints, dtype=np.float64) for side, state in states.items()}
    # Bodies are where joints say, so these have to be right: a wrong base or tool shows against the pose.
    guard = Guard(settings, settings.kinematics(), period=TICK)
    guard.start({side: np.asarray(state.pose) for side, state in states.items()}, start, widths)
    way = free_way(settings, start, end, widths, speed=np.radians(speed))
    for side, arm in robot.arms.items():
        if not isinstance(arm, JointArm):
            require_followed(settings, side, way)
    return way


def openings(settings: RobotSettings, robot: Robot) -> dict[str, float]:
    """How far each gripper is open now, metres, within its stroke."""
    return {
        side: float(np.clip(gripper.state().width, 0.0, settings.arms[side].gripper.stroke))
        for side, gripper in robot.grippers.items()
    }


def follow(
    robot: Robot,
    settings: RobotSettings,
    way: Way,
    *,
    permit: Callable[[], str],
    recorder: Recorder | None = None,
    watch: Callable[[float, float], bool] | None = None,
    doing: str = "on their way home",
    stays: bool = False,
) -> None:
    """Drive along a way; the robot is stopped when this returns, unless the way ended well and the arms are to stay.

    Args:
        robot: connected and enabled, and still where the way begins.
        settings: of it.
        way: that was found free.
        permit: asked 125 times a second why the arms may not move; "" when they may.
        recorder: is shown where the arms are, 30 times a second.
        watch: called 125 times a second with the robot's time and the seconds since it began; True ends the way there.
        doing: what the arms are about, for messages.
        stays: the arms stand enabled where a way ended well, and may be led on: nothing that stops them, now or later,
            is taken back by that. What has stopped them by then is raised.

    Raises:
        SafetyError: somebody stopped it, a device has a fault, an arm is not where it should be, or a gripper is open
            otherwise than when the way was found free.
        KeyboardInterrupt: for Ctrl-C, when the arms have been stopped. Other signals do then what they do.
    """
    clock, arms, doubts, kinematics = robot.clock, robot.arms, Watch(settings), settings.kinematics()
    states = _measured(robot, doubts, way)
    for side, state in states.items():
        if not (moved := float(np.abs(state.joints - way.joints[side][0]).max())) <= MOVED:
            raise SafetyError(
                f"the {side} arm has moved by {np.degrees(moved):.1f} degrees since its way was looked for. Try again."
            )
    tells = {side: _told(settings, side, arm) for side, arm in arms.items()}
    with Asked() as asked:
        well, reason = False, ""
        try:
            began = clock.now()
            frame = began
            rest = LATE + (REST if stays else 0.0)
            while (since := (now := clock.now()) - began) < way.seconds + rest:
                if asked.number:
                    break
                if forbidden := permit():
                    raise SafetyError(f"the arms were stopped {doing}: {forbidden}.")
                if faults := robot.faults():
                    raise SafetyError(f"the arms were stopped {doing}: {' '.join(faults)}")
                states = _measured(robot, doubts, way)
                for side, state in states.items():
                    _require_on_its_way(way, side, state, began, settings, kinematics[side])
                if watch is not None and since < way.seconds + LATE and watch(now, since):
                    if not stays:
                        break
                    way, watch = _halted(way, states, since), None
                # to the end of the way and no further: who waits for more stops arms that stand and hear nothing
                ends = np.floor(min(since + AHEAD, way.seconds) / TICK) + 2
                times = TICK * np.arange(np.floor(since / TICK) + 2, ends)
                for side, tell in tells.items() if len(times) else ():
                    tell(began + times, np.stack([way.at(side, float(time)) for time in times]))
                if recorder is not None and now >= frame:
                    frame = now + FRAME
                    widths = {side: gripper.state().width for side, gripper in robot.grippers.items()}
                    recorder.on_frame(Moment(now, since, states, widths, None, None, None, None, ""))
                clock.sleep_until(now + TICK)
            well = stays and not asked.number
        except RDT2Error as error:
            reason = str(error)
            raise
        finally:
            if not well and (failed := robot.stop() and robot.stop()):  # as the servo does, it tries again
                unstopped = [f"The {name} could not be stopped: {why}" for name, why in failed.items()]
                raise SafetyError(" ".join([reason, *unstopped]).strip())
    if asked.number:
        note(f"the arms were stopped {doing}: {asked.name}")
        signal.raise_signal(asked.number)


def _measured(robot: Robot, doubts: Watch, way: Way) -> dict[str, ArmState]:
    """Where the arms are. Raises SafetyError for a state that is old, frozen, or holds no numbers, and for a gripper
    that is open otherwise than the way was looked for."""
    states = {side: arm.state() for side, arm in robot.arms.items()}
    grippers = {side: robot.grippers[side].state() for side in way.widths}
    doubts.states(states, grippers, now=robot.clock.now())
    for side, width in way.widths.items():
        if not abs((now := grippers[side].width) - width) <= OPENED:
            raise SafetyError(
                f"the {side} gripper is {1e3 * now:.0f} mm open, and was {1e3 * width:.0f} mm open when its way was "
                "looked for. Try again."
            )
    return states


def _halted(way: Way, states: Mapping[str, ArmState], since: float) -> Way:
    """A way that ends now: back to where the arms are measured, without a jerk, and at rest there."""
    told = int(np.floor(since / TICK)) + 2  # before that nothing can be changed any more
    joints = {}
    for side, state in states.items():
        before = np.stack([way.at(side, TICK * i) for i in range(told + 1)])
        speed = (before[-1] - before[-2]) / TICK
        back = CubicHermiteSpline([0.0, HALT], [before[-1], state.joints], [speed, np.zeros_like(speed)])
        joints[side] = np.concatenate([before, back(np.arange(TICK, HALT + 0.5 * TICK, TICK))])
    return Way(joints, way.order, way.widths)


def shots(
    way: Way, settings: RobotSettings, figure: Figure, states: Mapping[str, ArmState], robot: Robot
) -> list[Shot]:
    """The way, as the operator's page and rerun show it."""
    known, widths = settings.kinematics(), {side: each.state().width for side, each in robot.grippers.items()}
    now, found = robot.clock.now(), []
    for time in np.arange(0.0, way.seconds + 0.1, 0.1):
        there = {}
        for side, state in states.items():
            joints, kinematics = way.at(side, float(time)), known[side]
            assert kinematics is not None, "an arm that has a way has joints"
            there[side] = replace(state, joints=joints, pose=kinematics.forward(joints))
        poses = {side: state.pose for side, state in there.items()}
        found.append(Shot(now + time, float(time), figure.places(there, widths), poses, widths))
    return found


def _told(
    settings: RobotSettings, side: str, arm: object
) -> Callable[[Float[ndarray, " n"], Float[ndarray, "n j"]], None]:
    """What tells an arm its way: joints where it takes them, else poses of its TCP."""
    kinematics = settings.kinematics()[side]
    assert kinematics is not None, "an arm that has a way has joints"

    def tell(times: ndarray, joints: ndarray) -> None:
        if isinstance(arm, JointArm):
            arm.execute_joints(times, joints)
        else:
            arm.execute(times, np.stack([kinematics.forward(each) for each in joints]))  # type: ignore[attr-defined]

    return tell


def require_followed(settings: RobotSettings, side: str, way: Way) -> None:
    """Raises SafetyError where poses of the TCP alone would not lead an arm along the way."""
    kinematics = settings.kinematics()[side]
    assert kinematics is not None, "an arm that has a way has joints"
    joints = way.joints[side][0]
    for there in way.joints[side]:
        joints, *_ = kinematics.step(joints, kinematics.forward(there), dt=TICK)
        most = UNLIKE + float(np.max(kinematics.speeds)) * TICK
        if not (off := float(np.abs(joints - there).max())) <= most:
            raise SafetyError(
                f"the {side} arm's driver takes poses of its TCP alone, which leave its posture open on this way: a "
                f"joint would be {np.degrees(off):.0f} degrees off. Lead it with its pendant."
            )


def _require_on_its_way(
    way: Way,
    side: str,
    state: ArmState,
    began: float,
    settings: RobotSettings,
    kinematics: ArmKinematics | None,
) -> None:
    """Raises SafetyError for an arm that is nowhere near its way at that time, by its joints or by its TCP."""
    assert kinematics is not None, "an arm that has a way has joints"
    meant, safety = state.timestamp - began - settings.arms[side].latency, settings.safety
    joints = np.stack([way.at(side, float(time)) for time in np.linspace(meant - LATE, meant + LATE, 9)])
    off = float(np.abs(joints - state.joints).max(axis=1).min())
    here = kinematics.forward(state.joints)
    away = [np.linalg.inv(here) @ kinematics.forward(there) for there in joints]
    distance = min(float(np.linalg.norm(pose[:3, 3])) for pose in away)
    angle = min(float(np.linalg.norm(rotation_vector(pose[:3, :3]))) for pose in away)
    if not (off <= OFF and distance <= safety.tracking_error_m and angle <= safety.tracking_error_rad):
        raise SafetyError(
            f"the {side} arm is {np.degrees(off):.0f} degrees off its way, and its TCP {1e3 * distance:.0f} mm and "
            f"{np.degrees(angle):.0f} degrees; {np.degrees(OFF):.0f} degrees, {1e3 * safety.tracking_error_m:.0f} mm "
            f"and {np.degrees(safety.tracking_error_rad):.0f} degrees are allowed. Something holds it, or its driver "
            "does not follow. It was stopped."
        )
