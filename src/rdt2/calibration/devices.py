"""How late arm, gripper and camera are, and how far a gripper opens."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import medfilt

from rdt2.calibration.latency import Lag, lag, picture_motions
from rdt2.calibration.motion import RAMP, Excitation
from rdt2.calibration.moving import Recording
from rdt2.calibration.outcome import Outcome, plot
from rdt2.calibration.track import Track
from rdt2.control.servo import TICK
from rdt2.control.way import Room, Way
from rdt2.devices.opening import device_number
from rdt2.errors import CalibrationError, SafetyError
from rdt2.operation.home import openings

if TYPE_CHECKING:
    from rdt2.robot import Robot
    from rdt2.robot.settings import ArmSettings, RobotSettings

MOTION = Excitation(degrees=6.0, metres=0.0, seconds=12.0, pace=3.0)
"""What latencies are measured on."""
EARLY = 0.2
"""Seconds that a camera's stamps are looked for before what they show, as well as after it."""
HALF, MOST_LATE = 0.02, 0.4
"""Half of the seconds over which a speed is taken; most seconds of a camera's delay."""
UNSURE = 0.03
"""Seconds of an interval from which a latency is told, and not written."""
SAME = 0.002
"""Metres: openings that differ by less are the same."""
SETTLES, LEAST = 2.0, 0.01
"""Seconds in which fingers get to where they are sent; metres that they have to move by."""
PLAUSIBLE = 0.9
"""Share of its stroke that a gripper has to open to where nobody has measured, or measured it earlier."""
RATIOS = 0.8, 1.25
"""Real metres for each that a gripper says; what is beyond was not measured on it as it is now."""


def fingers(start: float, stroke: float) -> Callable[[float], float]:
    """Opening in metres by seconds since the beginning: from where they are into the middle, to and fro unevenly."""

    def width(since: float) -> float:
        share = min(max(since / RAMP, 0.0), 1.0)
        gain = share**3 * (10 - 15 * share + 6 * share**2)
        swing = 0.5 + 0.2 * np.sin(2 * np.pi * since / 2.3) + 0.1 * np.sin(2 * np.pi * since / 1.3)
        return float(start + gain * (stroke * swing - start))

    return width


def latency(kept: Recording, way: Way, side: str, arm: ArmSettings, *, camera: bool) -> Outcome:
    """Arm, gripper and camera from one motion.

    Args:
        kept: with openings, and with pictures where `camera`.
        way: that was driven.
        side: whose.
        arm: its settings, to compare with.
        camera: whether to look at pictures.

    Raises:
        CalibrationError: something did not follow.
    """
    stamps = np.array([state.timestamp for state in kept.arm])
    joints = np.stack([state.joints for state in kept.arm])
    began = kept.times[0] - kept.since[0]
    told_times = began + TICK * np.arange(len(way.joints[side]))
    found = {"arm": lag(told_times, way.joints[side], stamps, joints, what=f"the {side} arm")}
    widths = np.array(kept.widths)
    commanded = np.array(kept.times), widths[:, 2]
    found["gripper"] = lag(*commanded, widths[:, 0], widths[:, 1], what=f"the {side} gripper")
    stored = {"arm": arm.latency, "gripper": arm.gripper.latency}
    keys = {"arm": f"arms.{side}.latency", "gripper": f"arms.{side}.gripper.latency"}
    notes: list[str] = []
    values: dict[str, Any] = {}
    if camera:
        stored["camera"], keys["camera"] = arm.camera.latency, f"arms.{side}.camera.latency"
        try:
            found["camera"], stamp_error = _camera(kept, f"the {side} camera")
        except CalibrationError as error:
            notes.append(
                f"the camera's latency was not measured: {error} Lay something with much texture before it."
            )
            stamp_error = 0.0
        else:
            values["camera_stamp_error_s"] = stamp_error
        if abs(stamp_error) > arm.camera.clock_error + 0.005:
            notes.append(
                f"the camera's stamps are off by {1e3 * stamp_error:.0f} ms against what its pictures show, and "
                f"clock_error says {1e3 * arm.camera.clock_error:.0f} ms. Look at its driver."
            )
    sure = {part: each for part, each in found.items() if each.interval[1] - each.interval[0] < UNSURE}
    notes += [
        f"the {part}'s latency is known to {1e3 * (each.interval[1] - each.interval[0]):.0f} ms only: not written"
        for part, each in found.items()
        if part not in sure
    ]
    rows = [
        (
            part,
            f"{1e3 * each.seconds:.1f} ms ({1e3 * each.interval[0]:.1f} to {1e3 * each.interval[1]:.1f} with 95 %); "
            f"the yaml said {1e3 * stored[part]:.0f} ms",
        )
        for part, each in found.items()
    ]
    return Outcome(
        f"Latencies of the {side} side",
        rows,
        {part: each.as_dict() for part, each in found.items()} | values,
        {keys[part]: round(each.seconds, 4) for part, each in sure.items()},
        notes,
        [
            f"rdt2 calibrate gripper {{robot}} --side {side} is next.",
            "The other arm has latencies of its own (--side).",
        ],
        [
            plot(
                "Fingers", {"commanded": commanded, "measured": (widths[:, 0], widths[:, 1])}, x="s", y="m"
            ),
            plot(
                "A joint", {"commanded": (told_times, way.joints[side][:, -1]), "measured": (stamps, joints[:, -1])},
                x="s", y="rad",
            ),
        ],
    )  # fmt: skip


