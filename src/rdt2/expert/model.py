"""The flow-matching expert of RDT2-FM: from noise to an action chunk, attending to the VLM's keys and values.

    noise (n, 24, 20) --act_adaptor--> 24 action tokens, 4 register tokens, + positions      x: (n, 28, h)
    block i, 14 times:  x += gate * self_attention(x)
                        x += gate * cross_attention(x; K and V of VLM layer i)
                        x += gate * feed_forward(x)           shift, scale and gate from (t, state): adaLN
    final layer         x[:, :24] -> velocity (n, 24, 20)

Three kinds of work are spared without changing a result: `prepare` checks, casts and lays out the VLM's keys
and values once a chunk; `tabulate` computes adaLN (more than half of the published parameters) once for the
few times at which samples ask for it; and grouped attention reads each key and value head in place, never
repeated. `freeze_for_inference` lets go of the weights that the tables replace.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recomputed

from rdt2.errors import ActionError, CheckpointError
from rdt2.expert import checkpoint, conditioning, flow, initialisation
from rdt2.expert.conditioning import Conditioning, KeyValues
from rdt2.expert.config import ExpertConfig
from rdt2.expert.guidance import Guidance
from rdt2.expert.inputs import Linear, TimestepEmbedder, adaptor
from rdt2.expert.prefix import Clean, Prefix
from rdt2.expert.tables import Tables

if TYPE_CHECKING:
    from jaxtyping import Bool, Float


# --------------------------------------------------------------------------------------------- the layers


class Attention(nn.Module):
    """Grouped-query attention, queries RMS-normalised; self and cross attention alike."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        width, head = config.hidden_size, config.head_dim
        self.kv_heads, self.head_dim = config.num_kv_heads, head
        self.wq = Linear(width, width, bias=False)
        self.wkv = Linear(width, 2 * config.num_kv_heads * head, bias=False)
        self.wo = Linear(width, width, bias=False)
        self.norm_q = nn.RMSNorm(head, eps=config.norm_eps)
        self.norm_k = nn.RMSNorm(head, eps=config.norm_eps)

    def keys_values(
        self, x: Float[Tensor, "b s h"]
    ) -> tuple[Float[Tensor, "b kv s d"], Float[Tensor, "b kv s d"]]:
        """Project tokens; keys and values alternate on the last axis of the projection."""
        keys, values = rearrange(
            self.wkv(x), "b s (kv d two) -> two b kv s d", kv=self.kv_heads, two=2
        ).unbind(0)
        return self.norm_k(keys), values.contiguous()

    def forward(
        self,
        x: Float[Tensor, "kb n h"],
        keys: Float[Tensor, "b kv s d"],
        values: Float[Tensor, "b kv s d"],
        mask: Bool[Tensor, "b 1 1 s"] | None = None,
    ) -> Float[Tensor, "kb n h"]:
        """Attend from x to keys and values.

        The g query heads that share a key head, and the k draws that share a row of keys, are laid along the
        length of the query: no key is copied, and every fast kernel takes them, with a mask or without.
        """
        b, kv = keys.shape[:2]
        q = self.norm_q(self.wq(x).unflatten(-1, (-1, self.head_dim)))
        draws, groups = len(x) // b, q.shape[2] // kv
        q = rearrange(q, "(k b) n (kv g) d -> b kv (k g n) d", b=b, kv=kv)
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.wo(rearrange(out, "b kv (k g n) d -> (k b) n (kv g d)", k=draws, g=groups))


class FeedForward(nn.Module):
    """SwiGLU."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        self.w1 = Linear(config.hidden_size, config.ffn_size, bias=False)
        self.w2 = Linear(config.ffn_size, config.hidden_size, bias=False)
        self.w3 = Linear(config.hidden_size, config.ffn_size, bias=False)

    def forward(self, x: Float[Tensor, "n l h"]) -> Float[Tensor, "n l h"]:
        """Each of l tokens of width h for itself."""
        return self.w2(F.silu(self.w1(x)) * self.w3(x))


def modulated(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Adaptive part of a layer norm: x (n, l, h), shift and scale (n, h) or (n, l, h)."""
    return torch.addcmul(shift, x, 1 + scale)


