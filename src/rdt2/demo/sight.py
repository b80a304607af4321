"""Where a small VLM starts: knowing places and colours, and looking where a word points, before any training.

The published VLM was pretrained on billions of pictures. From random weights a small one spends its whole
training on finding out that attention can point at things: while all of a picture is looked at alike, nothing
says in which direction to look better. Five structures are therefore written into its first weights. They
are weights like all others, and training moves them freely.

1. *Places.* Rotary positions live in attention scores alone, so a value that says "column 7" has to be made. One
   head of layer 0 weighs two tokens before the picture against each other, by an angle that turns with the
   column; another does so with the row. What they read out is a smooth code of the place.
2. *Colours.* What the untrained vision tower makes of a colour differs from what it makes of grey. From these
   differences follow vectors that say how much of each colour an image token shows.
3. *Looking.* In layer 1, the word of a colour attends to the image tokens that show it: of each pair of heads, one
   looks at the left picture and one at the right. Queries and keys that start alike instead of at random are
   known to help small transformers (Trockman and Kolter, "Mimetic Initialization of Self-Attention Layers", 2023).
4. *Choosing.* In layer 2, the word of a hand reads from the word of a colour what one head of layer 1 found: that
   which looks at this hand's picture. Half the heads are open to one hand's word, half to the other's, and both write
   alike, so that what comes out does not depend on the hand any more. To learn this choice, which multiplies a
   word with a place, takes longer than all the rest. The other heads do the same with the word of a landmark, a thing
   that always looks alike: what is picked up is one place, the bowl it is to be put in another.
5. *Reading.* From layer 2 on, words are attended to rather than the many image tokens beside them; in layer 3, half
   the heads read the words of hands, which by then know where their hand sees what it is to act on.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import ImageColor

from rdt2.observation import IMAGE_SIZE
from rdt2.vlm.vision import encode_pictures

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jaxtyping import Float
    from torch import Tensor

    from rdt2.vlm.processor import VLMProcessor

SHAPE = (IMAGE_SIZE, 2 * IMAGE_SIZE, 3)  # of an observation's picture

# Hidden dimensions kept for marks that attention can rely on.
NEAR, FAR, TEXT, FLOOR, COLOUR_WORD, HAND_WORD, LANDMARK_WORD = range(7)
MARKS = 7
HANDS = ("left", "right")
LANDMARKS = {"bowl": "hotpink"}
"""Words that are looked for like colours, and the colour that is meant."""
RIGHT_LOOKER, LEFT_LOOKER = 0, 1  # heads of layer 1

BALANCE = 8.0  # score of the two reference tokens over all others
SWING = 2.5  # by how much the score changes over half a picture
AWAY_FROM_TEXT = 25.0  # score of image tokens over text, where words look
TO_TEXT = 6.0  # score of text over image tokens, where they tell each other what they saw
TO_WORD = (
    48.0  # and of a marked word over other text; training makes what is beside the mark several times larger
)
CLOSED = 3.0  # so many times over, the other hand's word takes a query for colours back
SIDE = 2.5  # score for the right half of the picture, at its edge
COLOUR = 48.0  # score of an image token full of the word's colour
WRITE = 0.1  # spread of the output weights of these heads: their results are about as large as a word


def initialize_sight(model: Any, processor: VLMProcessor, sentences: Iterable[str], *, seed: int = 0) -> None:
    """Write the five structures into an untrained Qwen2.5-VL, in place; each needs its layer to be there.

    Args:
        model: as ``rdt2.vlm.tiny.initialize`` leaves it.
        processor: its processor; the grid of an observation's picture follows from it.
        sentences: instructions; the colours among their words learn how they look.
        seed: of the projections.
    """
    generator = torch.Generator().manual_seed(seed)
    _, grid = processor.images([np.zeros(SHAPE, dtype=np.uint8)])
    rows, columns = (grid[0, 1:] // model.model.visual.spatial_merge_size).tolist()
    names = sorted(
        {
            word
            for line in sentences
            for word in line.lower().split()
            if word in ImageColor.colormap | LANDMARKS
        }
    )
    words = [processor.tokenizer.encode(f" {name}", add_special_tokens=False).ids[0] for name in names]
    with torch.no_grad():
        hands = [processor.tokenizer.encode(f" {name}", add_special_tokens=False).ids[0] for name in HANDS]
        landmarks = [word for word, name in zip(words, names, strict=True) if name in LANDMARKS]
        _mark(model, processor, [word for word in words if word not in landmarks], hands, landmarks)
        filters = _colours(model, processor, names)
        _places(model, len(processor.before_picture), rows, columns, generator)
        if len(model.model.language_model.layers) > 1:
            _looking(model, columns, words, filters, generator)
        _reading(model, generator)
        if len(model.model.language_model.layers) > 2:
            _choosing(model, hands, generator)


def _mark(
    model: Any, processor: VLMProcessor, words: list[int], hands: list[int], landmarks: list[int]
) -> None:
    """Marks on text, on words of colours, hands and landmarks, on two reference tokens: nothing else writes there."""
    language, merger = model.model.language_model, model.model.visual.merger.mlp[2]
    embedding = language.embed_tokens.weight
    size = embedding.norm(dim=-1).mean()
    embedding[:, :MARKS] = 0
    embedding[:, TEXT] = size / 4
    embedding[words, COLOUR_WORD] = size / 2
    embedding[hands, HAND_WORD] = size / 2
    embedding[landmarks, LANDMARK_WORD] = size / 2
    for token, mark in ((processor.before_picture[-1], NEAR), (processor.before_picture[0], FAR)):
        embedding[token] *= 0.1
        embedding[token, TEXT], embedding[token, mark] = size / 4, size
    merger.weight[:MARKS] = 0
    for layer in language.layers:
        layer.self_attn.o_proj.weight[:MARKS] = 0
        layer.mlp.down_proj.weight[:MARKS] = 0


def _colours(model: Any, processor: VLMProcessor, names: list[str]) -> Float[Tensor, "colours d"]:
    """Make grey image tokens small and coloured ones as large as words; return a filter for each colour.

    With differences D (k, d) between the tokens of each colour and of grey, the rows w of pinv(D)^T have the
    products w_i . D_j = [i = j]: a filter answers neither to another colour nor to grey.
    """

    def see(rgb: tuple[int, ...]) -> Float[Tensor, " d"]:
        picture = np.broadcast_to(np.array(rgb, np.uint8), SHAPE)
        return encode_pictures(model.model.visual, *processor.images([picture])).mean(0)

    merger = model.model.visual.merger.mlp[2]
    size = model.model.language_model.embed_tokens.weight.norm(dim=-1).mean()
    grey = see((150, 150, 150))
    shown = [see(ImageColor.getrgb(LANDMARKS.get(name, name))[:3]) for name in (*names, "black", "white")]
    difference = torch.stack(shown) - grey
    scale = size / difference.norm(dim=-1).mean()
    merger.bias -= grey
    merger.weight *= scale
    merger.bias *= scale
    merger.bias[FLOOR] = size / 2  # so that the norm does not blow up what is nearly grey
    return torch.linalg.pinv(difference * scale).T[: len(names)]


class _Rotary:
    """Frequencies of the text model's rotary embedding, and vectors that meet at a chosen angle."""

    def __init__(self, model: Any) -> None:
        config = model.config.text_config
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.size = config.hidden_size // self.heads
        self.half = self.size // 2
        theta = config.rope_parameters["rope_theta"]
        time, row, _ = config.rope_parameters["mrope_section"]
        self.frequency = [theta ** (-j / self.half) for j in range(self.half)]
        self.time, self.row, self.column = 0, time, time + row  # the fastest pair of each axis
        # pairs that turn by less than a third of a circle over 100 positions compare contents; the last is kept
        self.still = [j for j in range(self.half - 1) if self.frequency[j] * 100 < 2 * math.pi / 3]

    def pair(self, vector: Tensor, j: int, amplitude: float, angle: float = 0.0) -> None:
        """Set the two entries of ``vector`` that turn with frequency ``j``."""
        vector[j], vector[j + self.half] = amplitude * math.cos(angle), amplitude * math.sin(angle)

    def amplitude(self, score: float) -> float:
        """Of query and key, when their product over sqrt(head size) is to be ``score``."""
        return math.sqrt(score * math.sqrt(self.size))

    def slope(self, j: int, count: int, score: float) -> float:
        """Amplitude with which frequency ``j`` gives +-score at the ends of ``count`` places."""
        return self.amplitude(score / math.sin(min(math.pi / 2, self.frequency[j] * (count - 1) / 2)))


