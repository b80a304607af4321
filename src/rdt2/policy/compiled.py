"""Policies compiled: fixed shapes, fused layers, and on a GPU one CUDA graph a stage instead of thousands of launches.

All of it is here; the files of the models stay plain. Layers run through ``torch.compile`` one by one and share their
code. On a GPU what a stage launches is recorded once for each shape of its inputs and replayed from then on: pictures,
which go there as they are and become patches; the VLM over the prompt; the Euler steps of the expert, or all tokens of
an answer. Prompts are padded to multiples of 32 tokens, so that instructions of other lengths find what was recorded.
The padding is on the right, where causality alone keeps it out and the fastest attention kernels need no mask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from rdt2.action import ACTION_DIM, NUM_TOKENS
from rdt2.compiling import Backend, Compiled
from rdt2.expert import Conditioning
from rdt2.expert.model import run_block
from rdt2.observation import IMAGE_SIZE, Observation
from rdt2.policy.base import Stopwatch
from rdt2.policy.fm import FMPolicy
from rdt2.policy.vq import VQPolicy
from rdt2.vlm import text
from rdt2.vlm.images import DeviceImages
from rdt2.vlm.joined import align_vision, join_projections
from rdt2.vlm.layers import Layers, compile_layers
from rdt2.vlm.ops import rms_norm, rotate
from rdt2.vlm.prefill import run_prompt
from rdt2.vlm.vision import encode_pictures

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int, UInt8
    from numpy import ndarray

    from rdt2.action import ActionChunk, Promise
    from rdt2.expert import Guidance, Prefix
    from rdt2.vlm import VLMProcessor

LENGTHS = 32  # prompts are padded to multiples of this
WARM_UP_RUNS = 2


class Recorded:
    """A function of tensors that a GPU replays as one CUDA graph; on other devices it is called as it is.

    There is one recording for each combination of shapes and of what is ``fixed``. What it returns is overwritten by
    the next call.
    """

    def __init__(self, function: Callable[..., Any], device: torch.device) -> None:
        self._function, self._device = function, device
        self._recordings: dict[Hashable, tuple[torch.cuda.CUDAGraph, list[Tensor], Any]] = {}

    def __call__(self, *inputs: Tensor, fixed: tuple[Any, ...] = ()) -> Any:
        """The function's result for ``inputs``, which may still be on the CPU, and ``fixed``, behind them."""
        if self._device.type != "cuda":
            return self._function(*(value.to(self._device) for value in inputs), *fixed)
        key = (fixed, *((tuple(value.shape), value.dtype) for value in inputs))
        if key not in self._recordings:
            self._recordings[key] = self._record(inputs, fixed)
        graph, held, result = self._recordings[key]
        for place, value in zip(held, inputs, strict=True):
            if value.device.type == "cpu":
                value = value.pin_memory()  # so that the CPU goes on while the GPU copies
            place.copy_(value, non_blocking=True)
        graph.replay()
        return result

    def _record(
        self, inputs: tuple[Tensor, ...], fixed: tuple[Any, ...]
    ) -> tuple[torch.cuda.CUDAGraph, list[Tensor], Any]:
        held = [value.to(self._device, copy=True) for value in inputs]
        beside = torch.cuda.Stream(self._device)
        beside.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(beside):
            for _ in range(WARM_UP_RUNS):  # compiles, and lets libraries allocate what they keep
                self._function(*held, *fixed)
        torch.cuda.current_stream(self._device).wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            result = self._function(*held, *fixed)
        return graph, held, result


# ---------------------------------------------------------------------------------------------- the prompt


class Prompt(NamedTuple):
    """A batch of prompts padded on the right."""

    input_ids: Int[Tensor, "b s"]
    attention_mask: Int[Tensor, "b s"]
    position: Int[Tensor, "3 b s"]
    pixel_values: Float[Tensor, "patches 1176"]

    @property
    def last(self) -> Int[Tensor, " b"]:
        """Where the last token of each row stands."""
        return self.attention_mask.sum(-1) - 1


def padded_prompt(batch: dict[str, Tensor], pad_id: int) -> tuple[Prompt, tuple[tuple[int, ...], ...]]:
    """A batch of ``VLMProcessor.prompt``, its padding on the right and up to a fixed length, and its grids."""
    more = -batch["input_ids"].shape[1] % LENGTHS
    filling = {"input_ids": pad_id, "attention_mask": 0, "mm_token_type_ids": 0}
    padded = {name: F.pad(batch[name], (more, 0), value=fill) for name, fill in filling.items()}
    length = padded["input_ids"].shape[1]
    missing = length - padded["attention_mask"].sum(-1, keepdim=True)
    turned = (torch.arange(length, device=missing.device) + missing) % length
    padded = {name: values.gather(1, turned) for name, values in padded.items()}
    grid = batch["image_grid_thw"]
    position = text.positions({**padded, "image_grid_thw": grid})
    prompt = Prompt(padded["input_ids"], padded["attention_mask"], position, batch["pixel_values"])
    return prompt, tuple(tuple(row) for row in grid.tolist())


