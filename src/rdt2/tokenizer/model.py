"""The action tokenizer: a chunk of 24 actions becomes 27 integers, and back.

    chunk (24, 20), normalised ── position  6 ─ encoder ─ 6 codebooks ─ decoder ┐
                               ├─ rotation 12 ─ encoder ─ 2 codebooks ─ decoder ┤─ chunk (24, 20)
                               └─ gripper   2 ─ encoder ─ 1 codebook  ─ decoder ┘

Each encoder halves the time axis three times, 24 -> 3, so a codebook gives 3 tokens: 18 + 6 + 3 = 27. Token
order is position, rotation, gripper; inside a part time runs slowest (t0:c0, t0:c1, ..., t1:c0, ...).

The tokenizer computes in float32 always: casting it to a half precision, alone or as part of another module,
moves nearest codes and so changes tokens. ``.to(torch.bfloat16)`` therefore leaves its dtype as it is (and
moves it if a device is given), and autocast is switched off inside.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from rdt2.errors import ActionError
from rdt2.tokenizer.codebook import ResidualQuantizer
from rdt2.tokenizer.config import PART_COLUMNS, STAGES, STRIDE, CNNConfig, TokenizerConfig
from rdt2.tokenizer.loss import reconstruction_loss

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True)
class TokenizerOutput:
    """What training needs from one batch.

    ``parts[part]`` holds ``reconstruction`` and ``commitment`` (scalars, detached) and ``perplexity`` (one
    figure a codebook: how many codes it would use if it used them evenly).
    """

    loss: Float[Tensor, ""]
    reconstruction: Float[Tensor, "b 24 20"]
    tokens: Int[Tensor, "b 27"]
    parts: dict[str, dict[str, Tensor]]


# ---------------------------------------------------------------------------------------------- layers


class ResBlock(nn.Module):
    """Norm, SiLU, convolution, twice, around a shortcut (1x1 convolution when the width changes)."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = _norm(width_in)
        self.conv1 = nn.Conv1d(width_in, width_out, 3, padding=1)
        self.norm2 = _norm(width_out)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv1d(width_out, width_out, 3, padding=1)
        if width_in != width_out:
            self.nin_shortcut = nn.Conv1d(width_in, width_out, 1)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b d t"]:
        """From c to d channels; t steps stay t."""
        h = self.conv1(F.silu(self.norm1(x)))
        h = self.conv2(self.dropout(F.silu(self.norm2(h))))
        return h + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Downsample(nn.Module):
    """Half the steps; one zero on the right only, so step i sees 2i, 2i + 1, 2i + 2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3, stride=2)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t/2"]:
        """The same channels, half of the steps."""
        return self.conv(F.pad(x, (0, 1)))


class Upsample(nn.Module):
    """Twice the steps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv_transpose = nn.ConvTranspose1d(width, width, 3, stride=2, padding=1, output_padding=1)

    def forward(self, x: Float[Tensor, "b c t"]) -> Float[Tensor, "b c t*2"]:
        """The same channels, twice the steps."""
        return self.conv_transpose(x)


class DownStage(nn.Module):
    """Widen, halve the steps, refine."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResBlock(width_in, width_out, dropout)
        self.downsample = Downsample(width_out)
        self.block_2 = ResBlock(width_out, width_out, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From (b, c, t) to (b, d, t/2)."""
        return self.block_2(self.downsample(self.block_1(x)))


class UpStage(nn.Module):
    """Refine, double the steps, narrow: a :class:`DownStage` read backwards."""

    def __init__(self, width_in: int, width_out: int, dropout: float) -> None:
        super().__init__()
        self.block_1 = ResBlock(width_in, width_in, dropout)
        self.upsample = Upsample(width_in)
        self.block_2 = ResBlock(width_in, width_out, dropout)

    def forward(self, x: Tensor) -> Tensor:
        """From (b, d, t) to (b, c, 2t)."""
        return self.block_2(self.upsample(self.block_1(x)))


