"""Pointing: a VLM from scratch learns to see colours and to find what a word names, on drawn pictures.

The published VLM comes pretrained, pointing included; a small one from random weights has to learn it somewhere,
and demonstrations teach it badly: one sample in thousands of tokens says where one object was. Here every picture
asks several questions, through linear heads that are thrown away afterwards:

- naming: which colours does each image token show;
- finding: at a colour's word, behind the second layer, where is it in the left picture and in the right;
- telling: at every word of an instruction behind its colour, behind the last layer, where was that;
- obeying: at the end of the instruction, where is its object for its hand.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt2.data import ShardIndex
from rdt2.errors import ConfigError
from rdt2.observation import IMAGE_SIZE
from rdt2.training.config import PointingTraining
from rdt2.training.drawings import HUES, draw
from rdt2.training.loop import Stage, mean_metrics
from rdt2.training.start import tiny_start
from rdt2.vlm import VLMProcessor, load_vlm, save_vlm, text
from rdt2.vlm.ops import rms_norm

if TYPE_CHECKING:
    from rdt2.vlm.model import Qwen2_5_VLForConditionalGeneration

SHOWN = 0.03  # share of an image token's pixels from which a colour counts as shown
FINDING_LAYERS = 2
COLOUR = re.compile(rf"\b({'|'.join(HUES)})\b")
HAND = re.compile(r"\b(left|right)\b")


class PointingStage(Stage):
    name = "pointing"

    def __init__(
        self, config: PointingTraining, data: Path, out: Path, *, rank: int = 0, world_size: int = 1
    ):
        self.config, self.rank = config, rank
        sentences = sorted(set(ShardIndex(data).sentences))
        self.sentences = [s for s in sentences if COLOUR.search(s.lower()) and HAND.search(s.lower())]
        if not self.sentences:
            raise ConfigError(
                f"{data}: expected instructions that name a hand and a colour ({', '.join(HUES)}), got none; "
                "this stage is for data of the simulated cell. Start 'rdt2 train vq' from a pretrained VLM instead."
            )
        start = tiny_start(out / "start", sentences, seed=config.seed)
        self.processor = VLMProcessor.from_pretrained(start)
        _, grid = self.processor.images([np.zeros((IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8)])
        _, rows, columns = grid[0].tolist()
        self.size = (rows * self.processor.images.patch_size, columns * self.processor.images.patch_size)
        self.words = {
            name: self.processor.tokenizer.encode(f" {name}", add_special_tokens=False).ids[0]
            for name in HUES
        }
        torch.manual_seed(config.seed)
        self.module = PointingModule(load_vlm(start, dtype=torch.float32))

    def batch(self, step: int) -> dict[str, Tensor]:
        """Prompts, and what is asked: see PointingModule.forward."""
        return self._questions(np.random.default_rng([self.config.seed, self.rank, step]))

    def _questions(self, rng: np.random.Generator) -> dict[str, Tensor]:
        names, drawings, sentences, hands = list(HUES), [], [], []
        for row in range(self.config.batch_size):
            colours = [str(name) for name in rng.permutation(names)[: rng.integers(2, 5)]]
            if row % 2:
                # an instruction of the data, about a colour of this picture
                sentence = self.sentences[rng.integers(len(self.sentences))]
                asked = _found(COLOUR, sentence)
                colours = [asked, *(name for name in colours if name != asked)]
                hands.append(_found(HAND, sentence))
            else:
                sentence = " ".join(["Where is", *colours])
                hands.append("")
            sentences.append(sentence)
            drawings.append(draw(rng, colours, size=self.size))
        batch = self.processor.prompt([drawing.picture for drawing in drawings], sentences)
        asked_at, places, last, targets, told, told_at = [], [], [], [], [], []
        for row, (drawing, hand) in enumerate(zip(drawings, hands, strict=True)):
            ids = batch["input_ids"][row]
            for name, place in drawing.places.items():
                for position in (ids == self.words[name]).nonzero()[:, 0].tolist():
                    asked_at.append((row, position))
                    places.append(place)
            if hand:
                place = drawing.places[_found(COLOUR, sentences[row])]
                last.append(row)
                targets.append(place[:2] if hand == "left" else place[2:])
                told.append(place)
                told_at.append(int((ids == self.words[_found(COLOUR, sentences[row])]).nonzero()[0]))
        return {
            **batch,
            "shown": torch.from_numpy(np.stack([self._shown(drawing.labels) for drawing in drawings])),
            "asked_at": torch.tensor(asked_at),
            "places": torch.from_numpy(np.stack(places)),
            "last": torch.tensor(last),
            "targets": torch.from_numpy(np.stack(targets)),
            "told": torch.from_numpy(np.stack(told)),
            "told_at": torch.tensor(told_at),
        }

    def _shown(self, labels: np.ndarray) -> np.ndarray:
        """(tokens, colours) float32: 1 where an image token shows a colour."""
        cell = self.processor.images.patch_size * self.processor.images.merge_size
        rows, columns = labels.shape[0] // cell, labels.shape[1] // cell
        cells = labels.reshape(rows, cell, columns, cell)
        share = [(cells == i + 1).mean((1, 3)).reshape(-1) for i in range(len(HUES))]
        return (np.stack(share, -1) > SHOWN).astype(np.float32)

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """The losses on pictures that training does not draw."""
        rows = []
        for i in range(max(1, self.config.evaluate_samples // self.config.batch_size)):
            batch = self._questions(np.random.default_rng([self.config.seed, i, 2**32 - 1, 1]))
            loss, metrics = module({k: v.to(device) for k, v in batch.items()}, None)
            rows.append({"loss": loss, **metrics})
        return mean_metrics(rows)

    def save(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, PointingModule)
        save_vlm(module.vlm, folder)
        self.processor.save_pretrained(folder)


class PointingModule(nn.Module):
    """The VLM without its vocabulary head, and the heads that ask."""

    def __init__(self, vlm: Qwen2_5_VLForConditionalGeneration):
        super().__init__()
        self.vlm = vlm
        vlm.lm_head.requires_grad_(False)
        width = vlm.lm_head.in_features
        self.naming = nn.Linear(width, len(HUES))
        self.finding = nn.Linear(width, 4)
        self.telling = nn.Linear(width, 4)
        self.obeying = nn.Linear(width, 2)

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Sum of the four losses, and each: ``naming`` in nats, the others in half pictures.

        ``shown`` (b, tokens, colours) are the right names, ``places`` (n, 4) the places asked for at (row,
        position) ``asked_at`` (n, 2). Rows ``last`` (m,) hold instructions: from position ``told_at`` (m,) on they
        tell ``told`` (m, 4), and in the end ``targets`` (m, 2). NaN is not asked.
        """
        x = text.embed(self.vlm, batch)
        is_picture = batch["input_ids"] == self.vlm.config.image_token_id
        shown = batch["shown"].flatten(0, 1)
        naming = F.binary_cross_entropy_with_logits(self.naming(_even(x[is_picture])), shown)
        angles = text.rotary(self.vlm, text.positions(batch), x.dtype)
        mask = text.causal_mask(batch["attention_mask"])
        language = self.vlm.model.language_model
        for layer in language.layers[:FINDING_LAYERS]:
            x, _, _ = text.run_layer(layer, x, angles, mask)
        row, position = batch["asked_at"].T
        finding = _distance(self.finding(_even(x[row, position])), batch["places"])
        rows = batch["last"]
        x, angles = x[rows], text.Rotary(*(angle[rows] for angle in angles))
        mask = None if mask is None else mask[rows]
        for layer in language.layers[FINDING_LAYERS:]:
            x, _, _ = text.run_layer(layer, x, angles, mask)
        x = rms_norm(language.norm, x)
        behind = torch.arange(x.shape[1], device=x.device) >= batch["told_at"][:, None]
        told = batch["told"][:, None].expand(-1, x.shape[1], -1)
        telling = _distance(self.telling(x[behind]), told[behind])
        obeying = _distance(self.obeying(x[:, -1]), batch["targets"])
        loss = 5 * naming + 4 * finding + 4 * telling + 2 * obeying  # each about 1 when nothing is known yet
        parts = {"naming": naming, "finding": finding, "telling": telling, "obeying": obeying}
        return loss, {name: part.detach() for name, part in parts.items()}


def _even(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _distance(answer: Tensor, place: Tensor) -> Tensor:
    """Mean absolute difference over what is not NaN."""
    asked = ~place.isnan()
    return (answer - place)[asked].abs().mean()


def _found(pattern: re.Pattern[str], sentence: str) -> str:
    match = pattern.search(sentence.lower())
    assert match is not None  # only such sentences are kept
    return match[1]
