"""Pointing: a VLM from scratch learns to see colours, to find what a word names, and what to do about it.

The published VLM comes pretrained, pointing included; a small one from random weights has to learn it somewhere,
and action tokens teach it badly: a sample says in 27 tokens where one of three objects was. Here every picture,
a quarter of them drawn and the others recorded, asks several questions, through linear heads that are thrown away
afterwards:

- naming: which colours does each image token show (drawings only, where it is known);
- finding: at a colour's word, behind the second layer, where is it in the left picture and in the right;
- telling: at a hand's word, behind the third layer, where does this hand see it, and where the bowl, if one is named;
- aiming: at every token behind the instruction, behind the fourth layer, where was that;
- acting: there too, for recordings, what chunk follows.

All errors count in units of how much a figure varies. The other layers are left to the writing of action tokens.
"""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rdt2.action import ACTION_DIM, HORIZON, POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS
from rdt2.data import Batch, TrainingData
from rdt2.demo.drawings import HUES, draw
from rdt2.demo.start import tiny_start
from rdt2.errors import ConfigError
from rdt2.metrics import action_errors
from rdt2.observation import IMAGE_SIZE
from rdt2.training.config import PointingTraining
from rdt2.training.evaluation import mean_over_batches
from rdt2.training.normalizer import find_normalizer
from rdt2.training.samples import Samples, corruption
from rdt2.training.stage import EXAMPLES, Stage
from rdt2.vlm import PLAIN, Layers, VLMProcessor, compile_layers, load_vlm, save_vlm, text

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.vlm.model import Qwen2_5_VLForConditionalGeneration

SHOWN = 0.03  # share of an image token's pixels from which a colour counts as shown
FINDING_LAYERS, TELLING_LAYERS, AIMING_LAYERS = 2, 3, 4
SPREAD_SAMPLES, SMALLEST_SPREAD = 4096, 0.05
DRAWN = 4  # one picture in so many is drawn
DEPTH = 0.4  # metres of depth that count as much as the width of a picture
COLOUR = re.compile(rf"\b({'|'.join(HUES)})\b")
HAND = re.compile(r"\b(left|right)\b")
PLACE = 3  # x, y, depth in a picture
GOAL = "bowl"  # the word for where to put what the colour names


