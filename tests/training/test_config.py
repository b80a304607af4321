from __future__ import annotations

import importlib.util
import subprocess
import sys
import typing
from pathlib import Path

import numpy as np
import pytest

from rdt2.errors import CheckpointError, ConfigError, TrainingError
from rdt2.training.cli import run_training
from rdt2.training.config import (
    CONFIGS,
    DistillTraining,
    ExpertTraining,
    TokenizerTraining,
    VQTraining,
    check_installed,
)
from rdt2.training.settings import load_settings, to_mapping


def test_defaults_are_the_published_recipe():
    vq, expert = VQTraining(), ExpertTraining()
    assert (vq.learning_rate, vq.schedule, vq.warmup_steps, vq.batch_size, vq.clip_norm) == (
        1e-5,
        "cosine",
        500,
        64,
        1.0,
    )
    assert (expert.learning_rate, expert.schedule, expert.steps) == (1e-4, "constant", 50_000)
    assert (DistillTraining().learning_rate, DistillTraining().batch_size, DistillTraining().steps) == (
        1e-4,
        96,
        20_000,
    )
    assert (vq.betas, vq.weight_decay, vq.epsilon) == ((0.9, 0.999), 0.01, 1e-8)


def test_yaml_then_overrides(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("steps: 7\nlearning_rate: 1e-3\ntrackers: []\n")
    config = load_settings(VQTraining, preset, ["steps=9", "betas=[0.8, 0.95]"])
    assert (config.steps, config.learning_rate, config.trackers, config.betas) == (9, 1e-3, (), (0.8, 0.95))
    assert to_mapping(config)["betas"] == [0.8, 0.95]


@pytest.mark.parametrize(
    "preset",
    [
        "tokenizer",
        "tokenizer_tiny",
        "tokenizer_real",
        "pointing_tiny",
        "vq_tiny",
        "vq_small",
        "expert_small",
        "vq_full",
        "vq_lora",
        "vq_qlora",
        "expert_tiny",
        "expert",
        "distill",
        "distill_tiny",
    ],
)
def test_shipped_presets_load(preset, request):
    stage = CONFIGS[preset.split("_")[0]]
    named = ["tokenizer=runs/tokenizer/model"] if preset == "vq_tiny" else []  # as the README has it
    load_settings(stage, request.config.rootpath / "configs" / "training" / f"{preset}.yaml", named)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "Did you mean 'learning_rate'"),
        ("steps=many", "expected a whole number"),
        ("steps=true", "expected a whole number"),
        ("steps=1.5", "steps is 1.5, expected a whole number"),
        ("steps=0", "steps is 0, expected a whole number, 1 or more .Optimizer steps of the whole run"),
        ("steps=-3", "1 or more"),
        ("steps=", "steps is nothing"),
        ("steps=[1", "the value cannot be read"),
        ("schedule=linear", "expected one of cosine, constant"),
        ("learning_rate=fast", "expected a number"),
        ("learning_rate=0", "a number, above 0 and at most 1"),
        ("learning_rate=-1e-4", "above 0"),
        ("learning_rate=.nan", "expected a number, finite"),
        ("learning_rate=.inf", "expected a number, finite"),
        ("learning_rate=1e400", "expected a number, finite"),
        ("clip_norm=0", "clip_norm is 0, expected a number, above 0 .Gradients are scaled down"),
        ("clip_norm=-1", "above 0"),
        ("batch_size=0", "1 or more"),
        ("batch_size=1.5", "expected a whole number"),
        ("batch_size='12 '", None),
        ("accumulate=0", "Batches whose gradients are added"),
        ("log_every=0", "Steps between logged losses"),
        ("save_every=0", "1 or more"),
        ("keep_checkpoints=0", "1 or more"),
        ("evaluate_every=-1", "0 or more"),
        ("evaluate_samples=0", "1 or more"),
        ("warmup_steps=-1", "0 or more"),
        ("seed=-1", "at most 4294967295"),
        ("seed=99999999999999999999", "at most 4294967295"),
        ("weight_decay=-0.1", "0 or more and at most 1"),
        ("epsilon=0", "above 0"),
        ("ema=1", "0 or more and below 1"),
        ("held_out=0.6", "0 or more and at most 0.5"),
        ("betas=[0.9]", "expected 2 values, not 1"),
        ("betas=[0.9, 1.0]", "0 or more and below 1"),
        ("betas=[0.9, x]", "expected a number"),
        ("betas=0.9", "expected a list"),
        ("trackers=tensorboard", "expected a list"),
        ("trackers=[tensorbord]", "expected one of tensorboard, wandb, trackio"),
        ("augment=1", "expected one of true, false, colours"),
        ("start_from=", "expected a text"),
        ("start_from=12", "expected a text"),
        ("lora_rank=0", "Rank of the adapters"),
        ("lora_dropout=1", "below 1"),
        ("frozen_layers=-1", "0 or more"),
        ("steps", "expected key=value"),
        ("learning_rate=1e-4", None),
        ("steps=1e4", None),
    ],
)
def test_bad_settings_are_named(override, message):
    if message is None:
        load_settings(VQTraining, None, [override])
        return
    with pytest.raises(ConfigError, match=message) as error:
        load_settings(VQTraining, None, [override])
    assert override.partition("=")[0] in str(error.value)