def _places(model: Any, start: int, rows: int, columns: int, generator: torch.Generator) -> None:
    """Layer 0, the first two heads: image tokens at ``start`` read their column and row from the prefix."""
    rotary, attention = _Rotary(model), model.model.language_model.layers[0].self_attn
    size, axes = rotary.size, ((rotary.column, columns), (rotary.row, rows))
    near, far = torch.zeros(size), torch.zeros(size)
    # All image tokens have one time, so these two scores are equal for all of them ...
    rotary.pair(near, rotary.time, rotary.amplitude(BALANCE), -(start - 1) * rotary.frequency[rotary.time])
    rotary.pair(far, rotary.time, rotary.amplitude(BALANCE))
    # ... and only the near token's changes with the place.
    for j, count in axes:
        rotary.pair(near, j, rotary.slope(j, count, SWING), -(start - 1) * rotary.frequency[j])
    width = math.sqrt(model.config.text_config.hidden_size)  # of a marked token behind the norm
    keys = slice(0, size)
    attention.k_proj.weight[keys] = 0
    attention.k_proj.weight[keys, NEAR] = near / width
    attention.k_proj.weight[keys, FAR] = far / width
    for head, (j, count) in enumerate(axes):
        query = torch.zeros(size)
        rotary.pair(query, rotary.time, rotary.amplitude(BALANCE), -start * rotary.frequency[rotary.time])
        middle = start + (count - 1) / 2
        angle = -middle * rotary.frequency[j] - math.pi / 2
        rotary.pair(query, j, rotary.slope(j, count, SWING), angle)
        here = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[here] = 0
        attention.q_proj.bias[here] = query
        attention.o_proj.weight[MARKS:, here].normal_(0, WRITE, generator=generator)