class Encoder(nn.Module):
    """Actions over time to latents over an eighth of the steps."""

    def __init__(self, input_dim: int, cnn: CNNConfig) -> None:
        super().__init__()
        widths = [cnn.hidden_size * m for m in (1, *STAGES)]
        self.conv_in = nn.Conv1d(input_dim, widths[0], 3, padding=1)
        self.down_1, self.down_2, self.down_3 = (DownStage(a, b, cnn.dropout) for a, b in pairwise(widths))
        self.norm_out = _norm(widths[-1])
        self.conv_out = nn.Conv1d(widths[-1], cnn.output_size, 3, padding=1)

    def features(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b c t/8"]:
        """What the last convolution reads."""
        h = self.down_3(self.down_2(self.down_1(self.conv_in(x.mT))))
        return F.silu(self.norm_out(h))

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t/8 latent"]:
        """One part of normalized chunks, t steps of d numbers, to t/8 latents."""
        return self.conv_out(self.features(x)).mT


class Decoder(nn.Module):
    """Latents back to actions."""

    def __init__(self, output_dim: int, cnn: CNNConfig) -> None:
        super().__init__()
        widths = [cnn.hidden_size * m for m in (*reversed(STAGES), 1)]
        self.norm_in = _norm(cnn.output_size)
        self.conv_in = nn.Conv1d(cnn.output_size, widths[0], 3, padding=1)
        self.up_1, self.up_2, self.up_3 = (UpStage(a, b, cnn.dropout) for a, b in pairwise(widths))
        self.conv_out = nn.Conv1d(widths[-1], output_dim, 3, padding=1)

    def features(self, z: Float[Tensor, "b t/8 latent"]) -> Float[Tensor, "b latent t/8"]:
        """What the first convolution reads."""
        return F.silu(self.norm_in(z.mT))

    def forward(self, z: Float[Tensor, "b t/8 latent"]) -> Float[Tensor, "b t d"]:
        """Latents of one part back to t steps of d normalized numbers."""
        h = self.conv_in(self.features(z))
        return self.conv_out(self.up_3(self.up_2(self.up_1(h)))).mT


class PartVQVAE(nn.Module):
    """Encoder, residual quantizer and decoder of one part of the action."""

    def __init__(self, part: str, config: TokenizerConfig) -> None:
        super().__init__()
        dim, latent = config.input_dim[part], config.cnn_config.output_size
        self.encoder = Encoder(dim, config.cnn_config)
        self.vq = ResidualQuantizer(
            n_codebooks=config.n_codebooks[part],
            latent_dim=latent,
            embedding_dim=config.embedding_dim,
            num_embeddings=config.num_embeddings,
            restart_interval=config.codebook_restart_interval,
        )
        self.decoder = Decoder(dim, config.cnn_config)


def _norm(width: int) -> nn.GroupNorm:
    return nn.GroupNorm(1, width, eps=1e-6)


# ---------------------------------------------------------------------------------------------- the model


class ActionTokenizer(nn.Module):
    """Residual-VQ tokenizer of normalised action chunks, in the published layout."""

    def __init__(self, config: TokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.pos_vqvae = PartVQVAE("pos", config)
        self.rot_vqvae = PartVQVAE("rot", config)
        self.grip_vqvae = PartVQVAE("grip", config)

    # -- sizes

    @property
    def num_embeddings(self) -> int:
        """Codes in a codebook: a token is 0 .. num_embeddings - 1."""
        return self.config.num_embeddings

    @property
    def digest(self) -> str:
        """A name for these weights: the same wherever they lie, on whichever device, and however codes were learnt."""
        digest = hashlib.sha256()
        of_training = {"ema_w", "ema_cluster_size", "entry_hits", "initialised", "steps"}
        for name, value in sorted(self.state_dict().items()):
            if name.rpartition(".")[2] in of_training:
                continue
            digest.update(name.encode())
            digest.update(value.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @property
    def num_tokens(self) -> int:
        """Tokens of one chunk: 27 in the published layout."""
        return self._steps * sum(self.config.n_codebooks.values())

    @property
    def part_slices(self) -> dict[str, slice]:
        """Where each part's tokens lie: pos 0:18, rot 18:24, grip 24:27 in the published layout."""
        slices, start = {}, 0
        for part in PART_COLUMNS:
            stop = start + self._steps * self.config.n_codebooks[part]
            slices[part], start = slice(start, stop), stop
        return slices

    @property
    def _steps(self) -> int:
        return self.config.action_horizon // STRIDE

    def _part(self, part: str) -> PartVQVAE:
        return getattr(self, f"{part}_vqvae")

    # -- use

    def start_linear(
        self, actions: Float[Tensor, "n 24 20"], *, generator: torch.Generator | None = None
    ) -> None:
        """Begin training from scratch as a linear transform coder of these chunks (rdt2.tokenizer.start).

        Args:
            actions: some thousand normalised chunks, such as training will show.
            generator: where first codes are drawn from; the global one if not given.
        """
        from rdt2.tokenizer.start import start_linear

        actions = self._check_actions(actions)
        for part in PART_COLUMNS:
            start_linear(self._part(part), _split(actions, part), generator)

    @torch.no_grad()
    def encode(self, actions: Float[Tensor, "b 24 20"]) -> Int[Tensor, "b 27"]:
        """Tokens of normalised chunks, int64.

        Raises:
            ActionError: if the shape is not (b, 24, 20) or a value is not finite.
        """
        actions = self._check_actions(actions)
        finite = actions.isfinite()
        if not finite.all():
            row, step, column = (~finite).nonzero()[0].tolist()
            raise ActionError(
                f"actions to encode must be finite: chunk {row}, step {step}, column {column} is "
                f"{actions[row, step, column].item()}. Check the recording this chunk came from."
            )
        with torch.autocast(actions.device.type, enabled=False):
            ids = [self._part(p).vq.encode(self._part(p).encoder(_split(actions, p))) for p in PART_COLUMNS]
        return torch.cat([x.flatten(1) for x in ids], dim=-1)

    @torch.no_grad()
    def decode(self, tokens: Int[Tensor, "b 27"], *, levels: int | None = None) -> Float[Tensor, "b 24 20"]:
        """Normalised chunks of tokens, float32.

        Args:
            tokens: as :meth:`encode` gives them.
            levels: read at most so many codebooks of each part, coarse to fine; all if not given.

        Raises:
            ActionError: if the shape is not (b, 27), the dtype is not an integer, or a token is no code.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.num_tokens or tokens.is_floating_point():
            raise ActionError(
                f"decode expects integer tokens of shape (batch, {self.num_tokens}), "
                f"got {tokens.dtype} {tuple(tokens.shape)}"
            )
        tokens = tokens.to(self.pos_vqvae.encoder.conv_in.weight.device, torch.int64)
        outside = (tokens < 0) | (tokens >= self.num_embeddings)
        if outside.any():
            row, position = outside.nonzero()[0].tolist()
            raise ActionError(
                f"token at row {row}, position {position} is {tokens[row, position].item()}, expected "
                f"0..{self.num_embeddings - 1}. Mark the chunk as not valid instead of decoding it."
            )
        return self.decode_valid(tokens, levels=levels)

    def decode_valid(
        self, tokens: Int[Tensor, "b 27"], *, levels: int | None = None
    ) -> Float[Tensor, "b 24 20"]:
        """As :meth:`decode`, for int64 tokens on the tokenizer's device that are known to be codes."""
        decoded = {}
        with torch.autocast(tokens.device.type, enabled=False):
            for part, where in self.part_slices.items():
                ids = rearrange(tokens[:, where], "b (t c) -> b t c", t=self._steps)
                decoded[part] = self._part(part).decoder(self._part(part).vq.decode(ids[..., :levels]))
        return _join(decoded)

    def forward(
        self,
        actions: Float[Tensor, "b 24 20"],
        *,
        generator: torch.Generator | None = None,
    ) -> TokenizerOutput:
        """Reconstruct and say how well; in training mode the codebooks learn from the batch as well.

        Args:
            actions: normalised chunks.
            generator: where first codes and restarted codes are drawn from; the global one if not given.
        """
        actions = self._check_actions(actions)
        loss = actions.new_zeros(())
        tokens, reconstruction, parts = [], {}, {}
        with torch.autocast(actions.device.type, enabled=False):
            for part in PART_COLUMNS:
                model, target = self._part(part), _split(actions, part)
                latent, ids, commitment, perplexity = model.vq(model.encoder(target), generator=generator)
                reconstruction[part] = model.decoder(latent)
                error = reconstruction_loss(part, reconstruction[part], target)
                loss = loss + error + self.config.commitment_cost * commitment
                tokens.append(ids.flatten(1))
                parts[part] = {
                    "reconstruction": error.detach(),
                    "commitment": commitment.detach(),
                    "perplexity": perplexity,
                }
        return TokenizerOutput(loss, _join(reconstruction), torch.cat(tokens, dim=-1), parts)

    def _check_actions(self, actions: Tensor) -> Tensor:
        shape = (self.config.action_horizon, sum(self.config.input_dim.values()))
        if actions.ndim != 3 or actions.shape[1:] != shape:
            raise ActionError(
                f"expected normalised actions of shape (batch, {shape[0]}, {shape[1]}), "
                f"got {tuple(actions.shape)}"
            )
        return actions.to(self.pos_vqvae.encoder.conv_in.weight.device, torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ActionTokenizer:
        """Follow a change of device, never a change of dtype (see the top of this file)."""

        def keep_dtype(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return moved if moved.dtype == tensor.dtype else tensor.to(moved.device)

        return super()._apply(keep_dtype, recurse)

    # -- files

    @classmethod
    def from_pretrained(cls, path: str | Path) -> ActionTokenizer:
        """Read a folder, or a repository of the hub, holding ``config.json`` and ``model.safetensors``.

        Raises:
            CheckpointError: if a file is absent, or keys are missing, unexpected or of another shape.
        """
        from rdt2.tokenizer.checkpoint import load

        return load(path)

    def save_pretrained(self, path: str | Path) -> None:
        """Write ``config.json`` and ``model.safetensors`` in the published layout."""
        from rdt2.tokenizer.checkpoint import save

        save(self, path)


def _split(actions: Float[Tensor, "b t 20"], part: str) -> Float[Tensor, "b t d"]:
    return actions[..., list(PART_COLUMNS[part])]


def _join(parts: Mapping[str, Float[Tensor, "b t d"]]) -> Float[Tensor, "b t 20"]:
    columns = {column: parts[part][..., i] for part in parts for i, column in enumerate(PART_COLUMNS[part])}
    return torch.stack([columns[column] for column in sorted(columns)], dim=-1)
