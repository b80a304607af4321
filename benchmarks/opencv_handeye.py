"""OpenCV's `calibrateHandEye` on recordings, also from another Python: the bindings of OpenCV 5.0 lack it, 4.x has it.

    PYTHON_WITH_OPENCV_4 benchmarks/opencv_handeye.py poses.npz offsets.npy

Needs numpy and OpenCV alone. Poses in, (n, k, 4, 4) in metres of one moment each: `arm`, the TCP in the arm's base, and
`tracker`, in its stations' frame. Offsets out, (n, 4, 4): the TCP in the tracker's frame.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np

HERE = hasattr(cv2, "calibrateHandEye")
"""Whether this Python's OpenCV has it."""


def offsets(tracker: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """AX = XB (Park) for each of n recordings, as OpenCV's users call it."""
    found = np.tile(np.eye(4), (len(arm), 1, 1))
    for number, (seen, told) in enumerate(zip(np.linalg.inv(tracker), arm, strict=True)):
        turn, way = cv2.calibrateHandEye(
            list(told[:, :3, :3]), list(told[:, :3, 3]), list(seen[:, :3, :3]), list(seen[:, :3, 3]),
            method=cv2.CALIB_HAND_EYE_PARK,
        )  # fmt: skip
        found[number, :3, :3], found[number, :3, 3] = turn, way[:, 0]
    return np.linalg.inv(found)


def lacking(python: str) -> str:
    """Why another Python cannot do it; "" where it can."""
    try:
        tried = subprocess.run(
            [python, "-c", "import cv2, numpy; cv2.calibrateHandEye"], capture_output=True, text=True
        )
    except OSError as error:
        return f"{error}. Expected the path of a Python."
    said = (tried.stderr.strip().splitlines() or ["it ended"])[-1]
    return f"{said}. Expected numpy and opencv-python-headless<5 in it." if tried.returncode else ""


def offsets_by(python: str, tracker: np.ndarray, arm: np.ndarray) -> np.ndarray:
    """The same, computed by another Python that has OpenCV 4."""
    with tempfile.TemporaryDirectory() as folder:
        poses, answer = Path(folder) / "poses.npz", Path(folder) / "offsets.npy"
        np.savez(poses, tracker=tracker, arm=arm)
        subprocess.run([python, __file__, poses, answer], check=True)
        found: np.ndarray = np.load(answer)
    return found


if __name__ == "__main__":
    with np.load(sys.argv[1]) as recorded:
        np.save(sys.argv[2], offsets(recorded["tracker"], recorded["arm"]))
