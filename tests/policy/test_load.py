"""Loading is strict, and an error names the file and what to do."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rdt2.errors import CheckpointError, ConfigError, NormalizerError, RDT2Error
from rdt2.expert import Expert
from rdt2.normalizer import LinearNormalizer
from rdt2.packed import PackedLinear
from rdt2.policy import FMPolicy, PolicySpec, VQPolicy, load_policy, save_bundle
from rdt2.policy.load import ALIASES
from rdt2.policy.place import checked_dtype
from rdt2.tokenizer import ActionTokenizer
from rdt2.vlm import VLMProcessor, load_vlm


def copied(source: Path, target: Path) -> Path:
    target.mkdir(parents=True)
    for file in source.iterdir():
        if file.is_file():
            shutil.copyfile(file, target / file.name)
    return target


def test_published_folders_with_their_parts_given(parts: dict[str, Path]):
    common = {name: parts[name] for name in ("processor", "normalizer")}
    assert isinstance(load_policy(parts["expert"], vlm=parts["vlm"], **common), FMPolicy)
    assert isinstance(load_policy(parts["vlm"], tokenizer=parts["tokenizer"], **common), VQPolicy)


def test_a_normalizer_inside_the_folder_is_found(parts: dict[str, Path], tmp_path: Path):
    expert = copied(parts["expert"], tmp_path / "expert")
    shutil.copyfile(parts["normalizer"], expert / "normalizer.pt")
    assert isinstance(load_policy(expert, vlm=parts["vlm"], processor=parts["processor"]), FMPolicy)


def test_a_bundle_can_be_moved_with_its_parts(parts: dict[str, Path], tmp_path: Path):
    root = tmp_path / "first"
    for name in ("vlm", "processor", "expert"):
        copied(parts[name], root / name)
    shutil.copyfile(parts["normalizer"], root / "normalizer.pt")
    inside = {name: root / name for name in ("vlm", "processor", "expert")}
    file = save_bundle(root / "bundles" / "mine.json", kind="fm", normalizer=root / "normalizer.pt", **inside)
    assert json.loads(file.read_text())["vlm"] == "../vlm"
    root.rename(tmp_path / "second")
    assert isinstance(load_policy(tmp_path / "second" / "bundles" / "mine.json"), FMPolicy)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("{", "JSON"),
        ("[]", "kind"),
        ('{"kind": "pi0"}', "kind"),
        ('{"kind": "fm", "settings": {"temperature": 1}}', "settings are"),
        ('{"kind": "vq", "settings": {"draws": "many"}}', "settings are"),
        ('{"kind": "vq", "settings": [2]}', "settings are"),
        ('{"kind": "fm", "vlm": ".", "normalizer": "."}', "expert"),
        ('{"kind": "vq", "vlm": ".", "normalizer": "."}', "tokenizer"),
        ('{"kind": "fm", "vlm": ".", "normalizer": ".", "expert": ".", "model": "."}', "model"),
        ('{"kind": "fm", "vlm": "../gone", "normalizer": ".", "expert": "."}', r"gone.*relative to the file"),
        ('{"kind": "fm", "vlm": 3, "normalizer": ".", "expert": "."}', "'vlm' is 3"),
    ],
)
def test_a_bundle_that_does_not_hold_together_is_refused(tmp_path: Path, content: str, match: str):
    (tmp_path / "policy.json").write_text(content)
    with pytest.raises(CheckpointError, match=match) as caught:
        load_policy(tmp_path)
    assert "policy.json" in str(caught.value)


def test_a_bundle_is_written_whole_or_not_at_all(parts: dict[str, Path], tmp_path: Path):
    with pytest.raises(CheckpointError, match="expert"):
        save_bundle(tmp_path, kind="fm", vlm=parts["vlm"], normalizer=parts["normalizer"])
    assert not list(tmp_path.iterdir())


def test_paths_that_are_no_policy(parts: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(ALIASES, "demo-fm", tmp_path / "absent.json")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"model_type": "llama"}')
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text("{}")
    for path, match in (
        ("demo-fm", "demo checkpoint"),
        (tmp_path / "nowhere", "no such folder"),
        (run / "model", "has not come to its end.*--resume"),
        (tmp_path / "nowhere.json", "nowhere.json"),
        ("owner/never-made", "hub"),
        (tmp_path, "no checkpoint"),
        (other, "another model.*llama"),
        (parts["tokenizer"], "tokenizer="),
        (parts["expert"], "vlm=.*normalizer="),
        (parts["vlm"], "normalizer=.*tokenizer="),
    ):
        with pytest.raises(CheckpointError, match=match):
            load_policy(path)


def test_weights_are_never_made_up(parts: dict[str, Path], tmp_path: Path):
    """regression: missing weights became random without a word."""
    rest = {name: parts[name] for name in ("vlm", "processor", "normalizer")}
    expert = copied(parts["expert"], tmp_path / "expert")
    weights = load_file(expert / "model.safetensors")
    weights.pop("act_adaptor.0.bias")
    save_file({**weights, "lm_head.bias": torch.zeros(3)}, expert / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"act_adaptor\.0\.bias") as caught:
        load_policy(expert, **rest)
    assert "lm_head.bias" in str(caught.value)
    (expert / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_policy(expert, **rest)
    vlm = copied(parts["vlm"], tmp_path / "vlm")
    (vlm / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        load_policy(
            vlm, tokenizer=parts["tokenizer"], processor=parts["processor"], normalizer=parts["normalizer"]
        )


def test_a_vlm_without_its_processor_says_where_to_get_one(parts: dict[str, Path]):
    with pytest.raises(
        CheckpointError, match=r"no tokenizer\.json .*Qwen2\.5-VL-7B-Instruct.* as processor="
    ):
        load_policy(parts["expert"], vlm=parts["vlm"], normalizer=parts["normalizer"])


def test_parts_that_do_not_fit_each_other(parts: dict[str, Path], tmp_path: Path):
    rest = {name: parts[name] for name in ("vlm", "processor", "normalizer")}
    config = json.loads((parts["expert"] / "config.json").read_text())
    deep = copied(parts["expert"], tmp_path / "deep")
    config["config"]["selected_layers"] = [1, 2, 9]
    (deep / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"reads VLM layers \[1, 2, 9\].*0\.\.3"):
        load_policy(deep, **rest)

    narrow = copied(parts["vlm"], tmp_path / "narrow")
    vlm = json.loads((narrow / "config.json").read_text())
    (narrow / "config.json").write_text(
        json.dumps(vlm | {"num_attention_heads": 4, "num_key_value_heads": 2})
    )
    with pytest.raises(CheckpointError, match=r"1 key heads of 128, but .*2 of 64"):
        load_policy(parts["expert"], **(rest | {"vlm": narrow}))

    short = copied(parts["tokenizer"], tmp_path / "short")
    from rdt2.tokenizer import ActionTokenizer, CNNConfig, TokenizerConfig

    ActionTokenizer(
        TokenizerConfig(
            embedding_dim=8,
            cnn_config=CNNConfig(hidden_size=4, output_size=8),
            num_embeddings=16,
            n_codebooks={"pos": 2, "rot": 2, "grip": 1},
        )
    ).save_pretrained(short)
    with pytest.raises(CheckpointError, match="15 tokens"):
        load_policy(
            parts["vlm"], tokenizer=short, processor=parts["processor"], normalizer=parts["normalizer"]
        )


def test_steps_belong_to_fm(bundles: dict[str, Path]):
    with pytest.raises(CheckpointError, match="Euler"):
        load_policy(bundles["vq"], steps=1)
    with pytest.raises(ConfigError, match="steps is 0"):
        load_policy(bundles["fm"], steps=0)


def test_a_hostile_normalizer_is_refused(bundles: dict[str, Path], tmp_path: Path):
    """regression: a checkpoint's normalizer could run code."""
    proof, hostile = tmp_path / "executed", tmp_path / "normalizer.pt"

    class Trap:
        def __reduce__(self):
            return (Path.touch, (proof,))

    torch.save(Trap(), hostile)
    with pytest.raises(NormalizerError, match="refused"):
        load_policy(bundles["fm"], normalizer=hostile)
    assert not proof.exists()


