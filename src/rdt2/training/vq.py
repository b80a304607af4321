"""Training RDT2-VQ: the VLM learns to write a chunk's 27 action tokens after the picture and the sentence."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from rdt2.data import Batch, ShardIndex
from rdt2.errors import ConfigError
from rdt2.metrics import action_errors
from rdt2.training.adapters import add_adapters, quantise, save_adapters
from rdt2.training.config import VQTraining
from rdt2.training.engines import gathered
from rdt2.training.evaluation import mean_over_batches
from rdt2.training.loop import processes, reading_device, reading_dtype
from rdt2.training.normalizer import LearntTokens
from rdt2.training.pictures import PatchCutter
from rdt2.training.samples import Samples, corruption
from rdt2.training.stage import EXAMPLES, Stage
from rdt2.vlm import (
    PLAIN,
    Layers,
    VLMProcessor,
    compile_layers,
    generate_actions,
    load_vlm,
    save_vlm,
    training_loss,
)
from rdt2.vlm.adapters import read_adapters
from rdt2.vlm.text import base_model

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import Qwen2_5_VLForConditionalGeneration

NUM_EMBEDDINGS = 1024
# What each of the 27 tokens says: 3 latent steps of 6 position, 2 rotation and 1 gripper codebooks.
LEVELS = [
    f"{part}{level}"
    for part, n in (("pos", 6), ("rot", 2), ("grip", 1))
    for _ in range(3)
    for level in range(n)
]


class VQStage(Stage):
    """RDT2-VQ: the VLM, or adapters to it, learn to write the 27 tokens of a chunk."""

    name = "vq"

    def __init__(
        self, config: VQTraining, data: str | Path, out: Path, *, rank: int = 0, world_size: int = 1
    ):
        self.config = config
        start = config.start_from
        if start == "tiny":
            from rdt2.demo.start import tiny_start

            damaged: Literal["use", "refuse"] = "use" if config.max_damaged else "refuse"
            sentences = ShardIndex(data, damaged_shards=damaged).instruction_counts()
            start = str(tiny_start(out / "start", list(sentences), seed=config.seed))
        self.processor = VLMProcessor.beside(start, given=config.processor)
        self._cut = PatchCutter(self.processor.images, processes().device)
        self.samples = Samples(
            config, data, rank=rank, world_size=world_size, tokens=config.tokenizer is None, mirror=config.mirror,
            corruption=corruption(config.augment, config.seed), cut=self._cut.while_loading,
        )  # fmt: skip
        index = self.samples.train.index
        self.take(self.samples)
        evaluated = self.samples.held_out.index
        self.learnt = LearntTokens(
            config.tokenizer, config.normalizer, index, start=config.start_from, evaluated=evaluated
        )
        self.tokenizer, self.normalizer = self.learnt.tokenizer, self.learnt.normalizer
        if self.tokenizer is None:
            _require_tokens(index, data)
            _require_tokens(evaluated, config.validation or data)
        notes = [*self.notes, *self.learnt.notes]
        if config.start_from == "tiny" and config.frozen_layers:
            notes.append(
                f"all layers are trained: frozen_layers={config.frozen_layers} would keep what start_from=tiny has "
                "just made, and nothing has taught"
            )
        self.notes = notes
        self._layers = compile_layers() if config.compile else PLAIN
        torch.manual_seed(config.seed)
        self.module = VQModule(
            _build(config, start),
            self.processor,
            checkpointing=config.gradient_checkpointing,
            run=self._layers,
        )
        if config.adapter == "none":
            self.module.frozen_dtype = torch.float32

    def load(self, step: int) -> Batch:
        """The samples of one step."""
        return self.samples.batch(step)

    def ready(self, loaded: Batch, device: torch.device) -> dict[str, Tensor]:
        """Prompt, answer and labels, right padded (see VLMProcessor.training)."""
        batch = self.processor.training(self._cut(loaded), loaded.instructions, self._tokens(loaded, device))
        return {name: value.to(device, non_blocking=True) for name, value in batch.items()}

    def _tokens(self, batch: Batch, device: torch.device) -> Tensor:
        if self.tokenizer is None or self.normalizer is None:
            return torch.from_numpy(batch.tokens)
        actions = self.normalizer.normalize(torch.from_numpy(batch.actions))
        with torch.backends.cudnn.flags(
            enabled=False
        ):  # its convolutions round to fewer bits, and codes are close
            return self.tokenizer.to(device).encode(actions.to(device)).cpu()

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """Figures on held-out samples; action errors of greedy chunks where a tokenizer is named."""
        assert isinstance(module, VQModule)
        count = self.samples.held_out_batches(self.config.evaluate_samples)

        def figures(i: int) -> dict[str, Any]:
            batch = self.samples.held_out_batch(i, count)
            loss, metrics = module(self.ready(batch, device), None)
            row = {"loss": loss, **metrics}
            if self.tokenizer is not None and self.normalizer is not None:
                chunks = self._written(module, batch, device)
                row |= action_errors(chunks, batch.actions).as_dict()
                if i == 0:
                    self.examples = chunks[:EXAMPLES], batch.actions[:EXAMPLES]
            return row

        return mean_over_batches(count, figures)

    def _written(self, module: VQModule, batch: Batch, device: torch.device) -> np.ndarray:
        """The chunks (b, 24, 20), metres, that the VLM answers with, greedily."""
        assert self.tokenizer is not None
        assert self.normalizer is not None
        prompt = self.processor.prompt(self._cut(batch), batch.instructions)
        inner = base_model(module.vlm)
        with gathered(inner.lm_head, inner.model.language_model.embed_tokens):
            tokens, _ = generate_actions(
                module.vlm, {k: v.to(device) for k, v in prompt.items()}, self.processor,
                num_tokens=self.tokenizer.num_tokens, num_embeddings=self.tokenizer.num_embeddings,
                run=self._layers,
            )  # fmt: skip
        chunks: np.ndarray = self.normalizer.denormalize(
            self.tokenizer.to(device).decode(tokens).cpu()
        ).numpy()
        return chunks

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the VLM, or its adapters, with processor, tokenizer and normalizer where they are known."""
        assert isinstance(module, VQModule)
        if self.config.adapter == "none":
            save_vlm(module.vlm, folder)
        else:
            save_adapters(module.vlm, folder)
        self.processor.save_pretrained(folder)
        self.learnt.save(folder)


