"""The expert against the golden tensors, float32 1e-5 unless said."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from rdt2.expert import Conditioning, Expert, ExpertConfig, flow_matching_loss, sample_timesteps, step_times
from rdt2.expert.initialisation import token_positions
from rdt2.expert.inputs import timestep_embedding
from rdt2.expert.model import Attention

close = torch.testing.assert_close
TOLERANCE = {"atol": 1e-5, "rtol": 1e-5}


@pytest.fixture(scope="module")
def folder(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The golden expert in the published layout: its config.json also says how it was made."""
    out = tmp_path_factory.mktemp("expert")
    described = json.loads((golden / "expert" / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(described["ctor"]))
    (out / "model.safetensors").symlink_to(golden / "expert" / "model.safetensors")
    return out


@pytest.fixture(scope="module")
def expert(folder: Path) -> Expert:
    return Expert.from_pretrained(folder)


@pytest.fixture(scope="module")
def inputs(golden: Path) -> dict[str, Tensor]:
    tensors = load_file(golden / "expert" / "inputs.safetensors")
    return {**tensors, "mask": tensors["mask"].bool(), "state": tensors["state"][:, 0]}


@pytest.fixture(scope="module")
def outputs(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expert" / "outputs.safetensors")


@pytest.fixture(scope="module")
def train(golden: Path) -> dict[str, Tensor]:
    return load_file(golden / "expert" / "train.safetensors")


@pytest.fixture(scope="module")
def cond(expert: Expert, inputs: dict[str, Tensor]) -> Conditioning:
    return expert.prepare(key_values(inputs))


def key_values(inputs: dict[str, Tensor], *, masked: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        keys=[inputs[f"k{i}"] for i in range(3)],
        values=[inputs[f"v{i}"] for i in range(3)],
        mask=inputs["mask"] if masked else None,
    )


def relative_error(got: Tensor, expected: Tensor) -> float:
    return float((got - expected).norm() / expected.norm())


def test_attention_layers(golden: Path) -> None:
    """Keys and values alternate on the last axis; heads are grouped; the VLM's keys are not normalised."""
    weights = load_file(golden / "expert" / "attention_weights.safetensors")
    io = load_file(golden / "expert" / "attention_io.safetensors")
    layers = {}
    for name in ("attn", "cross"):
        layers[name] = Attention(ExpertConfig.tiny(selected_layers=(0,)))  # 4 heads and 2 key heads of 64
        own = {key.removeprefix(f"{name}."): value for key, value in weights.items() if key.startswith(name)}
        layers[name].load_state_dict(own)
    x, mask = io["x"], io["mask"].bool()[:, None, None]
    cross, from_c = layers["cross"], layers["cross"].keys_values(io["c"])
    from_vlm = io["ck_(B,L,kvh,hd)"].transpose(1, 2), io["cv_(B,L,kvh,hd)"].transpose(1, 2)
    with torch.no_grad():
        close(layers["attn"](x, *layers["attn"].keys_values(x)), io["self_out"], **TOLERANCE)
        close(cross(x, *from_c), io["cross_c_out"], **TOLERANCE)
        close(cross(x, *from_c, mask), io["cross_c_mask_out"], **TOLERANCE)
        close(cross(x, *from_vlm), io["cross_kv_out"], **TOLERANCE)
        close(cross(x, *from_vlm, mask), io["cross_kv_mask_out"], **TOLERANCE)


@pytest.mark.parametrize("t", ["0.0", "0.2", "0.5", "0.9", "1.0"])
def test_velocity(expert: Expert, cond: Conditioning, inputs: dict, outputs: dict, t: str) -> None:
    with torch.no_grad():
        got = expert.velocity(inputs["noisy_action"], torch.full((3,), float(t)), cond, state=inputs["state"])
    close(got, outputs[f"velocity.t{t}"], **TOLERANCE)


def test_velocity_of_different_times(expert: Expert, cond: Conditioning, inputs: dict, outputs: dict) -> None:
    t = outputs["velocity.tbatch.t"]
    with torch.no_grad():
        got = expert.velocity(inputs["noisy_action"], t, cond, state=inputs["state"])
    close(got, outputs["velocity.tbatch"], **TOLERANCE)


def test_velocity_without_mask(expert: Expert, inputs: dict, outputs: dict) -> None:
    cond = expert.prepare(key_values(inputs, masked=False))
    with torch.no_grad():
        got = expert.velocity(inputs["noisy_action"], torch.full((3,), 0.5), cond, state=inputs["state"])
    close(got, outputs["velocity.nomask.t0.5"], **TOLERANCE)


def test_stages_of_a_velocity(expert: Expert, cond: Conditioning, inputs: dict, outputs: dict) -> None:
    core = expert.model
    with torch.no_grad():
        h = expert.act_adaptor(inputs["noisy_action"])
        close(h, outputs["inter.t0.5.act_adapted"], **TOLERANCE)
        close(core.t_embedder(torch.tensor([0.5])), outputs["inter.t0.5.t_emb"], **TOLERANCE)
        modulations = expert.modulations(torch.full((3,), 0.5), inputs["state"]).split([9, 9, 9, 2], dim=1)
        h = torch.cat([h, core.register_tokens.expand(3, -1, -1)], dim=1) + core.x_pos_emb
        for i, block in enumerate(core.stack):
            h = block(h, modulations[i], cond.keys[i], cond.values[i], cond.mask)
            close(h, outputs[f"inter.t0.5.block{i}"], **TOLERANCE)


@pytest.mark.parametrize("steps", [1, 5, 10])
def test_sample(expert: Expert, cond: Conditioning, inputs: dict, outputs: dict, steps: int) -> None:
    got = expert.sample(cond, noise=inputs["noisy_action"], state=inputs["state"], steps=steps)
    close(got, outputs[f"predict_action.steps{steps}"], **TOLERANCE)


def test_sample_from_other_noise(expert: Expert, cond: Conditioning, inputs: dict, outputs: dict) -> None:
    got = expert.sample(cond, noise=outputs["predict_action.seed99.noise"], state=inputs["state"])
    close(got, outputs["predict_action.seed99"], **TOLERANCE)


def test_times_of_the_steps_do_not_drift(golden: Path, outputs: dict) -> None:
    """Regression: times added up in bfloat16 were 0.2002, 0.4004, 0.6016, 0.8008."""
    info = json.loads((golden / "expert" / "info.json").read_text())
    close(step_times(5), outputs["euler.t"], atol=0, rtol=0)
    assert step_times(5).tolist() == info["fp32_euler_t"]
    assert step_times(5).tolist() != info["bf16_euler_t"]


def test_loss_and_gradients(
    expert: Expert, cond: Conditioning, inputs: dict, train: dict, golden: Path
) -> None:
    expert.zero_grad()
    loss = flow_matching_loss(
        expert, cond, inputs["action_gt"], noise=train["noise"], t=train["timesteps"], state=inputs["state"]
    )
    close(loss, train["loss"][0], **TOLERANCE)
    loss.backward()
    norms = json.loads((golden / "expert" / "grad_norms.json").read_text())["grad_l2"]
    parameters = dict(expert.named_parameters())
    assert norms.keys() == parameters.keys()
    for name, norm in norms.items():
        gradient = parameters[name].grad
        if norm is None:  # the projection of condition tokens: no action depends on it
            assert gradient is None, name
            assert not parameters[name].requires_grad, name
        else:
            assert float(gradient.norm()) == pytest.approx(norm, rel=1e-3), name
    for name in (key for key in train if key.startswith("grad.")):
        close(parameters[name.removeprefix("grad.")].grad, train[name], atol=1e-5, rtol=1e-3)
    expert.zero_grad()


def test_five_steps_of_adamw(folder: Path, inputs: dict, train: dict, golden: Path) -> None:
    recipe = json.loads((golden / "expert" / "info.json").read_text())["adamw"]
    expert = Expert.from_pretrained(folder).train()
    cond = expert.prepare(key_values(inputs))
    trained = [p for p in expert.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=recipe["lr"], betas=recipe["betas"], weight_decay=recipe["wd"], eps=recipe["eps"]
    )
    losses = []
    for step in range(5):
        noise, t = train[f"adamw.step{step}.noise"], train[f"adamw.step{step}.t"]
        loss = flow_matching_loss(expert, cond, inputs["action_gt"], noise=noise, t=t, state=inputs["state"])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, recipe["clip"])
        optimizer.step()
        losses.append(loss.detach())
    close(torch.stack(losses), train["adamw.losses"], atol=1e-3, rtol=1e-3)


def test_bfloat16_is_no_further_from_float32_than_the_reference(
    folder: Path, inputs: dict, outputs: dict
) -> None:
    expert = Expert.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in expert.parameters()} == {torch.bfloat16}
    cond = expert.prepare(key_values(inputs))
    x, state, exact = inputs["noisy_action"], inputs["state"], outputs["predict_action.steps5"]
    with torch.no_grad():
        velocity = expert.velocity(x, torch.full((3,), 0.5), cond, state=state)
    ours = relative_error(expert.sample(cond, noise=x, state=state), exact)
    assert velocity.dtype == torch.float32
    assert relative_error(velocity, outputs["velocity.t0.5"]) < 0.01
    assert ours <= relative_error(outputs["bf16.predict_action.steps5"], exact)


