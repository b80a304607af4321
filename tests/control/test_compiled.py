"""What is compiled is compiled wherever the package is installed, and anew whenever it changes."""

from __future__ import annotations

import ast
import runpy
from pathlib import Path

import pytest

from rdt2.control import compiled, gaps, geometry
from rdt2.robot import kinematics


def test_what_can_be_kept_nowhere_is_compiled_all_the_same():
    """Regression guard: an image whose user has no home, and whose packages belong to root."""
    made: dict = {}
    exec("def twice(x):\n    return 2 * x\n", made)  # of no file: Numba finds no place to keep it beside
    with pytest.warns(RuntimeWarning, match=r"cannot be kept \(RuntimeError\).*NUMBA_CACHE_DIR"):
        twice = compiled.compiled(compiled.NUMBER)(made["twice"])
    assert twice(1.5) == 3.0


def test_what_was_kept_and_is_damaged_is_compiled_all_the_same(tmp_path):
    """As a power cut leaves it: the file is there, and is not whole."""
    path = tmp_path / "made.py"
    path.write_text(
        "from rdt2.control.compiled import NUMBER, compiled\n@compiled(NUMBER)\ndef twice(x):\n    return 2 * x\n"
    )
    assert runpy.run_path(str(path))["twice"](1.5) == 3.0
    kept = list(tmp_path.rglob("*.nbi"))
    assert kept
    for each in kept:
        each.write_bytes(each.read_bytes()[:-20])
    with pytest.warns(RuntimeWarning, match="cannot be kept"):
        assert runpy.run_path(str(path))["twice"](1.5) == 3.0


def test_a_radian_weighs_the_same_in_both_kinematics():
    """Inverse kinematics is on a lower floor, and compiled files read constants of no other."""
    assert geometry.WEIGHT == kinematics.ROTATION_WEIGHT


@pytest.mark.parametrize("module", [gaps, geometry])
def test_compiled_functions_call_none_of_another_file(module):
    """Numba keeps what it compiled for as long as that file stays as it is, whatever happens to others."""
    tree = ast.parse(Path(module.__file__).read_text("utf-8"))
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in imported if name and name.startswith("rdt2")} == {"rdt2.control.compiled"}
