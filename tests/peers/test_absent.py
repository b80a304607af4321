"""A peer that is absent is a skipped test, and a failure where all of them have to be there."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WHOLE = "import pytest\n\npytest.importorskip('no_such_library', reason='pip install it')\n"
INSIDE = (
    "import pytest\n\ndef test_it():\n    pytest.importorskip('no_such_library', reason='pip install it')\n"
)
BUSY = "import pytest\n\ndef test_it():\n    pytest.skip('this machine is too busy')\n"


@pytest.mark.parametrize(
    ("code", "must", "ends"),
    [(WHOLE, "", 5), (WHOLE, "all", 2), (INSIDE, "", 0), (INSIDE, "all", 1), (BUSY, "all", 0)],
)
def test_what_is_absent_is_a_failure_where_it_must_be_there(tmp_path, code, must, ends) -> None:
    shutil.copy(Path(__file__).with_name("conftest.py"), tmp_path)
    (tmp_path / "test_peer.py").write_text(code)
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    environment = {**os.environ, "RDT2_PEERS": must}
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stdout
    if must and ends:
        assert "cannot run here, and RDT2_PEERS=all says that it must. Skipped: pip install it" in done.stdout


def test_the_public_workflow_misses_a_peer_wherever_there_is_one() -> None:
    """Regression: it skipped the tests of those that were absent, on every Python."""
    job = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))["jobs"]["test"]
    (step,) = [step for step in job["steps"] if "make test" in step.get("run", "")]
    said = step["env"]["RDT2_PEERS"]
    unless = re.fullmatch(r"\$\{\{ matrix\.python != '(3\.\d+)' && 'all' \|\| '' \}\}", said)[1]
    # one peer has no wheels for it; on every other Python of the matrix all have to be there
    (before,) = re.findall(
        r'"ur-rtde[^"]*python_version < \'(3\.\d+)\'"', (ROOT / "pyproject.toml").read_text("utf-8")
    )
    assert before == unless == job["strategy"]["matrix"]["python"][-1]
