"""What becomes of a test of the clock on a machine that stands still."""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import machine

CASES = """
import pytest

@pytest.mark.realtime
def test_of_the_clock():
    assert False

def test_of_something_else():
    assert False
"""


def test_what_was_late_since_a_moment_is_told() -> None:
    watch = machine.Watch()
    try:
        began = time.monotonic()
        assert watch.lost(began + 60) == 0.0
        with open(watch._notes, "a") as notes:
            notes.write(f"{began + 70} 0.03\n{began + 80} 0.25\n{began + 90} 0.04\n")
        assert watch.lost(began + 60) == pytest.approx(250)
        assert watch.lost(began + 85) == pytest.approx(40)
    finally:
        watch.close()
    assert not watch._notes.exists()


@pytest.mark.parametrize(
    ("most", "outcome"), [(1e9, "2 failed, 2 rerun in"), (-1.0, "1 failed, 1 skipped, 2 rerun in")]
)
def test_a_failure_counts_unless_the_machine_stood_still_and_only_of_tests_of_the_clock(
    tmp_path, most: float, outcome: str
) -> None:
    here = Path(__file__).parent
    shutil.copy(here / "machine.py", tmp_path)
    conftest = (here / "conftest.py").read_text()
    (tmp_path / "conftest.py").write_text(conftest.replace("STOOD_STILL = 20.0", f"STOOD_STILL = {most}"))
    (tmp_path / "test_cases.py").write_text(CASES)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = realtime\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-ra",
        "-p",
        "no:cacheprovider",
        "--reruns",
        "1",
        str(tmp_path),
    ]
    said = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False).stdout
    assert outcome in said
    assert ("stood still for" in said) == (most < 0)
