"""Hand-eye calibration of a robot's tool with a tracker on it, from a motion of the arm or from a recording."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile

import numpy as np
import yaml

from rdt2.calibration.handeye import HandEye, difference, errors, held_out, solve
from rdt2.calibration.motion import Excitation
from rdt2.calibration.outcome import Outcome, plot
from rdt2.calibration.published import published_offset, read_published, write_published
from rdt2.calibration.track import Track
from rdt2.errors import CalibrationError
from rdt2.files import whole_file
from rdt2.pose import TRACKER_TO_POLICY, policy_to_tcp_transform
from rdt2.robot.published import is_published
from rdt2.robot.reading import find
from rdt2.robot.settings import RobotSettings

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

CHECKING = Excitation(degrees=15.0, metres=0.03, seconds=12.0)
"""The motion of a check."""
HOLDS_MM, HOLDS_DEG = 2.0, 0.5
"""A stored calibration holds that is off by no more, or by three standard deviations of what was measured. Two halves
of one recording agree that are."""
FEWEST, LONGEST, FEW = 0.7, 1.0, 10
"""Share of poses that have to fit one another; seconds of a stretch in which so many poses, or more, may fit none."""
WRONG_SCALE = 0.005
"""A tracker's metres that are off by more, and by three standard deviations, are none."""
ELSEWHERE_MM, ELSEWHERE_DEG = 30.0, 10.0
"""A tool that is further from what the yaml said is told: the tracker probably sits elsewhere."""
MISSES = 4.0
"""Times the noise of a pose that moments left out may be off by."""


def handeye(tracker: Track, arm: Track, side: str, *, robot: str | None, published: bool = False) -> Outcome:
    """Solve a recording, and say what it is worth.

    Args:
        tracker: with the handheld gripper's axes.
        arm: TCP in the arm's base.
        side: of the arm.
        robot: the yaml it is for; None: nothing is to be written.
        published: the published script's y and z are told beside it.

    Raises:
        CalibrationError: it determines nothing, or the two never were one body.
    """
    found = solve(tracker, arm)
    doubts = _doubts(found, tracker, arm) or _halves(found, tracker, arm)
    left_out = None if doubts else held_out(tracker, arm)
    if left_out is not None and left_out[0] > max(1.0, MISSES * found.noise_mm):
        doubts.append(
            f"moments that were left out are off by {left_out[0]:.1f} mm, more than a pose scatters by "
            f"({found.noise_mm:.1f} mm): what moved was not one body, or the tracker's distances are not true"
        )
    rows = _rows(found, left_out)
    policy = TRACKER_TO_POLICY if robot is None else tracker_to_policy(robot, side)
    values = {"side": side, "doubts": doubts, **_values(found, left_out, policy)}
    notes = list(doubts)
    if robot is not None:
        said = policy @ np.linalg.inv(RobotSettings.read(robot).arms[side].policy_to_tcp)
        far, turned = _apart(said, found.offset)
        rows.append(("the yaml said", f"{far:.1f} mm and {turned:.2f} degrees away"))
        values |= {"yaml_off_mm": far, "yaml_off_deg": turned}
        if not doubts and (far > ELSEWHERE_MM or turned > ELSEWHERE_DEG):
            notes.append(
                f"the yaml said a tool {far:.0f} mm and {turned:.0f} degrees away. If that was measured on this robot, "
                "the tracker is most likely not mounted where the handheld gripper has its own: mount it there, and "
                "calibrate again, since what was found is true of a tracker that sits there only"
            )
    if published:
        y, z = _published(tracker, arm)[1:3, 3]
        rows.append(
            (
                "published method, y and z",
                f"{1e3 * y:.2f}, {1e3 * z:.2f} mm (no x, no turn; stamps taken as equal)",
            )
        )
        values["published"] = {"y": float(y), "z": float(z)}
    changes: Mapping[str, Any] = {}
    if robot is not None and not doubts:
        changes = _changes(robot, side, found.offset)
    return Outcome(
        f"Tool of the {side} arm", rows, values, changes, notes,
        following=(
            ["Mend what is named above, and record again; nothing was written."]
            if doubts
            else [
                "Unscrew the tracker if it is not needed any more.",
                f"rdt2 calibrate check {{robot}} --side {side} tells later whether it still holds.",
                f"rdt2 calibrate latency {{robot}} --side {side} is next.",
            ]
        ),
        plots=_plots(found, tracker, arm),
        holds=not doubts,
    )  # fmt: skip