def test_loaded_models_are_in_evaluation_mode(fm: FMPolicy, vq: VQPolicy):
    modules = (fm.vlm, fm.expert, vq.vlm, vq.tokenizer)
    assert not any(module.training for module in modules)


@pytest.mark.skipif(not torch.backends.mkl.is_available(), reason="without MKL nothing is packed")
def test_models_on_a_cpu_are_packed_in_float32_alone(bundles: dict[str, Path]):
    def packed(*models: torch.nn.Module) -> list[bool]:
        return [any(isinstance(each, PackedLinear) for each in model.modules()) for model in models]

    fm, vq = load_policy(bundles["fm"]), load_policy(bundles["vq"])
    assert packed(fm.vlm, fm.expert) == [True, True]
    assert packed(vq.vlm, vq.vlm.lm_head) == [True, False]
    half = load_policy(bundles["fm"], dtype=torch.bfloat16)
    assert packed(half.vlm, half.expert) == [False, False]


def test_a_bundles_own_settings_hold_unless_others_are_given(parts: dict[str, Path], tmp_path: Path):
    given = {name: parts[name] for name in ("vlm", "processor", "tokenizer", "normalizer")}
    own = {"draws": 4, "temperature": 0.8}
    file = save_bundle(tmp_path / "vq.json", kind="vq", settings=own, **given)

    def settings(**options: object) -> tuple[int, float]:
        policy = load_policy(file, **options)  # type: ignore[arg-type]
        assert isinstance(policy, VQPolicy)
        return policy.draws, policy.temperature

    assert settings() == (4, 0.8)
    assert settings(draws=2) == (2, 0.8)
    assert settings(temperature=0.5) == (4, 0.5)
    assert settings(temperature=0) == (1, 0)
    del given["tokenizer"]
    file = save_bundle(
        tmp_path / "fm.json", kind="fm", settings={"draws": 3}, expert=parts["expert"], **given
    )
    assert load_policy(file).draws == 3
    assert load_policy(file, draws=1).draws == 1


