"""Both policies from pictures and sentences to chunks: parity with the reference, without its faults."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from rdt2.action import ActionChunk
from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.observation import Observation, jpeg_roundtrip, picture
from rdt2.policy import FMPolicy, Policy, VQPolicy, load_policy
from rdt2.policy.base import draw_noise, model_pictures

TOLERANCE = 1e-4


def stack(chunks: list[ActionChunk]) -> np.ndarray:
    return np.stack([chunk.values for chunk in chunks])


def observations(n: int = 2) -> list[Observation]:
    pictures = np.random.default_rng(0).integers(0, 256, (n, 2, 24, 24, 3), dtype=np.uint8)
    pictures = pictures.repeat(16, axis=2).repeat(16, axis=3)
    sentences = ["Pick up the red apple.", "Open the door.", "Put the cup in the bowl with the left hand."]
    return [Observation(left, right, sentences[i]) for i, (left, right) in enumerate(pictures)]


# ---------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("step", ["slow", "slow.jpeg"])
def test_vq_equals_the_reference(vq: VQPolicy, samples: SimpleNamespace, golden: Path, step: str):
    expected = load_file(golden / "vla/predict.safetensors")
    pictures = [jpeg_roundtrip(p) for p in samples.pictures] if step == "slow.jpeg" else samples.pictures
    chunks = vq.predict_pictures(pictures, samples.instructions)
    tokens = np.stack([chunk.tokens for chunk in chunks])
    assert np.array_equal(tokens, expected[f"predict.batch.{step}.action_tokens_clamped"].numpy())
    assert np.array_equal(tokens, samples.tokens)  # what the tiny VLM was fitted to
    np.testing.assert_allclose(
        stack(chunks), expected[f"predict.batch.{step}.action_pred"].numpy(), atol=TOLERANCE
    )
    assert all(chunk.valid and -0.1 < chunk.confidence <= 0 for chunk in chunks)


@pytest.mark.parametrize("step", ["fp32", "fp32.jpeg"])
def test_fm_equals_the_reference(fm: FMPolicy, samples: SimpleNamespace, golden: Path, step: str):
    stored = load_file(golden / "vla/inferencer.safetensors")
    noise = torch.cat([stored[f"inferencer.{step}.noise{i}"] for i in range(3)])
    pictures = [jpeg_roundtrip(p) for p in samples.pictures] if "jpeg" in step else samples.pictures
    chunks = fm.predict_pictures(pictures, samples.instructions, noise=noise)
    expected = np.stack([stored[f"inferencer.{step}.trajectory{i}"].numpy() for i in range(3)])
    np.testing.assert_allclose(stack(chunks), expected, atol=TOLERANCE)
    assert all(chunk.valid for chunk in chunks)


def test_fm_equals_the_reference_on_a_padded_batch(fm: FMPolicy, golden: Path):
    stored = load_file(golden / "vla/fm.safetensors")
    names = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    batch = {name: stored[f"fm_collate.{name}"] for name in names}
    batch["mm_token_type_ids"] = (batch["input_ids"] == fm.processor.image_id).long()
    chunks = fm.predict_batch(batch, noise=stored["fm.noise"])
    np.testing.assert_allclose(stack(chunks), stored["fm.trajectory"].numpy(), atol=TOLERANCE)


# ---------------------------------------------------------------------------------------------- observations


@pytest.mark.parametrize("kind", ["fm", "vq"])
def test_rows_follow_their_own_instruction_and_do_not_see_each_other(
    kind: str, request, samples: SimpleNamespace
):
    """regression: every row got row 0's instruction; right padding corrupted the shorter rows."""
    policy = request.getfixturevalue(kind)
    pictures = [samples.pictures[0]] * 3
    noise = torch.randn(1, 24, 20, generator=torch.Generator().manual_seed(3))
    extra = [{"noise": noise.expand(n, -1, -1)} if kind == "fm" else {} for n in (3, 1)]
    together = stack(policy.predict_pictures(pictures, samples.instructions, **extra[0]))
    for row, instruction in enumerate(samples.instructions):
        alone = policy.predict_pictures(pictures[:1], [instruction], **extra[1])
        np.testing.assert_allclose(together[row], alone[0].values, atol=TOLERANCE)
    assert np.abs(together[0] - together[1]).max() > 1e-3
    assert np.abs(together[1] - together[2]).max() > 1e-3


def test_prompts_are_padded_on_the_left(fm: FMPolicy, samples: SimpleNamespace):
    mask = fm.processor.prompt(samples.pictures, samples.instructions)["attention_mask"]
    assert (mask[:, -1] == 1).all()
    assert (mask[:, 0] == 0).any()


