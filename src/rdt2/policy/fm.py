"""RDT2-FM: the expert turns noise into a chunk while attending to the VLM's KV cache over the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from rdt2.action import ACTION_DIM, HORIZON, ActionChunk, Promise
from rdt2.errors import ActionError, CheckpointError, ConfigError, ObservationError
from rdt2.expert import Expert, Guidance, Prefix, promise_weights
from rdt2.normalizer import LinearNormalizer
from rdt2.observation import Observation
from rdt2.policy.base import (
    OneProcess,
    Stopwatch,
    draw_noise,
    finished_chunk,
    model_pictures,
)
from rdt2.policy.questions import checked_observations, checked_promises

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8
    from numpy import ndarray
    from torch import Tensor

    from rdt2.vlm import KVCache, VLMProcessor


class FMPolicy(OneProcess):
    """Prefills the VLM once, no further than the expert reads, then samples in a few Euler steps.

    The state input of the expert gets zeros, which is all the released models ever saw, and ``Observation.state`` is
    not read, unless the expert was trained with it (``expert.config.reads_state``).
    """

    def __init__(
        self,
        *,
        vlm: torch.nn.Module,
        processor: VLMProcessor,
        expert: Expert,
        normalizer: LinearNormalizer,
        steps: int | None = None,
        draws: int = 1,
        patience: float | None = None,
    ) -> None:
        """
        Args:
            vlm: a Qwen2.5-VL from :func:`rdt2.vlm.load_vlm`; ``layers=max(selected_layers) + 1`` is enough.
            processor: its text and picture processing.
            expert: its dtype may differ from the VLM's.
            normalizer: the normalizer the expert was trained with.
            steps: Euler steps; None for the checkpoint's own number. 1 is the one-step (UltraFast) policy:
                ``A0 + v(0, A0)``.
            draws: chunks drawn for each observation; what is predicted is their mean, which errs less.
            patience: see :class:`rdt2.policy.Policy`.

        Raises:
            CheckpointError: if the expert is of another shape, or reads layers the VLM does not have.
            ConfigError: if steps or draws is not a positive number.
        """
        if (expert.config.horizon, expert.config.action_dim) != (HORIZON, ACTION_DIM):
            raise CheckpointError(
                f"the expert predicts ({expert.config.horizon}, {expert.config.action_dim}) chunks, expected "
                f"({HORIZON}, {ACTION_DIM}); point at an RDT2-FM expert."
            )
        layers = int(vlm.config.text_config.num_hidden_layers)  # type: ignore[arg-type, union-attr]
        if max(expert.config.selected_layers) >= layers:
            raise CheckpointError(
                f"the expert reads VLM layers {list(expert.config.selected_layers)}, the VLM has "
                f"0..{layers - 1}; use the VLM this expert was trained on."
            )
        if steps is not None and steps < 1:
            raise ConfigError(f"steps is {steps}, expected 1 or more Euler steps.")
        self.vlm, self.processor = vlm.eval(), processor
        self.expert, self.normalizer = expert.eval(), normalizer
        if draws < 1:
            raise ConfigError(f"draws is {draws}, expected 1 or more.")
        self.steps, self.draws = expert.config.steps if steps is None else steps, draws
        self.patience = patience

    @property
    def device(self) -> torch.device:
        """Where the VLM and the expert run."""
        return self.expert.device

    @property
    def keeps_promises(self) -> bool:
        """True for an expert that was trained to go on from given rows (:mod:`rdt2.expert.prefix`), and where chunks
        are made in several Euler steps, each drawn to what was promised (:mod:`rdt2.expert.guidance`). A single step
        cannot be drawn: what it starts from says too little of where it ends.
        """
        return self.steps > 1 or self.expert.config.prefix > 0

    @property
    def longest_promise(self) -> int:
        """As many rows as the expert was trained to go on from; where its steps are drawn, as many as there are."""
        return self.expert.config.prefix or HORIZON

    def predict(
        self,
        observations: Sequence[Observation],
        *,
        seed: int | Sequence[int] | None = None,
        promised: Sequence[Promise | None] | None = None,
    ) -> list[ActionChunk]:
        """See :class:`rdt2.policy.Policy`."""
        observations = checked_observations(observations)
        promises = checked_promises(promised, len(observations))
        if any(promises) and not self.keeps_promises:
            raise ActionError(
                "an FM policy of one Euler step keeps no promises (keeps_promises is False): take steps=2 or more, or "
                "leave out promised= and blend the plan being driven into the new chunk."
            )
        most = self.longest_promise
        if (late := max((each.fixed for each in promises if each is not None), default=0)) > most:
            raise ActionError(
                f"{late} steps were promised as driven, this expert was trained to go on from {most} at most: what "
                "follows would jump. Take a faster machine, or an expert trained with a larger prefix."
            )
        watch = Stopwatch(self.device)
        pictures = model_pictures(observations)
        noise = draw_noise(len(observations), seed, draws=self.draws)
        watch.lap("jpeg")
        state = self._state(observations) if self.expert.config.reads_state else None
        sentences = [o.instruction for o in observations]
        return self.predict_pictures(
            pictures, sentences, noise=noise, state=state, promised=promises, watch=watch
        )

    def _state(self, observations: Sequence[Observation]) -> Float[Tensor, "b 20"]:
        states = torch.from_numpy(np.stack([o.state for o in observations]))
        if not bool(states.any(dim=1).all()):
            raise ObservationError(
                "this expert was trained with the arms' poses and widths: pass Observation(state=...), made with "
                "rdt2.action.state_vector. A state of zeros is no state."
            )
        return states

    @torch.inference_mode()
    def predict_pictures(
        self,
        pictures: Sequence[UInt8[ndarray, "h w 3"]],
        instructions: Sequence[str],
        *,
        noise: Float[Tensor, "kxb 24 20"],
        state: Float[Tensor, "b 20"] | None = None,
        promised: Sequence[Promise | None] = (),
        watch: Stopwatch | None = None,
    ) -> list[ActionChunk]:
        """Chunks from given noise, for pictures exactly as the VLM is to see them, without the JPEG step.

        ``promised`` has an entry for each picture, or none at all. With k times as much noise (row j*b + i is draw j
        for picture i) each chunk is the mean of its k draws.
        """
        watch = watch or Stopwatch(self.device)
        batch = self._batch(pictures, instructions)
        watch.lap("prompt")
        return self.predict_batch(batch, noise=noise, state=state, promised=promised, watch=watch)

    def _batch(
        self, pictures: Sequence[UInt8[ndarray, "h w 3"]], instructions: Sequence[str]
    ) -> dict[str, Tensor]:
        return self.processor.prompt(pictures, instructions)

    @torch.inference_mode()
    def predict_batch(
        self,
        batch: dict[str, Tensor],
        *,
        noise: Float[Tensor, "kxb 24 20"],
        state: Float[Tensor, "b 20"] | None = None,
        promised: Sequence[Promise | None] = (),
        watch: Stopwatch | None = None,
    ) -> list[ActionChunk]:
        """As :meth:`predict_pictures`, for a batch as ``VLMProcessor.prompt`` makes it."""
        watch = watch or Stopwatch(self.device)
        cache = self._prefill(batch)
        watch.lap("vlm")
        # Noise and chunk stay float32 between Euler steps, whatever the dtype of the weights.
        cond = self.expert.prepare(cache)
        normalized = self.expert.sample(
            cond,
            noise=noise.to(self.device, torch.float32),
            state=None if state is None else state.to(self.device).repeat(len(noise) // cond.batch, 1),
            steps=self.steps,
            known=self._known(promised, len(noise)),
        )
        return self._finished(normalized, cond.batch, promised, watch)

    def _known(self, promised: Sequence[Promise | None], rows: int) -> Guidance | Prefix | None:
        """What was promised for ``rows`` chunks, all observations' first draw, then the second: rows that an expert
        trained for it is given, at most so many as in its training; else what its steps are drawn to.
        """
        if not any(promised):
            return None
        actions, weights = (
            torch.zeros(len(promised), HORIZON, ACTION_DIM),
            torch.zeros(len(promised), HORIZON),
        )
        for row, promise in enumerate(promised):
            if promise is not None:
                actions[row] = self.normalizer.normalize(torch.tensor(promise.actions))
                weights[row] = promise_weights(promise.fixed, promise.known, HORIZON)
        draws = rows // len(promised)
        actions, weights = (
            actions.repeat(draws, 1, 1).to(self.device),
            weights.repeat(draws, 1).to(self.device),
        )
        if self.expert.config.prefix:
            return Prefix.of(actions, (weights == 1).sum(1).clamp_max(self.expert.config.prefix))
        return Guidance(actions, weights)

    def _finished(
        self,
        normalized: Float[Tensor, "kxb 24 20"],
        rows: int,
        promised: Sequence[Promise | None],
        watch: Stopwatch,
    ) -> list[ActionChunk]:
        normalized = normalized.float().unflatten(0, (-1, rows)).mean(dim=0)
        values = self.normalizer.denormalize(normalized).cpu().numpy()
        for chunk, promise in zip(values, promised or [None] * rows, strict=True):
            if promise is not None:  # these are being driven, whatever the model says
                chunk[: promise.fixed] = promise.actions[: promise.fixed]
        watch.lap("expert")
        timing = watch.result()
        return [finished_chunk(row, timing=timing) for row in values]

    def _prefill(self, batch: dict[str, Tensor]) -> KVCache:
        """What the expert reads of the VLM, for a batch on any device."""
        from rdt2.vlm import prefill

        batch = {key: value.to(self.device) for key, value in batch.items()}
        return prefill(self.vlm, batch, self.expert.config.selected_layers)
