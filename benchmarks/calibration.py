"""How well a hand-eye calibration finds the truth, beside the published method and OpenCV's, on the same recordings.

    python benchmarks/calibration.py --opencv PYTHON --json calibration.json

Each draw moves a tool as `rdt2 calibrate handeye` does, somewhere else, under a tracker that sits a little elsewhere:
noise of 0.5 mm and 0.1 degree, stamps 20 ms late, one pose in twenty a jump. Nothing of that is told to any method.

Whether the stated covariance is honest takes more draws than medians do: further, shorter ones are solved for that.
OpenCV's column needs OpenCV 4, whose bindings have what those of 5.0 lack. It is used where this Python has it, or in
another one: python -m venv opencv4 && opencv4/bin/pip install 'opencv-python-headless<5', then --opencv
opencv4/bin/python.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation
from scipy.stats import chi2

sys.path.insert(0, str(Path(__file__).parent))

import opencv_handeye
from rdt2.calibration.handeye import HandEye, difference, solve
from rdt2.calibration.motion import Excitation
from rdt2.calibration.published import published_offset
from rdt2.calibration.track import Track
from rdt2.progress import progress
from rdt2.sim.tracker import TrackerWorld

ARM_RATE, TRACKER_RATE, EDGE = 125.0, 60.0, 0.1
DELAY, NOISE_M, NOISE_DEG, JUMPS = 0.02, 5e-4, 0.1, 0.05
PUBLISHED, OPENCV = "published (y and z)", "OpenCV calibrateHandEye"
OPENCV_POSES = 60
"""Of a recording that OpenCV gets: it takes each pose's moment as equal, and all pairs."""
SHORT = 12.0
"""Seconds of the motions that only the covariance is looked at with."""


def draw(random: np.random.Generator, motion: Excitation) -> tuple[Track, Track, TrackerWorld]:
    """A recording of a tracker and an arm, and what is true."""

    def somewhere(metres: float, radians: float) -> np.ndarray:
        pose = np.eye(4)
        turn = random.normal(size=3)
        pose[:3, :3] = Rotation.from_rotvec(
            turn / np.linalg.norm(turn) * random.uniform(0, radians)
        ).as_matrix()
        pose[:3, 3] = random.uniform(-metres, metres, 3)
        return pose

    nominal = np.eye(4)
    nominal[:3, 3] = (0.0, 0.07, 0.27)
    world = TrackerWorld(
        offset=nominal @ somewhere(0.02, np.radians(10)), base=somewhere(2.0, np.pi), delay=DELAY,
        noise_m=NOISE_M, noise_deg=NOISE_DEG, jumps=JUMPS,
    )  # fmt: skip
    start = somewhere(0.5, np.pi)
    arm_times = np.arange(0, motion.seconds, 1 / ARM_RATE)
    arm = Track(arm_times, motion.poses(start, arm_times), "arm")
    times = np.arange(EDGE, motion.seconds - EDGE, 1 / TRACKER_RATE)
    times = times + random.uniform(0, 0.3 / TRACKER_RATE, len(times))
    seen = Track(times + world.delay, world.measured(motion.poses(start, times), random), "tracker")
    return seen, arm, world


def at_equal_moments(tracker: Track, arm: Track) -> np.ndarray:
    """The arm's poses at the tracker's stamps, as who knows of no delay takes them."""
    position, rotation = arm.at(tracker.times)
    told = np.tile(np.eye(4), (len(tracker), 1, 1))
    told[:, :3, :3], told[:, :3, 3] = rotation.as_matrix(), position
    return told


def off(offset: np.ndarray, world: TrackerWorld) -> tuple[float, float]:
    """Millimetres and degrees."""
    change = difference(offset, world.offset)
    return 1e3 * float(np.linalg.norm(change[:3])), float(np.degrees(np.linalg.norm(change[3:])))


def normalised(found: HandEye, world: TrackerWorld) -> float:
    """The error of an offset, squared, in its stated covariance: of many 6 on average, if that is honest."""
    error = difference(found.offset, world.offset)
    return float(error @ np.linalg.solve(found.uncertainty.covariance, error))


