"""What README and guides tell users to type does what it says, in both languages."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import recorded
import recordings as recordings_of_others
from fake_robot import ConstantPolicy, fake_settings
from hy_tables import HandMotion, write_table
from motion import Motion

from rdt2.cli.main import main, parse
from rdt2.data import ShardIndex
from rdt2.data.recordings import read_recording

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md", "docs/models.md", "docs/models.zh.md"])
def test_the_first_snippet_runs(name, request, capsys):
    text = (request.config.rootpath / name).read_text(encoding="utf-8")
    exec(compile(snippets(text)[0], name, "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == ["(24, 20)", "(24, 4, 4)"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "README.md",
            "Its VLM does not start from random weights: some are set beforehand so that words for colours",
        ),
        (
            "docs/model_card.md",
            "Its VLM does not start from random weights: some are set beforehand so that words",
        ),
        ("README.zh-CN.md", "它的 VLM 并非从随机权重开始"),
        ("docs/model_card.zh.md", "它的 VLM 并非从随机权重开始"),
    ],
)
def test_it_is_said_that_the_demo_has_a_start(name, words, request):
    """Wherever the demo is described: rdt2/demo/sight.py sets weights before training."""
    assert words in " ".join((request.config.rootpath / name).read_text(encoding="utf-8").split())


# What makes a run small; the command lines are the README's.
SMALL = {
    "data record": ["--episodes", "4", "--workers", "1"],
    "train": [
        *(
            "steps=2",
            "batch_size=4",
            "warmup_steps=0",
            "log_every=1",
            "evaluate_every=0",
            "evaluate_samples=4",
        ),
        *("precision=fp32", "trackers=[]"),
    ],
    "train tokenizer": ["linear_start=64", "batch_size=16"],
    **{f"train {stage}": ["compile=false"] for stage in ("pointing", "vq", "expert", "distill")},
    "evaluate cell": ["--episodes", "1", "--max-seconds", "0.5", "--workers", "1"],
    "evaluate shards": ["--limit", "4"],
    "tokenizer check": ["--max-position-mm", "1000", "--max-rotation-degrees", "180"],
}
TRAINING = {
    "docs/training.md": ("## Train the demo model yourself", "## Fine-tune"),
    "docs/training.zh.md": ("## 自己训练演示模型", "## 微调"),
}
DATA = {
    "docs/data.md": ("## Convert, check, look", "## The whole way on a laptop"),
    "docs/data.zh.md": ("## 转换、检查、查看", "## 在笔记本电脑上走完整个流程"),
}
EVALUATION = {
    "docs/evaluation.md": ("## In the cell", "## Two policies, or two settings", "## On recorded shards"),
    "docs/evaluation.zh.md": ("## 在仿真工作站里", "## 比较两个策略或两种设置", "## 在录制的分片上"),
}
CALIBRATION = {
    "docs/calibration.md": ("## The tool: `handeye`",),
    "docs/calibration.zh.md": ("## 工具：`handeye`",),
}


LAUNCHED = re.compile(r"(torchrun --nproc-per-node 2|accelerate launch --config_file \S+) -m rdt2\.cli\.main")
MIGRATION = {"docs/migration.md": "## The three scripts", "docs/migration.zh.md": "## 三个脚本"}
CONTROL = {
    "docs/control.md": "## A robot is a yaml file",
    "docs/control.zh.md": "## 一个机器人就是一个 yaml 文件",
}
HY_EMBODIED = {
    "docs/hy_embodied.md": "## From the download to a model",
    "docs/hy_embodied.zh.md": "## 从下载到模型",
}
ROBOTS = {
    "docs/robots.md": ("## First the cell", "## Then your robot's yaml"),
    "docs/robots.zh.md": ("## 先用仿真工作站", "## 然后写机器人的 yaml"),
}
SERVING = {
    "docs/serving.md": ("## Start one, ask it", "## Who may ask"),
    "docs/serving.zh.md": ("## 启动并询问", "## 谁可以询问"),
}
RECORDING = {
    "docs/recording.md": ("## Record", "## Look, mark, mend, convert"),
    "docs/recording.zh.md": ("## 录制", "## 查看、标记、修复、转换"),
}

DASHBOARD = {
    "docs/dashboard.md": ("## Open it", "## From another machine", "## rerun"),
    "docs/dashboard.zh.md": ("## 打开", "## 从另一台机器访问", "## rerun"),
}
INTEGRATIONS = {
    "docs/integrations.md": ("## openpi", "## Ray"),
    "docs/integrations.zh.md": ("## openpi", "## Ray"),
}
# What the other sections of the integrations have typed, and the tests that type it, in environments of their own.
ELSEWHERE = {
    "lerobot-train": "packages/lerobot_policy_rdt2/tests/test_lerobot.py",
    "lerobot-rollout": "packages/lerobot_policy_rdt2/tests/test_lerobot.py",
    "python": "packages/vla_eval_rdt2/tests/test_vla_eval.py",
    "vla-eval": "packages/vla_eval_rdt2/tests/test_vla_eval.py",
}


def commands(text: str, section: str) -> list[list[str]]:
    """The words of each rdt2 command in a section's shell blocks; torchrun starts the same with two processes."""
    body = text.split(f"\n{section}\n")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", body, flags=re.S)).replace("\\\n", " ").splitlines()
    found = [shlex.split(LAUNCHED.sub("rdt2", line), comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["rdt2"]]


def snippets(text: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text, flags=re.S)


def made_small(words: list[str]) -> list[str]:
    name = " ".join(words[:2])
    extra = [*SMALL.get(words[0], []), *SMALL.get(name, [])]
    if words[0] == "train":
        extra = [part for setting in extra for part in ("--set", setting)]
    return words if "--help" in words else [*words, *extra]


def test_both_languages_give_the_same_commands(request):
    for pages in (
        TRAINING,
        DATA,
        EVALUATION,
        CALIBRATION,
        MIGRATION,
        HY_EMBODIED,
        CONTROL,
        SERVING,
        RECORDING,
        ROBOTS,
        DASHBOARD,
        INTEGRATIONS,
    ):
        english, chinese = [
            [commands((request.config.rootpath / name).read_text("utf-8"), part) for part in parts]
            for name, parts in (
                (name, (part,) if isinstance(part, str) else part) for name, part in pages.items()
            )
        ]
        assert english == chinese
        assert all(english)


@pytest.mark.parametrize("pages", [SERVING, DASHBOARD, INTEGRATIONS])
def test_every_command_can_be_typed(pages, request):
    """What they do is tested in tests/cli/test_serve.py, tests/dashboard/test_page.py and test_rerun.py, and by
    make test-openpi and make test-ray."""
    page, sections = next(iter(pages.items()))
    text = (request.config.rootpath / page).read_text("utf-8")
    for section in sections:
        for words in commands(text, section):
            assert parse(words).spec.policy


@pytest.fixture
def simulated(monkeypatch):
    """A cell whose time goes by as fast as it can, and a policy that loads at once: `rdt2 run` as it is, in seconds."""
    pytest.importorskip("mujoco")
    import rdt2.control  # noqa: F401 - which knows the real PolicyProcess
    from rdt2.operation.opening import Opened, at_its_table
    from rdt2.sim.cell import Cell

    @contextlib.contextmanager
    def opened_cell(settings, scene, task=None):
        settings = at_its_table(settings, scene)
        with Cell.of(settings, scene) as cell:
            yield Opened(cell.robot(settings.sides), settings)

    class Policy(ConstantPolicy):
        def __init__(self, spec, *, open):
            super().__init__(0.0005)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

    monkeypatch.setattr("rdt2.operation.session.opened_cell", opened_cell)
    monkeypatch.setattr("rdt2.policy.process.PolicyProcess", Policy)


def test_every_command_about_robots_runs_in_the_cell(request, simulated, capsys):
    quick = {
        "run": ["--yes", "--episodes", "1", "--max-seconds", "0.3"],
        "reset": ["--yes", "--speed", "30"],
    }
    text = (request.config.rootpath / "docs/robots.md").read_text("utf-8")
    for section in ROBOTS["docs/robots.md"]:
        for words in commands(text, section):
            if "--find" in words or "test" in words:  # this machine's devices; and what counts real time
                assert parse(words)
                continue
            main([*words, *quick.get(words[0], [])])
    said = capsys.readouterr()
    assert "over: time is up" in said.err
    assert "Nothing was enabled" in said.err
    assert "the arms are home" in said.err
    assert "free all the way" in said.out
    for words in re.findall(r"^(rdt2 .*?)(?:#.*)?$", text, flags=re.M):  # those for a robot can be typed
        parse(shlex.split(words)[1:])


def test_every_option_for_tools_of_others_is_in_a_test_of_theirs(request):
    """These run where the tools are: make test-lerobot, make test-vla-eval."""
    root = request.config.rootpath
    text = (root / "docs/integrations.md").read_text("utf-8")
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", text, flags=re.S)).replace("\\\n", " ").splitlines()
    found = set()
    for words in (shlex.split(line, comments=True) for line in lines):
        if (test := ELSEWHERE.get(" ".join(words[:1]))) is not None:
            told = (root / test).read_text("utf-8")
            found.add(words[0])
            for option in (word.split("=")[0] for word in words if word.startswith("--")):
                assert option in told, (words[0], option)
    assert found == set(ELSEWHERE)


def test_every_command_of_training_and_fine_tuning_runs(request, tmp_path, monkeypatch, capsys):
    """The demo, data, fine-tuning; the published checkpoints are folders of the same names with the demo's in them."""
    pytest.importorskip("mujoco")
    pytest.importorskip("lance")
    root = request.config.rootpath
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(request.config.rootpath / "configs")
    demo, fine_tuning, *recordings = (
        commands((root / page).read_text("utf-8"), section)
        for pages in (TRAINING, DATA)
        for page, sections in list(pages.items())[:1]
        for section in sections
    )

    def run(lines: list[list[str]]) -> None:
        for words in lines:
            code = None
            try:
                main(made_small(words))
            except SystemExit as end:
                code = end.code
            assert not code, (words, capsys.readouterr().err)

    run(demo)
    written = [recordings_of_others.Recording(Motion(60, number=number)) for number in range(2)]
    for layout, folder in {"lerobot": "my_lerobot", "hdf5": "my_hdf5", "umi-zarr": "."}.items():
        Path(folder).mkdir(exist_ok=True)
        recordings_of_others.LAYOUTS[layout](written, Path(folder))
    run(
        commands((request.config.rootpath / "docs/control.md").read_text("utf-8"), CONTROL["docs/control.md"])
    )
    for lines in recordings:
        run(lines)
    for mine, published in {
        "runs/tokenizer/model": "robotics-diffusion-transformer/RVQActionTokenizer",
        "runs/vq/model": "robotics-diffusion-transformer/RDT2-VQ",
        "runs/expert/model": "robotics-diffusion-transformer/RDT2-FM",
    }.items():
        shutil.copytree(mine, published)
    shutil.copytree("data/demo", "DATA")
    shutil.copytree("data/demo", "OTHER")
    shutil.rmtree("runs")
    shutil.copytree("robotics-diffusion-transformer/RVQActionTokenizer", "NORMALIZER")
    run(fine_tuning)
    assert "good: in range" in capsys.readouterr().out
    motions = [HandMotion(40, number) for number in range(6)]
    write_table(Path("hy/table_000"), motions, tasks=["Fold the cloth."])
    for pages in (MIGRATION, HY_EMBODIED):
        page, section = next(iter(pages.items()))
        run(commands((request.config.rootpath / page).read_text("utf-8"), section))
    # the published expert brings no normalizer, and is asked with the tokenizer's
    Path("robotics-diffusion-transformer/RDT2-FM/normalizer.safetensors").unlink()
    for page in MIGRATION:
        here = snippets((root / page).read_text("utf-8"))[0].replace('device="cuda"', 'device="cpu"')
        exec(compile(here, page, "exec"), told := {})
        assert told["action_chunk"].shape == (24, 20)
    assert (Path("outputs/lora/model") / "adapter_config.json").is_file()
    assert (Path("outputs/full/model") / "config.json").is_file()
    assert (Path("outputs/expert/model") / "config.json").is_file()
    for model in (
        "runs/hy_fm/model",
        "runs/hy_vq/merged",
        "runs/lora/merged",
        "runs/expert/model",
        "runs/fast/model",
        "runs/rvq/model",
    ):
        assert (Path(model) / "config.json").is_file()


@pytest.mark.parametrize("name", CONTROL)
def test_the_snippet_about_robots_runs(name, request):
    text = (request.config.rootpath / name).read_text(encoding="utf-8")
    (snippet,) = snippets(text)
    told: dict = {}
    exec(compile(snippet, name, "exec"), told)
    assert told["slower"].arms["left"].bounds.speed == 0.25


def test_every_command_of_recording_does_what_it_says(request, tmp_path, monkeypatch, capsys):
    """What rdt2 run does is tested in tests/cli/test_recordings.py and tests/control."""
    pytest.importorskip("mcap")
    text = (request.config.rootpath / "docs/recording.md").read_text("utf-8")
    recording, afterwards = (commands(text, section) for section in RECORDING["docs/recording.md"])
    monkeypatch.chdir(tmp_path)
    for words in recording:
        asked = parse(words).recording
        assert asked.record == Path("recordings")
        assert asked.recorder({}) is not None
    assert [parse(words).recording.record_last for words in recording] == [None, 30.0, None]
    with parse(recording[2]).recording.opened_pilot(fake_settings()) as pilot:
        assert pilot is not None
    (path,) = recorded.make_recording(Path("recordings"))
    data = path.read_bytes()
    path.write_bytes(data[: int(0.95 * len(data))])
    path.with_suffix(".json").unlink()
    for words in afterwards:
        main(words)
    out = capsys.readouterr()
    assert "1 were cut off" in out.err
    assert "1 marked: success" in out.out
    assert "1 of them were cut off and have an end now" in out.out
    assert not read_recording(path).cut
    assert read_recording(path).notes.mark == "success"
    mine, corrections = ShardIndex("data/mine"), ShardIndex("data/corrections")
    assert {mine.meta(number)["driver"] for number in range(len(mine))} == {"policy", "person"}
    assert {corrections.meta(number)["driver"] for number in range(len(corrections))} == {"person"}
    main(["data", "mark", "recordings", "none"])
    main(["data", "recordings", "recordings", "--json", "list.json"])
    (listed,) = json.loads(Path("list.json").read_text())["recordings"]
    assert listed["mark"] is None
    assert listed["corrections"] == 1
    assert listed["instructions"] == [recorded.SENTENCE]
    with pytest.raises(SystemExit):
        main(["data", "convert", "recordings", "data/none", "--from", "recording"])
    assert "rdt2 data mark RECORDING success" in capsys.readouterr().err


def first_hour():
    spec = importlib.util.spec_from_file_location("first_hour", ROOT / "scripts" / "first_hour.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_ways_that_are_timed_can_be_typed():
    commands = [command for way in first_hour().WAYS.values() for command in way]
    for command in commands:
        words = shlex.split(command)
        if words[0] == "rdt2" and "&" not in words:
            parse(words[1:])
        elif words[0] == "python":
            assert (ROOT / words[1]).is_file()
        elif words[0] == "make":
            assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text("utf-8")


def test_a_way_that_fails_says_so(tmp_path, monkeypatch, capsys):
    timed = first_hour()
    ways = {"setup": ("make help",), "try": ("pwd; ls examples",), "learn": ("echo no >&2; exit 3", "true")}
    monkeypatch.setattr(timed, "WAYS", ways)
    monkeypatch.setattr("sys.argv", ["first_hour.py", "--json", str(tmp_path / "figures.json")])
    assert timed.main() == 1
    found = json.loads((tmp_path / "figures.json").read_text())["ways"]
    assert list(found["learn"]["seconds"]) == [ways["learn"][0]]
    assert (found["learn"]["failed"], found["learn"]["said"]) == (ways["learn"][0], "no\n")
    assert "failed" not in found["try"]
    assert re.search(r"learn .*FAILED", capsys.readouterr().out)
