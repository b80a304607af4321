"""RDT2-VQ: the VLM writes 27 action tokens, the tokenizer turns them into a chunk."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdt2.action import ACTION_DIM, HORIZON, NUM_TOKENS, ActionChunk, Promise
from rdt2.errors import ActionError, CheckpointError, ConfigError
from rdt2.normalizer import LinearNormalizer
from rdt2.observation import Observation
from rdt2.policy.base import (
    OneProcess,
    Stopwatch,
    finished_chunk,
    model_pictures,
    row_generators,
)
from rdt2.policy.questions import checked_observations, checked_promises
from rdt2.tokenizer import ActionTokenizer
from rdt2.vlm.decode import check_temperature

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from numpy import ndarray
    from torch import Tensor

    from rdt2.vlm import VLMProcessor


class VQPolicy(OneProcess):
    """Decoding over the action tokens alone, one by one.

    Decoding never depends on the checkpoint's generation settings: a repetition penalty found there would
    change action tokens, which repeat by nature.
    """

    def __init__(
        self,
        *,
        vlm: torch.nn.Module,
        processor: VLMProcessor,
        tokenizer: ActionTokenizer,
        normalizer: LinearNormalizer,
        temperature: float = 0.0,
        draws: int = 1,
        patience: float | None = None,
    ) -> None:
        """
        Args:
            vlm: a whole Qwen2.5-VL from :func:`rdt2.vlm.load_vlm`, in any one dtype.
            processor: its text and picture processing.
            tokenizer: the action tokenizer the VLM was trained with; computes in float32.
            normalizer: the normalizer the tokenizer was trained with.
            temperature: 0 takes the likeliest token (greedy); above, tokens are drawn from
                softmax(logits / temperature), with the seed of ``predict``.
            draws: strings drawn for each chunk, which is the mean of theirs. One string says a single way to go on,
                and errs with it; the mean errs less, for a batch of this size behind one prompt.
            patience: see :class:`rdt2.policy.Policy`.

        Raises:
            CheckpointError: if the parts do not fit each other.
            ConfigError: if the temperature is not a finite number of 0 or more, or several draws cannot be had.
        """
        check_draws(draws, temperature)
        horizon = tokenizer.config.action_horizon
        if tokenizer.num_tokens != NUM_TOKENS or horizon != HORIZON:
            raise CheckpointError(
                f"the action tokenizer makes {tokenizer.num_tokens} tokens of {horizon} steps, RDT2-VQ "
                f"writes {NUM_TOKENS} tokens for {HORIZON} steps; use the tokenizer the VLM was trained with."
            )
        if tokenizer.num_embeddings > processor.vocab_size:
            raise CheckpointError(
                f"the action tokenizer has {tokenizer.num_embeddings} codes, but the VLM's vocabulary has "
                f"only {processor.vocab_size} ids to write them with; use the tokenizer the VLM was "
                "trained with."
            )
        self.vlm, self.processor = vlm.eval(), processor
        self.tokenizer, self.normalizer = tokenizer.eval(), normalizer
        self.temperature, self.draws, self.patience = temperature, draws, patience

    @property
    def device(self) -> torch.device:
        """Where the VLM runs."""
        return next(self.vlm.parameters()).device

    @property
    def keeps_promises(self) -> bool:
        """False: tokens are written one by one, of whole stretches of time; there is nothing to hold on to."""
        return False

    @property
    def longest_promise(self) -> int:
        """0: it keeps none."""
        return 0

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """See :class:`rdt2.policy.Policy`. Greedy decoding draws nothing: there ``seed`` changes nothing."""
        observations = checked_observations(observations)
        if any(checked_promises(promised, len(observations))):
            raise ActionError(
                "a VQ policy keeps no promises (keeps_promises is False): leave out promised=, and blend the plan "
                "being driven into the new chunk."
            )
        watch = Stopwatch(self.device)
        pictures = model_pictures(observations)
        watch.lap("jpeg")
        return self.predict_pictures(pictures, [o.instruction for o in observations], seed=seed, watch=watch)

    @torch.inference_mode()
    def predict_pictures(
        self,
        pictures: Sequence[UInt8[ndarray, "h w 3"]],
        instructions: Sequence[str],
        *,
        seed: int | Sequence[int] | None = None,
        watch: Stopwatch | None = None,
    ) -> list[ActionChunk]:
        """Chunks for left | right pictures exactly as the VLM is to see them, without the JPEG step."""
        watch = watch or Stopwatch(self.device)
        batch = self._batch(pictures, instructions)
        noise = self._noise(len(pictures), seed)
        watch.lap("prompt")
        tokens, logprobs = self._write(batch, noise)
        tokens, confidence = tokens.cpu(), logprobs.float().mean(dim=1).cpu().numpy()
        watch.lap("vlm")

        # Each row stands for itself: one with a token that is no code is marked, not decoded or replaced.
        usable = ((tokens >= 0) & (tokens < self.tokenizer.num_embeddings)).all(dim=1)
        values = np.full((len(tokens), HORIZON, ACTION_DIM), np.nan, np.float32)
        if usable.any():
            chunks = self._decode(tokens[usable])
            values[usable.numpy()] = self.normalizer.denormalize(chunks.float()).cpu().numpy()
        watch.lap("decode")
        timing = watch.result()
        return [
            self._finished(tokens[rows], values[rows], confidence[rows], timing)
            for rows in (slice(first, first + self.draws) for first in range(0, len(tokens), self.draws))
        ]

    def _finished(
        self,
        tokens: Int[Tensor, "draws 27"],
        values: Float[ndarray, "draws 24 20"],
        confidence: Float[ndarray, " draws"],
        timing: dict[str, float],
    ) -> ActionChunk:
        """The mean of an observation's draws, with the tokens of the draw nearest to it."""
        codes, sure = self.tokenizer.num_embeddings, float(confidence.mean())
        for string in tokens.numpy():
            if ((string < 0) | (string >= codes)).any():
                return _unusable(string, codes, sure, timing)
        mean = values.mean(axis=0)
        nearest = int(np.nan_to_num(np.square(values - mean)).sum(axis=(1, 2)).argmin())
        return finished_chunk(mean, timing=timing, tokens=tokens[nearest].numpy(), confidence=sure)

    def _batch(
        self, pictures: Sequence[UInt8[ndarray, "h w 3"]], instructions: Sequence[str]
    ) -> dict[str, Tensor]:
        return self.processor.prompt(pictures, instructions)

    def _decode(self, tokens: Int[Tensor, "b 27"]) -> Float[Tensor, "b 24 20"]:
        """Normalised chunks of tokens."""
        return self.tokenizer.decode(tokens)

    def _noise(self, rows: int, seed: int | Sequence[int] | None) -> Float[Tensor, "bxdraws 27 n"] | None:
        from rdt2.vlm import sampling_noise

        generators = row_generators(rows, seed)
        if self.temperature == 0:
            return None
        shape = (self.draws, NUM_TOKENS, self.tokenizer.num_embeddings)
        return torch.cat([sampling_noise(shape, self.temperature, generator=each) for each in generators])

    def _write(
        self, batch: dict[str, Tensor], noise: Float[Tensor, "bxdraws 27 n"] | None
    ) -> tuple[Int[Tensor, "bxdraws 27"], Float[Tensor, "bxdraws 27"]]:
        """Tokens of each draw and their log-probabilities."""
        from rdt2.vlm import generate_actions

        return generate_actions(
            self.vlm,
            {name: value.to(self.device) for name, value in batch.items()},
            self.processor,
            num_tokens=NUM_TOKENS,
            num_embeddings=self.tokenizer.num_embeddings,
            noise=None if noise is None else noise.to(self.device),
        )


def check_draws(draws: int, temperature: float) -> None:
    """Refuse a number of draws that makes no sense, or a temperature.

    Raises:
        ConfigError: what is wrong.
    """
    check_temperature(temperature)
    if draws < 1:
        raise ConfigError(f"draws is {draws}, expected 1 or more.")
    if draws > 1 and temperature == 0:
        raise ConfigError(
            f"draws={draws} with temperature 0 would draw the same tokens each time; set temperature=0.6 or so."
        )


def _unusable(tokens: np.ndarray, codes: int, confidence: float, timing: dict[str, float]) -> ActionChunk:
    position = int(np.argmax((tokens < 0) | (tokens >= codes)))
    return ActionChunk(
        np.full((HORIZON, ACTION_DIM), np.nan),
        valid=False,
        reason=f"token {position} of {len(tokens)} is {tokens[position]}, expected 0..{codes - 1}",
        tokens=tokens,
        confidence=confidence,
        timing=timing,
    )