@pytest.mark.parametrize("kind", ["fm", "vq"])
def test_observations_in_chunks_out(kind: str, request):
    policy = request.getfixturevalue(kind)
    assert isinstance(policy, Policy)
    chunks = policy.predict(observations(), seed=0)
    assert [chunk.values.shape for chunk in chunks] == [(24, 20)] * 2
    assert all(chunk.valid for chunk in chunks)
    timing = chunks[0].timing
    assert {"jpeg", "prompt", "vlm", "total"} <= set(timing)
    assert timing["total"] == pytest.approx(sum(v for k, v in timing.items() if k != "total"))


@pytest.mark.parametrize("kind", ["fm", "vq"])
def test_the_jpeg_step_is_applied_by_both(kind: str, request, monkeypatch: pytest.MonkeyPatch):
    """regression: FM skipped the JPEG step that its training pictures had."""
    policy = request.getfixturevalue(kind)
    seen: list[np.ndarray] = []
    prompt = policy.processor.prompt
    monkeypatch.setattr(policy.processor, "prompt", lambda p, i: (seen.extend(p), prompt(p, i))[1])
    observation = observations(1)[0]
    policy.predict([observation], seed=0)
    assert np.array_equal(seen[0], jpeg_roundtrip(picture(observation)))
    assert not np.array_equal(seen[0], picture(observation))


def test_numpy_and_torch_pictures_give_the_same_chunk(fm: FMPolicy):
    """regression: numpy pictures raised TypeError."""
    given = observations(1)[0]
    left, right = torch.tensor(given.left), torch.tensor(given.right)
    tensors = Observation(left, right, given.instruction)
    assert np.array_equal(stack(fm.predict([given], seed=1)), stack(fm.predict([tensors], seed=1)))


# ---------------------------------------------------------------------------------------------- FM


def test_fm_seed_decides_and_a_batch_equals_its_rows(fm: FMPolicy):
    both = observations()
    together = stack(fm.predict(both, seed=5))
    np.testing.assert_allclose(together, stack(fm.predict(both, seed=5)), atol=0)
    alone = np.concatenate([stack(fm.predict([o], seed=5)) for o in both])
    np.testing.assert_allclose(together, alone, atol=TOLERANCE)
    assert np.abs(together - stack(fm.predict(both, seed=6))).max() > 0.1
    np.testing.assert_allclose(stack(fm.predict(both, seed=[6, 5]))[1], together[1], atol=1e-6)


def test_several_draws_of_fm_make_the_mean_chunk(
    bundles: dict[str, Path], fm: FMPolicy, samples: SimpleNamespace
):
    policy = load_policy(bundles["fm"], draws=3)
    assert isinstance(policy, FMPolicy)
    observations = [
        Observation(np.zeros((384, 384, 3), np.uint8) + k, np.full((384, 384, 3), 90, np.uint8), text)
        for k, text in enumerate("ab")
    ]
    ours = policy.predict(observations, seed=[5, 6])
    (alone,) = policy.predict(observations[1:], seed=6)
    np.testing.assert_allclose(ours[1].values, alone.values, atol=1e-5)
    noise = draw_noise(2, [5, 6], draws=3)
    drawn = [
        [chunk.values for chunk in fm.predict_pictures(model_pictures(observations), ["a", "b"], noise=each)]
        for each in noise.split(2)
    ]
    for row in range(2):
        np.testing.assert_allclose(ours[row].values, np.mean(drawn, axis=0)[row], atol=1e-5)


def test_one_step_is_noise_plus_velocity_at_zero(bundles, fm: FMPolicy, samples: SimpleNamespace):
    from rdt2.vlm import prefill

    student = load_policy(bundles["fm"], steps=1)
    noise = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    batch = fm.processor.prompt(samples.pictures, samples.instructions)
    with torch.no_grad():
        cond = fm.expert.prepare(prefill(fm.vlm, batch, fm.expert.config.selected_layers))
        expected = noise + fm.expert.velocity(noise, torch.zeros(3), cond)
    one_step = student.predict_pictures(samples.pictures, samples.instructions, noise=noise)
    np.testing.assert_allclose(stack(one_step), fm.normalizer.denormalize(expected).numpy(), atol=1e-5)


def test_fm_loads_only_the_layers_the_expert_reads(fm: FMPolicy):
    layers = fm.vlm.model.language_model.layers
    assert len(layers) == 3  # of 4
    assert not hasattr(fm.vlm, "lm_head")
    assert not hasattr(layers[-1], "mlp")


