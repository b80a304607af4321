"""The most main memory that a command takes, with all processes it starts.

    python benchmarks/footprint.py --json demo_memory.json -- rdt2 demo

Looked at ten times a second: the proportional set size of each process (Linux), which counts what several of them
share once. What the command prints is shown; its exit status is handed on.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from pathlib import Path

EVERY = 0.1


def held(root: int) -> int:
    """Bytes of a process and all that came of it; of what has ended meanwhile, none."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:  # the name before it is in brackets, and may hold anything
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        children.setdefault(parent, []).append(int(folder.name))
    total, left = 0, [root]
    while left:
        process = left.pop()
        left += children.get(process, [])
        try:
            lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", nargs="+", help="behind --")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    began, peak = time.monotonic(), 0
    running = subprocess.Popen(options.command)
    while running.poll() is None:
        peak = max(peak, held(running.pid))
        time.sleep(EVERY)
    seconds = time.monotonic() - began
    print(f"{shlex.join(options.command)}: {peak / 1e9:.2f} GB at most, {seconds:.0f} s")
    if running.returncode:
        sys.exit(running.returncode)
    if options.json:
        machine = {
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "python": platform.python_version(),
        }
        figures = {
            "command": shlex.join(options.command),
            "peak_gb": peak / 1e9,
            "seconds": seconds,
            **machine,
        }
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
