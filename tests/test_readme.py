"""What README and guides tell users to type does what it says, in both languages."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
import recorded
import recordings as recordings_of_others
from fake_robot import ConstantPolicy, fake_settings
from hy_tables import HandMotion, write_table
from motion import Motion

from rdt2.cli.main import _ASIDE as ASIDE
from rdt2.cli.main import commands as all_of_rdt2
from rdt2.cli.main import main, parse
from rdt2.cli.usage import checked, named
from rdt2.data import ShardIndex
from rdt2.data.recordings import read_recording

ROOT = Path(__file__).resolve().parent.parent
COMMANDS = all_of_rdt2()


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
def test_it_is_said_that_the_demo_has_a_start(name, words):
    """Wherever the demo is described: rdt2/demo/sight.py sets weights before training."""
    assert words in " ".join((ROOT / name).read_text(encoding="utf-8").split())


# What makes a run small; the command lines are the README's.
SMALL = {
    "data record": ["--episodes", "4", "--workers", "1"],
    "train": [
        *(
            "steps=2",
            "batch_size=4",
            "accumulate=1",
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
# Sections whose commands a test below runs, each line that is not marked.
TRAINING = ("docs/training.md", "## Train the demo model yourself", "## Fine-tune")
DATA = ("docs/data.md", "## Convert, check, look", "## The whole way on a laptop")
EVALUATION = (
    "docs/evaluation.md", "## In the cell", "## Two policies, or two settings", "## On recorded shards"
)  # fmt: skip
MIGRATION = ("docs/migration.md", "## The three scripts")
CONTROL = ("docs/control.md", "## A robot is a yaml file")
HY_EMBODIED = ("docs/hy_embodied.md", "## From the download to a model")
ROBOTS = ("docs/robots.md", "## First the cell", "## Then your robot's yaml")
RECORDING = ("docs/recording.md", "## Record", "## Look, mark, mend, convert")
RUN = {
    (page, section)
    for page, *sections in (
        *(TRAINING, DATA, EVALUATION, MIGRATION, CONTROL, HY_EMBODIED, ROBOTS, RECORDING),
    )
    for section in sections
}
# Sections whose commands other tests run: calibrations, a server, pages, what belongs to the machine.
RUN_ELSEWHERE = {
    ("README.md", "## Install"): ["tests/test_doctor.py"],
    ("docs/calibration.md", "# Calibration"): [
        "tests/calibration/test_calibrate.py",
        "tests/calibration/test_calibrate_devices.py",
    ],
    ("docs/command_line.md", "## Figures for programs"): ["tests/cli/test_screens.py"],
    ("docs/command_line.md", "## Completion"): ["tests/cli/test_screens.py"],
    ("docs/serving.md", "## Start one, ask it"): ["tests/cli/test_serve.py"],
    ("docs/dashboard.md", "## Open it"): ["tests/dashboard/test_page.py", "tests/dashboard/test_rerun.py"],
    ("docs/dashboard.md", "## From another machine"): ["tests/dashboard/test_rerun.py"],
    ("docs/dashboard.md", "## rerun"): ["tests/dashboard/test_rerun.py"],
    ("docs/integrations.md", "## openpi"): ["tests/peers/test_openpi.py"],
    ("docs/integrations.md", "## Ray"): ["tests/serving/test_replicas.py"],
}
# What the other sections of the integrations have typed, and the tests that type it, in environments of their own.
ELSEWHERE = {
    "lerobot-train": "packages/lerobot_policy_rdt2/tests/test_lerobot.py",
    "lerobot-rollout": "packages/lerobot_policy_rdt2/tests/test_lerobot.py",
    "python": "packages/vla_eval_rdt2/tests/test_vla_eval.py",
    "vla-eval": "packages/vla_eval_rdt2/tests/test_vla_eval.py",
}


FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)
LAUNCHED = re.compile(r"(torchrun --nproc-per-node 2|accelerate launch --config_file \S+) -m rdt2\.cli\.main")
NEEDS = re.compile(r"# (needs |需要)")
"""The mark of what no test has, a robot, a GPU, the hub: it holds until the next remark in the same block."""


def read(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def typed(text: str) -> list[tuple[list[str], bool]]:
    """The words of each line of the shell blocks, and whether it is marked; a launcher's `rdt2` is `rdt2`."""
    found = []
    for language, body in FENCED.findall(text):
        marked = False
        for line in body.replace("\\\n", " ").splitlines() if language == "bash" else ():
            if line.startswith("#"):
                marked = NEEDS.match(line) is not None
            elif words := shlex.split(LAUNCHED.sub("rdt2", line), comments=True):
                found.append((words, marked))
    return found