def honesty(draws: int, seed: int) -> list[float]:
    """Normalised errors of short recordings."""
    squares = []
    with progress("short recordings", draws) as advance:
        for number in range(draws):
            tracker, arm, world = draw(np.random.default_rng([seed, 1, number]), Excitation(seconds=SHORT))
            squares.append(normalised(solve(tracker, arm), world))
            advance(1, f"{np.mean(squares):.1f} of 6")
    return squares


def measure(
    draws: int, seed: int, motion: Excitation, more: int, opencv: str | None = None
) -> dict[str, Any]:
    """Medians over `draws` recordings; the covariance over `more` short ones, too. OpenCV's in its own Python."""
    errors: dict[str, list[tuple[float, float]]] = defaultdict(list)
    late, squares, worlds, some = [], [], [], []
    with progress("recordings", draws) as advance:
        for number in range(draws):
            tracker, arm, world = draw(np.random.default_rng([seed, number]), motion)
            found = solve(tracker, arm)
            errors["rdt2"].append(off(found.offset, world))
            late.append(1e3 * abs(found.delay - world.delay))
            squares.append(normalised(found, world))
            told = at_equal_moments(tracker, arm)
            errors[PUBLISHED].append(off(published_offset(tracker.poses, told), world))
            few = np.linspace(0, len(tracker) - 1, OPENCV_POSES).astype(int)
            some.append((tracker.poses[few], told[few]))
            worlds.append(world)
            advance(1, f"{errors['rdt2'][-1][0]:.2f} mm")
    seen, told = (np.stack(poses) for poses in zip(*some, strict=True))
    if opencv is not None or opencv_handeye.HERE:
        theirs = (
            opencv_handeye.offsets_by(opencv, seen, told) if opencv else opencv_handeye.offsets(seen, told)
        )
        errors[OPENCV] = [off(offset, world) for offset, world in zip(theirs, worlds, strict=True)]
    squares += honesty(more, seed)
    methods = {}
    ours = np.median(errors["rdt2"], axis=0)
    for name, values in errors.items():
        mm, degrees = np.median(values, axis=0)
        methods[name] = {
            "offset_mm": float(mm), "rotation_deg": float(degrees),
            "offset_ratio": float(mm / ours[0]), "rotation_ratio": float(degrees / ours[1]),
        }  # fmt: skip
    return {
        "offset_mm": float(ours[0]), "rotation_deg": float(ours[1]), "time_offset_ms": float(np.median(late)),
        "coverage": float(np.mean(np.array(squares) < chi2.ppf(0.95, 6))), "coverage_draws": len(squares),
        "normalised_error": float(np.mean(squares)), "draws": draws,
        "worst_mm": float(np.max(errors["rdt2"], axis=0)[0]),
        "methods": methods,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--draws", type=int, default=50)
    parser.add_argument(
        "--coverage-draws", type=int, default=200, help="short recordings for the covariance alone"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each motion")
    parser.add_argument("--opencv", help="a Python with OpenCV 4 and numpy, where this one has OpenCV 5")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.opencv and (reason := opencv_handeye.lacking(options.opencv)):
        parser.error(f"--opencv {options.opencv}: {reason}")
    motion = Excitation(seconds=options.seconds)
    figures = measure(options.draws, options.seed, motion, options.coverage_draws, options.opencv)
    table = Table(title=f"{options.draws} recordings, medians", title_justify="left")
    for name in ("method", "offset off by, mm", "turned by, degrees", "times rdt2's"):
        table.add_column(name, justify="left" if name == "method" else "right")
    for name, row in figures["methods"].items():
        table.add_row(
            name, f"{row['offset_mm']:.3f}", f"{row['rotation_deg']:.4f}", f"{row['offset_ratio']:.0f}"
        )
    console = Console()
    console.print(table)
    console.print(
        f"time offset off by {figures['time_offset_ms']:.3f} ms; the truth lies in the stated 95 % region in "
        f"{100 * figures['coverage']:.1f} % of {figures['coverage_draws']} draws (normalised squared error "
        f"{figures['normalised_error']:.2f}, 6 expected)"
    )
    if OPENCV not in figures["methods"]:
        console.print(
            "OpenCV's method is left out: the bindings of 5.0 lack it. --opencv names a Python with 4.x."
        )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