def _camera(kept: Recording, what: str) -> tuple[Lag, float]:
    """From the exposure until a picture can be read, and by how much its stamps are late (negative: early), seconds.

    What a picture moves by is nearly a linear function of how the camera turns then: the one that fits best, with the
    delay that fits best, is compared with the pictures.
    """
    if len(kept.frames) < 30:
        raise CalibrationError(
            f"{what} gave {len(kept.frames)} pictures, expected 30 or more. Look at its driver."
        )
    poses = np.stack([state.pose for state in kept.arm])
    arm = Track(np.array([state.timestamp for state in kept.arm]), poses, "arm").smoothed()
    moments = np.arange(arm.times[0], arm.times[-1], 0.01)
    (_, before), (_, after) = arm.at(moments - HALF), arm.at(moments + HALF)
    turning = (before.inv() * after).as_rotvec() / (2 * HALF)
    # asked for every TICK: on average a picture has been there for half of that
    arrived = np.array([time - 0.5 * TICK for time, _ in kept.frames])
    stamped = np.array([frame.timestamp for _, frame in kept.frames])
    motions = picture_motions([frame.image for _, frame in kept.frames])[1:]
    seen = np.isfinite(motions).all(axis=1)
    if seen.sum() < 30:
        raise CalibrationError(
            f"{what} sees too little to follow in {len(seen) - seen.sum()} of {len(seen)} pictures."
        )
    motions = medfilt(motions[seen], (3, 1))
    middles, told = (0.5 * (stamps[1:] + stamps[:-1])[seen] for stamps in (arrived, stamped))
    best, fitted = np.inf, np.zeros(0)
    for late in np.arange(0.0, MOST_LATE, 0.01):
        at = np.stack([np.interp(middles - late, moments, each) for each in turning.T], axis=1)
        plan, *_ = np.linalg.lstsq(at, motions, rcond=None)
        if (left := np.square(motions - at @ plan).sum()) < best:
            best, fitted = left, turning @ plan
    late = lag(moments, fitted, middles, motions, what=what)
    early = lag(moments - EARLY, fitted, told, motions, what=what)
    return late, early.seconds - EARLY