def embed_prompt(
    vlm: Any, prompt: Prompt, grids: tuple[tuple[int, ...], ...], run: Layers
) -> Float[Tensor, "b s d"]:
    """As ``text.embed``, without asking the GPU anything."""
    inner = text.base_model(vlm).model
    x = inner.language_model.embed_tokens(prompt.input_ids)
    pictures = encode_pictures(inner.visual, prompt.pixel_values, torch.tensor(grids), run=run.vision)
    is_picture = prompt.input_ids == inner.config.image_token_id
    return x.masked_scatter(is_picture[..., None], pictures.to(x.dtype))


class _Compiled:
    """What both compiled policies do before the VLM. What is compiled is theirs: other policies run as they did.

    Threads that share one take turns: recordings have one place each for what goes in and what comes out.
    """

    vlm: torch.nn.Module
    processor: VLMProcessor
    device: torch.device

    def _compile(self, backend: Backend) -> None:
        self._turn = threading.RLock()
        # Where nothing is recorded, code for any length of a sentence and any batch is as fast, and compiled once.
        self._dynamic = None if self.device.type == "cuda" else True
        self._layers = compile_layers(backend, dynamic=self._dynamic)
        join_projections(self.vlm)
        if self.device.type == "cuda":
            align_vision(self.vlm)

    def predict_pictures(self, *args: Any, **kwargs: Any) -> list[ActionChunk]:
        """As that of the plain policy."""
        with self._turn:
            chunks: list[ActionChunk] = super().predict_pictures(*args, **kwargs)  # type: ignore[misc]
            return chunks

    def _batch(
        self, pictures: Sequence[UInt8[ndarray, "h w 3"]], instructions: Sequence[str]
    ) -> dict[str, Tensor]:
        images = self._patches if self.device.type == "cuda" else None
        return self.processor.prompt(pictures, instructions, images=images)

    def _patches(self, pictures: Sequence[UInt8[ndarray, "h w 3"]]) -> tuple[Tensor, Tensor]:
        """As ``ImageProcessor`` makes them, on the GPU."""
        grid = torch.tensor([self._images.grid(picture) for picture in pictures])
        parts = [self._cut(torch.from_numpy(picture)) for picture in pictures[:1]]
        for picture in pictures[1:]:
            parts[-1] = parts[-1].clone()  # the next call overwrites it
            parts.append(self._cut(torch.from_numpy(picture)))
        return torch.cat(parts) if len(parts) > 1 else parts[0], grid

    @cached_property
    def _images(self) -> DeviceImages:
        return DeviceImages(self.processor.images, self.device)

    @cached_property
    def _cut(self) -> Recorded:
        return Recorded(self._images.patches, self.device)


# ---------------------------------------------------------------------------------------------- RDT2-FM


