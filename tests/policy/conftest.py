"""A tiny policy of each kind, from the models the golden values were computed with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from rdt2.policy import FMPolicy, VQPolicy, load_policy, save_bundle


@pytest.fixture(scope="session")
def parts(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Where each part of the tiny policies lies, in the published layouts."""
    expert = tmp_path_factory.mktemp("expert")
    config = json.loads((golden / "expert/config.json").read_text())["ctor"]
    (expert / "config.json").write_text(json.dumps(config))
    shutil.copyfile(golden / "expert/model.safetensors", expert / "model.safetensors")
    return {
        "vlm": golden / "vla/model",
        "processor": golden / "vla/processor",
        "tokenizer": golden / "rvq/hf_saved",
        "normalizer": golden / "normalizer/normalizer_upstream.pt",
        "expert": expert,
    }


@pytest.fixture(scope="session")
def bundles(parts: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A bundle folder a kind."""
    folder = tmp_path_factory.mktemp("bundles")
    common = {name: parts[name] for name in ("vlm", "processor", "normalizer")}
    save_bundle(folder / "fm", kind="fm", expert=parts["expert"], **common)
    save_bundle(folder / "vq", kind="vq", tokenizer=parts["tokenizer"], **common)
    return {"fm": folder / "fm", "vq": folder / "vq"}


@pytest.fixture(scope="session")
def fm(bundles: dict[str, Path]) -> FMPolicy:
    policy = load_policy(bundles["fm"])
    assert isinstance(policy, FMPolicy)
    return policy


@pytest.fixture(scope="session")
def vq(bundles: dict[str, Path]) -> VQPolicy:
    policy = load_policy(bundles["vq"])
    assert isinstance(policy, VQPolicy)
    return policy


@pytest.fixture(scope="session")
def samples(golden: Path) -> SimpleNamespace:
    """Three small left | right pictures with an instruction each."""
    arrays = np.load(golden / "vla/samples.npz")
    texts = json.loads((golden / "vla/samples.json").read_text())["instructions"]
    pictures = [np.concatenate(pair, axis=1) for pair in zip(arrays["left"], arrays["right"], strict=True)]
    return SimpleNamespace(
        pictures=pictures, instructions=[texts[f"k{i}"] for i in range(3)], tokens=arrays["action_token"]
    )
