"""Pointing: a VLM from scratch learns to see colours, to find what a word names, and what to do about it.

The published VLM comes pretrained, pointing included; a small one from random weights has to learn it somewhere,
and action tokens teach it badly: a sample says in 27 tokens where one of three objects was. Here every picture,
a quarter of them drawn and the others recorded, asks several questions, through linear heads that are thrown away
afterwards:

- naming: which colours does each image token show (drawings only, where it is known);
- finding: at a colour's word, behind the second layer, where is it in the left picture and in the right;
- telling: at every word of an instruction behind its colour, before the last two layers, where was that, and
  where does the hand see it that is named;
- acting: at every token behind a recording's instruction, there too, what chunk follows.

The last two layers are left to the writing of action tokens.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt2.action import ACTION_DIM, HORIZON, POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS
from rdt2.data import TrainingData
from rdt2.data.dataset import Batch
from rdt2.errors import ConfigError
from rdt2.metrics import action_errors
from rdt2.observation import IMAGE_SIZE
from rdt2.training.config import PointingTraining
from rdt2.training.drawings import HUES, draw
from rdt2.training.loop import EXAMPLES, Stage, mean_metrics
from rdt2.training.normalizer import find_normalizer
from rdt2.training.start import tiny_start
from rdt2.vlm import VLMProcessor, compile_layers, load_vlm, save_vlm, text

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.vlm.model import Qwen2_5_VLForConditionalGeneration

SHOWN = 0.03  # share of an image token's pixels from which a colour counts as shown
FINDING_LAYERS = 2
WRITING_LAYERS = 2  # the last ones, left to the writing of action tokens
SPREAD_SAMPLES, SMALLEST_SPREAD = 4096, 0.05
DRAWN = 4  # one picture in so many is drawn
DEPTH = 0.4  # metres of depth that count as much as the width of a picture
COLOUR = re.compile(rf"\b({'|'.join(HUES)})\b")
PLACE = 6  # x, y, depth in the left picture, then in the right
TOLD = PLACE + 3  # and once more in the picture of the hand that an instruction names


class PointingStage(Stage):
    name = "pointing"

    def __init__(
        self, config: PointingTraining, data: Path, out: Path, *, rank: int = 0, world_size: int = 1
    ):
        self.config, self.rank = config, rank
        # Behind what is drawn.
        self.source = TrainingData(
            data,
            batch_size=max(1, config.batch_size - config.batch_size // DRAWN),
            seed=config.seed,
            rank=rank,
            world_size=world_size,
            mirror=config.mirror,
        )
        self.held_out = TrainingData(
            self.source.index, split="held_out", batch_size=self.source.batch_size, seed=config.seed
        )
        self.normalizer = find_normalizer(config.normalizer, data)
        if config.compile:
            compile_layers()
        self.sentences = sorted(set(self.source.index.sentences))
        self._check(data)
        start = tiny_start(out / "start", self.sentences, seed=config.seed)
        self.processor = VLMProcessor.from_pretrained(start)
        _, grid = self.processor.images([np.zeros((IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8)])
        _, rows, columns = grid[0].tolist()
        self.size = (rows * self.processor.images.patch_size, columns * self.processor.images.patch_size)
        self.words = {
            name: self.processor.tokenizer.encode(f" {name}", add_special_tokens=False).ids[0]
            for name in HUES
        }
        torch.manual_seed(config.seed)
        self.module = PointingModule(
            load_vlm(start, dtype=torch.float32),
            ends=len(self.processor.after_instruction),
            spread=self._spread(),
        )

    def _check(self, data: Path) -> None:
        """Refuse recordings that do not say where things are, before anything is made."""
        told = self.source.index.meta(0).get("objects")
        if told is None or not all(COLOUR.search(sentence.lower()) for sentence in self.sentences):
            raise ConfigError(
                f"{data}: expected recordings of the simulated cell, whose sentences name a colour "
                f"({', '.join(HUES)}) and whose meta.json says where the objects are; got others. "
                "Record some with 'rdt2 data record', or start 'rdt2 train vq' from a pretrained VLM instead."
            )

    def _spread(self) -> Tensor:
        """(20,) how much each column of normalised actions varies: a centimetre must not count less than a width."""
        chosen = np.random.default_rng(self.config.seed).permutation(self.source.numbers)[:SPREAD_SAMPLES]
        actions = self.normalizer.normalize(torch.from_numpy(self.source.index.all_actions(chosen)))
        return actions.flatten(0, 1).std(0).clamp_min(SMALLEST_SPREAD)

    def batch(self, step: int) -> dict[str, Tensor]:
        """Prompts, and what is asked: see PointingModule.forward."""
        return self._questions(
            np.random.default_rng([self.config.seed, self.rank, step]), self.source, self.source.batch(step)
        )

    def _questions(
        self, rng: np.random.Generator, source: TrainingData, recorded: Batch
    ) -> dict[str, Tensor]:
        pictures, sentences, labels, answers = [], [], [], []
        for row in range(max(1, self.config.batch_size - len(recorded.indices))):
            colours = [str(name) for name in rng.permutation(list(HUES))[: rng.integers(2, 5)]]
            if row % 2:
                # an instruction of the data, about a colour of this picture
                sentence = self.sentences[rng.integers(len(self.sentences))]
                asked = _colour(sentence)
                colours = [asked, *(name for name in colours if name != asked)]
            else:
                sentence = " ".join(["Where is", *colours])
            drawing = draw(rng, colours, size=self.size)
            pictures.append(drawing.picture)
            sentences.append(sentence)
            labels.append(self._shown(drawing.labels))
            answers.append({name: _without_depth(place) for name, place in drawing.places.items()})
        drawn = len(pictures)
        assert recorded.pictures is not None
        pictures.extend(recorded.pictures)
        sentences.extend(recorded.instructions)
        answers.extend(
            _recorded_places(source.index.meta(int(number)), mirrored=bool(turned))
            for number, turned in zip(recorded.indices, recorded.mirrored, strict=True)
        )

        batch = self.processor.prompt(pictures, sentences)
        asked_at, places, told, told_from = [], [], [], []
        for row, (sentence, answer) in enumerate(zip(sentences, answers, strict=True)):
            ids = batch["input_ids"][row]
            for name, place in answer.items():
                for position in (ids == self.words[name]).nonzero()[:, 0].tolist():
                    asked_at.append((row, position))
                    places.append(place)
            # What is listed ("Where is red blue") has no one place to tell.
            is_list = row < drawn and row % 2 == 0
            told.append(np.full(TOLD, np.nan, np.float32) if is_list else _told(answer, sentence))
            told_from.append(0 if is_list else int((ids == self.words[_colour(sentence)]).nonzero()[0]))
        actions = torch.full((len(pictures), HORIZON, ACTION_DIM), torch.nan)
        actions[drawn:] = self.normalizer.normalize(torch.from_numpy(recorded.actions))
        return {
            **batch,
            "shown": torch.from_numpy(np.stack(labels)),
            "asked_at": torch.tensor(asked_at),
            "places": torch.from_numpy(np.stack(places)),
            "told": torch.from_numpy(np.stack(told)),
            "told_from": torch.tensor(told_from),
            "actions": actions,
        }

    def _shown(self, labels: np.ndarray) -> np.ndarray:
        """(tokens, colours) float32: 1 where an image token shows a colour."""
        cell = self.processor.images.patch_size * self.processor.images.merge_size
        rows, columns = labels.shape[0] // cell, labels.shape[1] // cell
        cells = labels.reshape(rows, cell, columns, cell)
        share = [(cells == i + 1).mean((1, 3)).reshape(-1) for i in range(len(HUES))]
        return (np.stack(share, -1) > SHOWN).astype(np.float32)

    def evaluate(self, module: nn.Module, device: torch.device) -> dict[str, float]:
        """The losses on pictures that training does not see, and the errors of the chunks."""
        assert isinstance(module, PointingModule)
        rows: list[dict[str, Any]] = []
        count = max(1, min(self.config.evaluate_samples, len(self.held_out)) // self.held_out.batch_size)
        stride = max(1, len(self.held_out) // (count * self.held_out.batch_size))
        for i in range(count):
            numbers = self.held_out.numbers[i * self.held_out.batch_size * stride :: stride]
            batch = self._questions(
                np.random.default_rng([self.config.seed, i, 2**32 - 1, 1]),
                self.held_out, self.held_out.load(numbers[: self.held_out.batch_size]),
            )  # fmt: skip
            loss, metrics = module({k: v.to(device) for k, v in batch.items()}, None)
            recorded = ~batch["actions"][:, 0, 0].isnan()
            chunks = [
                self.normalizer.denormalize(part[recorded].cpu()).numpy()
                for part in (module.chunks, batch["actions"])
            ]
            rows.append({"loss": loss, **metrics, **action_errors(*chunks).as_dict()})
            if i == 0:
                self.examples = chunks[0][:EXAMPLES], chunks[1][:EXAMPLES]
        return mean_metrics(rows)

    def save(self, module: nn.Module, folder: Path) -> None:
        assert isinstance(module, PointingModule)
        save_vlm(module.vlm, folder)
        self.processor.save_pretrained(folder)


class PointingModule(nn.Module):
    """The VLM but for its last two layers and vocabulary head, and the heads that ask."""

    chunks: Tensor
    """(b, 24, 20) normalised: what the last forward would do, also where there is nothing to compare it with."""

    spread: Tensor

    def __init__(self, vlm: Qwen2_5_VLForConditionalGeneration, *, ends: int, spread: Float[Tensor, " 20"]):
        """``ends``: tokens of a prompt behind the instruction; ``spread``: of normalised actions, by column."""
        super().__init__()
        self.register_buffer("spread", spread, persistent=False)
        self.vlm, self.ends = vlm, ends
        language = vlm.model.language_model
        for unused in (vlm.lm_head, *language.layers[-WRITING_LAYERS:], language.norm):
            unused.requires_grad_(False)
        width = vlm.lm_head.in_features
        self.naming = nn.Linear(width, len(HUES))
        self.finding = nn.Linear(width, PLACE)
        self.telling = nn.Linear(width, TOLD)
        self.acting = nn.Linear(width, HORIZON * ACTION_DIM)

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Sum of the four losses, and each: ``naming`` in nats, places in pictures, actions normalised.

        The first rows, as many as ``shown`` (n, tokens, colours) has, are drawn: these are their right names.
        ``places`` (m, 6) are asked for at (row, position) ``asked_at`` (m, 2). From position ``told_from`` (b,)
        on, rows tell ``told`` (b, 9), and behind the instruction ``actions`` (b, 24, 20). NaN is not asked.
        """
        x = text.embed(self.vlm, batch)
        shown = batch["shown"]
        is_picture = batch["input_ids"][: len(shown)] == self.vlm.config.image_token_id
        naming = F.binary_cross_entropy_with_logits(
            self.naming(_even(x[: len(shown)][is_picture])), shown.flatten(0, 1)
        )
        angles = text.rotary(self.vlm, text.positions(batch), x.dtype)
        mask = text.causal_mask(batch["attention_mask"])
        language = self.vlm.model.language_model
        for layer in language.layers[:FINDING_LAYERS]:
            x, _, _ = text.run_layer(layer, x, angles, mask)
        row, position = batch["asked_at"].T
        finding = _difference(self.finding(_even(x[row, position])), batch["places"])
        for layer in language.layers[FINDING_LAYERS:-WRITING_LAYERS]:
            x, _, _ = text.run_layer(layer, x, angles, mask)
        x = _even(x)
        behind = torch.arange(x.shape[1], device=x.device) >= batch["told_from"][:, None]
        told = batch["told"][:, None].expand(-1, x.shape[1], -1)
        telling = _difference(self.telling(x[behind]), told[behind])
        chunks = self.acting(x[:, -self.ends :]).unflatten(-1, (HORIZON, ACTION_DIM))
        self.chunks = chunks[:, -1].float()
        recorded = ~batch["actions"][:, 0, 0].isnan()
        missed = (chunks[recorded].float() - batch["actions"][recorded][:, None]) / self.spread
        # Squared: half of all hands stay still, so while it is not known which, the median would be to do nothing,
        # and nothing would say in which direction to look better.
        by_column = missed.square().flatten(0, -2).mean(0)
        parts_of_a_chunk = (POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS)
        acting = torch.stack([by_column[list(columns)].mean() for columns in parts_of_a_chunk]).mean()
        loss = 5 * naming + 4 * finding + 4 * telling + 6 * acting
        parts = {"naming": naming, "finding": finding, "telling": telling, "acting": acting}
        return loss, {name: part.detach() for name, part in parts.items()}