class CompiledFMPolicy(_Compiled, FMPolicy):
    """An :class:`FMPolicy` that compiles when made: the first chunk asked for comes as fast as all others."""

    def __init__(self, *, backend: Backend = "inductor", **parts: Any) -> None:
        """
        Args:
            backend: of ``torch.compile``.
            **parts: as for :class:`FMPolicy`.
        """
        super().__init__(**parts)
        self._compile(backend)
        self._block = Compiled(run_block, backend=backend, dynamic=self._dynamic)
        self._read = Recorded(self._read_prompt, self.device)
        self._sample = Recorded(self._sample_chunk, self.device)
        _warm_up(self)

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
        """As :meth:`FMPolicy.predict_batch`. What keeps promises is not compiled."""
        watch = watch or Stopwatch(self.device)
        prompt, grids = padded_prompt(batch, self.processor.pad_id)
        with self._turn:
            keys_values = self._read(*prompt, fixed=(grids,))
            watch.lap("vlm")
            mask = prompt.attention_mask.bool()[:, None, None]
            given = [noise.float(), mask]
            if state is not None:
                given.append(state.repeat(len(noise) // len(mask), 1))
            known = self._known(promised, len(noise))
            if known is None:
                normalized = self._sample(*given, *keys_values, fixed=(len(given),))
            else:
                given = [value.to(self.device) for value in given]
                normalized = self._sample_chunk(*given, *keys_values, len(given), known=known)
            return self._finished(normalized, len(mask), promised, watch)

    def _read_prompt(self, *inputs: Any) -> tuple[Tensor, ...]:
        """All keys, then all values, of the layers that the expert reads, in its dtype."""
        prompt, grids = Prompt(*inputs[:-1]), inputs[-1]
        x = embed_prompt(self.vlm, prompt, grids, self._layers)
        angles = text.rotary(self.vlm, prompt.position, x.dtype)
        language = text.base_model(self.vlm).model.language_model
        layers = self.expert.config.selected_layers
        keys, values = run_prompt(language, x, angles, None, layers, run=self._layers)
        return tuple(each.to(self.expert.dtype).contiguous() for each in (*keys, *values))

    def _sample_chunk(
        self, *inputs: Any, known: Guidance | Prefix | None = None
    ) -> Float[Tensor, "kxb 24 20"]:
        *tensors, given = inputs
        noise, mask, *state = tensors[:given]
        keys_values = tuple(tensors[given:])
        half = len(keys_values) // 2
        cond = Conditioning(keys_values[:half], keys_values[half:], mask)
        return self.expert.sample(
            cond,
            noise=noise,
            state=state[0] if state else None,
            steps=self.steps,
            known=known,
            run=self._block if known is None else run_block,
        )


# ---------------------------------------------------------------------------------------------- RDT2-VQ


class CompiledVQPolicy(_Compiled, VQPolicy):
    """A :class:`VQPolicy` that compiles when made; on a GPU all of an answer is one CUDA graph."""

    def __init__(self, *, backend: Backend = "inductor", **parts: Any) -> None:
        """
        Args:
            backend: of ``torch.compile``.
            **parts: as for :class:`VQPolicy`.
        """
        super().__init__(**parts)
        self._compile(backend)
        # Products with one token read their matrix from memory as fast as it goes only after this search.
        search = {"coordinate_descent_tuning": True, "max_autotune_pointwise": True}
        tuned: Any = search if backend == "inductor" else None
        settings: Any = {"backend": backend, "dynamic": self._dynamic}
        self._attend = Compiled(_attend, options=tuned, **settings)
        self._widen = Compiled(_widen, options=tuned, **settings)
        self._narrow = Compiled(_narrow, options=tuned, **settings)
        self._answer = Recorded(self._write_answer, self.device)
        self._chunk = Recorded(self._decode_plainly, self.device)
        _warm_up(self)

    def _write(
        self, batch: dict[str, Tensor], noise: Float[Tensor, "bxdraws 27 n"] | None
    ) -> tuple[Tensor, Tensor]:
        prompt, grids = padded_prompt(batch, self.processor.pad_id)
        drawn = () if noise is None else (noise,)
        tokens, logprobs = self._answer(*prompt, *drawn, fixed=(grids,))
        return tokens, logprobs

    def _decode(self, tokens: Int[Tensor, "b 27"]) -> Float[Tensor, "b 24 20"]:
        return self._chunk(tokens)

    def _decode_plainly(self, tokens: Int[Tensor, "b 27"]) -> Float[Tensor, "b 24 20"]:
        # For convolutions this small, cuDNN spends most of the time on rearranging weights.
        with torch.backends.cudnn.flags(enabled=False):
            return self.tokenizer.decode_valid(tokens)

    def _write_answer(self, *inputs: Any) -> tuple[Int[Tensor, "b 27"], Float[Tensor, "b 27"]]:
        """As ``generate_actions``, with places as tensors and attention over all places there will ever be."""
        *tensors, grids = inputs
        prompt, (noise,) = Prompt(*tensors[:4]), tensors[4:] or (None,)
        model, codes = text.base_model(self.vlm), self.tokenizer.num_embeddings
        language, first = model.model.language_model, self.processor.vocab_size - codes
        rows = slice(first, self.processor.vocab_size)  # ids run against tokens: the last row is token 0
        head, embedding = model.lm_head.weight[rows].flip(0), language.embed_tokens.weight[rows].flip(0)

        x = embed_prompt(self.vlm, prompt, grids, self._layers)
        b, length, _ = x.shape
        angles = text.rotary(self.vlm, prompt.position, x.dtype)
        # Products over a number of places that 8 does not divide take slower kernels.
        room = NUM_TOKENS - 1 + -(length + NUM_TOKENS - 1) % 8
        cache = []
        for layer in language.layers:
            x, *kv = self._layers.text(layer, x, angles, None)
            cache.append([F.pad(each, (0, 0, 0, room)) for each in kv])
        draws = 1 if noise is None else len(noise) // b
        if draws > 1:
            cache = [[each.repeat_interleave(draws, 0) for each in pair] for pair in cache]
        each_row = torch.arange(b, device=x.device).repeat_interleave(draws)
        last = prompt.last[each_row]
        x = x[each_row, last][:, None]

        # What differs between the tokens is made for all of them at once.
        steps = torch.arange(NUM_TOKENS - 1, device=x.device)
        begin = prompt.position[:, each_row, last][..., None] + 1
        angles = text.rotary(self.vlm, begin + steps, x.dtype)
        here = [
            text.Rotary(*pair) for pair in zip(*(torch.stack(a.split(1, 2)) for a in angles), strict=True)
        ]
        place = length + steps[:, None]
        readable = F.pad(prompt.attention_mask.bool()[each_row], (0, room))
        places = torch.arange(length + room, device=x.device)
        written = (places >= length) & (places <= place)
        seen = (readable | written[:, None])[:, :, None, None]  # of each token: (b, 1, 1, places)
        tokens: list[Tensor] = []
        scores: list[Tensor] = []
        for i in range(NUM_TOKENS):
            if i > 0:
                x = F.embedding(tokens[-1][:, None], embedding)
                for layer, (keys, values) in zip(language.layers, cache, strict=True):
                    x = self._attend(layer, x, here[i - 1], keys, values, place[i - 1], seen[i - 1])
                    x = self._narrow(layer, x, self._widen(layer, x))
            scores.append(F.linear(rms_norm(language.norm, x), head)[:, 0].float())
            tokens.append((scores[-1] if noise is None else scores[-1] + noise[:, i]).argmax(-1))
        chosen = torch.stack(tokens, 1)
        logprobs = torch.stack(scores, 1).log_softmax(-1).gather(-1, chosen[..., None])[..., 0]
        return chosen, logprobs


# A layer for one token. Each function is compiled for itself: fused further, what is cheap would be computed again for
# every row of the matrix that follows.


def _attend(
    layer: Any,
    x: Float[Tensor, "b 1 d"],
    angles: Any,
    keys: Tensor,
    values: Tensor,
    place: Tensor,
    seen: Tensor,
) -> Float[Tensor, "b 1 d"]:
    """Attention over the cache, in which the token's key and value take their ``place``."""
    attention = layer.self_attn
    query, key, value = _projections(attention, rms_norm(layer.input_layernorm, x))
    query, key = rotate(query, *angles), rotate(key, *angles)
    keys.index_copy_(2, place, key)
    values.index_copy_(2, place, value)
    b, kv, _, size = keys.shape
    # Plain products are faster than attention kernels for one token. Query heads that share a key head lie along the
    # length of the query.
    scores = (query.view(b, kv, -1, size) @ keys.mT).float() * size**-0.5
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1).to(values.dtype)
    return x + attention.o_proj((weights @ values).view(b, 1, -1))


def _projections(attention: Any, x: Float[Tensor, "b 1 d"]) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value, (b, heads, 1, hd); joined, as one product whose bias comes afterwards, to be fused."""
    if hasattr(attention, "joined"):
        weight, bias = attention.joined
        sizes = [part.out_features for part in (attention.q_proj, attention.k_proj, attention.v_proj)]
        parts = (F.linear(x, weight) + bias).split(sizes, -1)
    else:
        parts = attention.q_proj(x), attention.k_proj(x), attention.v_proj(x)
    query, key, value = (text.heads(part, attention.head_dim) for part in parts)
    return query, key, value


def _widen(layer: Any, x: Float[Tensor, "b 1 d"]) -> Float[Tensor, "b 1 wide"]:
    mlp = layer.mlp
    normed = rms_norm(layer.post_attention_layernorm, x)
    return mlp.act_fn(mlp.gate_proj(normed)) * mlp.up_proj(normed)


def _narrow(layer: Any, x: Float[Tensor, "b 1 d"], wide: Float[Tensor, "b 1 wide"]) -> Float[Tensor, "b 1 d"]:
    return x + layer.mlp.down_proj(wide)


def _warm_up(policy: FMPolicy | VQPolicy) -> None:
    """Compile and record for one observation, and compile for several where that code serves any number."""
    black = np.zeros((IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    observation = Observation(black, black, "Pick up the apple.", state=np.ones(ACTION_DIM))
    policy.predict([observation], seed=0)
    if policy.device.type != "cuda":
        policy.predict([observation] * 2, seed=0)
