"""The naive baseline: RDT2 as plain transformers runs it, sparing no work.

All layers and full logits for a chunk of the flow-matching expert; ``generate`` over the whole vocabulary for
tokens; in the expert adaLN computed and key heads repeated at every step, and a mask always passed. The
weights are those of the lean path, so both must come to the same result.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import wraps
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rdt2.expert import Expert
from rdt2.tokenizer import ActionTokenizer
from rdt2.vlm import VLMProcessor
from rdt2.vlm.processor import AFTER_INSTRUCTION, BEFORE_INSTRUCTION, BEFORE_PICTURE


class Stages:
    """Seconds of named stages of one prediction; a stage inside another counts for itself alone."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self._inside: list[float] = []  # for each stage that is running, the time of stages inside it

    def timed(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, its time added to the stage."""

        @wraps(function)  # transformers looks at the signature
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = self.now()
            self._inside.append(0.0)
            result = function(*args, **kwargs)
            spent = self.now() - begin
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent - self._inside.pop()
            if self._inside:
                self._inside[-1] += spent
            return result

        return call

    def now(self) -> float:
        """Time, after the GPU has finished what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


class NaivePrompt:
    """Pictures and text to a batch with transformers' own image processor."""

    def __init__(self, processor: VLMProcessor) -> None:
        from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

        self.processor = processor
        bounds = {"min_pixels": processor.images.min_pixels, "max_pixels": processor.images.max_pixels}
        self.images = Qwen2VLImageProcessorPil(**bounds)

    def __call__(self, picture: np.ndarray, instruction: str, device: torch.device) -> dict[str, Tensor]:
        """A batch of one, on the device."""
        pixels = self.images(images=[picture], return_tensors="pt")
        count = int(pixels["image_grid_thw"].prod()) // 4
        text = BEFORE_PICTURE + "<|image_pad|>" * count + BEFORE_INSTRUCTION + instruction + AFTER_INSTRUCTION
        ids = torch.tensor([self.processor.tokenizer.encode(text, add_special_tokens=False).ids])
        batch = {
            "input_ids": ids,
            "attention_mask": torch.ones_like(ids),
            "mm_token_type_ids": (ids == self.processor.image_id).long(),
            **pixels,
        }
        return {name: value.to(device) for name, value in batch.items()}


@torch.inference_mode()
def naive_fm(
    vlm: Any,
    prompt: NaivePrompt,
    expert: Expert,
    picture: np.ndarray,
    instruction: str,
    noise: Tensor,
    *,
    steps: int,
) -> tuple[Tensor, dict[str, float]]:
    """A normalised chunk (1, 24, 20) float32 after so many Euler steps, and the seconds of each stage."""
    stages = Stages(expert.device)
    begin = stages.now()
    batch = stages.timed("preprocess", prompt)(picture, instruction, expert.device)
    with patch.object(vlm.model.visual, "forward", stages.timed("vision", vlm.model.visual.forward)):
        output = stages.timed("prefill", vlm)(**batch, use_cache=True)
    layers = output.past_key_values.layers
    kv = [(layers[i].keys, layers[i].values) for i in expert.config.selected_layers]
    chunk = stages.timed("expert", _naive_sample)(expert, kv, batch["attention_mask"], noise, steps)
    return chunk, {**stages.seconds, "total": stages.now() - begin}


@torch.inference_mode()
def naive_vq(
    vlm: Any, tokenizer: ActionTokenizer, prompt: NaivePrompt, picture: np.ndarray, instruction: str
) -> tuple[Tensor, dict[str, float]]:
    """Action tokens (1, 27) and the seconds of each stage."""
    device = vlm.device
    stages = Stages(device)
    begin = stages.now()
    batch = stages.timed("preprocess", prompt)(picture, instruction, device)
    original = vlm.forward

    @wraps(original)
    def forward(*args: Any, **kwargs: Any) -> Any:
        function = original if "prefill" in stages.seconds else stages.timed("prefill", original)
        return function(*args, **kwargs)

    vision = stages.timed("vision", vlm.model.visual.forward)
    with patch.object(vlm.model.visual, "forward", vision), patch.object(vlm, "forward", forward):
        written = stages.timed("decode", vlm.generate)(
            **batch, max_new_tokens=27, do_sample=False, pad_token_id=prompt.processor.pad_id
        )
    tokens = prompt.processor.action_token_id(written[:, -27:])
    valid = tokens.clamp(0, tokenizer.num_embeddings - 1)
    stages.timed("codec", tokenizer.decode)(valid)
    return tokens, {**stages.seconds, "total": stages.now() - begin}


def _naive_sample(
    expert: Expert, kv: list[tuple[Tensor, Tensor]], mask: Tensor, noise: Tensor, steps: int
) -> Tensor:
    x = noise
    for step in range(steps):
        t = torch.full((len(x),), step / steps, device=x.device)
        x = x + _naive_velocity(expert, x, t, kv, mask) / steps
    return x


def _naive_velocity(
    expert: Expert, x: Tensor, t: Tensor, kv: list[tuple[Tensor, Tensor]], mask: Tensor
) -> Tensor:
    config, core, dtype = expert.config, expert.model, expert.dtype
    state = expert.state_adaptor(torch.zeros(len(x), config.state_dim, dtype=dtype, device=x.device))
    c = torch.cat([core.t_embedder(t), state + core.state_pos_emb[0]], -1)
    h = torch.cat([expert.act_adaptor(x.to(dtype)), core.register_tokens.expand(len(x), -1, -1)], 1)
    h = h + core.x_pos_emb
    for block, (keys, values) in zip(core.stack, kv, strict=True):
        shift, scale, gate, shift_c, scale_c, gate_c, shift_f, scale_f, gate_f = (
            block.adaLN_modulation(c).unsqueeze(1).chunk(9, -1)
        )
        y = block.attn_norm(h) * (1 + scale) + shift
        h = h + gate * _naive_attention(block.attn, y, *block.attn.keys_values(y), None)
        y = block.cross_norm(h) * (1 + scale_c) + shift_c
        h = h + gate_c * _naive_attention(block.cross_attn, y, keys.to(dtype), values.to(dtype), mask)
        y = block.ffn_norm(h) * (1 + scale_f) + shift_f
        h = h + gate_f * block.ffn(y)
    final = core.final_layer
    shift, scale = final.adaLN_modulation(c).unsqueeze(1).chunk(2, -1)
    h = final.ffn(final.ffn_norm(h) * (1 + scale) + shift)
    return h[:, : config.horizon].to(x.dtype)


def _naive_attention(attention: Any, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    query = attention.norm_q(attention.wq(x).unflatten(-1, (-1, attention.head_dim))).transpose(1, 2)
    groups = query.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    if mask is not None:
        mask = mask.bool()[:, None, None].expand(-1, 1, query.shape[2], -1)
    out = F.scaled_dot_product_attention(query, keys, values, mask)
    return attention.wo(out.transpose(1, 2).flatten(2))
