"""Evaluations that are interrupted, compared and shown: files that say all that decided them."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml

pytest.importorskip("mujoco")

from made_up_episodes import Still, record, settings, view

from rdt2.cli.main import main
from rdt2.errors import ConfigError
from rdt2.evaluation import identity
from rdt2.evaluation.cell import evaluate_cell
from rdt2.evaluation.compare import compare
from rdt2.evaluation.page import Page
from rdt2.evaluation.results import CellEvaluation, Event, read_evaluation
from rdt2.policy import digests
from rdt2.policy.spec import PolicySpec
from rdt2.robot.settings import RobotSettings
from rdt2.sim.tasks import TASKS


def test_all_tasks_get_a_row_each_and_a_total(no_simulation, capsys):
    from rich.console import Console

    result = evaluate_cell(Still(), "ur5e", "all", episodes=2)
    assert [(r.task, r.index) for r in result.records] == [(task, k) for task in TASKS for k in range(2)]
    values = result.as_dict()
    assert (values["task"], values["episodes"], values["success"]) == ("all", 2 * len(TASKS), len(TASKS))
    assert {task: part["success"] for task, part in values["tasks"].items()} == dict.fromkeys(TASKS, 1)
    Console(width=120).print(result.table())
    lines = capsys.readouterr().out.splitlines()
    for label, count in {
        **dict.fromkeys(TASKS, "1/2"),
        "all tasks": f"{len(TASKS)}/{2 * len(TASKS)}",
    }.items():
        assert any(label in line and count in line for line in lines), label


def test_the_file_says_what_decided_the_result(no_simulation, tmp_path):
    file = tmp_path / "e.json"
    evaluate_cell(Still(), "ur5e", "pick", episodes=2, seed=3, json=file)
    found = json.loads(file.read_text())["settings"]
    assert found["loop"] == {
        "mode": "asynchronous", "execute_steps": 6, "latency": 0.1, "deadline": 2.0, "blend": 0.1, "max_seconds": 20.0,
    }  # fmt: skip
    assert found["robot"]["settings"]["arms"]["left"]["bounds"]["speed"] == 1.5
    assert found["scenes"]["seed"] == 3
    assert set(found["versions"]) >= {"rdt2", "rdt2 code", "torch", "mujoco", "numpy", "python"}
    assert found["policy"]["policy"] == "Still"
    run = json.loads(file.read_text())["runs"][0]
    assert run["command"]
    assert run["platform"]


class Interrupted:
    """Stops the evaluation after so many episodes, as Ctrl-C does."""

    def __init__(self, after: int):
        self.left = after

    def __call__(self, _):
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt


def test_an_interrupted_evaluation_goes_on_where_it_was(no_simulation, tmp_path):
    whole = evaluate_cell(Still(), "ur5e", "pick", episodes=5)
    no_simulation.clear()
    file = tmp_path / "e.json"
    with pytest.raises(KeyboardInterrupt):
        evaluate_cell(Still(), "ur5e", "pick", episodes=5, json=file, on_episode=Interrupted(3))
    kept = read_evaluation(file)
    assert not kept.complete
    assert kept.records == whole.records[:3]

    with pytest.raises(ConfigError, match=r"holds 3 episodes of an evaluation that was interrupted"):
        evaluate_cell(Still(), "ur5e", "pick", episodes=5, json=file)
    seen = []
    result = evaluate_cell(Still(), "ur5e", "pick", episodes=5, json=file, resume=True, on_start=seen.extend)
    assert len(seen) == 3
    assert [trial.index for trial, *_ in no_simulation] == [0, 1, 2, 3, 4], "none is run twice"
    assert result.records == whole.records == read_evaluation(file).records
    assert len(result.runs) == 2
    assert result.complete


def test_more_episodes_are_added_and_none_is_lost(no_simulation, tmp_path):
    file = tmp_path / "e.json"
    evaluate_cell(Still(), "ur5e", "pick", episodes=4, json=file, resume=True)
    more = evaluate_cell(Still(), "ur5e", "pick", episodes=9, json=file, resume=True)
    assert more.records == evaluate_cell(Still(), "ur5e", "pick", episodes=9).records
    with pytest.raises(ConfigError, match=r"5 episodes that are not asked for, such as number 4 of pick"):
        evaluate_cell(Still(), "ur5e", "pick", episodes=4, json=file, resume=True)
    assert read_evaluation(file).episodes == 9


def test_no_file_is_replaced(no_simulation, tmp_path):
    """Regression: without resume a complete evaluation, and a file of something else, was written over."""
    file, other, empty = (tmp_path / name for name in ("e.json", "notes.txt", "empty.json"))
    evaluate_cell(Still(), "ur5e", "pick", episodes=3, json=file)
    other.write_text("hours of work", "utf-8")
    empty.touch()
    before = file.read_bytes()
    no_simulation.clear()
    with pytest.raises(
        ConfigError, match=r"holds 3 episodes of an evaluation: expected a new file. --resume goes on"
    ):
        evaluate_cell(Still(), "ur5e", "pick", episodes=3, json=file)
    with pytest.raises(
        ConfigError, match=r"nothing that 'rdt2 evaluate cell' goes on with: expected a new file"
    ):
        evaluate_cell(Still(), "ur5e", "pick", episodes=3, json=other)
    assert not no_simulation
    assert file.read_bytes() == before
    assert other.read_text("utf-8") == "hours of work"
    evaluate_cell(Still(), "ur5e", "pick", episodes=2, json=empty)
    assert read_evaluation(empty).complete


def test_a_robot_with_one_arm_is_asked_for_that_hand_and_filmed(tmp_path):
    """Regression: half of its episodes asked for the arm that it has not."""
    pytest.importorskip("matplotlib")
    robot = RobotSettings.read("cell_ur5e").model_dump(mode="json")
    del robot["arms"]["left"]
    file, page = tmp_path / "one.yaml", Page(tmp_path / "p.html", "all")
    file.write_text(yaml.safe_dump(robot))
    result = evaluate_cell(Still(), str(file), "pick", episodes=2, max_seconds=0.2, page=page)
    assert [each.hand for each in result.records] == ["right", "right"]
    assert len({each.colour for each in result.records}) == 2
    assert page.write(result).read_text(encoding="utf-8").count("<article") == 2
    with pytest.raises(ConfigError, match="has the right arm alone"):
        evaluate_cell(Still(), str(file), "pick", episodes=2, swap_instruction=True)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"max_seconds": 10.0}, "loop.max_seconds is 20.0 in the file and 10.0 now"),
        ({"robot": "fr3"}, "robot.robot is 'ur5e' in the file and 'fr3' now"),
        ({"seed": 2}, "scenes.seed is 0 in the file and 2 now"),
        ({"blind": True}, "policy.blind is False in the file and True now"),
    ],
)
def test_what_has_changed_is_said(no_simulation, tmp_path, changes, said):
    file = tmp_path / "e.json"
    asked = {"policy": Still(), "robot": "ur5e", "task": "pick", "episodes": 2, "json": file}
    evaluate_cell(**asked)
    before = file.read_text()
    with pytest.raises(ConfigError, match=re.escape(said)):
        evaluate_cell(**{**asked, **changes}, resume=True)
    assert file.read_text() == before


def test_other_files_are_refused_with_what_they_lack(tmp_path):
    file = tmp_path / "x.json"
    for text, said in (
        ("{", "is no JSON"),
        ("[1]", "lacks everything"),
        ('{"records": []}', "lacks settings"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=said):
            read_evaluation(file)
    good = CellEvaluation(settings(), 1, [record(0, True)], 1.0).as_dict()
    for name in ("seed", "task", "success"):
        records = [{key: value for key, value in good["records"][0].items() if key != name}]
        file.write_text(json.dumps({**good, "records": records}))
        with pytest.raises(ConfigError, match=f"damaged .*{name}"):
            read_evaluation(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_evaluation(tmp_path / "none.json")


# ------------------------------------------------------------------------------------------------------- comparison


def evaluation(successes: str, **changes) -> CellEvaluation:
    """Of one task, an episode a letter: + or -."""
    records = [record(k, letter == "+") for k, letter in enumerate(successes)]
    return CellEvaluation(settings(**changes), len(records), records, 1.0)


def test_two_policies_are_compared_pair_by_pair(tmp_path, capsys):
    first, second = evaluation("++++++++--"), evaluation("+-+-----+-", policy__policy="q", loop__latency=0.3)
    found = compare(first, second)
    assert (found.total.both, found.total.only_first, found.total.only_second) == (2, 6, 1)
    assert found.total.difference == pytest.approx(0.5)
    assert found.total.p == pytest.approx(2 * (1 + 7) / 2**7)
    assert found.settings == [("policy.policy", "p", "q"), ("loop.latency", 0.1, 0.3)]
    files = []
    for name, each in (("a.json", first), ("b.json", second)):
        files.append(tmp_path / name)
        files[-1].write_text(json.dumps(each.as_dict()))
    main(["evaluate", "compare", *map(str, files), "--json", str(tmp_path / "c.json")])
    text = capsys.readouterr().out
    for word in ("loop.latency: 0.1 / 0.3", "8/10", "3/10", "+50", "0.12"):
        assert word in text, word
    assert json.loads((tmp_path / "c.json").read_text())["total"]["only_first"] == 6


def test_interrupted_evaluations_are_not_compared():
    """Both of them, after the same number of scenes: a verdict on a part that nobody chose."""
    first, second = (replace(evaluation(each), episodes_each=10) for each in ("++-", "+--"))
    with pytest.raises(ConfigError, match="the first has 3 episodes of pick and was interrupted"):
        compare(first, second)


def test_loaded_policies_are_told_apart_by_their_weights():
    """Regression: of one that was passed loaded only its class was known, and another went on with its file."""
    import torch

    class Made(Still):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.vlm = torch.nn.Linear(300, 5)

    one, same, other = (identity.policy_identity(None, Made(seed)) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert identity.policy_identity(None, Still())["weights"] is None


def test_other_scenes_are_not_compared():
    first = evaluation("++-")
    for second, said in (
        (evaluation("++"), "3 episodes of pick, the second 2 episodes of pick"),
        (
            evaluation("++-", scenes__scenery="unseen"),
            "scenery is seen in the first and unseen in the second",
        ),
        (
            replace(first, records=[replace(r, seed=r.seed + 1) for r in first.records]),
            "seed is 100 in the first",
        ),
        (
            replace(first, records=[replace(r, instruction="Press.") for r in first.records]),
            "instruction is .* and 'Press.' in the second",
        ),
    ):
        with pytest.raises(ConfigError, match=said):
            compare(first, second)


# --------------------------------------------------------------------------------------------------------- identity


def test_digests_follow_the_files(tmp_path, monkeypatch):
    monkeypatch.setenv("RDT2_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "LARGE", 8)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"0123456789")
    (folder / "train.log").write_text("not what decides")
    first = digests.file_digests(str(folder))
    assert set(first) == {"config.json", "model.safetensors"}
    assert list((tmp_path / "cache" / "digests").iterdir()), "a large file's digest is kept"

    def unread(*_):
        raise AssertionError("a large file is read once")

    with monkeypatch.context() as patch:
        patch.setattr(digests.hashlib, "sha256", lambda *a: unread() if not a else _sha256(*a))
        kept = digests._digest(folder / "model.safetensors")
    assert kept == first["model.safetensors"]
    (folder / "model.safetensors").write_bytes(b"0123456780")
    assert digests.file_digests(str(folder))["model.safetensors"] != kept
    for place in (tmp_path / "cache" / "digests").iterdir():
        place.write_text("broken")
    assert digests.file_digests(str(folder))["config.json"] == first["config.json"]


_sha256 = digests.hashlib.sha256


def test_policies_say_how_they_are_run():
    spec, loaded = PolicySpec(policy="demo-vq"), SimpleNamespace(draws=4, temperature=0.8, patience=1.0)
    found = identity.policy_identity(spec, loaded)
    assert (found["draws"], found["temperature"], found["dtype"], found["steps"]) == (4, 0.8, "float32", None)
    assert {"vlm", "tokenizer", "normalizer"} <= set(found["files"])
    assert all("model.safetensors" in files for files in (found["files"]["vlm"], found["files"]["tokenizer"]))


# ------------------------------------------------------------------------------------------------------------- page


def test_the_page_shows_failures_with_what_happened_when(tmp_path):
    pytest.importorskip("matplotlib")
    page = Page(tmp_path / "p.html")
    events = (
        Event(1.25, "pause", "the chunk is not valid"),
        Event(2.5, "held back", "left arm brakes", 0.12),
        Event(3.75, "collision", "left/forearm against table", 0.3),
    )
    failed = replace(
        record(1, False), events=events, pauses=1, collisions=1, slowed={"left arm brakes": 0.12}
    )
    for each in (record(0, True), failed):
        if page.wants(each):
            page.keep(each, view(events=each.events, success=each.success))
    place = page.write(CellEvaluation(settings(), 2, [record(0, True), failed], 1.0, [
        {"command": "rdt2 evaluate cell", "platform": "here"}
    ]))  # fmt: skip
    text = place.read_text(encoding="utf-8")
    assert text.count("<article") == 1
    assert text.count("data:video/mp4") == 1
    told = (
        "1.25 s",
        "the chunk is not valid",
        "left/forearm against table",
        "for 0.30 s",
        "left arm brakes: 0.12 s",
    )
    for word in (*told, 'id="pick-00001"', 'href="#pick-00001"', "Failures", "rdt2 evaluate cell"):
        assert word in text, word
    assert 'href="#pick-00000"' not in text
    assert not page.folder.exists()


def test_films_of_another_evaluation_are_not_shown(tmp_path):
    """Regression: what was left of one that was interrupted stood under the other's titles: the scenes are the same."""
    page = Page(tmp_path / "p.html")
    failed = record(1, False)
    page.begin({"policy": "b"}, keep=False)
    page.keep(failed, view(success=False))
    page.begin({"policy": "b"}, keep=True)
    assert list(page.folder.glob("*.html"))
    page.begin({"policy": "a"}, keep=True)
    assert not list(page.folder.glob("*.html"))


