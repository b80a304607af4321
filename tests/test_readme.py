"""What the README tells users to type does what it says, in both languages."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from hy_tables import HandMotion, write_table

from rdt2.cli.main import main


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_first_snippet_runs(name, request, capsys):
    text = (request.config.rootpath / name).read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    exec(compile(snippet, name, "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == ["(24, 20)", "(24, 4, 4)"]


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
SECTIONS = {
    "README.md": ("## Train the demo model yourself", "## Your own recordings", "## Fine-tune"),
    "README.zh.md": ("## 自己训练演示模型", "## 使用自己的录制数据", "## 微调"),
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


def commands(text: str, section: str) -> list[list[str]]:
    """The words of each rdt2 command in a section's shell blocks; torchrun starts the same with two processes."""
    body = text.split(f"\n{section}\n")[1].split("\n## ")[0]
    lines = "\n".join(re.findall(r"```bash\n(.*?)```", body, flags=re.S)).replace("\\\n", " ").splitlines()
    found = [shlex.split(LAUNCHED.sub("rdt2", line), comments=True) for line in lines]
    return [words[1:] for words in found if words[:1] == ["rdt2"]]


def made_small(words: list[str]) -> list[str]:
    name = " ".join(words[:2])
    extra = [*SMALL.get(words[0], []), *SMALL.get(name, [])]
    if words[0] == "train":
        extra = [part for setting in extra for part in ("--set", setting)]
    return words if "--help" in words else [*words, *extra]


def test_both_languages_give_the_same_commands(request):
    for pages in (SECTIONS, MIGRATION, HY_EMBODIED, CONTROL):
        english, chinese = [
            [commands((request.config.rootpath / name).read_text("utf-8"), part) for part in parts]
            for name, parts in (
                (name, (part,) if isinstance(part, str) else part) for name, part in pages.items()
            )
        ]
        assert english == chinese
        assert all(english)


def test_every_command_of_training_and_fine_tuning_runs(request, tmp_path, monkeypatch, capsys):
    """In the order of the README; the published checkpoints are folders of the same names with the demo's in them."""
    pytest.importorskip("mujoco")
    pytest.importorskip("lance")
    text = (request.config.rootpath / "README.md").read_text("utf-8")
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(request.config.rootpath / "configs")
    demo, recordings, fine_tuning = (commands(text, section) for section in SECTIONS["README.md"])

    def run(lines: list[list[str]]) -> None:
        for words in lines:
            code = None
            try:
                main(made_small(words))
            except SystemExit as end:
                code = end.code
            assert not code, (words, capsys.readouterr().err)

    run(demo)
    run(
        commands((request.config.rootpath / "docs/control.md").read_text("utf-8"), CONTROL["docs/control.md"])
    )
    run(recordings)
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
    (snippet,) = re.findall(r"```python\n(.*?)```", text, flags=re.S)
    told: dict = {}
    exec(compile(snippet, name, "exec"), told)
    assert told["slower"].arms["left"].bounds.speed == 0.25