def _doubts(found: HandEye, tracker: Track, arm: Track) -> list[str]:
    """Why a solution is not to be trusted, in sentences: what the motion left open, and poses that fit no others."""
    said = found.uncertainty.undetermined()
    told = tracker.times - found.delay
    seen = (told > arm.times[0]) & (told < arm.times[-1])
    times, kept = tracker.times[seen] - tracker.times[0], found.kept[seen]
    edges = np.concatenate([times[:1], times[kept], times[-1:]])
    longest = int(np.argmax(np.diff(edges)))
    begins, ends = edges[longest], edges[longest + 1]
    if ends - begins > LONGEST and ((times > begins) & (times < ends)).sum() >= FEW:
        said.append(
            f"from {begins:.1f} to {ends:.1f} s no pose fits the others: the tracker slipped, or a station was moved. "
            "Screw it tight"
        )
    elif kept.mean() < FEWEST:
        said.append(
            f"only {100 * kept.mean():.0f} % of the poses fit one another, expected {100 * FEWEST:.0f} % or more: look "
            "whether both stations see the tracker all the time, and nothing shines"
        )
    if abs(found.scale - 1) > max(WRONG_SCALE, 3 * found.scale_error):
        said.append(
            f"where the arm moves by a metre the tracker says {found.scale:.3f} m, expected 1 to {100 * WRONG_SCALE:g} "
            "%: set up its stations anew, within the distance that they are made for, and look whether the yaml names "
            "the right arm"
        )
    return said


def _halves(found: HandEye, tracker: Track, arm: Track) -> list[str]:
    """Whether the beginning of a recording tells another tool than its end."""
    later = tracker.times > 0.5 * (tracker.times[0] + tracker.times[-1])
    try:
        one, two = (solve(tracker.cut(half), arm, delay=found.delay) for half in (~later, later))
    except CalibrationError:  # too short to be halved
        return []
    far, turned = _apart(one.offset, two.offset)
    sigmas = [
        float(np.linalg.norm([getattr(half.uncertainty, name) for half in (one, two)]))
        for name in ("position_mm", "rotation_deg")
    ]
    if far <= max(HOLDS_MM, 3 * sigmas[0]) and turned <= max(HOLDS_DEG, 3 * sigmas[1]):
        return []
    return [
        f"the two halves of the recording tell tools {far:.1f} mm and {turned:.2f} degrees apart: the tracker sits "
        "loose, or its stations move"
    ]


def _apart(one: Float[ndarray, "4 4"], other: Float[ndarray, "4 4"]) -> tuple[float, float]:
    """Millimetres and degrees between two offsets."""
    off = difference(one, other)
    return 1e3 * float(np.linalg.norm(off[:3])), float(np.degrees(np.linalg.norm(off[3:])))


def tracker_to_policy(robot: str, side: str) -> Float[ndarray, "4 4"]:
    """The policy's frame in the tracker's: that of the robot's yaml where it says one, else the published one."""
    arm, _ = _arm_of(robot, side)
    return np.array(arm.get("tx_tracker_to_policy", TRACKER_TO_POLICY), dtype=np.float64)