def gripper(
    robot: Robot,
    settings: RobotSettings,
    side: str,
    *,
    permit: Callable[[], str],
    measured: tuple[float, float] | None,
    ask: Callable[[str], float | None] | None = None,
) -> Outcome:
    """How far a gripper closes and opens, and what a metre of its driver really is.

    A driver that says what it opens to (`open_width` and `closed_width`, metres) is told better; the models' `scale` is
    no property of a gripper, and stays.

    Args:
        robot: enabled.
        settings: of it.
        side: whose.
        permit: asked 125 times a second why the fingers may not move; "" when they may.
        measured: real openings (metres) closed and open, from a caliper; None: what `ask` is told.
        ask: is called with "closed" and "open" while the gripper is so; metres, or None where nobody measures.

    Raises:
        CalibrationError: it does not move, or what was measured is not of it as it moves now; nothing has moved where
            it was told before and is no opening at all. SafetyError: fingers would touch something, somebody stopped
            them, or a device has a fault.
    """
    if measured is not None:
        _require_openings(*measured)
    arm = settings.arms[side].gripper
    _require_room(robot, settings, side)
    real: dict[str, float | None] = {}
    reached: dict[str, float] = {}
    seen: list[tuple[float, float, float]] = []
    for name, width in (("closed", 0.0), ("open", arm.stroke)):
        reached[name] = _sent(robot, side, width, arm.stroke, seen, permit=permit)
        real[name] = ask(name) if measured is None and ask is not None else None
    if measured is not None:
        real = dict(zip(("closed", "open"), measured, strict=True))
    moved = reached["open"] - reached["closed"]
    if moved < LEAST:
        raise CalibrationError(
            f"the {side} gripper moved by {1e3 * moved:.1f} mm from closed to open, expected about "
            f"{1e3 * arm.stroke:.0f} mm. Is something between its fingers, is it enabled?"
        )
    rows = [(name, f"it says {1e3 * width:.1f} mm") for name, width in reached.items()]
    changes: dict[str, Any] = {}
    notes, holds, opens = [], True, reached["open"]
    closed, opened = real["closed"], real["open"]
    measured_now = closed is not None and opened is not None
    if closed is not None and opened is not None:
        _require_openings(closed, opened)
        ratio = (opened - closed) / moved
        _require_free(side, arm.stroke, reached["open"], opened, ratio)
        rows += [
            ("measured", f"{1e3 * closed:.1f} and {1e3 * opened:.1f} mm"),
            ("really, for each mm it says", f"{ratio:.4f} mm"),
        ]
        opens = opened
        if max(abs(opened - reached["open"]), abs(closed - reached["closed"])) > SAME / 2:
            changes = _told_better(settings, side, lambda said: closed + ratio * (said - reached["closed"]))
            holds = bool(changes)
            notes.append(
                "what it says is not what it is: open_width and closed_width of its driver are mended"
                if changes
                else "what it says is not what it is, and its driver has nothing to set for that: look there what it "
                "calls open and closed"
            )
    else:
        notes.append(
            "nobody measured the real opening: --measured CLOSED OPEN, in metres, tells whether it is true"
        )
    # no driver takes a stroke beyond what its fingers open to
    most = min(opens, changes.get(f"arms.{side}.gripper.device.open_width", opens))
    narrow = opens < arm.stroke - SAME
    if narrow and not measured_now and opens < PLAUSIBLE * arm.stroke:
        holds = False
        notes.append(
            f"it opens to {1e3 * opens:.1f} mm, and stroke is {1e3 * arm.stroke:.1f}: is something in its way, is "
            "it slow? If that is all it opens, say so with --measured"
        )
    elif holds and (narrow or (changes and not arm.stroke <= most <= arm.stroke + SAME)):
        changes[f"arms.{side}.gripper.stroke"] = stroke = math.floor(1e4 * most + 1e-6) / 1e4
        notes.append(
            f"it opens to {1e3 * opens:.1f} mm, and stroke was {1e3 * arm.stroke:.1f}: it is {1e3 * stroke:.1f} now"
        )
    since, told, was = np.array(seen).T
    return Outcome(
        f"Gripper of the {side} arm", rows, {"says_m": reached, "measured_m": real}, changes, notes,
        [f"rdt2 calibrate table {{robot}} --side {side} is next." if holds else "Mend that, and measure again."],
        [plot("Opening", {"commanded": (since, told), "measured": (since, was)}, x="s", y="m")],
        holds=holds,
    )  # fmt: skip