def _looking(
    model: Any,
    columns: int,
    words: list[int],
    filters: Float[Tensor, "colours d"],
    generator: torch.Generator,
) -> None:
    """Layer 1: the word of a colour looks at image tokens that show it."""
    language = model.model.language_model
    rotary, attention = _Rotary(model), language.layers[1].self_attn
    size, hidden = rotary.size, model.config.text_config.hidden_size
    width, last, away = math.sqrt(hidden), rotary.half - 1, rotary.amplitude(AWAY_FROM_TEXT)
    # Each colour has a pair that hardly turns: the key says how much of it there is, the query asks for it.
    pairs = rotary.still[: len(words)]
    words, filters = words[: len(pairs)], filters[: len(pairs)]
    ask = torch.linalg.pinv(language.embed_tokens.weight[words]).T if words else filters
    side = rotary.slope(rotary.column, columns, SIDE)
    # A word of the instruction comes some 8 places behind the picture, and text goes on where its columns end.
    behind = columns + 8 - (columns - 1) / 2
    noise = torch.zeros(size, hidden)
    for head in range(rotary.heads):
        kv, i = divmod(head, rotary.heads // rotary.kv_heads)
        if i == 0:
            keys = slice(kv * size, (kv + 1) * size)
            attention.k_proj.weight[keys] = noise.normal_(0, 1 / width, generator=generator)
            attention.k_proj.weight[keys, :MARKS] = 0
            attention.k_proj.weight[[keys.start + j for j in pairs]] = filters * rotary.amplitude(COLOUR)
            attention.k_proj.weight[keys.start + last] = 0
            attention.k_proj.weight[keys.start + last, TEXT] = -away * 4 / width
            rotary.pair(attention.k_proj.bias[keys], rotary.column, side)
        here = slice(head * size, (head + 1) * size)
        attention.q_proj.weight[here] = noise.normal_(0, 1 / width, generator=generator)
        attention.q_proj.weight[here, :MARKS] = 0
        attention.q_proj.weight[[here.start + j for j in pairs]] = ask * rotary.amplitude(COLOUR)
        attention.q_proj.weight[here.start + last] = 0
        attention.q_proj.bias[here.start + last] = away
        turn = math.pi / 2 if i % 2 == 0 else -math.pi / 2
        rotary.pair(
            attention.q_proj.bias[here], rotary.column, side, turn - behind * rotary.frequency[rotary.column]
        )
    rows = hidden - MARKS
    if 2 * size < rows:
        # The first two heads, one for each picture, write where no other does: it can be told apart who found what.
        basis, _ = torch.linalg.qr(torch.empty(rows, hidden).normal_(generator=generator))
        own, rest = basis[:, : 2 * size], basis[:, 2 * size :]
        attention.o_proj.weight[MARKS:, : 2 * size] = own * WRITE * math.sqrt(hidden)
        others = torch.empty(rest.shape[1], hidden - 2 * size).normal_(0, WRITE, generator=generator)
        attention.o_proj.weight[MARKS:, 2 * size :] = rest @ others


def _choosing(model: Any, hands: list[int], generator: torch.Generator) -> None:
    """Layer 2: the word of a hand reads what the word of a colour found in this hand's picture, and what a
    landmark's did.
    """
    language = model.model.language_model
    rotary, attention = _Rotary(model), language.layers[2].self_attn
    size, width = rotary.size, math.sqrt(model.config.text_config.hidden_size)
    if rotary.kv_heads < len(hands):
        return  # one set of values cannot be open to one hand's word and closed to the other's
    last, text, marked = rotary.half - 1, rotary.amplitude(TO_TEXT), rotary.amplitude(TO_WORD)
    found = language.layers[1].self_attn.o_proj.weight
    ask = torch.linalg.pinv(language.embed_tokens.weight[hands]).T
    group = rotary.heads // rotary.kv_heads
    # What is compared to find a word, its mark, and how much more it counts than those before.
    kinds = ((last, COLOUR_WORD, 1.0), (last - 1, LANDMARK_WORD, 2.0))
    writes = [torch.empty(len(found) - MARKS, size).normal_(0, WRITE, generator=generator) for _ in kinds]
    for kv, looker in enumerate((LEFT_LOOKER, RIGHT_LOOKER)):
        looking = found[:, looker * size : (looker + 1) * size]
        attention.v_proj.weight[kv * size : (kv + 1) * size] = looking.T / looking.norm(dim=0, keepdim=True).T
        attention.k_proj.weight[kv * size + last - 1] = 0
        for compared, mark, _ in kinds:
            attention.k_proj.weight[kv * size + compared, mark] = marked * (marked / text) * 2 / width
        for number in range(group):
            head = (kv * group + number) * size
            attention.q_proj.weight[head + last - 1] = 0
            # Where no landmark is named, the heads that look for one read the colour's word.
            for compared, _, weight in kinds[: 1 + min(number, 1)]:
                attention.q_proj.bias[head + compared] = weight * text
                attention.q_proj.weight[head + compared] = -CLOSED * weight * text * ask[1 - kv]
            if number < len(writes):
                attention.o_proj.weight[MARKS:, head : head + size] = writes[number]


def _reading(model: Any, generator: torch.Generator) -> None:
    """Layers 2 and on: attention prefers text; with the first keys of layer 3 the words of hands."""
    rotary, width = _Rotary(model), math.sqrt(model.config.text_config.hidden_size)
    last, text, marked = rotary.half - 1, rotary.amplitude(TO_TEXT), rotary.amplitude(TO_WORD)
    for index, layer in enumerate(model.model.language_model.layers[2:]):
        attention = layer.self_attn
        keys = [kv * rotary.size + last for kv in range(rotary.kv_heads)]
        attention.k_proj.weight[keys] = 0
        attention.k_proj.weight[keys, TEXT] = text * 4 / width
        if index == 1:
            attention.k_proj.weight[keys[0], HAND_WORD] = marked * (marked / text) * 2 / width
            readers = slice(0, rotary.heads // rotary.kv_heads * rotary.size)
            attention.o_proj.weight[MARKS:, readers].normal_(0, WRITE, generator=generator)
        queries = [head * rotary.size + last for head in range(rotary.heads)]
        attention.q_proj.weight[queries] = 0
        attention.q_proj.bias[queries] = text