def check(
    tracker: Track,
    arm: Track,
    side: str,
    policy_to_tcp: Float[ndarray, "4 4"],
    tracker_to_policy: Float[ndarray, "4 4"] = TRACKER_TO_POLICY,
) -> Outcome:
    """Whether a stored calibration holds against a new, short recording."""
    found = solve(tracker, arm)
    stored = tracker_to_policy @ np.linalg.inv(policy_to_tcp)
    far, turned = _apart(stored, found.offset)
    allowed = max(HOLDS_MM, 3 * float(np.linalg.norm(found.uncertainty.position_mm)))
    allowed_turn = max(HOLDS_DEG, 3 * float(np.linalg.norm(found.uncertainty.rotation_deg)))
    notes = _doubts(found, tracker, arm)
    holds = not notes and far <= allowed and turned <= allowed_turn
    return Outcome(
        f"Check of the {side} arm's tool",
        [
            ("stored calibration", "holds" if holds else "cannot be told" if notes else "does not hold"),
            ("it is off by", f"{far:.2f} mm and {turned:.3f} degrees"),
            ("allowed", f"{allowed:.2f} mm and {allowed_turn:.3f} degrees"),
            ("noise of a pose", f"{found.noise_mm:.2f} mm and {found.noise_deg:.3f} degrees"),
        ],
        {
            "holds": holds, "offset_mm": far, "rotation_deg": turned, "allowed_mm": allowed,
            "allowed_deg": allowed_turn, **_values(found, None, tracker_to_policy),
        },
        notes=notes,
        following=(
            ["Nothing: drive."]
            if holds
            else ["Mend what is named above, and check again."]
            if notes
            else [
                "See whether the tracker sits tight, and where it sat when it was calibrated; else gripper or tool "
                "have moved.",
                f"rdt2 calibrate handeye {{robot}} --side {side} makes it right.",
            ]
        ),
        plots=_plots(found, tracker, arm),
        holds=holds,
    )  # fmt: skip


def _plots(found: HandEye, tracker: Track, arm: Track) -> list[str]:
    times = tracker.times - tracker.times[0]
    far, turned = errors(found, tracker, arm)
    rate = np.arange(max(tracker.times[0], arm.times[0]), min(tracker.times[-1], arm.times[-1]), 0.02)
    seen, told = (
        t.turn_rates(rate + d, span=0.1) for t, d in ((tracker.cut(found.kept), found.delay), (arm, 0.0))
    )
    lines = {"tracker": (rate - rate[0], np.degrees(seen)), "arm": (rate - rate[0], np.degrees(told))}
    return [
        plot("Error of each kept pose", {"mm": (times[found.kept], far[found.kept])}, x="s", y="mm"),
        plot("Turn of each kept pose", {"degrees": (times[found.kept], turned[found.kept])}, x="s", y="degrees"),
        plot("Turn rates, the delay taken out", lines, x="s", y="degrees/s"),
    ]  # fmt: skip


def _rows(found: HandEye, left_out: tuple[float, float] | None) -> list[tuple[str, str]]:
    place = ", ".join(f"{1e3 * v:.2f}" for v in found.offset[:3, 3])
    sure = ", ".join(f"{v:.2f}" for v in found.uncertainty.position_mm)
    turn = ", ".join(f"{v:.3f}" for v in found.uncertainty.rotation_deg)
    return [
        (
            "TCP in the tracker's frame",
            f"{place} mm, each to {sure} mm; turned to {turn} degrees (one sigma)",
        ),
        ("tracker's stamps are late by", f"{1e3 * found.delay:.1f} ms, to {1e3 * found.delay_error:.2f} ms"),
        (
            "error of moments left out",
            "not looked at"
            if left_out is None
            else "{:.2f} mm and {:.3f} degrees (median, noise of a pose included)".format(*left_out),
        ),
        ("noise of a pose", f"{found.noise_mm:.2f} mm and {found.noise_deg:.3f} degrees"),
        ("tracker's metre in the arm's", f"{found.scale:.4f}, to {found.scale_error:.4f}"),
        ("poses used", f"{100 * found.kept.mean():.0f} % of {len(found.kept)}; the others jumped"),
    ]