def _each(modulation: Tensor) -> tuple[Tensor, ...]:
    """What modulates (n, l, h), one by one, from (n, m, h) for all tokens alike or from (n, m, l, h)."""
    return (modulation if modulation.ndim == 4 else modulation.unsqueeze(2)).unbind(1)


class Block(nn.Module):
    """Self attention, cross attention, feed-forward, each with shift, scale and gate."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        width, eps = config.hidden_size, config.norm_eps
        self.attn_norm = nn.RMSNorm(width, eps=eps)
        self.attn = Attention(config)
        self.cross_norm = nn.RMSNorm(width, eps=eps)
        self.cond_norm = nn.RMSNorm(width, eps=eps)
        self.cross_attn = Attention(config)
        self.ffn_norm = nn.RMSNorm(width, eps=eps)
        self.ffn = FeedForward(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(2 * width, 9 * width))

    def unused(self) -> Iterator[nn.Module]:
        """Layers of the published file that project condition tokens; keys of the VLM need no projection."""
        yield from (self.cond_norm, self.cross_attn.wkv, self.cross_attn.norm_k)

    def forward(
        self,
        x: Float[Tensor, "n l h"],
        modulation: Float[Tensor, "n 9 h"] | Float[Tensor, "n 9 l h"],
        keys: Float[Tensor, "b kv s d"],
        values: Float[Tensor, "b kv s d"],
        mask: Bool[Tensor, "b 1 1 s"] | None,
    ) -> Float[Tensor, "n l h"]:
        """Let l tokens of width h look at one another, then at s tokens of the VLM (not where `mask` is False)."""
        shift_a, scale_a, gate_a, shift_c, scale_c, gate_c, shift_f, scale_f, gate_f = _each(modulation)
        y = modulated(self.attn_norm(x), shift_a, scale_a)
        x = x + gate_a * self.attn(y, *self.attn.keys_values(y))
        y = modulated(self.cross_norm(x), shift_c, scale_c)
        x = x + gate_c * self.cross_attn(y, keys, values, mask)
        y = modulated(self.ffn_norm(x), shift_f, scale_f)
        return x + gate_f * self.ffn(y)


def run_block(block: Block, *inputs: Any) -> Float[Tensor, "n l h"]:
    """A block's forward; all blocks go through this one function, so that compiling it compiles them all."""
    return block(*inputs)


