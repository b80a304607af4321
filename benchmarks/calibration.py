"""What a calibration that is wrong costs: success in the same scenes with a robot's file that is off.

    python benchmarks/calibration.py --episodes 40 --workers 2 --json calibration.json

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
from rdt2.evaluation.results import rate_cells
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
    table = Table(title=f"{options.policy} on {options.robot}, {options.task}", title_justify="left")
    for name in ("policy_to_tcp is", "success", "rate", "95 % interval"):
        table.add_column(name)
    figures: dict[str, dict] = {}
    settings = cell_settings(options.robot)
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, error) in enumerate(ERRORS.items()):
            path = Path(folder) / f"robot-{number}.yaml"
            path.write_text(yaml.safe_dump(wrong(settings, *error).model_dump(mode="json")), encoding="utf-8")
            result = evaluate_cell(
                options.policy,
                str(path),
                options.task,
                episodes=options.episodes,
                seed=options.seed,
                workers=options.workers,
                max_seconds=options.max_seconds,
            )
            table.add_row(name, *rate_cells(result.success_rate))
            figures[name] = result.success_rate.as_dict()
    Console().print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
