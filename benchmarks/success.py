"""What the demo model achieves in the simulated cell, and what where it should fail: the table of its model card.

    python benchmarks/success.py --json success.json                    # all rows: some three hours on two cores
    python benchmarks/success.py --only "FM pick UR5e" --json pick.json

Each row is one `rdt2 evaluate cell`, whose own figures, with every episode, are kept in `--folder`: the same command
goes on where it was broken off. Scenes are those of seed 10, which nothing was chosen by.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rdt2.evaluation.results import rate_cells
from rdt2.evaluation.statistics import Rate
from rdt2.files import write_json

FM, VQ = "--policy demo-fm --robot", "--policy demo-vq --robot"
ROWS = {
    "FM pick UR5e": f"{FM} ur5e --task pick --episodes 100",
    "FM pick FR3": f"{FM} fr3 --task pick --episodes 100",
    "FM place UR5e": f"{FM} ur5e --task place --episodes 100",
    "FM press UR5e": f"{FM} ur5e --task press --episodes 100",
    "VQ pick UR5e": f"{VQ} ur5e --task pick --episodes 100 --mode synchronous --latency 0.326 --execute-steps 12",
    "FM pick UR5e, looks never seen": f"{FM} ur5e --task pick --scene unseen --episodes 100",
    "FM pick handheld": f"{FM} handheld --task pick --episodes 40",
    "FM pick UR5e, shapes never seen": f"{FM} ur5e --task pick --shapes unseen --episodes 40",
    "FM pick UR5e, another hand or colour in the sentence": f"{FM} ur5e --task pick --swap-instruction --episodes 60",
    "FM pick UR5e, an empty sentence": f"{FM} ur5e --task pick --no-instruction --episodes 40",
    "FM pick UR5e, black pictures": f"{FM} ur5e --task pick --blind --episodes 20",
    "random weights pick UR5e": "--policy untrained --robot ur5e --task pick --episodes 20",
}
KEPT = (
    "success",
    "episodes",
    "success_interval",
    "followed",
    "followed_interval",
    "wall_seconds",
    "complete",
)
"""Of what an evaluation says."""


def evaluated(options: str, file: Path) -> dict[str, Any]:
    """The figures of one evaluation, which goes on with what `file` holds.

    Raises:
        SystemExit: it failed.
    """
    command, again = f"evaluate cell {options} --workers 2", ["--resume"] if file.is_file() else []
    ran = subprocess.run(
        [sys.executable, "-m", "rdt2.cli.main", *shlex.split(command), "--json", str(file), *again]
    )
    if ran.returncode:
        raise SystemExit(ran.returncode)
    found = json.loads(file.read_text("utf-8"))
    ran_on = [{name: each[name] for name in ("began", "platform")} for each in found["runs"]]
    return {"command": f"rdt2 {command}", **{name: found[name] for name in KEPT}, "ran": ran_on}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=ROWS, metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--episodes", type=int, help="of each row, in place of its own number: for trying")
    parser.add_argument("--seed", type=int, default=10, help="which scenes")
    parser.add_argument(
        "--folder",
        type=Path,
        default=Path("reports/success"),
        help="where each evaluation's figures are kept",
    )
    parser.add_argument("--json", type=Path, help="write the figures to this file, whole after every row")
    given = parser.parse_args()
    table, figures = Table(title="demo model", title_justify="left"), {}
    for name in ("", "succeeded", "rate", "95 %", "did what the sentence says"):
        table.add_column(name)
    for name in given.only or ROWS:
        options = f"{ROWS[name]} --seed {given.seed}"
        if given.episodes is not None:
            options += f" --episodes {given.episodes}"
        file = given.folder / f"{name.replace(',', '').replace(' ', '_')}-{given.seed}.json"
        row = figures[name] = evaluated(options, file)
        rate = Rate.of(row["success"], row["episodes"])
        table.add_row(name, *rate_cells(rate), f"{row['followed']} of {row['episodes']}")
        if given.json is not None:
            write_json(given.json, figures)
    Console().print(table)


if __name__ == "__main__":
    main()