def _require_openings(closed: float, opened: float) -> None:
    if not 0 <= closed < opened < 0.5:
        raise CalibrationError(
            f"measured {closed:g} m closed and {opened:g} m open, expected 0 <= closed < open, in metres."
        )


def _require_free(side: str, stroke: float, reached: float, opened: float, ratio: float) -> None:
    """Raise CalibrationError where what was measured (metres) is not of fingers that moved as they do now."""
    if reached < PLAUSIBLE * stroke and abs(opened - reached) > SAME:
        raise CalibrationError(
            f"the {side} gripper says that it opened to {1e3 * reached:.1f} mm, expected {1e3 * stroke:.1f} (stroke), "
            f"and {1e3 * opened:.1f} mm were measured: is something between its fingers, is it slow? Free them and "
            f"measure again; if they open no further, write stroke: {reached:.4f} into the yaml before."
        )
    if not RATIOS[0] <= ratio <= RATIOS[1]:
        raise CalibrationError(
            f"for each mm that the {side} gripper says, {ratio:.2f} mm were measured, expected {RATIOS[0]:g} to "
            f"{RATIOS[1]:g}: is something between its fingers, were these metres, and of this gripper? Measure again."
        )


def _require_room(robot: Robot, settings: RobotSettings, side: str) -> None:
    """Raise SafetyError where fingers that close and open would touch the table, an obstacle or the other arm."""
    swept: dict[str, Any] = {**openings(settings, robot)}
    joints = {
        each: state.joints for each, arm in robot.arms.items() if (state := arm.state()).joints is not None
    }
    if set(joints) != set(robot.arms):
        return  # hands without joints: nobody knows where they are
    ticks = np.concatenate(
        [np.linspace(swept[side], to, 100) for to in (0.0, settings.arms[side].gripper.stroke)]
    )
    swept[side] = np.stack([ticks, ticks], axis=1)
    way = Way(
        {each: np.repeat(rest[None], len(ticks), axis=0) for each, rest in joints.items()}, "fingers alone"
    )
    if reason := Room(settings, swept).touched(way):
        raise SafetyError(
            f"with the fingers of the {side} gripper {reason}. Lead the arm to where it has room."
        )


def _sent(
    robot: Robot,
    side: str,
    width: float,
    stroke: float,
    seen: list[tuple[float, float, float]],
    *,
    permit: Callable[[], str],
) -> float:
    """Send fingers to an opening (metres), and tell where they came to; what was commanded and measured goes to `seen`.

    Raises:
        SafetyError: somebody stopped them, or a device has a fault.
    """
    device, clock = robot.grippers[side], robot.clock
    began, start = clock.now(), float(np.clip(device.state().width, 0.0, stroke))
    offset = seen[-1][0] if seen else 0.0
    while (since := clock.now() - began) < 2 * SETTLES:
        if reason := permit() or " ".join(robot.faults()):
            robot.stop()
            raise SafetyError(f"the fingers were stopped: {reason}")
        ahead = TICK * np.arange(1, 16)
        share = np.clip((since + ahead) / SETTLES, 0.0, 1.0)
        device.execute(clock.now() + ahead, start + share * (width - start))
        seen.append((offset + since, start + float(share[0]) * (width - start), device.state().width))
        clock.sleep_until(clock.now() + TICK)
    return device.state().width


def _told_better(settings: RobotSettings, side: str, real: Callable[[float], float]) -> dict[str, Any]:
    """What the driver of a gripper is to be told that its metres are real ones; nothing where it has no such words."""
    return {
        f"arms.{side}.gripper.device.{key}": round(real(said), 5)
        for key in ("open_width", "closed_width")
        if (said := device_number(settings, side, "gripper", key)) is not None
    }