def test_layers_that_wait_in_memory_change_no_chunk(bundles: dict[str, Path], samples, fm: FMPolicy):
    noise = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    policy = load_policy(bundles["fm"], offload=2)
    assert isinstance(policy, FMPolicy)
    ours, theirs = (
        each.predict_pictures(samples.pictures, samples.instructions, noise=noise) for each in (policy, fm)
    )
    for one, other in zip(ours, theirs, strict=True):
        assert abs(one.values - other.values).max() < 1e-4
    with pytest.raises(ConfigError, match="leave out offload"):
        load_policy(bundles["fm"], offload=2, compile=True)


@pytest.mark.parametrize("device", ["gpu", "mps", "cuda:x", 3.5])
def test_devices_that_policies_do_not_run_on(bundles: dict[str, Path], device):
    with pytest.raises(ConfigError, match=r"device is .*expected cpu"):
        load_policy(bundles["fm"], device=device)


def test_a_gpu_that_is_not_there_is_said(bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch):
    """regression: torch's own errors, or a damaged file."""
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(ConfigError, match="built without CUDA"):
        load_policy(bundles["fm"], device="cuda")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no NVIDIA GPU"):
        load_policy(bundles["fm"], device=torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ConfigError, match=r"'cuda:9', but the GPUs here are cuda:0 to cuda:1"):
        load_policy(bundles["fm"], device="cuda:9")


def test_every_name_of_the_cpu_and_of_a_dtype(bundles: dict[str, Path]):
    """regression: cpu:0 called the file damaged, and "bfloat16" was no dtype."""
    assert load_policy(bundles["fm"], device="cpu:0").device == torch.device("cpu")
    for name in ("bfloat16", "bf16", "torch.bfloat16", torch.bfloat16):
        assert checked_dtype(name, torch.device("cpu")) == torch.bfloat16
    assert load_policy(bundles["fm"], dtype="bf16").expert.dtype == torch.bfloat16
    assert checked_dtype("float32", torch.device("cuda")) == torch.float32
    for wrong in ("int8", torch.float64, "bfloat", 16):
        with pytest.raises(ConfigError, match=r"dtype is .*expected one of float32"):
            load_policy(bundles["fm"], dtype=wrong)  # type: ignore[arg-type]