@pytest.mark.parametrize("stage", CONFIGS.values())
def test_every_number_has_a_range(stage):
    """Half of the settings would otherwise end in a traceback or, worse, in a model that learnt nothing."""
    for name, hint in typing.get_type_hints(stage, include_extras=True).items():
        if any(kind in str(hint) for kind in ("int", "float")) and "Literal" not in str(hint):
            assert "Range(" in str(hint), name


def test_settings_made_in_python_are_checked_too():
    with pytest.raises(ConfigError, match="ExpertTraining: draws is 0"):
        ExpertTraining(draws=0)
    with pytest.raises(ConfigError, match="teacher_steps is 1, expected a whole number, 2 or more"):
        DistillTraining(start_from="x", teacher_steps=1)
    assert type(VQTraining(steps=np.int64(3)).steps) is int
    assert VQTraining(start_from=Path("model")).start_from == "model"


def test_settings_that_contradict_each_other_are_said_without_loading_anything():
    for stage, overrides, message in (
        (VQTraining, ["mirror=true"], "mirror=true needs the tokenizer"),
        (VQTraining, ["adapter=lora", "frozen_layers=2"], "is for adapter=none"),
        (ExpertTraining, ["augment=true", "kv_cache=cache"], "does not go with augment=true"),
        (DistillTraining, ["start_from=scratch"], "needs a teacher"),
        (TokenizerTraining, ["ema=0.9"], "is not for the tokenizer"),
        (TokenizerTraining, ["shard=true"], "does not go with a tokenizer from random weights"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_settings(stage, None, overrides)
    assert load_settings(TokenizerTraining, None, ["shard=true", "linear_start=100"]).shard


def test_who_is_wrong_is_named(tmp_path):
    preset = tmp_path / "preset.yaml"
    preset.write_text("steps: 7\n")
    with pytest.raises(
        ConfigError, match=r"^--set stepz=3: no setting 'stepz'.* Did you mean 'steps'"
    ) as error:
        load_settings(VQTraining, preset, ["stepz=3"])
    assert "preset.yaml" not in str(error.value)
    preset.write_text("step: 7\n")
    with pytest.raises(ConfigError, match=r"preset.yaml: no setting 'step'.* Did you mean 'steps'"):
        load_settings(VQTraining, preset, ["seed=3"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"steps: 7\nsteps: 8\n", "'steps' stands there twice"),
        (b"steps: [7\n", "is no yaml"),
        (b"steps: \xff\n", "cannot be read"),
        (b"- steps\n", "expected 'key: value' lines, got a list"),
        (b"7: 7\n", "no setting '7'"),
        (b"? [a, b]\n: 3\n", "is no yaml|no setting"),
    ],
)
def test_a_preset_that_cannot_be_read_is_named(tmp_path, text, message):
    preset = tmp_path / "preset.yaml"
    preset.write_bytes(text)
    with pytest.raises(ConfigError, match=message):
        load_settings(VQTraining, preset)


def test_missing_preset_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no such configuration file.*vq_full, vq_lora"):
        load_settings(VQTraining, tmp_path / "none.yaml")


def test_a_shipped_preset_goes_by_its_name_in_any_folder(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    shipped = request.config.rootpath / "configs" / "training" / "expert_tiny.yaml"
    assert load_settings(ExpertTraining, "expert_tiny") == load_settings(ExpertTraining, shipped)
    (tmp_path / "expert_tiny").write_text("steps: 3")
    assert load_settings(ExpertTraining, "expert_tiny").steps == 3, "a file of one's own goes first"


def test_a_wrong_setting_is_said_before_torch_is_loaded(tmp_path):
    program = (
        "import sys\nfrom rdt2.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\n"
        "finally:\n    print(sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules)))"
    )
    arguments = ["train", "vq", "--data", str(tmp_path), "--out", str(tmp_path / "out"), "--set", "steps=0"]
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True)
    assert done.returncode == 2, done.stderr
    assert "--set steps=0: steps is 0" in done.stderr
    assert done.stdout.strip() == "[]"


def test_a_package_that_a_run_needs_is_asked_for_before_anything_is_loaded(monkeypatch):
    for package, config, message in (
        ("matplotlib", VQTraining(), r"needs matplotlib.*pip install 'rdt2\[train\]'\.$"),
        ("peft", VQTraining(adapter="lora"), r"'rdt2\[train\]', or set adapter=none"),
        ("bitsandbytes", VQTraining(adapter="qlora"), r"'rdt2\[quant\]', or set adapter=lora"),
        ("bitsandbytes", ExpertTraining(quantize="int4"), r"or set quantize=int8"),
        ("trackio", VQTraining(trackers=("trackio",)), r"'rdt2\[trackio\]', or set trackers=\[\]"),
    ):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda name, p=package: object() if name != p else None
        )
        with pytest.raises(ConfigError, match=message):
            check_installed(config)