def test_films_come_from_worker_processes_and_survive_an_interruption(tmp_path):
    pytest.importorskip("matplotlib")
    page, file = Page(tmp_path / "p.html"), tmp_path / "e.json"
    asked = {"episodes": 2, "json": file, "page": page, "workers": 2, "max_seconds": 0.2, "resume": True}
    with pytest.raises(KeyboardInterrupt):
        evaluate_cell("demo-fm", "handheld", "press", **asked, on_episode=Interrupted(1))
    assert read_evaluation(file).episodes == 1
    kept = [place.name for place in page.folder.iterdir()]
    result = evaluate_cell("demo-fm", "handheld", "press", **asked)
    assert len(result.records) == 2
    assert set(kept) <= {place.name for place in page.folder.iterdir()}
    assert page.write(result).read_text(encoding="utf-8").count("<video") == 2
    files = read_evaluation(file).settings["policy"]["files"]
    assert "model.safetensors" in files["expert"]


def test_films_without_a_page_and_a_file_to_resume_are_asked_for(capsys):
    for line, said in (
        ("evaluate cell --film all", "--report page.html"),
        ("evaluate cell --resume", "--json FILE"),
        ("evaluate cell --policy nowhere --json pyproject.toml", "expected a new file. Name another"),
        ("evaluate cell --no-instruction --swap-instruction", "cannot be swapped"),
        ("evaluate cell --robot ur10", "there is no robot called 'ur10'"),
        ("evaluate cell --robot bimanual_ur5e", "kind: cell"),
    ):
        with pytest.raises(SystemExit):
            main(line.split())
        assert said in capsys.readouterr().err, line
