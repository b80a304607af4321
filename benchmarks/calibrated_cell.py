"""Whether a calibration mends what a wrong one spoils: success in the same scenes, before and after.

    python benchmarks/calibrated_cell.py --scenes 60 --workers 2 --json calibrated_cell.json

A copy of configs/robots/cell_ur5e.yaml is made wrong by 20 mm and 5 degrees in `policy_to_tcp` of both arms;
`rdt2 calibrate handeye` writes both anew, as it does at a shell; the policy drives with the true file, the wrong one
and the mended one, and the differences are told scene by scene. Time is simulated: a busy machine changes nothing.

With --json everything lies in a folder of that name beside it: the three files, what the calibration wrote, and each
evaluation, which goes on where it was interrupted when the same command is given again.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent))

from rdt2.calibration.handeye import difference
from rdt2.calibration.writing import changed_text
from rdt2.evaluation.compare import compare
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings
from wrong_calibration import success, wrong

DEGREES, METRES = 5.0, 0.02
NAMES = ("true", "calibrated", "wrong")


def left_off(path: Path, true: RobotSettings) -> dict[str, dict[str, float]]:
    """How far a file's policy_to_tcp is off the truth, by side."""
    found = RobotSettings.read(path)
    off = {s: difference(found.arms[s].policy_to_tcp, arm.policy_to_tcp) for s, arm in true.arms.items()}
    return {
        side: {"mm": 1e3 * float(np.linalg.norm(o[:3])), "degrees": float(np.degrees(np.linalg.norm(o[3:])))}
        for side, o in off.items()
    }


def files_in(folder: Path, robot: str, seconds: float) -> dict[str, Path]:
    """The true, the wrong and the calibrated file; those that are there are kept."""
    files = {name: folder / f"{name}.yaml" for name in NAMES}
    true = (CONFIGS / f"cell_{robot}.yaml").read_text(encoding="utf-8")
    off = wrong(RobotSettings.read(f"cell_{robot}"), DEGREES, METRES)
    spoilt = changed_text(
        true,
        {f"arms.{side}.policy_to_tcp": arm.policy_to_tcp.tolist() for side, arm in off.arms.items()},
        remark="made wrong on purpose",
    )
    for name, text in (("true", true), ("wrong", spoilt)):
        files[name].write_text(text, encoding="utf-8")
    if not files["calibrated"].exists():
        started = folder / "being_calibrated.yaml"
        started.write_text(spoilt, encoding="utf-8")
        for side in off.sides:
            command = ("calibrate", "handeye", "--robot", started, "--side", side, "--seconds", str(seconds))
            subprocess.run(
                [sys.executable, "-m", "rdt2.cli.main", *command, "--out", folder / "calibration", "--yes"],
                check=True,
            )
        started.rename(files["calibrated"])
    return files


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument("--robot", default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--scenes", type=int, default=60)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=30.0, help="length of each calibrating motion")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument(
        "--without-wrong",
        action="store_true",
        help="leave out how the wrong file does, which is a third of the work",
    )
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    true = RobotSettings.read(f"cell_{options.robot}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) if options.json is None else options.json.resolve().with_suffix("")
        folder.mkdir(parents=True, exist_ok=True)
        files = files_in(folder, options.robot, options.seconds)
        left = {name: left_off(files[name], true) for name in ("wrong", "calibrated")}
        driven = {n: file for n, file in files.items() if not (n == "wrong" and options.without_wrong)}
        results = success(driven, options, options.scenes, folder)
    pairs = {name: compare(results[name], results["true"]).total for name in results if name != "true"}
    console = Console()
    for side, off in left["calibrated"].items():
        console.print(f"{side}: {off['mm']:.2f} mm and {off['degrees']:.3f} degrees are left")
    for name, pair in pairs.items():
        console.print(
            f"{name} against true: {100 * pair.difference:+.1f} points, 95 % interval "
            f"{100 * pair.low:+.0f} to {100 * pair.high:+.0f}; {pair.only_first} scenes succeed with it alone, "
            f"{pair.only_second} with the true file alone"
        )
    figures: dict[str, Any] = {
        "policy": options.policy, "robot": options.robot, "task": options.task, "seed": options.seed,
        "off": left,
        **{name: result.success_rate.as_dict() for name, result in results.items()},
        "against_true": {name: pair.as_dict() for name, pair in pairs.items()},
    }  # fmt: skip
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