def test_a_processor_with_more_words_than_the_vlm(parts: dict[str, Path], tmp_path: Path):
    """regression: an IndexError out of torch."""
    other = copied(parts["processor"], tmp_path / "processor")
    words = json.loads((other / "tokenizer.json").read_text())
    last = max(each["id"] for each in words["added_tokens"])
    words["added_tokens"] += [
        {**words["added_tokens"][-1], "id": last + 1 + n, "content": f"<|more_{n}|>"} for n in range(4000)
    ]
    (other / "tokenizer.json").write_text(json.dumps(words))
    for policy in ("expert", "vlm"):
        rest = {name: parts[name] for name in ("vlm", "tokenizer", "normalizer")}
        with pytest.raises(CheckpointError, match=r"knows \d+ words, but the VLM .* has rows for"):
            load_policy(parts[policy], processor=other, **rest)


def test_a_policy_says_why_it_cannot_be_pickled(fm: FMPolicy, vq: VQPolicy):
    for policy in (fm, vq):
        for attempt in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(ConfigError, match=r"load_policy\(\.\.\.\) where it is used"):
                attempt(policy)


def test_a_folder_of_bundles_names_them(parts: dict[str, Path], tmp_path: Path):
    """regression: what 'export bundle' wrote was no checkpoint as a folder."""
    given = {name: parts[name] for name in ("vlm", "processor", "normalizer")}
    vq = save_bundle(tmp_path / "vq.json", kind="vq", tokenizer=parts["tokenizer"], **given)
    (tmp_path / "notes.json").write_text('{"kind": ["fm"]}')
    assert isinstance(load_policy(tmp_path), VQPolicy)
    fm = save_bundle(tmp_path / "fm.json", kind="fm", expert=parts["expert"], **given)
    with pytest.raises(CheckpointError, match="several policies") as caught:
        load_policy(tmp_path)
    assert f"{fm} or {vq}" in str(caught.value)
    with pytest.raises(CheckpointError, match="kind"):
        load_policy(tmp_path / "notes.json")


def test_near_misses_of_a_path_say_what_was_meant(parts: dict[str, Path], tmp_path: Path):
    run = tmp_path / "runs"
    copied(parts["expert"], run / "model")
    (run / "config.json").write_text('{"stage": "expert"}')
    with pytest.raises(CheckpointError, match=f"its model is {run / 'model'}"):
        load_policy(run)
    with pytest.raises(CheckpointError, match="is a file, expected the folder of a policy"):
        load_policy(run / "model" / "model.safetensors")


@pytest.fixture
def locked(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process, for now a user without rights, may not look into."""
    folder = tmp_path / "locked"
    folder.mkdir()
    for name in ("fm.json", "config.json", "normalizer.safetensors"):
        (folder / name).write_text("{}")
    folder.chmod(0)
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    folder.chmod(0o700)


def test_what_may_not_be_read_is_not_said_to_be_missing(locked: Path) -> None:
    """Regression: safetensors and is_file know no difference, or end in a PermissionError."""
    for load in (
        lambda: load_policy(locked),
        lambda: load_policy(locked / "fm.json"),
        lambda: load_vlm(locked),
        lambda: VLMProcessor.beside(locked),
        lambda: Expert.from_pretrained(locked),
        lambda: ActionTokenizer.from_pretrained(locked),
        lambda: LinearNormalizer.from_pretrained(locked),
        lambda: LinearNormalizer.from_pretrained(locked / "normalizer.safetensors"),
    ):
        with pytest.raises(RDT2Error, match=r"locked.*: permission denied\. .*chmod a\+rX"):
            load()


def test_options_are_those_of_the_spec(bundles):
    """regression: the command line lacked steps, dtype, processor and revision, which load_policy or the hub had."""
    policy = load_policy(PolicySpec(policy=str(bundles["fm"]), steps=2, dtype="float32"), draws=3)
    assert (policy.steps, policy.draws) == (2, 3)
    assert PolicySpec.of(Path("a"), device=1, dtype=torch.bfloat16, vlm=Path("b")) == PolicySpec(
        policy="a", device="cuda:1", dtype="torch.bfloat16", vlm="b"
    )
    with pytest.raises(ConfigError, match=r"no option 'step'\. Did you mean 'steps'"):
        load_policy("demo-fm", step=3)
    with pytest.raises(ConfigError, match="revision=v1 is of a repository of the hub"):
        load_policy(bundles["fm"], revision="v1")
    with pytest.raises(CheckpointError, match="owner/name@v1"):
        load_policy("owner/name", revision="v1")