def _even(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _difference(answer: Tensor, truth: Tensor) -> Tensor:
    """Mean absolute difference over what is not NaN."""
    asked = ~truth.isnan()
    return (answer - truth)[asked].abs().mean()


def _colour(sentence: str) -> str:
    match = COLOUR.search(sentence.lower())
    assert match is not None  # only such sentences are kept
    return match[1]


def _told(answer: dict[str, np.ndarray], sentence: str) -> Float[ndarray, " 9"]:
    """Where an instruction's object is in both pictures, and in that of the hand it names."""
    place = answer[_colour(sentence)]
    return np.concatenate([place, place[:3] if re.search(r"\bleft\b", sentence) else place[3:]])


def _without_depth(place: Float[ndarray, " 4"]) -> Float[ndarray, " 6"]:
    """The place of a drawn shape: it has no depth."""
    return np.insert(place, (2, 4), np.nan).astype(np.float32)


def _recorded_places(meta: dict[str, Any], *, mirrored: bool) -> dict[str, Float[ndarray, " 6"]]:
    """Colour -> place of each coloured object of a recording; NaN where it is not in the picture."""
    places = {}
    for name, seen in meta["objects"].items():
        colour = COLOUR.search(name)
        if colour is None:
            continue
        place = np.array([seen["left"], seen["right"]], np.float32)
        inside = (np.abs(place[:, :2]) < 0.5).all(-1) & (place[:, 2] > 0)
        place[~inside] = np.nan
        place[:, 2] = place[:, 2] / DEPTH - 0.5
        if mirrored:
            place = place[::-1] * np.array([-1, 1, 1], np.float32)
        places[colour[1]] = place.reshape(-1)
    return places