class OutputMlp(nn.Module):
    """Two layers with SiLU between, from a token to one step of the chunk."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        self.fc1 = Linear(config.hidden_size, 4 * config.hidden_size)
        self.fc2 = Linear(4 * config.hidden_size, config.action_dim)

    def forward(self, x: Float[Tensor, "n l h"]) -> Float[Tensor, "n l a"]:
        """Turn each token of width h into a step of a numbers."""
        return self.fc2(F.silu(self.fc1(x)))


class FinalLayer(nn.Module):
    """Shift, scale, and project to actions."""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        width = config.hidden_size
        self.ffn_norm = nn.RMSNorm(width, eps=config.norm_eps)
        self.ffn = OutputMlp(config)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), Linear(2 * width, 2 * width))

    def forward(
        self, x: Float[Tensor, "n l h"], modulation: Float[Tensor, "n 2 h"] | Float[Tensor, "n 2 l h"]
    ) -> Float[Tensor, "n l a"]:
        """Turn tokens of width h into steps of a numbers, shifted and scaled as the flow time says."""
        shift, scale = _each(modulation)
        return self.ffn(modulated(self.ffn_norm(x), shift, scale))


class Core(nn.Module):
    """Everything but the adaptors; a module of its own because the published keys begin with `model.`"""

    def __init__(self, config: ExpertConfig):
        super().__init__()
        width = config.hidden_size
        self.register_tokens = nn.Parameter(torch.empty(1, config.num_register_tokens, width))
        self.x_pos_emb = nn.Parameter(torch.empty(1, config.num_tokens, width))
        self.state_pos_emb = nn.Parameter(torch.empty(1, 1, width))
        self.t_embedder = TimestepEmbedder(config)
        self.blocks = nn.ModuleList([Block(config) for _ in range(config.depth)])
        self.final_layer = FinalLayer(config)

    @property
    def stack(self) -> list[Block]:
        """The blocks in order."""
        return cast("list[Block]", list(self.blocks))


# --------------------------------------------------------------------------------------------- the model


class Expert(nn.Module):
    """The expert with its adaptors. Weights are of one dtype throughout, the caller's choice.

    Make one with `from_config` or `from_pretrained`: the constructor alone leaves weights without meaning.
    """

    def __init__(self, config: ExpertConfig):
        super().__init__()
        self.config = config
        self.model = Core(config)
        self.act_adaptor = adaptor(config.act_adaptor, config.action_dim, config.hidden_size)
        self.state_adaptor = adaptor(config.state_adaptor, config.state_dim, config.hidden_size)
        self.tables = Tables()
        self.checkpointing = False  # True keeps only the input of every block for the backward pass
        for block in self.model.stack:
            for module in block.unused():  # they never get a gradient; distributed training must know
                module.requires_grad_(False)

    @classmethod
    def from_config(cls, config: ExpertConfig, *, seed: int | None = None) -> Expert:
        """A new float32 expert to train from scratch: its first velocity is zero everywhere.

        With a seed the weights depend on nothing else and torch's own random state is left alone.
        """
        expert = cls(config)
        with torch.random.fork_rng(devices=[], enabled=seed is not None):
            if seed is not None:
                torch.manual_seed(seed)
            initialisation.initialise(expert)
        return expert

    @classmethod
    def from_pretrained(
        cls, path: str | Path, *, dtype: torch.dtype = torch.float32, device: str | torch.device = "cpu"
    ) -> Expert:
        """Read a folder or hub id in the published layout, whatever dtype the file has.

        Tensors go straight to `device` in `dtype`, one at a time.

        Raises:
            CheckpointError: a file is missing, or tensors are missing, unexpected or mis-shaped (all listed).
        """
        config, weights = checkpoint.locate(path)
        with torch.device("meta"):
            expert = cls(config)
        expected = {name: tuple(tensor.shape) for name, tensor in expert.state_dict().items()}
        expert.load_state_dict(checkpoint.read(weights, expected, dtype=dtype, device=device), assign=True)
        return expert.eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write `config.json` and `model.safetensors` in the published layout, each whole or not at all.

        Raises:
            CheckpointError: the expert was frozen for inference, so weights are gone.
        """
        if self.tables.frozen_steps:
            raise CheckpointError(
                f"{folder}: this expert was frozen for inference and has let go of its adaLN weights. "
                "Load the checkpoint again to write a copy of it."
            )
        return checkpoint.write(self.config, self.state_dict(), Path(folder))

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the weights."""
        return self.model.x_pos_emb.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.model.x_pos_emb.device

    def prepare(self, kv: KeyValues) -> Conditioning:
        """The VLM's keys and values, ready for all steps of a chunk (see `conditioning.prepare`)."""
        return conditioning.prepare(kv, self.config, dtype=self.dtype, device=self.device)

    def modulations(
        self, t: Float[Tensor, " n"], state: Float[Tensor, "n 20"] | None = None
    ) -> Float[Tensor, "n m h"]:
        """Shift, scale and gate of every block and of the final layer (m = 9 * depth + 2) at given times.

        t is float32 in [0, 1], 0 = noise. `state` is the normalised proprioception; the published models were
        trained with zeros, which None stands for.

        Raises:
            ConfigError: the expert was frozen for inference and t or state is not in its tables.
        """
        if self.tables.frozen_steps:
            return self.tables.look_up(t, state)
        core, n = self.model, len(t)
        if state is None:
            state = torch.zeros(1, self.config.state_dim, device=t.device)
        s = (self.state_adaptor(state.to(self.dtype)) + core.state_pos_emb[0]).expand(n, -1)
        c = F.silu(torch.cat([core.t_embedder(t), s], dim=-1))
        width = self.config.hidden_size
        parts = [block.adaLN_modulation[1](c).unflatten(-1, (9, width)) for block in core.stack]
        return torch.cat([*parts, core.final_layer.adaLN_modulation[1](c).unflatten(-1, (2, width))], dim=1)

    def denoise(
        self,
        x: Float[Tensor, "n 24 20"],
        modulations: Float[Tensor, "n m h"],
        cond: Conditioning,
        *,
        clean: Clean | None = None,
        run: Callable[..., Tensor] = run_block,
    ) -> Float[Tensor, "n 24 20"]:
        """Velocity with known modulations (one row for all of x, or one each), in the dtype of x.

        Rows of x may be `clean`: then these have modulations of their own. All blocks go through `run`: `run_block`, or
        that compiled. Raises ActionError for x of another shape.
        """
        config, core = self.config, self.model
        if x.shape[1:] != (config.horizon, config.action_dim) or len(x) % cond.batch:
            raise ActionError(
                f"noisy actions must be (k * {cond.batch}, {config.horizon}, {config.action_dim}), they are "
                f"{tuple(x.shape)}"
            )
        *blocks, final = modulations.split([9] * config.depth + [2], dim=1)
        if clean is not None:
            blocks = [clean.over(each, 9 * i, config.num_tokens) for i, each in enumerate(blocks)]
            final = clean.over(final, 9 * config.depth, config.horizon)
        h = torch.cat(
            [self.act_adaptor(x.to(self.dtype)), core.register_tokens.expand(len(x), -1, -1)], dim=1
        )
        h = h + core.x_pos_emb
        for block, modulation, keys, values in zip(core.stack, blocks, cond.keys, cond.values, strict=True):
            if self.checkpointing and torch.is_grad_enabled():
                h = recomputed(run, block, h, modulation, keys, values, cond.mask, use_reentrant=False)
            else:
                h = run(block, h, modulation, keys, values, cond.mask)
        return core.final_layer(h[:, : config.horizon], final).to(x.dtype)

    def velocity(
        self,
        x_t: Float[Tensor, "n 24 20"],
        t: Float[Tensor, " n"],
        cond: Conditioning,
        *,
        state: Float[Tensor, "n 20"] | None = None,
        given: Bool[Tensor, "n 24"] | None = None,
        run: Callable[..., Tensor] = run_block,
    ) -> Float[Tensor, "n 24 20"]:
        """dx/dt at noisy, normalised actions x_t and times t (n,) or (1,): float32 in [0, 1], 0 = noise.

        n is cond.batch, or a multiple of it for several draws (see `Conditioning`). Rows that are
        given have t = 1; what comes out for them means nothing (see `Prefix`).

        Raises:
            ActionError: x_t is of another shape.
            ConfigError: the expert was frozen for inference and t or state is not in its tables.
        """
        clean = None if given is None else Clean(given, self.modulations(torch.ones_like(t), state))
        return self.denoise(x_t, self.modulations(t, state), cond, clean=clean, run=run)

    forward = velocity  # what distributed wrappers call

    def sample(
        self,
        cond: Conditioning,
        *,
        noise: Float[Tensor, "n 24 20"],
        state: Float[Tensor, "n 20"] | None = None,
        steps: int | None = None,
        known: Guidance | Prefix | None = None,
        run: Callable[..., Tensor] = run_block,
    ) -> Float[Tensor, "n 24 20"]:
        """Normalised action chunks from noise, in `steps` Euler steps (default: the configuration's, 5)."""
        return flow.sample(self, cond, noise=noise, state=state, steps=steps, known=known, run=run)

    def tabulate(self, steps: int) -> Float[Tensor, "steps m h"]:
        """Modulations at the times of a sample of `steps` steps with zero state (see `Tables.of`)."""
        return self.tables.of(self, steps)

    def freeze_for_inference(self, *steps: int) -> Expert:
        """Keep only what samples of these step counts need (default: `config.steps`), and return self."""
        self.tables.freeze(self, steps or (self.config.steps,))
        return self
