"""Goes most ways into the project as someone new would, in a fresh clone with an empty home, and takes the time.

    python scripts/first_hour.py --json first_hour.json           # let nothing else run
    python scripts/first_hour.py --only try evaluate

The commands are those of the guides, with what makes them short. A way ends at its first command that fails; what that
said is shown. Setting up is the first way, and is always gone: it needs the package index, or a cache of it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SET_UP = "setup"
TRAINED = "--set steps=20 --set compile=false"
WAYS: dict[str, tuple[str, ...]] = {
    SET_UP: ("make setup",),
    "try": ("make demo",),
    "learn": (
        "python examples/01_first_prediction.py",
        "python examples/02_inside_the_tokenizer.py",
        "python examples/03_train_on_simulated_data.py --size small",
        "python examples/04_evaluate_and_film.py",
        "python examples/05_serve_and_drive.py",
    ),
    "fine-tune": (
        # in place of recordings of your own: a set of LeRobot's
        "rdt2 data record --episodes 24 --out data/recorded",
        "rdt2 data to-lerobot data/recorded data/lerobot",
        "rdt2 data convert data/lerobot data/own --from lerobot",
        "rdt2 data check data/own --report check.html",
        "rdt2 data view data/own --out own.html",
        "rdt2 data stats data/own --fit runs/normalizer --mode mean_std",
        "rdt2 train tokenizer --config tokenizer_real --data data/own --out runs/rvq "
        "--set normalizer=runs/normalizer --set steps=20",
        f"rdt2 train vq --config vq_small --data data/own --out runs/vq --set tokenizer=runs/rvq/model {TRAINED}",
        "rdt2 train expert --config expert_small --data data/own --out runs/fm --set vlm=runs/vq/model "
        f"--set normalizer=runs/normalizer {TRAINED}",
        "rdt2 export bundle --vlm runs/vq/model --tokenizer runs/rvq/model --expert runs/fm/model --out own-policy",
        "rdt2 evaluate shards --policy own-policy/fm.json --data data/own --limit 16",
    ),
    "robot": (
        "rdt2 device list",
        "rdt2 device test arm --robot cell_ur5e --side left --yes",
        "rdt2 run --robot cell_ur5e --dry-run",
        "rdt2 reset --robot cell_ur5e --yes",
        "rdt2 run --robot cell_ur5e --yes --episodes 1 --max-seconds 20",
    ),
    "calibrate": (
        "rdt2 calibrate handeye --robot cell_ur5e --yes",
        "rdt2 calibrate latency --robot cell_ur5e --yes",
        "rdt2 calibrate gripper --robot cell_ur5e --measured 0.0 0.092 --yes",
        "rdt2 calibrate table --robot cell_ur5e --yes",
        "rdt2 calibrate handeye --robot cell_ur5e --yes --side left",
        "rdt2 calibrate arms --robot cell_ur5e --reports calibration/handeye_left.json calibration/handeye_right.json",
        "rdt2 calibrate camera --robot cell_ur5e --yes",
        "rdt2 calibrate check --robot cell_ur5e --yes",
    ),
    "serve": (
        "rdt2 serve --policy demo-fm --port 8123 & trap 'kill %1; wait' EXIT; "
        "until curl -sf http://127.0.0.1:8123/healthz > /dev/null; do sleep 0.5; done; "
        "rdt2 client --policy ws://127.0.0.1:8123; "
        "rdt2 evaluate cell --policy ws://127.0.0.1:8123 --episodes 1",
    ),
    "evaluate": (
        "rdt2 evaluate cell --policy demo-fm --robot ur5e --episodes 4 --workers 2 --json ur5e.json --report ur5e.html",
        "rdt2 evaluate cell --policy demo-fm --robot fr3 --episodes 4 --workers 2 --json fr3.json",
        "rdt2 evaluate compare ur5e.json fr3.json",
    ),
    "record": (
        "rdt2 run --robot cell_ur5e --record recordings --yes --episodes 1 --max-seconds 20",
        "rdt2 data recordings recordings",
        "rdt2 data mark recordings success",
        "rdt2 data convert recordings data/mine --from recording",
        "rdt2 data check data/mine",
    ),
    "extend": ("python examples/new_task.py", "python examples/new_arm.py"),
    "others": ("make test-openpi",),
}
"""Rows of the README's table of ways, and the commands that are gone for each. Not gone: the published weights, the
original scripts, the operator's page, LeRobot, vla-eval and Ray, which take a GPU, a person or gigabytes."""


def gone(way: str, clone: Path, folder: Path, environment: dict[str, str]) -> dict[str, object]:
    """Go one way; the seconds of each command, and what the one that failed said."""
    took: dict[str, float] = {}
    for command in WAYS[way]:
        print(f"{way}: {command}", flush=True)
        began = time.monotonic()
        at = clone if command.startswith("make") else folder
        ended = subprocess.run(
            ["bash", "-ec", command], cwd=at, env=environment, capture_output=True, text=True, timeout=3600
        )
        took[command] = round(time.monotonic() - began, 1)
        print(f"{way}: {took[command]:.0f} s, exit {ended.returncode}", flush=True)
        if ended.returncode:
            print(ended.stdout[-2000:], ended.stderr[-4000:], sep="\n", flush=True)
            return {"seconds": took, "failed": command, "said": ended.stderr[-4000:]}
    return {"seconds": took}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[way for way in WAYS if way != SET_UP])
    parser.add_argument("--json", type=Path, help="write the figures to this file, after each way")
    options = parser.parse_args()
    found: dict[str, dict[str, object]] = {}
    with tempfile.TemporaryDirectory() as temporary:
        home, clone, folder = (Path(temporary) / name for name in ("home", "rdt2", "work"))
        home.mkdir()
        folder.mkdir()
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        (folder / "examples").symlink_to(clone / "examples")
        environment = {
            **{
                name: value
                for name, value in os.environ.items()
                if not name.startswith(("PYTHON", "VIRTUAL"))
            },
            "HOME": str(home),
            "PATH": f"{clone / '.venv' / 'bin'}:{os.environ['PATH']}",
        }
        commit = ["git", "rev-parse", "--short", "HEAD"]
        about = {
            "commit": subprocess.run(
                commit, cwd=clone, capture_output=True, text=True, check=True
            ).stdout.strip(),
            "date": time.strftime("%Y-%m-%d"),
            "platform": platform.platform(),
            "cores": os.cpu_count(),
        }
        for way in [SET_UP, *(options.only or [way for way in WAYS if way != SET_UP])]:
            found[way] = gone(way, clone, folder, environment)
            if options.json is not None:
                options.json.write_text(
                    json.dumps({**about, "ways": found}, indent=2) + "\n", encoding="utf-8"
                )
    for way, row in found.items():
        seconds = sum(row["seconds"].values())  # type: ignore[attr-defined]
        print(f"{way:10} {seconds / 60:5.1f} min {'FAILED' if 'failed' in row else ''}")
    return int(any("failed" in row for row in found.values()))


if __name__ == "__main__":
    sys.exit(main())