class VQModule(nn.Module):
    """The VLM, with or without adapters, and its loss: logits only where an answer is learnt.

    Attributes:
        frozen_dtype: that an engine which splits the weights gives to frozen ones; none leaves them as they are.
    """

    vlm: Any
    frozen_dtype: torch.dtype | None = None

    def __init__(
        self,
        vlm: Qwen2_5_VLForConditionalGeneration | PeftModel,
        processor: VLMProcessor,
        *,
        checkpointing: bool = False,
        run: Layers = PLAIN,
    ):
        super().__init__()
        self.vlm, self.checkpointing, self._run = vlm, checkpointing, run
        self._first, self._stop = processor.vocab_size - NUM_EMBEDDINGS, processor.vocab_size
        self._end = processor.quad_end_id

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Loss and token accuracies, over all 27 tokens and by codebook; ``valid`` is the share of rows whose
        likeliest tokens are all action tokens and then ``<|quad_end|>``."""
        checkpointing = self.checkpointing and self.training
        loss, stats = training_loss(self.vlm, batch, checkpointing=checkpointing, run=self._run)
        # Two closing tokens follow the action tokens: they are always right soon, and say nothing.
        accuracy, written = stats.accuracy[:-2], stats.predicted[:, :-2]
        legal = ((written >= self._first) & (written < self._stop)).all(-1)
        closed = stats.predicted[:, -2] == self._end
        metrics = {"accuracy": accuracy.mean(), "valid": (legal & closed).float().mean()}
        for level in dict.fromkeys(LEVELS):
            metrics[f"accuracy/{level}"] = accuracy[[name == level for name in LEVELS]].mean()
        return loss, metrics


def _build(config: VQTraining, start: str) -> Qwen2_5_VLForConditionalGeneration | PeftModel:
    """The VLM to train; beside adapters its frozen weights are kept in the compute precision."""
    if config.adapter == "none":
        model = load_vlm(start, dtype=reading_dtype(config), device=reading_device(config))
        _freeze(model, 0 if config.start_from == "tiny" else config.frozen_layers)
        return model
    compute = torch.bfloat16 if config.precision == "bf16" else torch.float32
    earlier = read_adapters(start)
    place = start if earlier is None else earlier.base
    if config.adapter == "qlora":  # whole it may be too large for the GPU, and goes there in 4 bits
        base = load_vlm(place, dtype=compute)
        quantise(base, device=processes().device, compute=compute)
    else:
        base = load_vlm(place, dtype=compute, device=reading_device(config))
    return add_adapters(base, config, base=place, earlier=earlier)


def _require_tokens(index: ShardIndex, data: str | Path) -> None:
    """Raises ConfigError where a shard holds no action tokens."""
    if without := index.without_tokens:
        raise ConfigError(
            f"{data}: {len(without)} of {len(index.shards)} shards hold no action tokens, or not for all of their "
            f"samples: {without[0]}. Write them with 'rdt2 data tokenize', or name a tokenizer with "
            "--set tokenizer=FOLDER."
        )


def _freeze(model: Qwen2_5_VLForConditionalGeneration, layers: int) -> None:
    """Keep the vision tower, the embeddings and the first ``layers`` language layers as they are.

    Raises:
        ConfigError: the model does not have more layers than that.
    """
    language = model.model.language_model
    if not 0 <= layers < len(language.layers):
        raise ConfigError(
            f"frozen_layers={layers}, expected 0 to {len(language.layers) - 1}: the VLM has "
            f"{len(language.layers)} language layers, and at least the last has to learn."
        )
    if layers:
        for part in (model.model.visual, language.embed_tokens, *language.layers[:layers]):
            part.requires_grad_(False)
