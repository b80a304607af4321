"""RDT2-FM compiled: fixed shapes, fused kernels, and on a GPU one CUDA graph a stage instead of a thousand launches.

All of it is here; the files of the models stay plain. Two functions are compiled: the layers of the language
model over the prompt, and one step of the expert. What depends on the content of the batch (where the picture's
tokens are, padding) stays outside. Prompts are padded to multiples of 32 tokens, so that instructions of other
lengths find compiled code; a batch of another size compiles once more.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from rdt2.action import ACTION_DIM
from rdt2.observation import IMAGE_SIZE, Observation
from rdt2.policy.fm import FMPolicy

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rdt2.action import ActionChunk
    from rdt2.policy.base import Stopwatch
    from rdt2.vlm import KVCache

LENGTHS = 32  # prompts are padded to multiples of this
WARM_UP_RUNS = 3  # compile, record the CUDA graphs, replay them


class CompiledFMPolicy(FMPolicy):
    """An :class:`FMPolicy` that compiles when made: the first chunk asked for comes as fast as all others."""

    def __init__(self, *, backend: str | Callable[..., Any] = "inductor", **parts: Any) -> None:
        """
        Args:
            backend: of ``torch.compile``.
            **parts: as for :class:`FMPolicy`. From now on the expert runs compiled for whoever uses it.
        """
        from rdt2.vlm.prefill import run_prompt

        super().__init__(**parts)
        settings: dict[str, Any] = {"fullgraph": True, "dynamic": False, "backend": backend}
        if self.device.type == "cuda" and backend == "inductor":
            settings["mode"] = "reduce-overhead"  # CUDA graphs
        self._run_prompt = torch.compile(run_prompt, **settings)
        self.expert.denoise = torch.compile(self.expert.denoise, **settings)  # type: ignore[method-assign]
        black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
        for _ in range(WARM_UP_RUNS):
            self.predict([Observation(black, black, "Pick up the apple.", state=np.ones(ACTION_DIM))], seed=0)

    @torch.inference_mode()
    def predict_batch(
        self,
        batch: dict[str, Tensor],
        *,
        noise: Float[Tensor, "b 24 20"],
        state: Float[Tensor, "b 20"] | None = None,
        watch: Stopwatch | None = None,
    ) -> list[ActionChunk]:
        """As :meth:`FMPolicy.predict_batch`."""
        # A copy made in inference mode is of the kind that every later Euler step gets: one graph serves all.
        return super().predict_batch(batch, noise=noise.clone(), state=state, watch=watch)

    def _prefill(self, batch: dict[str, Tensor]) -> KVCache:
        from rdt2.vlm import KVCache, text

        batch = self._to_device(self._padded(batch))
        torch.compiler.cudagraph_mark_step_begin()  # what the last chunk's graphs returned is no longer needed
        x = text.embed(self.vlm, batch)
        angles = text.rotary(self.vlm, text.positions(batch), x.dtype)
        mask = text.causal_mask(batch["attention_mask"])
        language = text.base_model(self.vlm).model.language_model
        keys, values = self._run_prompt(language, x, angles, mask, self.expert.config.selected_layers)
        return KVCache(keys, values, batch["attention_mask"].bool())

    def _padded(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Padded on the left by 1 to 32 places; at least one, so that there always is a mask."""
        more = LENGTHS - batch["input_ids"].shape[1] % LENGTHS
        filling = {"input_ids": self.processor.pad_id, "attention_mask": 0, "mm_token_type_ids": 0}
        return {
            **batch,
            **{name: F.pad(batch[name], (more, 0), value=fill) for name, fill in filling.items()},
        }

    def _to_device(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """From pinned memory, so that the CPU goes on while the GPU copies."""
        if self.device.type == "cuda":
            batch = {name: value.pin_memory() for name, value in batch.items()}
        return {name: value.to(self.device, non_blocking=True) for name, value in batch.items()}
