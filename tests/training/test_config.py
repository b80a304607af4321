from __future__ import annotations

import pytest

from rdt2.errors import ConfigError
from rdt2.training.cli import CONFIGS
from rdt2.training.config import DistillTraining, ExpertTraining, VQTraining, load_config, to_mapping


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
    config = load_config(VQTraining, preset, ["steps=9", "betas=[0.8, 0.95]"])
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
    load_config(stage, request.config.rootpath / "configs" / "training" / f"{preset}.yaml")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("learning_rat=1", "Did you mean 'learning_rate'"),
        ("steps=many", "expected int"),
        ("steps=true", "whole number"),
        ("schedule=linear", "expected one of cosine, constant"),
        ("learning_rate=fast", "expected a number"),
        ("betas=[0.9]", "expected 2 values"),
        ("steps", "expected key=value"),
    ],
)
def test_bad_settings_are_named(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config(VQTraining, None, [override])


def test_missing_preset_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such configuration file"):
        load_config(VQTraining, tmp_path / "none.yaml")