def test_keys_of_the_published_checkpoint(golden: Path) -> None:
    published = json.loads((golden / "expert" / "published_keys.json").read_text())
    info = json.loads((golden / "expert" / "info.json").read_text())
    with torch.device("meta"):
        expert = Expert(ExpertConfig())
    assert {name: list(tensor.shape) for name, tensor in expert.state_dict().items()} == published
    assert sum(p.numel() for p in expert.parameters()) == info["published_expert_params"]


def test_both_forms_of_config(golden: Path) -> None:
    described = json.loads((golden / "expert" / "config.json").read_text())["ctor"]
    flat = json.loads((golden / "expert" / "info.json").read_text())["upstream_config_json"]
    nested, read_back = ExpertConfig.from_dict(described), ExpertConfig.from_dict(flat)
    assert nested.extra == {"img_token_dim": 2176}
    for name in ("hidden_size", "depth", "num_heads", "num_kv_heads", "selected_layers", "horizon", "steps"):
        assert getattr(nested, name) == getattr(read_back, name)
    assert nested.to_dict() == described


def test_initial_weights(golden: Path) -> None:
    info = json.loads((golden / "expert" / "info.json").read_text())
    tables = load_file(golden / "expert" / "pos_emb.safetensors")
    expert = Expert.from_config(
        ExpertConfig(hidden_size=256, depth=3, num_heads=2, num_kv_heads=1, selected_layers=(0, 1, 2)), seed=0
    )
    parameters = dict(expert.named_parameters())
    assert {name: list(p.shape) for name, p in parameters.items()} == info["keys"]
    for name in info["zero_initialised_upstream"]:
        assert not parameters[name].any(), name
    close(expert.model.x_pos_emb.data, tables["x_pos_emb_init"], atol=1e-6, rtol=0)
    for width in (512, 1024):
        close(token_positions(width, (24, 4)), tables[f"x_pos_emb_h{width}"], atol=1e-6, rtol=0)


