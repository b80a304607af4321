"""What a calibration that is wrong costs: success in the same scenes with a robot's file that is off.

    python benchmarks/wrong_calibration.py --episodes 40 --workers 2 --json wrong_calibration.json

`policy_to_tcp` of both arms is turned or shifted in the file; the cell stays what it is.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from rdt2.evaluation.cell import evaluate_cell
from rdt2.evaluation.results import CellEvaluation, rate_cells
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import cell_settings

ERRORS = {
    "as measured": (0.0, 0.0),
    "turned by 5 degrees": (5.0, 0.0),
    "shifted by 2 cm": (0.0, 0.02),
    "turned by 15 degrees": (15.0, 0.0),
    "shifted by 5 cm": (0.0, 0.05),
}


def wrong(settings: RobotSettings, degrees: float, metres: float) -> RobotSettings:
    """A robot's file whose policy_to_tcp is off across the way that the fingers point."""
    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec(degrees * np.array([1, 1, 0]) / np.sqrt(2), degrees=True).as_matrix()
    off[:3, 3] = metres * np.array([1, -1, 0]) / np.sqrt(2)
    return settings.changed(
        {f"arms.{side}.policy_to_tcp": arm.policy_to_tcp @ off for side, arm in settings.arms.items()}
    )


def success(
    files: dict[str, Path], options: argparse.Namespace, scenes: int, folder: Path | None = None
) -> dict[str, CellEvaluation]:
    """What the policy does in the same scenes with each of a robot's files, by what they are called.

    With a folder each evaluation is kept there, and goes on where it was.
    """
    table = Table(title=f"{options.policy} on {options.robot}, {options.task}", title_justify="left")
    for name in ("policy_to_tcp is", "success", "rate", "95 % interval"):
        table.add_column(name)
    found = {}
    for name, path in files.items():
        found[name] = result = evaluate_cell(
            options.policy,
            str(path),
            options.task,
            episodes=scenes,
            seed=options.seed,
            workers=options.workers,
            max_seconds=options.max_seconds,
            json=None if folder is None else folder / f"{name}.json",
            resume=folder is not None,
        )
        table.add_row(name, *rate_cells(result.success_rate))
    Console().print(table)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument("--robot", default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--episodes", type=int, default=40)
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = cell_settings(options.robot)
    with tempfile.TemporaryDirectory() as folder:
        files = {}
        for number, (name, error) in enumerate(ERRORS.items()):
            files[name] = Path(folder) / f"robot-{number}.yaml"
            files[name].write_text(
                yaml.safe_dump(wrong(settings, *error).model_dump(mode="json")), encoding="utf-8"
            )
        results = success(files, options, options.episodes)
    if options.json:
        figures = {name: result.success_rate.as_dict() for name, result in results.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
