"""A new kind is one file, in our package or in somebody else's, and what is wrong with it is said."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from rdt2.errors import ConfigError, TaskError
from rdt2.registry import Registry


@pytest.fixture
def kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty package `kinds_here`."""
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "kinds_here"
    package.mkdir()
    (package / "__init__.py").write_text("")
    for name in [name for name in sys.modules if name.startswith("kinds_here")]:
        monkeypatch.delitem(sys.modules, name)
    return package


def registry() -> Registry[int]:
    return Registry("number", "kinds_here", variable="NUMBER", kind=int, error=TaskError)


def plug_in(folder: Path, name: str, value: str) -> None:
    """An installed package that brings a kind."""
    info = folder / f"{name}_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[rdt2.kinds_here]\n{name} = {value}\n")


def test_a_file_is_a_kind_and_is_imported_when_asked_for(kinds: Path) -> None:
    (kinds / "two.py").write_text("NUMBER = 2")
    (kinds / "one.py").write_text("NUMBER = 1")
    (kinds / "_help.py").write_text("")
    (kinds / "broken.py").write_text("import nothing_like_it")
    numbers = registry()
    assert list(numbers) == ["broken", "one", "two"]
    assert numbers["two"] == 2
    with pytest.raises(ConfigError, match=r"number 'broken' cannot be loaded.*nothing_like_it"):
        numbers["broken"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("NUMBER = 1\nNUMBER = (2", r"line 2: SyntaxError: '\(' was never closed"),
        ("NUMBER = 1\n  NUMBER = 2", "line 2: IndentationError: unexpected indent"),
        (
            "def add(a, b):\n    return a + b\n\nNUMBER = add(1)",
            r"line 4: TypeError: add\(\) missing 1 required",
        ),
        ("import textwrap\nNUMBER = textwrap.dedent(3)", "line 2: TypeError"),
        (
            "from rdt2.registry import kind_names\nkind_names('nothing_here')",
            "line 2: nothing_here is no package",
        ),
        ("import nothing_like_it", "line 1: ModuleNotFoundError: No module named 'nothing_like_it'"),
    ],
)
def test_a_mistake_in_a_file_is_told_with_its_line(kinds: Path, text: str, told: str) -> None:
    """Regression: a traceback, and the advice to report a fault of rdt2."""
    (kinds / "odd.py").write_text(text)
    with pytest.raises(ConfigError, match=rf"^the number 'odd' cannot be loaded from .*odd\.py, {told}"):
        registry()["odd"]
    with pytest.raises(ConfigError, match=rf"odd\.py, {told}"):
        registry()["kinds_here.odd:NUMBER"]


def test_a_sentence_with_other_places_names_its_line(kinds: Path) -> None:
    from rdt2.sim.tasks import TASKS

    (kinds / "hoist.py").write_text(
        "from dataclasses import replace\nfrom rdt2.sim.tasks.pick import TASK as PICK\n\n"
        "TASK = replace(PICK, sentence='Hoist the {tool}.')\n"
    )
    with pytest.raises(
        ConfigError, match=r"hoist\.py, line 4: the sentence 'Hoist the \{tool\}.' has .*'tool'"
    ):
        TASKS["kinds_here.hoist:TASK"]


def test_an_arm_with_a_mistake_is_told_before_the_yaml_that_it_lacks(kinds: Path, monkeypatch) -> None:
    pytest.importorskip("mujoco")
    from rdt2.robot.models import ARM_MODELS
    from rdt2.sim import cell

    (kinds / "odd.py").write_text("ARM = (")
    place = EntryPoint("odd", "kinds_here.odd:ARM", "rdt2.models")
    monkeypatch.setitem(ARM_MODELS._places, "odd", place)
    monkeypatch.setattr(cell, "EMBODIMENTS", (*cell.EMBODIMENTS, "odd"))
    with pytest.raises(ConfigError, match=r"odd\.py, line 1: SyntaxError"):
        cell.cell_settings("odd")


def test_an_unknown_name_says_which_there_are_and_the_nearest(kinds: Path) -> None:
    (kinds / "seven.py").write_text("NUMBER = 7")
    with pytest.raises(TaskError, match=r"no number called 'sevn', only seven. Did you mean 'seven'"):
        registry()["sevn"]


def test_a_kind_of_an_installed_package(kinds: Path) -> None:
    (kinds / "one.py").write_text("NUMBER = 1")
    (kinds.parent / "mine.py").write_text("MY_NUMBER = 9")
    plug_in(kinds.parent, "nine", "mine:MY_NUMBER")
    numbers = registry()
    assert dict(numbers) == {"nine": 9, "one": 1}


def test_what_is_no_kind_is_refused(kinds: Path) -> None:
    (kinds / "one.py").write_text("NUMBER = 'one'")
    (kinds / "none.py").write_text("")
    numbers = registry()
    with pytest.raises(ConfigError, match="is a str, expected a int"):
        numbers["one"]
    with pytest.raises(ConfigError, match="NUMBER"):
        numbers["none"]
    plug_in(kinds.parent, "one", "mine:MY_NUMBER")
    with pytest.raises(ConfigError, match="two packages bring a number called 'one'"):
        list(registry())


def test_a_task_of_somebodys_own(kinds: Path) -> None:
    """One file: drawn, asked for and judged as ours are."""
    pytest.importorskip("mujoco")
    (kinds / "touch.py").write_text(
        textwrap.dedent(
            """
            from rdt2.sim.objects import graspable
            from rdt2.sim.tasks import TaskKind

            def touched(watch):
                return watch.task.hand in watch.holders

            NUMBER = TaskKind(
                stream=70, sentence="Touch the {target} with the {hand} hand.", about="object",
                draw=graspable, reached=touched, seconds=0.0,
            )
            """
        )
    )
    code = """
import sys
from rdt2.sim import Cell, Monitor, make_scene, task_for
scene = make_scene("touch", 3)
task = task_for(scene)
assert task.instruction == f"Touch the {scene.target} with the {scene.hand} hand."
with Cell("handheld", scene) as cell:
    monitor = Monitor(cell, task)
    cell.advance_to(0.2)
    assert not monitor.success
"""
    info = kinds.parent / "touch_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: touch_package\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[rdt2.tasks]\ntouch = kinds_here.touch:NUMBER\n")
    import os
    import subprocess

    path = os.pathsep.join([str(kinds.parent), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
