"""How codebooks learn: first codes, running means, restarts, saved state, several processes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor

from rdt2.tokenizer import ActionTokenizer, CNNConfig, TokenizerConfig
from rdt2.tokenizer.codebook import Codebook, ResidualQuantizer


def codebook(codes: int = 8, window: int = 4) -> Codebook:
    torch.manual_seed(0)
    return Codebook(latent_dim=6, embedding_dim=3, num_embeddings=codes, restart_interval=window)


def statistics(book: Codebook, vectors: Tensor) -> tuple[Tensor, Tensor]:
    chosen = torch.nn.functional.one_hot(book.lookup(vectors), len(book.codebook.weight)).float()
    return chosen.sum(0), chosen.T @ vectors


def model(seed: int = 0) -> ActionTokenizer:
    torch.manual_seed(seed)
    cnn = CNNConfig(hidden_size=2, output_size=8)
    config = TokenizerConfig(embedding_dim=4, cnn_config=cnn, num_embeddings=16, codebook_restart_interval=3)
    return ActionTokenizer(config).train()


def actions(batch: int, seed: int) -> Tensor:
    return torch.randn(batch, 24, 20, generator=torch.Generator().manual_seed(seed))


def test_first_codes_are_latents_and_survive_the_first_update() -> None:
    """Regression: a first update from empty statistics overwrote the codes, norms grew a hundredfold."""
    torch.manual_seed(3)
    quantizer = ResidualQuantizer(
        n_codebooks=3, latent_dim=6, embedding_dim=3, num_embeddings=8, restart_interval=64
    ).train()
    latent = torch.randn(32, 3, 6)
    first = quantizer.quantizers[0]
    for _ in range(3):
        quantizer(latent)
    vectors = first.in_proj(latent).detach().flatten(0, 1)  # the first batch also aligns the projections
    distance = torch.cdist(first.codebook.weight, vectors).min(dim=1).values
    assert distance.max() < 0.3 * vectors.norm(dim=1).mean()
    for book in quantizer.quantizers:
        assert book.initialised
        assert book.codebook.weight.norm(dim=1).max() < 1.2 * vectors.norm(dim=1).max()
    norms = first.codebook.weight.norm(dim=1).mean() / vectors.norm(dim=1).mean()
    assert 0.6 < norms < 1.4


def test_what_is_quantised_is_known_from_the_first_batch_on() -> None:
    """Regression: beside a large mean all latents had one direction, the cosine lookup told none apart, and the
    encoder learnt to vary even less."""
    torch.manual_seed(5)
    quantizer = ResidualQuantizer(
        n_codebooks=4, latent_dim=12, embedding_dim=4, num_embeddings=64, restart_interval=64
    ).train()
    latent = 10 + torch.randn(200, 3, 12) * torch.linspace(0.2, 2, 12)
    _, _, _, perplexity = quantizer(latent)
    assert perplexity.min() > 32
    error = quantizer.decode(quantizer.encode(latent)) - latent
    assert error.pow(2).mean() < 0.5 * latent.var(dim=(0, 1)).mean()


def test_latents_on_one_ray_are_told_apart() -> None:
    """Regression: the largest cosine alone cannot tell a short motion from a long one in the same direction."""
    torch.manual_seed(6)
    quantizer = ResidualQuantizer(
        n_codebooks=1, latent_dim=12, embedding_dim=4, num_embeddings=64, restart_interval=64
    ).train()
    latent = torch.randn(12) * torch.linspace(-1, 1, 200)[:, None, None]
    quantizer(latent)
    error = quantizer.decode(quantizer.encode(latent)) - latent
    assert error.pow(2).mean() < 0.01 * latent.var(dim=(0, 1)).mean()


def test_codes_are_sum_over_count_from_the_start() -> None:
    book = codebook()
    book.initialise(torch.randn(20, 3))
    torch.testing.assert_close(book.ema_w / book.ema_cluster_size[:, None], book.codebook.weight)
    before = book.codebook.weight.clone()
    book.update(before, *statistics(book, before))  # every code chosen by itself: nothing to learn
    torch.testing.assert_close(book.codebook.weight, before, atol=1e-4, rtol=1e-4)


def test_first_codes_from_fewer_latents_than_codes() -> None:
    book = codebook()
    vectors = torch.randn(5, 3)
    book.initialise(vectors)
    distance = torch.cdist(book.codebook.weight, vectors)
    assert (distance.min(dim=1).values < 1e-6).all()  # each code is a latent
    assert (distance.min(dim=0).values < 1e-6).all()  # each latent is a code


def test_dead_codes_are_restarted_when_the_window_is_full() -> None:
    book = codebook(window=4)
    book.initialise(torch.eye(3).repeat(3, 1) + 0.1 * torch.randn(9, 3))
    dead = torch.tensor([0, 0, 1, 0, 0, 1, 0, 0], dtype=torch.bool)
    hits = torch.where(dead, 0.0, 2.0)
    vectors = torch.randn(10, 3)
    for _ in range(3):
        book.update(vectors, hits, book.codebook.weight * hits[:, None])
        assert (torch.cdist(book.codebook.weight, vectors).min(dim=1).values > 1e-4).all()
    book.update(vectors, hits, book.codebook.weight * hits[:, None])
    restarted = torch.cdist(book.codebook.weight, vectors).min(dim=1).values < 1e-6
    assert torch.equal(restarted, dead)
    torch.testing.assert_close(book.ema_w[dead], book.codebook.weight[dead])
    assert (book.ema_cluster_size[dead] == 1).all()
    assert not torch.equal(book.codebook.weight[2], book.codebook.weight[5])


def test_a_code_hit_once_in_the_window_lives() -> None:
    book = codebook(window=3)
    book.initialise(torch.randn(8, 3))
    vectors = torch.randn(10, 3)
    for step in range(3):
        hits = torch.ones(8)
        hits[4] = float(step == 0)
        book.update(vectors, hits, book.codebook.weight * hits[:, None])
    assert torch.cdist(book.codebook.weight[4:5], vectors).min() > 1e-4


def test_restart_draws_no_latent_twice() -> None:
    """Regression: with fewer latents than dead codes several codes became one and the same point."""
    book = codebook(codes=8, window=1)
    book.initialise(torch.randn(8, 3))
    vectors = torch.randn(3, 3)
    book.update(vectors, torch.tensor([1.0] + [0.0] * 7), torch.zeros(8, 3))
    nearest = torch.cdist(vectors, book.codebook.weight) < 1e-6
    assert (nearest.sum(dim=1) == 1).all()


def test_training_after_loading_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """Regression: codes were drawn anew after loading, and the restart window began again."""
    straight = model()
    for step in range(4):
        straight(actions(16, step))
    straight.save_pretrained(tmp_path)
    loaded = ActionTokenizer.from_pretrained(tmp_path).train()
    for step in range(4, 8):  # crosses a restart
        torch.manual_seed(step)
        straight(actions(16, step))
        torch.manual_seed(step)
        loaded(actions(16, step))
    ours, theirs = straight.state_dict(), loaded.state_dict()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    assert int(loaded.grip_vqvae.vq.quantizers[0].steps) == 8


def test_an_untrained_tokenizer_still_draws_its_codes_after_loading(tmp_path: Path) -> None:
    model().save_pretrained(tmp_path)
    loaded = ActionTokenizer.from_pretrained(tmp_path)
    assert not loaded.pos_vqvae.vq.quantizers[0].initialised


def test_a_published_file_counts_as_trained(golden: Path) -> None:
    loaded = ActionTokenizer.from_pretrained(golden / "rvq" / "hf_saved").train()
    before = loaded.pos_vqvae.vq.quantizers[0].codebook.weight.clone()
    assert all(m.initialised and m.steps == 0 for m in loaded.modules() if isinstance(m, Codebook))
    loaded.pos_vqvae.vq.quantizers[0].ema_cluster_size.fill_(1.0)
    loaded.pos_vqvae.vq.quantizers[0].ema_w.copy_(before)
    loaded(actions(4, 0))
    after = loaded.pos_vqvae.vq.quantizers[0].codebook.weight
    assert 0 < (after - before).norm() < 0.2 * before.norm()


def test_a_generator_decides_the_draws() -> None:
    def run(seed: int, noise: int) -> Tensor:
        tokenizer = model()
        torch.manual_seed(noise)  # the global generator must not matter
        generator = torch.Generator().manual_seed(seed)
        for step in range(4):
            tokenizer(actions(16, step), generator=generator)
        return tokenizer.pos_vqvae.vq.quantizers[5].codebook.weight

    assert torch.equal(run(1, 1), run(1, 2))
    assert not torch.equal(run(1, 1), run(2, 1))


def _two_ranks(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    tokenizer = model()
    torch.manual_seed(100 + rank)  # ranks draw different numbers, as in training
    for step in range(4):  # draws first codes, restarts once
        tokenizer(actions(8, 10 * step + rank))
    torch.save(tokenizer.state_dict(), f"{folder}/rank{rank}.pt")
    tokenizer = ActionTokenizer.from_pretrained(f"{folder}/start").train()
    tokenizer(actions(8, rank))
    torch.save(tokenizer.state_dict(), f"{folder}/half{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no torch.distributed")
def test_two_ranks(tmp_path: Path) -> None:
    """Regression: each rank shuffled and counted for itself, so ranks trained different codebooks."""
    start = model()
    start(actions(32, 0))
    start.save_pretrained(tmp_path / "start")
    mp.spawn(_two_ranks, args=(str(tmp_path),), nprocs=2)

    first, second = (torch.load(tmp_path / f"rank{r}.pt", weights_only=True) for r in (0, 1))
    assert all(torch.equal(first[key], second[key]) for key in first)
    hits = first["grip_vqvae.vq.quantizers.0.entry_hits"]
    assert (hits.sum(dim=1) == 2 * 8 * 3).all()  # both ranks' latents are counted

    # Two halves of a batch teach what the whole batch teaches one process.
    single = ActionTokenizer.from_pretrained(tmp_path / "start").train()
    single(torch.cat([actions(8, rank) for rank in (0, 1)]))
    halves = torch.load(tmp_path / "half0.pt", weights_only=True)
    for key, value in single.state_dict().items():
        torch.testing.assert_close(halves[key], value, atol=1e-5, rtol=1e-5, msg=lambda m, k=key: f"{k}: {m}")