class PointingStage(Stage):
    """From drawn and recorded pictures, the small VLM learns to find what a word names, in the hand that is asked for.
    From drawn and recorded pictures, the small VLM learns to find what a word names, in the hand that is asked for."""

    name = "pointing"

    def __init__(
        self, config: PointingTraining, data: str | Path, out: Path, *, rank: int = 0, world_size: int = 1
    ):
        self.config, self.rank = config, rank
        recorded = max(1, config.batch_size - config.batch_size // DRAWN)  # behind what is drawn
        self.samples = Samples(
            config, data, rank=rank, world_size=world_size, batch_size=recorded, evaluation_batch=recorded,
            mirror=config.mirror, corruption=corruption(config.augment, config.seed),
        )  # fmt: skip
        self.take(self.samples)
        self.source = self.samples.train
        self.normalizer = find_normalizer(config.normalizer, self.source.index)
        self.sentences = sorted(self.source.index.instruction_counts())
        self._check(data)
        start = tiny_start(out / "start", self.sentences, seed=config.seed)
        self.processor = VLMProcessor.from_pretrained(start)
        _, grid = self.processor.images([np.zeros((IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8)])
        _, rows, columns = grid[0].tolist()
        self.size = (rows * self.processor.images.patch_size, columns * self.processor.images.patch_size)
        self.words = {
            name: self.processor.tokenizer.encode(f" {name}", add_special_tokens=False).ids[0]
            for name in (*HUES, "left", "right")
        }
        torch.manual_seed(config.seed)
        self.module = PointingModule(
            load_vlm(start, dtype=torch.float32),
            ends=len(self.processor.after_instruction),
            place_spread=self._place_spread(),
            action_spread=self._action_spread(),
            run=compile_layers() if config.compile else PLAIN,
        )

    def _check(self, data: str | Path) -> None:
        """Refuse recordings that do not say where things are, before anything is made."""
        index = self.source.index
        silent = next((n for n in map(int, self._some()) if "objects" not in index.meta(n)), None)
        where = data if silent is None else index.where(silent)
        words = [sentence.lower() for sentence in self.sentences]
        if silent is not None or not all(COLOUR.search(line) and HAND.search(line) for line in words):
            raise ConfigError(
                f"{where}: expected recordings of the simulated cell, whose sentences name a colour "
                f"({', '.join(HUES)}) and a hand, and whose meta.json says where the objects are; got others. "
                "Record some with 'rdt2 data record', or start 'rdt2 train vq' from a pretrained VLM instead."
            )

    def _some(self) -> np.ndarray:
        """Samples to measure a spread with, as many as are enough."""
        return np.random.default_rng(self.config.seed).permutation(self.source.numbers)[:SPREAD_SAMPLES]

    def _place_spread(self) -> Tensor:
        """(3,) how much x, y and depth vary: objects before a hand hardly move sideways in its picture."""
        metas = (self.source.index.meta(int(number)) for number in self._some())
        places = [place for meta in metas for place in _recorded_places(meta, mirrored=False).values()]
        spread = np.nanstd(np.stack(places).reshape(-1, PLACE), axis=0)
        return torch.from_numpy(spread).clamp_min(SMALLEST_SPREAD)

    def _action_spread(self) -> Tensor:
        """(20,) how much each column of normalised actions varies: a centimetre must not count less than a width."""
        actions = torch.from_numpy(self.source.index.all_actions(self._some()))
        return self.normalizer.normalize(actions).flatten(0, 1).std(0).clamp_min(SMALLEST_SPREAD)

    def load(self, step: int) -> dict[str, Tensor]:
        """Prompts, and what is asked: see PointingModule.forward."""
        return self._questions(
            np.random.default_rng([self.config.seed, self.rank, step]), self.source, self.samples.batch(step)
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
                colours = list(dict.fromkeys([*COLOUR.findall(sentence.lower()), *colours]))
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
        asked_at, places, hand_at, told = [], [], [], []
        for row, (sentence, answer) in enumerate(zip(sentences, answers, strict=True)):
            ids = batch["input_ids"][row]
            for name, place in answer.items():
                for position in (ids == self.words[name]).nonzero()[:, 0].tolist():
                    asked_at.append((row, position))
                    places.append(place)
            hand = HAND.search(sentence)
            # What is listed ("Where is red blue") has no hand to tell of.
            told.append(_told(sentence, hand[1], answer) if hand else np.full(2 * PLACE, np.nan))
            hand_at.append(int((ids == self.words[hand[1]]).nonzero()[0]) if hand else 0)
        actions = torch.full((len(pictures), HORIZON, ACTION_DIM), torch.nan)
        actions[drawn:] = self.normalizer.normalize(torch.from_numpy(recorded.actions))
        return {
            **batch,
            "shown": torch.from_numpy(np.stack(labels)),
            "asked_at": torch.tensor(asked_at),
            "places": torch.from_numpy(np.stack(places)),
            "hand_at": torch.tensor(hand_at),
            "told": torch.from_numpy(np.stack(told).astype(np.float32)),
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
        count = self.samples.held_out_batches(self.config.evaluate_samples)

        def figures(i: int) -> dict[str, Any]:
            batch = self._questions(
                np.random.default_rng([self.config.seed, i, 2**32 - 1, 1]),
                self.samples.held_out, self.samples.held_out_batch(i, count),
            )  # fmt: skip
            loss, metrics = module({k: v.to(device) for k, v in batch.items()}, None)
            recorded = ~batch["actions"][:, 0, 0].isnan()
            chunks = [
                self.normalizer.denormalize(part[recorded].cpu()).numpy()
                for part in (module.chunks, batch["actions"])
            ]
            if i == 0:
                self.examples = chunks[0][:EXAMPLES], chunks[1][:EXAMPLES]
            return {"loss": loss, **metrics, **action_errors(*chunks).as_dict()}

        return mean_over_batches(count, figures)

    def save(self, module: nn.Module, folder: Path) -> None:
        """Write the VLM and its processor, in the published layout."""
        assert isinstance(module, PointingModule)
        save_vlm(module.vlm, folder)
        self.processor.save_pretrained(folder)


class PointingModule(nn.Module):
    """The first four language layers of a VLM with all before them, and the heads that ask."""

    chunks: Tensor
    """(b, 24, 20) normalised: what the last forward would do, also where there is nothing to compare it with."""

    place_spread: Tensor
    action_spread: Tensor

    def __init__(
        self,
        vlm: Qwen2_5_VLForConditionalGeneration,
        *,
        ends: int,
        place_spread: Float[Tensor, " 3"],
        action_spread: Float[Tensor, " 20"],
        run: Layers = PLAIN,
    ):
        """
        Args:
            vlm: of more than four language layers.
            ends: tokens of a prompt behind the instruction.
            place_spread: of x, y and depth, as places are given.
            action_spread: of normalised actions, by column.
            run: how layers run.
        """
        super().__init__()
        self.register_buffer("place_spread", place_spread, persistent=False)
        self.register_buffer("action_spread", action_spread, persistent=False)
        self.vlm, self.ends, self._run = vlm, ends, run
        language = vlm.model.language_model
        for unused in (vlm.lm_head, *language.layers[AIMING_LAYERS:], language.norm):
            unused.requires_grad_(False)
        width = vlm.lm_head.in_features
        self.naming = nn.Linear(width, len(HUES))
        self.finding = nn.Linear(width, 2 * PLACE)
        self.telling = nn.Linear(width, 2 * PLACE)
        self.aiming = nn.Linear(width, 2 * PLACE)
        self.acting = nn.Linear(width, HORIZON * ACTION_DIM)

    def forward(
        self, batch: dict[str, Tensor], generator: torch.Generator | None
    ) -> tuple[Tensor, dict[str, Any]]:
        """Weighted sum of the five losses, and each: ``naming`` in nats, the others in units of the spread.

        The first rows, as many as ``shown`` (n, tokens, colours) has, are drawn: these are their right names.
        ``places`` (m, 6) are asked for at (row, position) ``asked_at`` (m, 2), ``told`` (b, 6) at position
        ``hand_at`` (b,) and again behind the instruction, there with ``actions`` (b, 24, 20). NaN is not asked.
        """
        x = text.embed(self.vlm, batch, run=self._run.vision)
        shown = batch["shown"]
        is_picture = batch["input_ids"][: len(shown)] == self.vlm.config.image_token_id
        naming = F.binary_cross_entropy_with_logits(
            self.naming(_even(x[: len(shown)][is_picture])), shown.flatten(0, 1)
        )
        angles = text.rotary(self.vlm, text.positions(batch), x.dtype)
        mask = text.causal_mask(batch["attention_mask"])
        layers = iter(self.vlm.model.language_model.layers[:AIMING_LAYERS])

        def run(x: Tensor, count: int) -> Tensor:
            for layer in itertools.islice(layers, count):
                x, _, _ = self._run.text(layer, x, angles, mask)
            return x

        x = run(x, FINDING_LAYERS)
        row, position = batch["asked_at"].T
        spread = self.place_spread.repeat(2)
        finding = _difference(self.finding(_even(x[row, position])), batch["places"], spread)
        x = run(x, TELLING_LAYERS - FINDING_LAYERS)
        hands = x[torch.arange(len(x), device=x.device), batch["hand_at"]]
        telling = _difference(self.telling(_even(hands)), batch["told"], spread)
        x = _even(run(x, AIMING_LAYERS - TELLING_LAYERS)[:, -self.ends :])
        aiming = _difference(self.aiming(x), batch["told"][:, None].expand(-1, self.ends, -1), spread)
        chunks = self.acting(x).unflatten(-1, (HORIZON, ACTION_DIM))
        self.chunks = chunks[:, -1].float()
        recorded = ~batch["actions"][:, 0, 0].isnan()
        missed = (chunks[recorded].float() - batch["actions"][recorded][:, None]) / self.action_spread
        # Squared: half of all hands stay still, so while it is not known which, the median would be to do nothing,
        # and nothing would say in which direction to look better.
        by_column = missed.square().flatten(0, -2).mean(0)
        parts_of_a_chunk = (POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS)
        acting = torch.stack([by_column[list(columns)].mean() for columns in parts_of_a_chunk]).mean()
        loss = 5 * naming + 1.5 * (finding + telling + aiming) + 6 * acting
        parts = {
            "naming": naming, "finding": finding, "telling": telling, "aiming": aiming, "acting": acting,
        }  # fmt: skip
        return loss, {name: part.detach() for name, part in parts.items()}


def _even(x: Tensor) -> Tensor:
    return F.rms_norm(x, x.shape[-1:])


def _difference(answer: Tensor, truth: Tensor, spread: Tensor) -> Tensor:
    """Mean absolute difference in units of the spread, over what is not NaN."""
    asked = ~truth.isnan()
    return ((answer - truth) / spread)[asked].abs().sum() / asked.sum().clamp_min(1)


def _told(sentence: str, hand: str, answer: dict[str, Float[ndarray, " 6"]]) -> Float[ndarray, " 6"]:
    """Where a hand sees what the sentence names: its colour, then the bowl; NaN where there is none."""
    colour, *others = COLOUR.findall(sentence.lower())
    nowhere = np.full(2 * PLACE, np.nan, np.float32)
    places = answer[colour], answer.get(GOAL, nowhere) if GOAL in others else nowhere
    seen = slice(0, PLACE) if hand == "left" else slice(PLACE, None)
    return np.concatenate([place[seen] for place in places])


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