def sections(text: str) -> dict[str, str]:
    """By its heading: what stands below the title, and in each part."""
    code = [range(*block.span()) for block in FENCED.finditer(text)]
    places = [m for m in re.finditer(r"^##? .+$", text, re.M) if not any(m.start() in part for part in code)]
    ends = [*(place.start() for place in places[1:]), len(text)]
    return {place[0]: text[place.start() : end] for place, end in zip(places, ends, strict=True)}


def commands(page: str, section: str) -> list[list[str]]:
    """The words of each rdt2 command in a section that is not marked."""
    found = typed(sections(read(page))[section])
    return [words[1:] for words, marked in found if words[0] == "rdt2" and not marked]


def all_commands(place: tuple[str, ...]) -> list[list[list[str]]]:
    return [commands(place[0], section) for section in place[1:]]


def made_small(words: list[str]) -> list[str]:
    name = " ".join(words[:2])
    extra = [*SMALL.get(words[0], []), *SMALL.get(name, [])]
    if words[0] == "train":
        extra = [part for setting in extra for part in ("--set", setting)]
    return words if "--help" in words else [*words, *extra]


GUIDES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "packages/*/README.md")
    for path in ROOT.glob(pattern)
)
ENGLISH = [page for page in GUIDES if not re.search(r"\.zh(-CN)?\.md$", page)]
FIGURES = sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("benchmarks/results/*.md"))
PLACEHOLDERS = {"STAGE": "vq", "阶段": "vq", "KIND": "hdf5"}


@pytest.mark.parametrize("page", [page for page in ENGLISH if page.startswith(("README", "docs/"))])
def test_both_languages_give_the_same_commands(page):
    chinese = page.replace(".md", ".zh-CN.md" if page == "README.md" else ".zh.md")
    assert typed(read(page)) == typed(read(chinese))


def can_be_typed(words: list[str]) -> None:
    if words[0] in ASIDE or words[:2] == ["device", "peer"]:
        return
    if "--help" in words:
        named(words, COMMANDS)
        return
    parse(words)


def is_there(words: list[str]) -> bool:
    """What a line that is no `rdt2` names: a target, an extra, a script with its options, a tool with a test."""
    if words[0] == "make":
        return f"\n{words[1]}: " in read("Makefile")
    if "pip" in words[:3] and "-e" in words:
        extras = [extra for word in words for extra in re.findall(r"^\.\[(.+)\]$", word) or ()]
        known = set(re.findall(r"^([\w-]+) = \[", read("pyproject.toml"), re.M))
        folders = [word for word in words if word.startswith("packages/")]
        return {*",".join(extras).split(",")} - {""} <= known and all((ROOT / f).is_dir() for f in folders)
    if words[0] == "python" and words[1].endswith(".py"):
        told = "".join(
            read(f"{words[1].partition('/')[0]}/{Path(word).name}") for word in words if word[-3:] == ".py"
        )
        return all(f'"{word}"' in told for word in words if word.startswith("--"))
    return words[0] in ELSEWHERE or words[0] in ("export", "openssl", "pip") or "venv" in words


@pytest.mark.parametrize("page", ENGLISH)
def test_every_line_runs_in_a_test_or_says_what_it_needs(page):
    for language, body in FENCED.findall(read(page)):
        assert language or not re.search(r"^(rdt2|python|pip|make) ", body, re.M), body
    for section, text in sections(read(page)).items():
        for words, marked in typed(text):
            if words[0] == "rdt2":
                can_be_typed(words[1:])
                tests = "".join(map(read, RUN_ELSEWHERE.get((page, section), ())))
                verb = words[1] if words[1] in ASIDE else named(words[1:], COMMANDS)[0][-1]
                assert marked or (page, section) in RUN or re.search(rf"[^\w]{verb}\b", tests), words
            else:
                assert marked or is_there(words), words


