"""Another benchmark in slow motion: every clock of its processes goes at a part of its rate, and all waits are longer.

    python benchmarks/slow_motion.py 0.75 peers.py --scenes 100 --robot ur5e --json peers_ur5e.json

What has to keep up with a clock (the cell, all peers, all drivers, the loop) is asked for less in each true second; to
all of it nothing else is different, compiled libraries included. So a small machine shows what a larger one would do in
real time. Policies take less of that slower time, as on a faster processor. The figures say the rate (`slow_motion`
under `machine`). Linux with a C compiler: clocks and waits of the C library are scaled by a library that is loaded
before (slow_motion.c).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent


def scaling_library(folder: Path) -> Path:
    """Compile it into a folder.

    Raises:
        SystemExit: there is no C compiler, or it fails.
    """
    library = folder / "slow_motion.so"
    command = [
        "cc",
        "-O2",
        "-Wall",
        "-fPIC",
        "-shared",
        "-o",
        str(library),
        str(HERE / "slow_motion.c"),
        "-ldl",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise SystemExit("there is no C compiler `cc`. Install one: sudo apt-get install gcc") from None
    if done.returncode:
        raise SystemExit(f"slow_motion.c cannot be compiled:\n{done.stderr}")
    return library


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rate", type=float, help="seconds that pass in a true one, more than 0 and at most 1")
    parser.add_argument("benchmark", help="a file of this folder, and what it takes")
    parser.add_argument("options", nargs=argparse.REMAINDER)
    given = parser.parse_args()
    if not 0 < given.rate <= 1:
        parser.error(f"the rate is {given.rate:g}, expected more than 0 and at most 1")
    with tempfile.TemporaryDirectory() as folder:
        loaded = {"LD_PRELOAD": str(scaling_library(Path(folder))), "SLOW_MOTION": str(given.rate)}
        command = [sys.executable, str(HERE / given.benchmark), *given.options]
        raise SystemExit(subprocess.run(command, env={**os.environ, **loaded}, check=False).returncode)


if __name__ == "__main__":
    main()