@pytest.mark.parametrize(
    ("vlm", "expert"), [("bfloat16", "float32"), ("float32", "bfloat16"), ("bfloat16",) * 2]
)
def test_mixed_dtypes_work(bundles, samples: SimpleNamespace, fm: FMPolicy, vlm: str, expert: str):
    """regression: float32 inference failed with mixed dtypes (this expert's file is bfloat16)."""
    noise = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    exact = stack(fm.predict_pictures(samples.pictures, samples.instructions, noise=noise))
    policies = {d: load_policy(bundles["fm"], dtype=getattr(torch, d)) for d in {vlm, expert}}
    mixed = FMPolicy(
        vlm=policies[vlm].vlm,
        processor=fm.processor,
        expert=policies[expert].expert,
        normalizer=fm.normalizer,
    )
    chunks = mixed.predict_pictures(samples.pictures, samples.instructions, noise=noise)
    assert all(chunk.valid and chunk.values.dtype == np.float32 for chunk in chunks)
    assert np.abs(stack(chunks) - exact).max() < 0.1


def test_fm_output_that_is_not_finite_is_marked_row_by_row(
    fm: FMPolicy, samples, monkeypatch: pytest.MonkeyPatch
):
    honest = fm.expert.sample

    def broken(*args, **kwargs):
        result = honest(*args, **kwargs).clone()
        result[1, 4, 2] = torch.nan
        return result

    monkeypatch.setattr(fm.expert, "sample", broken)
    chunks = fm.predict_pictures(samples.pictures, samples.instructions, noise=torch.zeros(3, 24, 20))
    assert [chunk.valid for chunk in chunks] == [True, False, True]


@pytest.mark.parametrize(("quantize", "tolerance"), [("int8", 0.05), ("int4", 0.5)])
def test_quantized_actions_stay_near(
    bundles: dict[str, Path], fm: FMPolicy, samples: SimpleNamespace, quantize: str, tolerance: float
):
    if quantize == "int4":
        pytest.importorskip("bitsandbytes")
    noise = torch.randn(3, 24, 20, generator=torch.Generator().manual_seed(0))
    exact = stack(fm.predict_pictures(samples.pictures, samples.instructions, noise=noise))
    policy = load_policy(bundles["fm"], quantize=quantize)
    near = stack(policy.predict_pictures(samples.pictures, samples.instructions, noise=noise))
    assert 0 < np.abs(near - exact).max() < tolerance


def test_fm_keeps_no_weights_that_tables_replace(fm: FMPolicy, bundles: dict[str, Path]):
    assert fm.expert.tables.frozen_steps == (5,)
    assert load_policy(bundles["fm"], steps=2).expert.tables.frozen_steps == (2,)
    assert not any("adaLN" in name for name, _ in fm.expert.named_parameters())


# ---------------------------------------------------------------------------------------------- VQ


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("token", [-1, 64, 1023])
def test_an_invalid_row_is_marked_and_refused_and_the_others_stay(
    vq: VQPolicy, samples: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, bad: int, token: int
):
    """regression: an invalid row reused the row before; an invalid first row was decoded and executed."""
    import rdt2.vlm

    honest = rdt2.vlm.generate_actions

    def faulty(*args, **kwargs):
        tokens, logprobs = honest(*args, **kwargs)
        tokens[bad, 3] = token
        return tokens, logprobs

    expected = stack(vq.predict_pictures(samples.pictures, samples.instructions))
    monkeypatch.setattr(rdt2.vlm, "generate_actions", faulty)
    chunks = vq.predict_pictures(samples.pictures, samples.instructions)
    for row, chunk in enumerate(chunks):
        if row != bad:
            assert chunk.valid
            np.testing.assert_allclose(chunk.values, expected[row], atol=1e-5)
            continue
        assert not chunk.valid
        assert f"token 3 of 27 is {token}" in chunk.reason
        assert np.isnan(chunk.values).all()
        with pytest.raises(ActionError, match="must not be executed"):
            chunk.absolute_poses("right", np.eye(4))


def test_vq_with_weights_that_give_nan_is_invalid(vq: VQPolicy, samples, monkeypatch: pytest.MonkeyPatch):
    import rdt2.vlm

    honest = rdt2.vlm.generate_actions

    def faulty(*args, **kwargs):
        tokens, logprobs = honest(*args, **kwargs)
        return tokens, logprobs * torch.nan

    monkeypatch.setattr(rdt2.vlm, "generate_actions", faulty)
    chunks = vq.predict_pictures(samples.pictures, samples.instructions)
    assert not any(chunk.valid for chunk in chunks)


