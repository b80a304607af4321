"""The published calibration: y and z of the offset, from poses at equal moments; and the recordings it is made from.

Its offset is not turned and has no x, rotation vectors are subtracted component by component, and nothing says how sure
it is: `rdt2.calibration.handeye.solve` is what to use. This is the special case, to compare with.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize

from rdt2.calibration.track import Track
from rdt2.devices.tracker_drivers import TURN
from rdt2.errors import CalibrationError
from rdt2.files import whole_file
from rdt2.pose import matrix_to_pose, pose_to_matrix

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

START, BOUNDS = (0.064, -0.33), (-1.0, 1.0)
RATE = 30.0
"""Poses a second of the published recordings, which have no stamps."""
ARM_NAMES = ("robot", "ur", "franka")


def published_objective(
    tracker: Float[ndarray, "n 4 4"], arm: Float[ndarray, "n 4 4"], y: float, z: float
) -> float:
    """Mean square of metres plus mean square of rotation vector components, of motions since the first pose.

    Args:
        tracker: with the gripper's axes (poses @ `TURN`).
        arm: TCP in the arm's base, at the same moments.
        y, z: of the TCP in the tracker's frame, metres.
    """
    offset = np.eye(4)
    offset[1:3, 3] = y, z
    said = tracker @ offset
    off = _since_first(said) - _since_first(arm)
    return float((off[:, :3] ** 2).mean() + (off[:, 3:] ** 2).mean())


def published_offset(tracker: Float[ndarray, "n 4 4"], arm: Float[ndarray, "n 4 4"]) -> Float[ndarray, "4 4"]:
    """The offset that the published script finds: least of `published_objective` from its start, by L-BFGS-B."""
    found = minimize(
        lambda yz: published_objective(tracker, arm, *yz), START, method="L-BFGS-B", bounds=[BOUNDS, BOUNDS],
        options={"ftol": 1e-12, "gtol": 1e-12, "maxiter": 2000, "eps": 1e-3},
    )  # fmt: skip
    offset = np.eye(4)
    offset[1:3, 3] = found.x
    return offset


def _since_first(poses: ndarray) -> Float[ndarray, "n 6"]:
    return matrix_to_pose(np.linalg.inv(poses[0]) @ poses)


def read_published(folder: str | Path) -> tuple[Track, Track]:
    """A recording of the published scripts: two text files of position and rotation vector, a line a moment.

    They are tracker_posrotvec_np.txt and robot_posrotvec_np.txt (older scripts: ur_, franka_); the tracker's poses are
    given the gripper's axes. The scripts wrote no stamps: 30 poses a second are taken as meant.

    Raises:
        CalibrationError: no such files, other shapes.
    """
    folder = Path(folder)
    tracker = _read(folder, ("tracker",))
    arm = _read(folder, ARM_NAMES)
    n = min(len(tracker), len(arm))  # a pose of one that was asked for just before the end
    times = np.arange(n) / RATE
    return (
        Track(times, pose_to_matrix(tracker[:n]) @ TURN, "tracker"),
        Track(times, pose_to_matrix(arm[:n]), "arm"),
    )


def write_published(folder: Path, tracker: Track, arm: Track) -> None:
    """Write a recording as `read_published` and the published second script read it, beside what is there.

    Args:
        folder: which is made where it is missing.
        tracker: with the gripper's axes; written with the tracker's own.
        arm: TCP in the arm's base. Both are written at equal stamps: a delay between the two clocks stays in.
    """
    times = np.arange(max(tracker.times[0], arm.times[0]), min(tracker.times[-1], arm.times[-1]), 1 / RATE)
    for track, name, turn in ((tracker, "tracker", TURN.T), (arm, "robot", np.eye(4))):
        position, rotation = track.at(times)
        poses = np.tile(np.eye(4), (len(times), 1, 1))
        poses[:, :3, :3], poses[:, :3, 3] = rotation.as_matrix(), position
        with whole_file(folder / f"{name}_posrotvec_np.txt") as partial:
            np.savetxt(partial, matrix_to_pose(poses @ turn))


def _read(folder: Path, names: tuple[str, ...]) -> Float[ndarray, "n 6"]:
    found = [path for name in names for path in sorted(folder.glob(f"{name}*posrotvec*.txt"))]
    if not found:
        there = ", ".join(sorted(path.name for path in folder.glob("*"))[:8]) or "nothing"
        raise CalibrationError(
            f"{folder} has no {names[0]}_posrotvec_np.txt; there is {there}. Expected the folder that the published "
            "calibration script wrote (tmp), or a recording of 'rdt2 calibrate handeye'."
        )
    try:
        values = np.loadtxt(found[0], ndmin=2)
    except ValueError as error:
        raise CalibrationError(f"{found[0]} is no table of numbers: {error}.") from None
    if values.ndim != 2 or values.shape[1] != 6:
        raise CalibrationError(
            f"{found[0]} has {values.shape} numbers, expected 6 a line: x, y, z (m) and a rotation vector (rad)."
        )
    return values