def inline(text: str) -> Iterator[list[str]]:
    """The words of each command within sentences and tables; what a table's heading begins is put before its cells."""
    heading = ""
    for paragraph in re.split(r"\n\s*\n|\n(?=[|*-] )", FENCED.sub("", text)):
        found = re.findall(r"`([^`]+)`", paragraph.replace("\n", " "))
        if not paragraph.startswith("|"):
            heading = ""
        elif found and found[-1].endswith(" ..."):
            heading = found[-1]
        for each in found:
            words = shlex.split(each.replace("...", "")) if re.match(r"[\w-]+ ", each) else []
            if words and words[0] in ("rdt2", "make", "python", "pip"):
                yield words
            elif heading and each.startswith("--"):
                yield shlex.split(f"{heading} {each}".replace("...", ""))


@pytest.mark.parametrize("page", [*GUIDES, *FIGURES])
def test_every_command_within_a_sentence_is_there(page):
    """Options and choices; what else a command wants stands where it is shown."""
    for words in inline(read(page)):
        words = [PLACEHOLDERS.get(word, word) for word in words]
        if words[0] != "rdt2":
            assert is_there(words), words
        elif words[1] not in ASIDE:
            said, kind = named(words[1:], COMMANDS)
            if not isinstance(kind, dict):
                checked(" ".join(said), kind, words[1 + len(said) :])


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


def test_every_command_about_robots_runs_in_the_cell(simulated, capsys):
    quick = {
        "run": ["--yes", "--episodes", "1", "--max-seconds", "0.3"],
        "reset": ["--yes", "--speed", "30"],
    }
    for words in chain(*all_commands(ROBOTS)):
        if "--find" in words or "test" in words:  # this machine's devices; and what counts real time
            assert parse(words)
            continue
        main([*words, *quick.get(words[0], [])])
    said = capsys.readouterr()
    assert "over: time is up" in said.err
    assert "Nothing was enabled" in said.err
    assert "the arms are home" in said.err
    assert "free all the way" in said.out


def test_every_option_for_tools_of_others_is_in_a_test_of_theirs():
    """These run where the tools are: make test-lerobot, make test-vla-eval."""
    found = set()
    for words, _ in typed(read("docs/integrations.md")):
        if (test := ELSEWHERE.get(words[0])) is not None:
            told = read(test)
            found.add(words[0])
            for option in (word.split("=")[0] for word in words if word.startswith("--")):
                assert option in told, (words[0], option)
    assert found == set(ELSEWHERE)


def test_every_command_of_training_and_fine_tuning_runs(tmp_path, monkeypatch, capsys):
    """The demo, data, fine-tuning; the published checkpoints are folders of the same names with the demo's in them."""
    pytest.importorskip("mujoco")
    pytest.importorskip("lance")
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(ROOT / "configs")
    (demo, fine_tuning), recordings = all_commands(TRAINING), all_commands(DATA)

    ran = []

    def run(lines: list[list[str]]) -> None:
        for words in lines:
            if words in ran:  # another page says it, too
                continue
            ran.append(words)
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
    for lines in (*recordings, *all_commands(CONTROL), *all_commands(EVALUATION)):
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
    for lines in (*all_commands(MIGRATION), *all_commands(HY_EMBODIED)):
        run(lines)
    # the published expert brings no normalizer, and is asked with the tokenizer's
    Path("robotics-diffusion-transformer/RDT2-FM/normalizer.safetensors").unlink()
    (snippet,) = re.findall(r"```python\n(.*?)```", read("docs/migration.md"), flags=re.S)
    exec(compile(snippet.replace('device="cuda"', 'device="cpu"'), "docs/migration.md", "exec"), told := {})
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


def test_every_command_of_recording_does_what_it_says(tmp_path, monkeypatch, capsys):
    """What rdt2 run does is tested in tests/cli/test_recordings.py and tests/control."""
    pytest.importorskip("mcap")
    recording, afterwards = all_commands(RECORDING)
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