def test_a_gpu_that_is_too_small_is_no_traceback(tmp_path, monkeypatch):
    import torch

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 GiB")

    monkeypatch.setattr("rdt2.training.cli._build_stage", full)
    with pytest.raises(
        TrainingError,
        match=r"--resume --set batch_size=4 --set accumulate=4 \(now 8 and 2\), which learns the",
    ):
        run_training(
            "tokenizer",
            config=None,
            overrides=["batch_size=8", "accumulate=2"],
            data=tmp_path,
            out=tmp_path / "out",
        )


@pytest.mark.parametrize(
    ("stage", "preset", "settings", "told"),
    [
        (
            "vq",
            "vq_tiny",
            ["tokenizer=runs/tokenizer/model"],
            "runs/pointing/model: no such folder. It is the preset's own: start_from of vq_tiny, made by 'rdt2 train "
            "pointing' (docs/training.md). Name yours with --set start_from=FOLDER, or take --config vq_small, which "
            "starts from nothing.",
        ),
        (
            "expert",
            "expert_tiny",
            [],
            "runs/vq/model: no such folder. It is the preset's own: vlm of expert_tiny, made by 'rdt2 train vq' "
            "(docs/training.md). Name yours with --set vlm=FOLDER.",
        ),
    ],
)
def test_a_missing_folder_that_the_preset_names_is_told_as_the_preset_s(
    tmp_path, monkeypatch, stage, preset, settings, told
):
    """Regression: "no such folder" of a name that the user never gave."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError) as caught:
        run_training(stage, config=preset, overrides=settings, data=tmp_path, out=tmp_path / "out")
    assert str(caught.value) == told


def test_a_folder_that_the_user_names_is_not_told_as_the_preset_s(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tmp_path / "own.yaml"
    own.write_text("start_from: runs/pointing/model\n")
    for preset, settings in (("vq_tiny", ["start_from=runs/pointing/model", "mirror=false"]), (own, [])):
        with pytest.raises(CheckpointError, match="runs/pointing/model: no such folder") as caught:
            run_training("vq", config=preset, overrides=settings, data=tmp_path, out=tmp_path / "out")
        assert "preset" not in str(caught.value)
