"""A checked draft gives exactly the greedy answer, whatever the draft, and says how much of it was right."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from rdt2.errors import ActionError, ConfigError
from rdt2.vlm import KVCache, generate_actions, prefill, sampling_noise, speculate_actions

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]
LENGTH, CODES = 9, 64


@pytest.fixture(scope="module")
def greedy(
    tiny: SimpleNamespace, pictures: list[np.ndarray]
) -> tuple[dict[str, torch.Tensor], torch.Tensor, torch.Tensor]:
    """A left-padded batch of two, its greedy tokens, and their log-probabilities."""
    prompt = tiny.processor.prompt(pictures, TEXTS)
    assert prompt["attention_mask"].min() == 0
    tokens, scores = generate_actions(
        tiny.model, prompt, tiny.processor, num_tokens=LENGTH, num_embeddings=CODES
    )
    assert len(set(tokens.flatten().tolist())) > 3, "an answer of one token alone would test little"
    return prompt, tokens, scores


def wrong_at(*places: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """The right tokens but for these places."""

    def change(tokens: torch.Tensor) -> torch.Tensor:
        drafted = tokens.clone()
        drafted[:, list(places)] = (drafted[:, list(places)] + 1) % CODES
        return drafted

    return change


@pytest.mark.parametrize(
    ("change", "accepted", "most_passes"),
    [
        (wrong_at(), LENGTH, 1),
        (wrong_at(LENGTH - 1), LENGTH - 1, 1),
        (wrong_at(4), 4, LENGTH - 4),
        (wrong_at(1, 2, 6), 1, LENGTH - 1),
        (wrong_at(*range(LENGTH)), 0, LENGTH - 1),
    ],
    ids=["all right", "last wrong", "one wrong", "some wrong", "all wrong"],
)
def test_equals_greedy_whatever_the_draft(
    tiny: SimpleNamespace, greedy: tuple, change: Callable, accepted: int, most_passes: int
) -> None:
    prompt, tokens, scores = greedy
    result = speculate_actions(
        tiny.model,
        prompt,
        tiny.processor,
        lambda cache: change(tokens),
        num_tokens=LENGTH,
        num_embeddings=CODES,
    )
    assert torch.equal(result.tokens, tokens)
    torch.testing.assert_close(result.logprobs, scores, rtol=1e-4, atol=1e-5)
    assert result.accepted.tolist() == [accepted] * 2
    assert 1 <= result.passes <= most_passes


def test_rows_with_drafts_of_different_worth_do_not_disturb_each_other(
    tiny: SimpleNamespace, greedy: tuple
) -> None:
    prompt, tokens, scores = greedy
    drafted = torch.stack([wrong_at(2, 5)(tokens)[0], tokens[1]])
    result = speculate_actions(
        tiny.model, prompt, tiny.processor, lambda _: drafted, num_tokens=LENGTH, num_embeddings=CODES
    )
    assert torch.equal(result.tokens, tokens)
    torch.testing.assert_close(result.logprobs, scores, rtol=1e-4, atol=1e-5)
    assert result.accepted.tolist() == [2, LENGTH]


@pytest.mark.parametrize("seed", range(4))
def test_random_drafts(tiny: SimpleNamespace, greedy: tuple, seed: int) -> None:
    prompt, tokens, _ = greedy
    drafted = torch.randint(CODES, tokens.shape, generator=torch.Generator().manual_seed(seed))
    result = speculate_actions(
        tiny.model, prompt, tiny.processor, lambda _: drafted, num_tokens=LENGTH, num_embeddings=CODES
    )
    assert torch.equal(result.tokens, tokens)


def test_the_draft_reads_the_cache_of_the_prompt(tiny: SimpleNamespace, greedy: tuple) -> None:
    prompt, tokens, _ = greedy
    seen: list[KVCache] = []
    speculate_actions(
        tiny.model,
        prompt,
        tiny.processor,
        lambda cache: (seen.append(cache), tokens)[1],
        num_tokens=LENGTH,
        num_embeddings=CODES,
    )
    with torch.no_grad():
        expected = prefill(tiny.model, prompt, [2, 0])
    ours = seen[0].select([2, 0])
    for a, b in zip(ours.keys + ours.values, expected.keys + expected.values, strict=True):
        torch.testing.assert_close(a, b)
    assert torch.equal(ours.mask, expected.mask)


@pytest.mark.parametrize(
    "draft", [torch.zeros(2, LENGTH - 1).long(), torch.full((2, LENGTH), -1), torch.full((2, LENGTH), CODES)]
)
def test_a_draft_that_is_none_is_refused(tiny: SimpleNamespace, greedy: tuple, draft: torch.Tensor) -> None:
    with pytest.raises(ActionError, match=r"a draft of 9 tokens 0\.\.63"):
        speculate_actions(
            tiny.model, greedy[0], tiny.processor, lambda _: draft, num_tokens=LENGTH, num_embeddings=CODES
        )


def test_more_action_tokens_than_words_are_refused(tiny: SimpleNamespace, greedy: tuple) -> None:
    with pytest.raises(ConfigError, match="action tokens"):
        generate_actions(tiny.model, greedy[0], tiny.processor, num_embeddings=10**6)


def test_a_draft_changes_no_sample_either(tiny: SimpleNamespace, greedy: tuple) -> None:
    """Tokens that are drawn, not the likeliest: the draft is checked against the same draw."""
    prompt, likeliest, _ = greedy
    settings = {"num_tokens": LENGTH, "num_embeddings": CODES}
    noise = sampling_noise((2, LENGTH, CODES), 1.5, generator=torch.Generator().manual_seed(3))
    tokens, scores = generate_actions(tiny.model, prompt, tiny.processor, **settings, noise=noise)
    assert not torch.equal(tokens, likeliest)
    for drafted in (likeliest, tokens, wrong_at(3)(tokens)):
        result = speculate_actions(
            tiny.model, prompt, tiny.processor, lambda _, d=drafted: d, **settings, noise=noise
        )
        assert torch.equal(result.tokens, tokens)
        torch.testing.assert_close(result.logprobs, scores, rtol=0, atol=1e-5)
    assert result.accepted.tolist() == [3, 3]