def test_vq_ignores_generation_settings_of_the_checkpoint(parts, samples: SimpleNamespace, tmp_path: Path):
    """regression: a repetition penalty or sampling in generation_config.json changed the tokens."""
    vlm = tmp_path / "vlm"
    vlm.mkdir()
    for file in parts["vlm"].iterdir():
        shutil.copyfile(file, vlm / file.name)
    settings = {"do_sample": True, "temperature": 50.0, "repetition_penalty": 5.0, "eos_token_id": 2050}
    (vlm / "generation_config.json").write_text(json.dumps(settings))
    rest = {name: parts[name] for name in ("processor", "tokenizer", "normalizer")}
    chunks = load_policy(vlm, **rest).predict_pictures(samples.pictures, samples.instructions)
    assert np.array_equal(np.stack([chunk.tokens for chunk in chunks]), samples.tokens)


def test_quantized_vq_writes_what_it_was_fitted_to(bundles: dict[str, Path], samples: SimpleNamespace):
    chunks = load_policy(bundles["vq"], quantize="int8").predict_pictures(
        samples.pictures, samples.instructions
    )
    assert np.array_equal(np.stack([chunk.tokens for chunk in chunks]), samples.tokens)


def test_vq_confidence_is_lower_where_the_model_has_not_seen_the_scene(
    vq: VQPolicy, samples: SimpleNamespace
):
    known = vq.predict_pictures(samples.pictures[:1], samples.instructions[:1])[0]
    strange = vq.predict_pictures([255 - samples.pictures[0]], ["Fold the blue shirt."])[0]
    assert strange.confidence < known.confidence


# ---------------------------------------------------------------------------------------------- VQ that draws


def test_vq_draws_tokens_with_the_seed_of_each_row(bundles: dict[str, Path], vq: VQPolicy, samples):
    policy = load_policy(bundles["vq"], temperature=20.0)
    assert isinstance(policy, VQPolicy)

    def tokens(rows: slice, seed) -> np.ndarray:
        chunks = policy.predict_pictures(samples.pictures[rows], samples.instructions[rows], seed=seed)
        return np.stack([chunk.tokens for chunk in chunks])

    together = tokens(slice(0, 2), [5, 6])
    assert np.array_equal(together, tokens(slice(0, 2), [5, 6]))
    assert np.array_equal(together[1:], tokens(slice(1, 2), 6)), "a row depends on its own seed alone"
    assert not np.array_equal(together, samples.tokens[:2]), "as hot as this, the likeliest are rare"
    assert not np.array_equal(together[1:], tokens(slice(1, 2), 7))


def test_temperatures_that_make_no_sense(bundles: dict[str, Path]):
    with pytest.raises(ConfigError, match=r"temperature is -0\.5"):
        load_policy(bundles["vq"], temperature=-0.5)
    with pytest.raises(CheckpointError, match=r"leave out temperature=0\.5"):
        load_policy(bundles["fm"], temperature=0.5)


def test_several_draws_make_the_mean_chunk(bundles: dict[str, Path], samples: SimpleNamespace):
    single, several = (load_policy(bundles["vq"], temperature=20.0, draws=draws) for draws in (1, 3))
    assert isinstance(single, VQPolicy)
    assert isinstance(several, VQPolicy)
    noise = several._noise(2, [5, 6])
    assert noise is not None
    assert len(noise) == 6
    ours = several.predict_pictures(samples.pictures[:2], samples.instructions[:2], seed=[5, 6])
    for row in range(2):
        drawn = []
        for draw in range(3):
            with patch.object(single, "_noise", lambda *_, at=3 * row + draw: noise[at : at + 1]):
                drawn += single.predict_pictures(
                    samples.pictures[row : row + 1], samples.instructions[row : row + 1]
                )
        values = np.stack([chunk.values for chunk in drawn])
        np.testing.assert_allclose(ours[row].values, values.mean(0), atol=1e-5)
        assert ours[row].confidence == pytest.approx(np.mean([chunk.confidence for chunk in drawn]), abs=1e-4)
        nearest = np.square(values - values.mean(0)).sum((1, 2)).argmin()
        assert np.array_equal(ours[row].tokens, drawn[nearest].tokens)


def test_draws_that_make_no_sense(bundles: dict[str, Path]):
    for settings, message in (
        ({"draws": 4}, "set temperature=0.6"),
        ({"draws": 0, "temperature": 0.5}, "draws is 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_policy(bundles["vq"], **settings)
    with pytest.raises(ConfigError, match="draws is 0"):
        load_policy(bundles["fm"], draws=0)