def test_timestep_embedding(golden: Path) -> None:
    tables = load_file(golden / "expert" / "pos_emb.safetensors")
    got = timestep_embedding(tables["timestep_embedding.t"])
    close(got, tables["timestep_embedding.fp32"], atol=1e-6, rtol=0)


def test_feed_forward_widths(golden: Path) -> None:
    info = json.loads((golden / "expert" / "info.json").read_text())
    for hidden, width in info["ffn_hidden"].items():
        assert ExpertConfig(hidden_size=int(hidden)).ffn_size == width


def test_distribution_of_training_times(golden: Path) -> None:
    info = json.loads((golden / "expert" / "info.json").read_text())
    t = sample_timesteps(200_000, generator=torch.Generator().manual_seed(0))
    quantiles = t.quantile(torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95]))
    assert t.dtype == torch.float32
    assert bool(((t > 0) & (t < 1)).all())
    close(quantiles, torch.tensor(info["sample_timesteps_quantiles"]), atol=5e-3, rtol=0)


def test_chunk_and_loss_on_the_keys_of_a_vlm(expert: Expert, golden: Path) -> None:
    """Padded prompts of a real Qwen2.5-VL, state zero: the sampler takes its modulations from the table."""
    fm = load_file(golden / "vla" / "fm.safetensors")
    kv = SimpleNamespace(
        keys=[fm[f"vlm.k{i}"] for i in range(3)],
        values=[fm[f"vlm.v{i}"] for i in range(3)],
        mask=fm["fm_collate.attention_mask"].bool(),
    )
    cond = expert.prepare(kv)
    got = expert.sample(cond, noise=fm["fm.noise"])
    close(got, fm["fm.predict_action"], **TOLERANCE)

    # The golden's normaliser, from its pairs of normalised and de-normalised chunks.
    normal, metres = (
        fm["fm.predict_action"].flatten(0, 1).double(),
        fm["fm.trajectory"].flatten(0, 1).double(),
    )
    scale = normal.std(0) / metres.std(0)
    actions = fm["fm_collate.actions"].double() * scale + (normal.mean(0) - metres.mean(0) * scale)
    with torch.no_grad():
        loss = flow_matching_loss(expert, cond, actions.float(), noise=fm["fm.noise"], t=fm["fm.loss_t"])
    close(loss, fm["fm.loss"][0], **TOLERANCE)
