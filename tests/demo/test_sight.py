"""What a small VLM knows before training: where an image token is, and where a colour's word points."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rdt2.demo.sight import initialize_sight
from rdt2.vlm import TinyConfig, create_tiny_vlm, text
from rdt2.vlm.ops import rms_norm
from rdt2.vlm.tiny import initialize

ROWS, COLUMNS = 6, 12
COLOURS = {"red": (220, 20, 25), "blue": (20, 66, 230)}
THINGS = {**COLOURS, "bowl": (245, 110, 180)}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory):
    tasks = ("Pick up the {} cube with the {} hand.", "Put the {} cube in the bowl with the {} hand.")
    sentences = [task.format(c, h) for task in tasks for c in COLOURS for h in ("left", "right")]
    return create_tiny_vlm(
        tmp_path_factory.mktemp("sight"),
        sentences=sentences,
        config=TinyConfig(num_layers=4),
        structure=initialize_sight,
    )


def run(processor, model, pictures, sentences, *, layers: int):
    with torch.no_grad():
        batch = processor.prompt(pictures, sentences)
        x = text.embed(model, batch)
        angles = text.rotary(model, text.positions(batch), x.dtype)
        for layer in model.model.language_model.layers[:layers]:
            x, _, _ = text.run_layer(layer, x, angles, text.causal_mask(batch["attention_mask"]))
    return batch, x, angles


def test_image_tokens_know_their_place(small) -> None:
    processor, model = small
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (16, 6, 12, 3), dtype=np.uint8).repeat(28, 1).repeat(28, 2))
    place = np.stack(np.meshgrid(np.arange(ROWS), np.arange(COLUMNS), indexing="ij"), -1).reshape(-1, 2)

    def explained() -> np.ndarray:
        """Share of the variance of row and column that a linear map learnt on eight pictures finds in eight others."""
        batch, x, _ = run(processor, model, pictures, ["Pick up the red cube."] * 16, layers=1)
        tokens = rms_norm(model.model.language_model.norm, x)
        seen = tokens[batch["input_ids"] == processor.image_id].view(16, ROWS * COLUMNS, -1)
        train, test = (half.flatten(0, 1).double() for half in seen.detach().split(8))
        wanted = torch.from_numpy(np.tile(place - place.mean(0), (8, 1))).double()
        weight = torch.linalg.solve(train.T @ train + 10 * torch.eye(train.shape[1]), train.T @ wanted)
        return (1 - ((test @ weight - wanted) ** 2).mean(0) / wanted.var(0)).numpy()

    assert (explained() > 0.9).all()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    initialize(model, seed=0)
    assert explained()[1] < 0.3, "random weights would do as well: the first structure does nothing"
    model.load_state_dict(state)


@pytest.mark.parametrize("name", THINGS)
def test_a_colours_word_looks_at_its_colour_in_either_picture(small, name: str) -> None:
    """One head of a pair in the left picture, one in the right; everything else on the table is of another colour."""
    processor, model = small
    picture = np.full((168, 336, 3), 170, np.uint8)
    places = {"red": ((1, 2), (4, 8)), "blue": ((3, 4), (2, 10)), "bowl": ((4, 1), (1, 9))}
    for colour, cells in places.items():
        for row, column in cells:
            picture[28 * row + 4 : 28 * row + 24, 28 * column + 4 : 28 * column + 24] = THINGS[colour]
    batch, weight, word = attention(processor, model, picture, f"Pick up the {name} cube.", name, layer=1)
    shown = weight[:, word, : word + 1][:, batch["input_ids"][0, : word + 1] == processor.image_id]
    left, right = (row * COLUMNS + column for row, column in places[name])
    assert shown[:, [left, right]].sum(-1).min() > 0.9
    share = shown[:, left] / shown[:, right]
    assert (share[1::2] > 5 * share[0::2]).all()


GREY = np.full((168, 336, 3), 170, np.uint8)


@pytest.mark.parametrize(("hand", "reading"), [("left", slice(0, 2)), ("right", slice(2, 4))])
def test_the_word_of_a_hand_reads_the_colours_word_with_its_own_heads(
    small, hand: str, reading: slice
) -> None:
    sentence = f"Pick up the blue cube with the {hand} hand."
    _, weight, colour = attention(*small, GREY, sentence, "blue", layer=2)
    _, _, word = attention(*small, GREY, sentence, hand, layer=2)
    assert weight[reading, word, colour].min() > 0.9
    assert weight[:, word, colour].sum() < 2.1, "the heads of the other hand are closed"
    _, weight, _ = attention(*small, GREY, sentence, hand, layer=3)
    assert weight[:2, word + 1 :, word].min() > 0.5, "what comes behind reads the hand's word"


@pytest.mark.parametrize(("hand", "first"), [("left", 0), ("right", 2)])
def test_the_word_of_a_hand_reads_where_to_put_it_as_well(small, hand: str, first: int) -> None:
    """Of the heads that are open to a hand, one reads the colour's word and one the bowl's."""
    sentence = f"Put the blue cube in the bowl with the {hand} hand."
    _, weight, word = attention(*small, GREY, sentence, hand, layer=2)
    _, _, colour = attention(*small, GREY, sentence, "blue", layer=2)
    _, _, bowl = attention(*small, GREY, sentence, "bowl", layer=2)
    assert weight[first, word, colour] > 0.9
    assert weight[first + 1, word, bowl] > 0.9
    assert weight[:, word, [colour, bowl]].sum() < 2.1, "the heads of the other hand are closed"


def test_what_the_word_of_a_hand_reads_is_what_its_picture_showed(small) -> None:
    """A cube in each picture: when one is moved, the word of this picture's hand reads something else."""
    processor, model = small
    layer = model.model.language_model.layers[2]

    def read(rows: dict[str, int]) -> dict[str, torch.Tensor]:
        picture = GREY.copy()
        for side, row in rows.items():
            column = 1 if side == "left" else 10
            picture[28 * row : 28 * row + 28, 28 * column : 28 * column + 28] = COLOURS["blue"]
        batch, x, _ = run(processor, model, [picture], ["Pick up the blue cube."], layers=2)
        at = int((batch["input_ids"][0] == processor.tokenizer.encode(" blue").ids[0]).nonzero()[0])
        values = layer.self_attn.v_proj(rms_norm(layer.input_layernorm, x[0, at])).view(2, 64).detach()
        return {"left": values[0], "right": values[1]}

    before = read({"left": 1, "right": 1})
    for moved, other in (("left", "right"), ("right", "left")):
        after = read({moved: 4, other: 1})
        change = {side: float((after[side] - before[side]).norm()) for side in before}
        assert change[moved] > 3 * change[other]


def attention(processor, model, picture, sentence: str, name: str, *, layer: int):
    """The prompt, attention (heads, s, s) of a layer, and where the word ``name`` stands."""
    batch, x, angles = run(processor, model, [picture], [sentence], layers=layer)
    block, ids = model.model.language_model.layers[layer], batch["input_ids"][0]
    word = int((ids == processor.tokenizer.encode(f" {name}").ids[0]).nonzero()[0])
    hidden = rms_norm(block.input_layernorm, x)[0]
    query = turned(block.self_attn.q_proj(hidden).view(len(ids), 4, 64), angles)
    key = turned(block.self_attn.k_proj(hidden).view(len(ids), 2, 64), angles).repeat_interleave(2, 1)
    score = torch.einsum("qhd,shd->hqs", query, key) / 8
    return (
        batch,
        score.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf).softmax(-1),
        word,
    )


def turned(x: torch.Tensor, angles: text.Rotary) -> torch.Tensor:
    cos, sin = (angle[0, 0, :, None] for angle in angles)
    return x * cos + torch.cat([-x[..., 32:], x[..., :32]], -1) * sin
