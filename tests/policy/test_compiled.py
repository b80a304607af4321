"""Compiled policies give the same results, and really run compiled code, the same for all instructions."""

from __future__ import annotations

import gc
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

from rdt2.compiling import Backend
from rdt2.observation import Observation
from rdt2.policy import CompiledFMPolicy, CompiledVQPolicy, FMPolicy, VQPolicy, load_policy
from rdt2.policy.compiled import Recorded, padded_prompt
from rdt2.vlm import joined, text
from rdt2.vlm.joined import align_vision, join_projections

SHORT = "Pick up the apple."
LONG = (
    "Pick up the apple, then put it gently into the blue bowl that stands beside the big red cup on the left."
)


def observation(text: str) -> Observation:
    rng = np.random.default_rng(len(text))
    left, right = rng.integers(0, 256, (2, 384, 384, 3), dtype=np.uint8)
    return Observation(left, right, text)


@pytest.fixture
def unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies keep their plain layers, as on a GPU."""
    monkeypatch.setattr("rdt2.policy.load.pack_linears", lambda model: None)


@pytest.fixture
def counter() -> CompileCounter:
    """A backend that counts what it is given."""
    return CompileCounter()


class Runs:
    """A backend that counts how often what it made runs."""

    def __init__(self) -> None:
        self.count = 0
        self.made: list[weakref.ref[Callable[..., object]]] = []

    def __call__(self, module: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        def run(*inputs: object) -> object:
            self.count += 1
            return module(*inputs)

        self.made.append(weakref.ref(run))
        return run


def compiled_of(policy: FMPolicy | VQPolicy, backend: Backend) -> CompiledFMPolicy | CompiledVQPolicy:
    """A compiled policy of the same models."""
    parts = {name: getattr(policy, name) for name in ("vlm", "processor", "normalizer")}
    if isinstance(policy, FMPolicy):
        return CompiledFMPolicy(**parts, expert=policy.expert, backend=backend)
    return CompiledVQPolicy(**parts, tokenizer=policy.tokenizer, backend=backend)


@pytest.mark.parametrize("kind", ["fm", "vq"])
def test_only_the_policy_that_asked_runs_compiled_code(kind: str, bundles: dict[str, Path]):
    """regression: one compiled policy made all models of the process run compiled layers, for good."""
    shared, alone = load_policy(bundles[kind]), load_policy(bundles[kind])
    seen = [observation(SHORT), observation(LONG)]
    expected = alone.predict(seen, seed=0)
    backend = Runs()
    policy = compiled_of(shared, backend)
    ours = policy.predict(seen, seed=0)
    runs = backend.count
    assert runs > 0
    for plain in (shared, alone):  # one has the very models of the compiled policy
        for one, two, other in zip(plain.predict(seen, seed=0), ours, expected, strict=True):
            np.testing.assert_allclose(one.values, other.values, atol=1e-6)
            np.testing.assert_allclose(two.values, other.values, atol=1e-4)
    assert backend.count == runs, "a plain policy ran compiled code"
    assert backend.made
    assert all(made() is not None for made in backend.made)
    del policy
    gc.collect()
    assert not any(made() is not None for made in backend.made), "what was compiled goes with its policy"


def test_each_compiled_policy_has_code_of_its_own(bundles: dict[str, Path]):
    """regression: the second ran what the first had compiled, whatever backend it asked for."""
    first, second = Runs(), Runs()
    one = compiled_of(load_policy(bundles["vq"]), first)
    runs = first.count
    two = compiled_of(load_policy(bundles["vq"]), second)
    assert second.made
    assert first.count == runs
    ours, theirs = (policy.predict([observation(LONG)], seed=3)[0].values for policy in (one, two))
    np.testing.assert_array_equal(ours, theirs)
    assert first.count > runs


def test_compiled_fm_gives_the_same_chunks(
    bundles: dict[str, Path], fm: FMPolicy, samples: SimpleNamespace, counter: CompileCounter
):
    noise = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    expected = fm.predict_pictures(samples.pictures, samples.instructions, noise=noise)
    own = load_policy(bundles["fm"])
    policy = compiled_of(own, counter)
    assert counter.frame_count >= 3  # a layer of the language model, of the vision tower, and of the expert
    for row in range(3):  # these pictures are smaller than the warm-up's: the first compiles once more
        (ours,) = policy.predict_pictures(
            [samples.pictures[row]], [samples.instructions[row]], noise=noise[row : row + 1]
        )
        np.testing.assert_allclose(ours.values, expected[row].values, atol=1e-4)
        frames = counter.frame_count if row == 0 else frames
    assert counter.frame_count == frames, "other instructions of about this length find compiled code"
    again = noise.flip(0)  # a second draw, and the mean of both
    other = fm.predict_pictures(samples.pictures, samples.instructions, noise=again)
    both = policy.predict_pictures(samples.pictures, samples.instructions, noise=torch.cat([noise, again]))
    for row in range(3):
        np.testing.assert_allclose(
            both[row].values, (expected[row].values + other[row].values) / 2, atol=1e-4
        )
    together = policy.predict_pictures(samples.pictures, samples.instructions, noise=noise)
    for ours, theirs in zip(together, expected, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)


@pytest.mark.parametrize(("temperature", "draws"), [(0.0, 1), (20.0, 1), (20.0, 3)])
def test_compiled_vq_writes_the_same_tokens(
    bundles: dict[str, Path],
    samples: SimpleNamespace,
    counter: CompileCounter,
    temperature: float,
    draws: int,
):
    own = load_policy(bundles["vq"], temperature=temperature, draws=draws)
    assert isinstance(own, VQPolicy)
    expected = own.predict_pictures(samples.pictures, samples.instructions, seed=2)
    policy = CompiledVQPolicy(
        vlm=own.vlm, processor=own.processor, tokenizer=own.tokenizer, normalizer=own.normalizer,
        temperature=temperature, draws=draws, backend=counter,
    )  # fmt: skip
    assert (
        counter.frame_count >= 4
    )  # layers over the prompt and of the vision tower; the three parts of a token's
    frames = counter.frame_count
    ours = policy.predict_pictures(samples.pictures, samples.instructions, seed=2)
    for one, other in zip(ours, expected, strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-4)
    policy.predict_pictures(samples.pictures[::-1], samples.instructions[::-1], seed=2)
    assert counter.frame_count < 3 * frames, "nothing is compiled for each token or layer anew"


def test_prompts_are_padded_on_the_right_to_few_lengths(fm: FMPolicy, samples: SimpleNamespace):
    batch = fm.processor.prompt(samples.pictures, samples.instructions)
    prompt, grids = padded_prompt(batch, fm.processor.pad_id)
    assert prompt.input_ids.shape[1] % 32 == 0
    assert grids == tuple(map(tuple, batch["image_grid_thw"].tolist()))
    position = text.positions(batch)
    for row, count in enumerate(batch["attention_mask"].sum(-1).tolist()):
        assert int(prompt.last[row]) == count - 1
        assert prompt.attention_mask[row].tolist() == [1] * count + [0] * (len(prompt.input_ids[row]) - count)
        assert torch.equal(prompt.input_ids[row, :count], batch["input_ids"][row, -count:])
        assert torch.equal(prompt.position[:, row, :count], position[:, row, -count:])


@pytest.mark.usefixtures("unpacked")
def test_a_padded_vision_tower_gives_the_same(
    bundles: dict[str, Path], samples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(joined, "BLOCK", 100)
    policy = load_policy(bundles["vq"])
    expected = policy.predict_pictures(samples.pictures, samples.instructions)
    mlp = policy.vlm.model.visual.blocks[0].mlp
    assert mlp.gate_proj.out_features == 128
    align_vision(policy.vlm)
    assert mlp.gate_proj.out_features == mlp.up_proj.out_features == mlp.down_proj.in_features == 200
    ours = policy.predict_pictures(samples.pictures, samples.instructions)
    for one, other in zip(ours, expected, strict=True):
        assert np.array_equal(one.tokens, other.tokens)
        assert one.confidence == pytest.approx(other.confidence, abs=1e-5)


@pytest.mark.usefixtures("unpacked")
@pytest.mark.parametrize("quantized", [False, True])
def test_joined_projections_are_the_same_weights_in_one_piece(
    bundles: dict[str, Path], samples: SimpleNamespace, counter: CompileCounter, quantized: bool
):
    own = load_policy(bundles["vq"])
    assert isinstance(own, VQPolicy)
    attention = own.vlm.model.language_model.layers[1].self_attn
    if quantized:
        attention.q_proj.weight.requires_grad_(False)
        attention.q_proj.__class__ = type("QuantizedLinear", (torch.nn.Linear,), {})
    mlp = own.vlm.model.language_model.layers[1].mlp
    before_mlp = mlp.gate_proj.weight.clone(), mlp.up_proj.weight.clone()
    expected = own.predict_pictures(samples.pictures, samples.instructions)
    parts = attention.q_proj, attention.k_proj, attention.v_proj
    before = [part.weight.clone() for part in parts]
    join_projections(own.vlm)
    assert hasattr(attention, "joined") is not quantized
    for part, weight in zip(parts, before, strict=True):
        assert torch.equal(part.weight, weight)
    joined = own.vlm.model.language_model.layers[1].mlp
    assert torch.equal(joined.gate_proj.weight, before_mlp[0])
    assert torch.equal(joined.up_proj.weight, before_mlp[1])
    x = torch.randn(2, 3, joined.gate_proj.in_features)
    torch.testing.assert_close(joined(x), mlp(x))
    if not quantized:
        weight, bias = attention.joined
        assert weight.data_ptr() == attention.q_proj.weight.data_ptr()
        assert weight.shape[0] == bias.shape[0] == sum(part.out_features for part in parts)
    policy = compiled_of(own, counter)
    ours = policy.predict_pictures(samples.pictures, samples.instructions)
    for one, other in zip(ours, expected, strict=True):
        assert np.array_equal(one.tokens, other.tokens)


def test_patches_for_a_gpu_are_those_of_the_processor(bundles: dict[str, Path], samples, counter):
    own = load_policy(bundles["vq"])
    policy = compiled_of(own, counter)
    for count in (1, 3):
        pixel_values, grid = policy._patches(samples.pictures[:count])
        expected, expected_grid = own.processor.images(samples.pictures[:count])
        assert torch.equal(pixel_values, expected)
        assert torch.equal(grid, expected_grid)


def test_a_recording_on_a_cpu_is_the_function():
    double = Recorded(lambda x, times: x * times, torch.device("cpu"))
    assert double(torch.ones(2), fixed=(3,)).tolist() == [3, 3]


def test_no_sentence_and_no_batch_compiles_again_on_a_cpu(bundles: dict[str, Path], counter: CompileCounter):
    """regression: a longer sentence, then a batch, each took half a minute once more."""
    own = load_policy(bundles["fm"])
    policy = compiled_of(own, counter)
    frames = counter.frame_count
    for sentence, rows in ((SHORT, 1), (LONG, 1), (SHORT, 3), (LONG, 5), (SHORT, 2)):
        policy.predict([observation(sentence)] * rows, seed=0)
    assert counter.frame_count == frames


def test_no_sentence_and_no_batch_compiles_vq_again_on_a_cpu(
    bundles: dict[str, Path], counter: CompileCounter
):
    own = load_policy(bundles["vq"])
    policy = compiled_of(own, counter)
    frames = counter.frame_count
    for sentence, rows in ((SHORT, 1), (LONG, 1), (SHORT, 3), (LONG, 5)):
        policy.predict([observation(sentence)] * rows)
    assert counter.frame_count == frames


@pytest.mark.parametrize("kind", ["fm", "vq"])
def test_threads_that_share_a_compiled_policy_take_turns(
    kind: str, bundles: dict[str, Path], counter: CompileCounter, monkeypatch: pytest.MonkeyPatch
):
    """regression: on a GPU both wrote into the same recorded buffers."""
    shared = compiled_of(load_policy(bundles[kind]), counter)
    alone = [shared.predict([observation(sentence)], seed=0)[0].values for sentence in (SHORT, LONG)]
    inside, most, prompt = 0, 0, shared.processor.prompt

    def slow(*args, **kwargs):
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.02)
        batch = prompt(*args, **kwargs)
        inside -= 1
        return batch

    monkeypatch.setattr(shared.processor, "prompt", slow)
    with ThreadPoolExecutor(4) as threads:
        jobs = [
            threads.submit(shared.predict, [observation(sentence)], seed=0) for sentence in (SHORT, LONG) * 4
        ]
        found = [job.result()[0].values for job in jobs]
    assert most == 1
    for values, expected in zip(found, alone * 4, strict=True):
        np.testing.assert_array_equal(values, expected)
