"""What a calibration that is wrong costs: success in the same scenes with a robot's file that is off.

    python benchmarks/wrong_calibration.py --workers 2 --json wrong_calibration.json    # hours on two cores

`policy_to_tcp` of both arms is turned or shifted in the file; the cell stays what it is. Each wrong file is compared
with the one as measured, scene by scene (McNemar's exact test, `rdt2.evaluation.statistics.Paired`): it shows in the
success rate where the interval of the difference lies below zero.

The --json file is whole after every row. In a folder of its name beside it lie the robots' files and each evaluation,
which goes on where it was interrupted when the same command is given again.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table
from scipy.spatial.transform import Rotation

from rdt2.evaluation.cell import evaluate_cell
from rdt2.evaluation.results import CellEvaluation, rate_cells
from rdt2.evaluation.statistics import Paired
from rdt2.files import write_json
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import cell_settings

MEASURED = "as measured"
ERRORS = {
    MEASURED: (0.0, 0.0),
    "turned by 5 degrees": (5.0, 0.0),
    "shifted by 2 cm": (0.0, 0.02),
}
"""Degrees and metres that a file is off."""


def wrong(settings: RobotSettings, degrees: float, metres: float) -> RobotSettings:
    """A robot's file whose policy_to_tcp is off across the way that the fingers point."""
    off = np.eye(4)
    off[:3, :3] = Rotation.from_rotvec(degrees * np.array([1, 1, 0]) / np.sqrt(2), degrees=True).as_matrix()
    off[:3, 3] = metres * np.array([1, -1, 0]) / np.sqrt(2)
    return settings.changed(
        {f"arms.{side}.policy_to_tcp": arm.policy_to_tcp @ off for side, arm in settings.arms.items()}
    )


def success(
    files: dict[str, Path],
    options: argparse.Namespace,
    scenes: int,
    folder: Path | None = None,
    *,
    on_row: Callable[[dict[str, CellEvaluation]], None] | None = None,
) -> dict[str, CellEvaluation]:
    """What the policy does in the same scenes with each of a robot's files, by what they are called.

    With a folder each evaluation is kept there, and goes on where it was. `on_row` is called with what there is when
    another one is finished.
    """
    table = Table(title=f"{options.policy} on {options.robot}, {options.task}", title_justify="left")
    for name in ("policy_to_tcp is", "success", "rate", "95 % interval"):
        table.add_column(name)
    found: dict[str, CellEvaluation] = {}
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
        if on_row is not None:
            on_row(found)
    Console().print(table)
    return found


def against_measured(results: dict[str, CellEvaluation]) -> dict[str, Paired]:
    """Each wrong file against the one as measured: negative where success is lost."""
    outcomes = {name: [record.success for record in result.records] for name, result in results.items()}
    return {name: Paired.of(each, outcomes[MEASURED]) for name, each in outcomes.items() if name != MEASURED}


def told(results: dict[str, CellEvaluation], options: argparse.Namespace) -> dict[str, Any]:
    """The figures of all rows that there are."""
    rows: dict[str, dict[str, Any]] = {
        name: result.success_rate.as_dict() for name, result in results.items()
    }
    for name, paired in against_measured(results).items():
        rows[name]["against_as_measured"] = paired.as_dict()
    conditions = {name: getattr(options, name) for name in ("policy", "robot", "task", "seed", "scenes")}
    return {**conditions, "rows": rows}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--policy", default="demo-fm")
    parser.add_argument("--robot", default="ur5e")
    parser.add_argument("--task", default="pick")
    parser.add_argument("--scenes", type=int, default=100, help="the same ones with every file")
    parser.add_argument("--seed", type=int, default=8)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    settings = cell_settings(options.robot)
    with tempfile.TemporaryDirectory() as temporary:
        kept = None if options.json is None else options.json.resolve().with_suffix("")
        folder = kept or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: folder / f"{name}.yaml" for name in ERRORS}
        for name, error in ERRORS.items():
            values = wrong(settings, *error).model_dump(mode="json")
            files[name].write_text(yaml.safe_dump(values), encoding="utf-8")

        def on_row(results: dict[str, CellEvaluation]) -> None:
            if options.json is not None:
                write_json(options.json, told(results, options))

        results = success(files, options, options.scenes, kept, on_row=on_row)
    for name, paired in against_measured(results).items():
        print(f"{name} against {MEASURED}: {paired}")


if __name__ == "__main__":
    main()
