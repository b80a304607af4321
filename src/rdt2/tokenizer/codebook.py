"""Residual vector quantizer: cosine lookup, codebooks learned by exponential moving average.

A codebook projects the latent to a few dimensions, picks the code of the largest cosine, and projects the
code (not normalised) back. Codebook ``c + 1`` quantises what codebook ``c`` left over.

Codes are not trained by gradient. Each is the running mean of the projected latents that chose it:
``ema_w`` holds the running sum, ``ema_cluster_size`` the running count, and ``weight`` their ratio (van den
Oord et al., "Neural Discrete Representation Learning", appendix A.1). Three things keep that mean healthy:

- the first codes are means of clusters of the data, sum and count with them, so the first update moves a code
  by a hundredth and not by its whole length;
- codes that nobody chose in a whole window of steps are redrawn from the data, never more of them than there
  are latents to draw;
- whether codes were drawn, and how far the window has come, is state: it is saved and loaded.

With several processes the statistics are summed over all of them and draws are made on rank 0 and
broadcast, so the codebooks of all ranks stay equal bit for bit. Without ``torch.distributed`` nothing of
that is needed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int

CLUSTER_ROUNDS = 10
DECAY = 0.99
FAR = 3.0  # length of the constant dimension over the spread of the others
SMOOTHING = 1e-5  # Laplace: keeps a code finite when its running count goes to zero


class CodeTable(nn.Module):
    """The codes themselves. A module of its own because the published key is ``codebook.weight``."""

    weight: Tensor

    def __init__(self, num_embeddings: int, embedding_dim: int) -> None:
        super().__init__()
        # Placeholder until codes are drawn from data. Uniform and not normal: on the meta device (used while
        # loading) the latter makes torch import its compiler, which takes seconds.
        self.register_buffer("weight", torch.empty(num_embeddings, embedding_dim).uniform_(-1, 1))


class Codebook(nn.Module):
    """One codebook with its two projections and its running statistics.

    Buffers beyond the published ones: ``initialised`` (codes were drawn from data) and ``steps`` (training
    steps since then).
    """

    ema_w: Tensor
    ema_cluster_size: Tensor
    entry_hits: Tensor
    initialised: Tensor
    steps: Tensor

    def __init__(
        self, *, latent_dim: int, embedding_dim: int, num_embeddings: int, restart_interval: int
    ) -> None:
        super().__init__()
        self.in_proj = nn.Linear(latent_dim, embedding_dim)
        self.out_proj = nn.Linear(embedding_dim, latent_dim)
        self.codebook = CodeTable(num_embeddings, embedding_dim)
        self.register_buffer("ema_w", self.codebook.weight.clone())
        self.register_buffer("ema_cluster_size", torch.zeros(num_embeddings))
        # One row a step, written round and round: how often each code was chosen.
        self.register_buffer("entry_hits", torch.zeros(restart_interval, num_embeddings, dtype=torch.int32))
        self.register_buffer("initialised", torch.zeros((), dtype=torch.bool))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def lookup(self, vectors: Float[Tensor, "*n d"]) -> Int[Tensor, "*n"]:
        """Index of the code with the largest cosine to each vector."""
        cosine = F.normalize(vectors, dim=-1) @ F.normalize(self.codebook.weight, dim=-1).T
        return cosine.argmax(dim=-1)

    def embed(self, ids: Int[Tensor, "*n"]) -> Float[Tensor, "*n latent"]:
        """Codes of given indices, projected back to the latent."""
        return self.out_proj(self.codebook.weight[ids])

    @torch.no_grad()
    def align(self, latents: Float[Tensor, "n latent"]) -> None:
        """Set both projections by what is to be quantised, as training from scratch begins.

        The lookup compares directions, so of two latents on one ray from the origin it cannot tell the longer.
        The first dimensions become the main axes of the latents around their mean; the last becomes a constant,
        long beside them: seen from so far away, the largest cosine is the smallest distance.
        """
        mean = latents.mean(dim=0)
        centred = latents - mean
        _, _, axes = torch.linalg.svd(centred, full_matrices=False)
        far = FAR * centred.square().sum(dim=-1).mean().sqrt().clamp_min(1e-6)
        packed = _broadcast(
            torch.cat((mean[None], far.expand_as(mean)[None], axes[: len(self.in_proj.weight) - 1]))
        )
        mean, far, axes = packed[0], packed[1, 0], packed[2:]
        self.in_proj.weight.zero_()
        self.in_proj.bias.zero_()
        self.in_proj.weight[: len(axes)] = axes
        self.in_proj.bias[: len(axes)] = -axes @ mean
        self.in_proj.bias[-1] = far
        self.out_proj.weight.zero_()
        self.out_proj.weight[:, : len(axes)] = axes.T
        self.out_proj.bias.copy_(mean)

    @torch.no_grad()
    def initialise(self, vectors: Float[Tensor, "n d"], generator: torch.Generator | None = None) -> None:
        """First codes: the means of clusters of ``vectors``, which begin at vectors drawn from them.

        With fewer vectors than codes each is taken, again from the start. Repeated codes lose every comparison
        against their original and are redrawn when the window ends.
        """
        order = torch.randperm(len(vectors), generator=generator, device=_device(generator, vectors))
        count = len(self.codebook.weight)
        chosen = order.repeat(-(-count // len(order)))[:count].to(vectors.device)
        self.codebook.weight.copy_(vectors[chosen])
        for _ in range(CLUSTER_ROUNDS):
            ids = self.lookup(vectors)
            hits = torch.bincount(ids, minlength=count).to(vectors.dtype)
            sums = torch.zeros_like(self.codebook.weight).index_add_(0, ids, vectors)
            rows = hits.unsqueeze(-1)
            self.codebook.weight.copy_(torch.where(rows > 0, sums / rows.clamp_min(1), self.codebook.weight))
        codes = _broadcast(self.codebook.weight.clone())
        self._place(torch.ones_like(self.ema_cluster_size, dtype=torch.bool), codes)
        self.entry_hits.zero_()
        self.steps.zero_()
        self.initialised.fill_(True)

    @torch.no_grad()
    def update(
        self,
        vectors: Float[Tensor, "n d"],
        hits: Float[Tensor, " codes"],
        sums: Float[Tensor, "codes d"],
        generator: torch.Generator | None = None,
    ) -> None:
        """One step of the running means, then the restart of dead codes if the window is full.

        ``hits`` and ``sums`` are over all processes; ``vectors`` are this process's own, to draw from.
        """
        self.ema_cluster_size.lerp_(hits, 1 - DECAY)
        self.ema_w.lerp_(sums, 1 - DECAY)
        total = self.ema_cluster_size.sum()
        smoothed = (self.ema_cluster_size + SMOOTHING) / (total + len(hits) * SMOOTHING) * total
        self.codebook.weight.copy_(self.ema_w / smoothed.unsqueeze(-1))

        step, window = int(self.steps), len(self.entry_hits)
        self.entry_hits[step % window] = hits.to(self.entry_hits.dtype)
        self.steps += 1
        if (step + 1) % window == 0:
            self._restart(vectors, generator)

    def _restart(self, vectors: Float[Tensor, "n d"], generator: torch.Generator | None) -> None:
        dead = self.entry_hits.sum(dim=0) == 0
        draws = torch.zeros_like(self.codebook.weight)
        if _rank() == 0:
            order = torch.randperm(len(vectors), generator=generator, device=_device(generator, vectors))
            # No latent is drawn twice: with fewer latents than dead codes, the last codes wait a window.
            dead &= dead.cumsum(dim=0) <= len(vectors)
            draws[dead] = vectors[order[: int(dead.sum())].to(vectors.device)]
        packed = _broadcast(torch.cat((dead.unsqueeze(-1).to(draws), draws), dim=-1))
        self._place(packed[:, 0] > 0, packed[:, 1:])

    def _place(self, where: Tensor, codes: Tensor) -> None:
        """Set codes together with their sum and count, so that sum / count is the code."""
        rows = where.unsqueeze(-1)
        self.codebook.weight.copy_(torch.where(rows, codes, self.codebook.weight))
        self.ema_w.copy_(torch.where(rows, codes, self.ema_w))
        self.ema_cluster_size.masked_fill_(where, 1.0)


class ResidualQuantizer(nn.Module):
    """A chain of codebooks, each quantising the residual of the one before."""

    def __init__(
        self,
        *,
        n_codebooks: int,
        latent_dim: int,
        embedding_dim: int,
        num_embeddings: int,
        restart_interval: int,
    ) -> None:
        super().__init__()
        self.quantizers = nn.ModuleList(
            Codebook(
                latent_dim=latent_dim,
                embedding_dim=embedding_dim,
                num_embeddings=num_embeddings,
                restart_interval=restart_interval,
            )
            for _ in range(n_codebooks)
        )

    @property
    def codebooks(self) -> list[Codebook]:
        """The chain, coarse to fine (``quantizers`` under the type that it holds)."""
        return [cast(Codebook, module) for module in self.quantizers]

    @torch.no_grad()
    def encode(self, latent: Float[Tensor, "b t latent"]) -> Int[Tensor, "b t c"]:
        """Indices of the nearest codes, coarse to fine."""
        residual, ids = latent, []
        for codebook in self.codebooks:
            ids.append(codebook.lookup(codebook.in_proj(residual)))
            residual = residual - codebook.embed(ids[-1])
        return torch.stack(ids, dim=-1)

    def decode(self, ids: Int[Tensor, "b t c"]) -> Float[Tensor, "b t latent"]:
        """Sum of the codes named by ``ids``; fewer of them than codebooks leave out the finest."""
        books = self.codebooks[: ids.shape[-1]]
        return torch.stack([book.embed(ids[..., c]) for c, book in enumerate(books)]).sum(dim=0)

    @torch.no_grad()
    def start(self, latent: Float[Tensor, "b t latent"], generator: torch.Generator | None = None) -> None:
        """Set projections and codes by what is to be quantised, codebook by codebook."""
        residual = latent.flatten(0, -2)
        for codebook in self.codebooks:
            codebook.align(residual)
            vectors = codebook.in_proj(residual)
            codebook.initialise(vectors, generator)
            residual = residual - codebook.embed(codebook.lookup(vectors))

    def forward(
        self, latent: Float[Tensor, "b t latent"], *, generator: torch.Generator | None = None
    ) -> tuple[Float[Tensor, "b t latent"], Int[Tensor, "b t c"], Float[Tensor, ""], Float[Tensor, " c"]]:
        """Quantise with a straight-through gradient; in training mode also learn the codes.

        Returns the quantised latent, the indices, the commitment error (mean square between projected latent
        and code, summed over codebooks) and the perplexity of each codebook's use in this batch.
        """
        if self.training and not self.codebooks[0].initialised:
            self.start(latent.detach(), generator)
        residual, quantized = latent, torch.zeros_like(latent)
        commitment = latent.new_zeros(())
        ids, projected = [], []
        for codebook in self.codebooks:
            vectors = codebook.in_proj(residual)
            ids.append(codebook.lookup(vectors.detach()))
            codes = codebook.codebook.weight[ids[-1]]
            commitment = commitment + F.mse_loss(vectors, codes)
            step = codebook.out_proj(vectors + (codes - vectors).detach())
            residual, quantized = residual - step, quantized + step
            projected.append(vectors.detach().flatten(0, -2))
        stacked = torch.stack(ids, dim=-1)
        hits = self._learn(projected, stacked.flatten(0, -2), generator)
        share = hits / hits.sum(dim=-1, keepdim=True)
        perplexity = torch.exp(-torch.special.xlogy(share, share).sum(dim=-1))
        return quantized, stacked, commitment, perplexity

    @torch.no_grad()
    def _learn(
        self, projected: list[Tensor], ids: Int[Tensor, "n c"], generator: torch.Generator | None
    ) -> Float[Tensor, "c codes"]:
        """Update every codebook from one sum over the processes; returns how often each code was chosen."""
        codes, dim = self.codebooks[0].codebook.weight.shape
        vectors = torch.stack(projected)
        # A product with one-hot rows, not index_add: the same sum in the same order on every device.
        chosen = F.one_hot(ids.T, codes).to(vectors.dtype)
        statistics = vectors.new_empty(len(projected), codes, dim + 1)
        statistics[..., 0] = chosen.sum(dim=1)
        if not self.training:
            return statistics[..., 0]
        torch.bmm(chosen.mT, vectors, out=statistics[..., 1:])
        if _world_size() > 1:
            dist.all_reduce(statistics)
        for c, codebook in enumerate(self.codebooks):
            codebook.update(vectors[c], statistics[c, :, 0], statistics[c, :, 1:], generator)
        return statistics[..., 0]


def _world_size() -> int:
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def _rank() -> int:
    return dist.get_rank() if _world_size() > 1 else 0


def _broadcast(tensor: Tensor) -> Tensor:
    """Rank 0's tensor on every rank; the tensor itself in a single process."""
    if _world_size() > 1:
        tensor = tensor.contiguous()
        dist.broadcast(tensor, src=0)
    return tensor


def _device(generator: torch.Generator | None, tensor: Tensor) -> torch.device:
    """Where to draw: a generator belongs to one device, which may not be the tensor's."""
    return generator.device if generator is not None else tensor.device