def _values(
    found: HandEye, left_out: tuple[float, float] | None, tracker_to_policy: Float[ndarray, "4 4"]
) -> dict[str, Any]:
    return {
        "tx_tracker_to_tcp": found.offset, "base": found.base,
        "policy_to_tcp": policy_to_tcp_transform(found.offset, tracker_to_policy),
        "delay_s": found.delay, "delay_error_s": found.delay_error, "covariance": found.uncertainty.covariance,
        "position_sigma_mm": found.uncertainty.position_mm, "rotation_sigma_deg": found.uncertainty.rotation_deg,
        "scale": found.scale, "scale_sigma": found.scale_error,
        "noise_mm": found.noise_mm, "noise_deg": found.noise_deg, "used": float(found.kept.mean()),
        **({} if left_out is None else {"held_out_mm": left_out[0], "held_out_deg": left_out[1]}),
        "undetermined": found.uncertainty.undetermined(),
        "base_sigma_mm": found.base_uncertainty.position_mm, "base_sigma_deg": found.base_uncertainty.rotation_deg,
    }  # fmt: skip


def _changes(robot: str, side: str, offset: ndarray) -> Mapping[str, Any]:
    """What a robot's file calls it: one of the two forms that it may have."""
    arm, published = _arm_of(robot, side)
    if "tx_tracker_to_tcp" in arm and not published:
        return {f"arms.{side}.tx_tracker_to_tcp": offset}
    return {f"arms.{side}.policy_to_tcp": policy_to_tcp_transform(offset, tracker_to_policy(robot, side))}


def _arm_of(robot: str, side: str) -> tuple[Mapping[str, Any], bool]:
    """What a robot's file says of an arm, as it stands there, and whether the file is in the published layout."""
    values = yaml.safe_load(find(robot).read_text(encoding="utf-8"))
    arm = ((values.get("arms") or {}).get(side) or {}) if isinstance(values, dict) else {}
    return arm, is_published(values)


def _published(tracker: Track, arm: Track) -> ndarray:
    position, rotation = arm.at(tracker.times)
    poses = np.tile(np.eye(4), (len(tracker), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation.as_matrix(), position
    return published_offset(tracker.poses, poses)


# ----------------------------------------------------------------------------------------------------------- recordings


def keep(folder: Path, tracker: Track, arm: Track, side: str) -> None:
    """Keep a recording where `kept` finds it: tracker.npz and arm.npz with times and poses, and whose they are; and as
    published scripts read it."""
    with whole_file(folder / "about.json") as partial:
        partial.write_text(json.dumps({"side": side}) + "\n", encoding="utf-8")
    for track, name in ((tracker, "tracker"), (arm, "arm")):
        with whole_file(folder / f"{name}.npz") as partial, open(partial, "wb") as file:
            np.savez(file, times=track.times, poses=track.poses)
    write_published(folder, tracker, arm)


def side_of_recording(folder: Path, asked: str | None) -> str | None:
    """Whose a recording is; of one that does not say, what was asked for.

    Raises:
        CalibrationError: it is of the other arm.
    """
    try:
        side = str(json.loads((folder / "about.json").read_text(encoding="utf-8"))["side"])
    except (OSError, ValueError, KeyError, TypeError):
        return asked
    if asked not in (None, side):
        raise CalibrationError(f"{folder} was recorded with the {side} arm, and --side says {asked}.")
    return side


def kept(folder: Path) -> tuple[Track, Track]:
    """A recording of ours, or of the published scripts: tracker and arm.

    Raises:
        CalibrationError: it is neither.
    """
    if not (folder / "tracker.npz").is_file():
        return read_published(folder)
    tracks = []
    for name in ("tracker", "arm"):
        path = folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as arrays:
                tracks.append(Track(arrays["times"], arrays["poses"], name))
        except (OSError, EOFError, BadZipFile, KeyError, ValueError) as error:
            raise CalibrationError(
                f"{path} cannot be read: {error}. Expected times (n,) and poses (n, 4, 4), as 'rdt2 calibrate handeye' "
                "wrote them."
            ) from error
    return tracks[0], tracks[1]
