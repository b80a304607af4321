"""Python that a reader may copy from README and guides does what it says, alike in both languages."""

from __future__ import annotations

import ast
import importlib
import re
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings
from made_up import write_recordings
from page_standing_in import Operator
from page_standing_in import serve as serve_page
from standing_in import serving

from rdt2.control import LoopConfig, run_episode
from rdt2.dashboard.messages import State

ROOT = Path(__file__).resolve().parent.parent
ENGLISH = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md")
    for path in ROOT.glob(pattern)
    if ".zh" not in path.name
)
# Whose snippets other tests run, where what they need is.
RUN_ELSEWHERE = {
    "docs/data_formats.md": "tests/data/test_data_formats_guide.py",
    "docs/integrations.md": "tests/peers/test_openpi.py",
    "docs/migration.md": "tests/test_readme.py",
}
RUN = {
    f"docs/{name}.md"
    for name in ("models", "control", "data", "dashboard", "evaluation", "recording", "robots", "serving")
} | {"README.md"}


def snippets(page: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text("utf-8"), flags=re.S)


def run(page: str, *changes: tuple[str, str], **names: Any) -> dict[str, Any]:
    """What the first snippet of a page leaves behind; `changes` make it small."""
    text = snippets(page)[0]
    for ours, small in changes:
        assert text.count(ours) == 1, ours
        text = text.replace(ours, small)
    exec(compile(text, page, "exec"), names)
    return names


@pytest.mark.parametrize("page", [page for page in ENGLISH if snippets(page)])
def test_each_snippet_is_run_by_a_test_and_alike_in_both_languages(page):
    chinese = page.replace(".md", ".zh-CN.md" if page == "README.md" else ".zh.md")
    code = [[ast.dump(ast.parse(each)) for each in snippets(name)] for name in (page, chinese)]
    assert code[0] == code[1]
    assert page in RUN or (ROOT / RUN_ELSEWHERE[page]).is_file()
    for later in snippets(page)[1:]:
        assert re.match("# needs ", later), later
    for node in ast.walk(ast.parse("\n".join(snippets(page)))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rdt2"):
            module = importlib.import_module(node.module)
            for name in node.names:
                assert hasattr(module, name.name), f"{node.module} has no {name.name}"


@pytest.mark.parametrize("page", ["README.md", "docs/models.md"])
def test_a_model_is_asked(page, capsys):
    run(page)
    assert capsys.readouterr().out.split("\n")[:2] == ["(24, 20)", "(24, 4, 4)"]


def test_a_robot_is_read_and_changed():
    assert run("docs/control.md")["slower"].arms["left"].bounds.speed == 0.25


def test_data_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_recordings(Path("data/demo"))
    run("docs/data.md")
    assert capsys.readouterr().out == "(16, 24, 20)\n"


def test_the_cell_is_an_environment(capsys):
    pytest.importorskip("mujoco")
    pytest.importorskip("gymnasium")
    told = run("docs/evaluation.md", ('task="pick")', 'task="pick", max_seconds=0.3)'))
    assert capsys.readouterr().out == f"{told['info']['instruction']} False\n"


def test_a_pilot_of_ones_own_drives():
    """For two seconds: while a person drives, no time of the episode goes by."""
    upwards, robot = run("docs/recording.md")["Upwards"](), fake_robot()
    ends = robot.clock.now() + 2.0

    class Briefly:
        def steer(self):
            return upwards.steer() if robot.clock.now() < ends else None

    before = robot.arms["left"].state().pose
    run_episode(
        robot, ConstantPolicy(), "Pick up the cup.", settings=fake_settings(), pilot=Briefly(),
        config=LoopConfig(latency=0.1), max_seconds=0.3,
    )  # fmt: skip
    assert 0.05 < robot.arms["left"].state().pose[2, 3] - before[2, 3] < 0.12


def test_a_robot_is_connected_and_asked(monkeypatch, capsys):
    monkeypatch.setattr("rdt2.robot.settings.RobotSettings.read", lambda name: fake_settings())
    monkeypatch.setattr("rdt2.devices.open_robot", lambda settings: fake_robot())
    run("docs/robots.md")
    assert capsys.readouterr().out == "[]\n"


def test_a_server_is_asked():
    with serving() as url:
        chunk = run("docs/serving.md", ("ws://127.0.0.1:8000", url))["chunk"]
    assert chunk.values.shape == (24, 20)


def test_a_page_looks_on(tmp_path, monkeypatch):
    """The cell without its clock, and an operator who presses start as soon as there is a reason to."""
    pytest.importorskip("mujoco")
    from rdt2.sim.cell import Cell

    operator, over = Operator(tmp_path), threading.Event()

    def press() -> None:
        pressed = 0
        while not over.wait(0.01):
            stages = [state.stage for state in operator.heard_of(State)]
            if stages and stages[-1] == ("ready", "over")[pressed]:
                operator.does("start")
                pressed += 1
                if pressed == 2:
                    return

    monkeypatch.setattr("rdt2.dashboard.showing.serve", serve_page)
    monkeypatch.setattr("rdt2.sim.realtime.RealtimeCell", Cell)
    monkeypatch.setattr("rdt2.policy.load_policy", lambda name: ConstantPolicy(0.0005))
    threading.Thread(target=press, daemon=True).start()
    try:
        told = run(
            "docs/dashboard.md",
            ("dashboard=True", "dashboard=True, dashboard_host=HOST"),
            ("max_seconds=20", "max_seconds=0.3"),
            HOST=operator.path,
        )
    finally:
        over.set()
    assert told["result"].ending == "time is up"
