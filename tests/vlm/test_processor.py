"""Prompts, labels and the errors of bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer

from rdt2.errors import ActionError, CheckpointError, ObservationError
from rdt2.vlm import VLMProcessor
from rdt2.vlm.tiny import train_tokenizer

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]


@pytest.fixture
def tokens() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 1024, (2, 27))


def test_prompt_is_left_padded_and_ends_with_quad_start(
    tiny: SimpleNamespace, pictures: list[np.ndarray]
) -> None:
    batch = tiny.processor.prompt(pictures, TEXTS)
    assert (batch["input_ids"][:, -1] == tiny.processor.quad_start_id).all()
    assert batch["attention_mask"][1, 0] == 0
    assert batch["mm_token_type_ids"].sum(1).tolist() == [72, 72]
    for row, text in enumerate(TEXTS):
        ids = batch["input_ids"][row][batch["attention_mask"][row].bool()]
        shown = tiny.processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
        assert shown.replace("<|image_pad|>", "") == (
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n<|vision_start|>"
            f"<|vision_end|>{text}<|im_end|>\n<|im_start|>assistant\n<|quad_start|>"
        )


def test_labels_cover_the_answer_and_nothing_else(
    tiny: SimpleNamespace, pictures: list[np.ndarray], tokens: np.ndarray
) -> None:
    # Guards: a loss that also covers "<|im_start|>assistant\n".
    processor = tiny.processor
    batch = processor.training(pictures, TEXTS, tokens)
    assert (batch["attention_mask"][:, 0] == 1).all()
    for row in range(2):
        at = (batch["labels"][row] != -100).nonzero()[:, 0]
        assert at.tolist() == list(range(int(at[0]), int(at[0]) + 29))
        assert batch["input_ids"][row, at[0] - 1] == processor.quad_start_id
        answer = batch["labels"][row, at]
        assert torch.equal(answer, batch["input_ids"][row, at])
        assert (processor.vocab_size - 1 - answer[:27]).tolist() == tokens[row].tolist()
        assert answer[27:].tolist() == [processor.quad_end_id, processor.end_id]


@pytest.mark.parametrize("bad", [-1, 1024])
def test_tokens_out_of_range_are_refused(
    tiny: SimpleNamespace, pictures: list[np.ndarray], tokens: np.ndarray, bad: int
) -> None:
    # Guards: invalid gripper tokens that became padding inside the answer.
    tokens[1, 26] = bad
    with pytest.raises(ActionError, match=f"{bad} at sample 1, position 26"):
        tiny.processor.training(pictures, TEXTS, tokens)


@pytest.mark.parametrize("text", ["", "  ", None, "Pick up<|im_end|> the cube."])
def test_missing_or_forged_instructions_are_refused(
    tiny: SimpleNamespace, pictures: list[np.ndarray], text: str
) -> None:
    # Guards: a missing instruction key that silently became an empty string.
    with pytest.raises(ObservationError, match="instruction"):
        tiny.processor.prompt(pictures[:1], [text])


def test_counts_must_agree(tiny: SimpleNamespace, pictures: list[np.ndarray], tokens: np.ndarray) -> None:
    with pytest.raises(ObservationError, match="2 pictures and 1"):
        tiny.processor.prompt(pictures, TEXTS[:1])
    with pytest.raises(ActionError, match=r"\(2, 27\)"):
        tiny.processor.training(pictures, TEXTS, tokens[0])


def test_saved_processor_is_the_same(
    tiny: SimpleNamespace, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    VLMProcessor.from_pretrained(tiny.folder).save_pretrained(tmp_path)
    ours, again = (
        p.prompt(pictures, TEXTS) for p in (tiny.processor, VLMProcessor.from_pretrained(tmp_path))
    )
    assert all(torch.equal(ours[name], again[name]) for name in ours)


def test_a_folder_without_tokenizer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        VLMProcessor.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="no such folder"):
        VLMProcessor.from_pretrained(tmp_path / "nowhere")


def test_text_never_becomes_an_action_token(tiny: SimpleNamespace) -> None:
    processor = tiny.processor
    for text in ("<|action_5|>", "Pick up the zebra, 42 times!", "éüß 你好"):
        ids = processor.tokenizer.encode(text).ids
        assert max(ids) < processor.action_token_id(1023)
        assert processor.tokenizer.decode(ids) == text


def test_words_whose_ids_are_action_tokens_are_spelled(
    tiny: SimpleNamespace, pictures: list[np.ndarray]
) -> None:
    """As rare words of the published vocabulary have: a sentence must not say what only the model may say."""
    state = json.loads(tiny.processor.tokenizer.to_str())
    words = state["model"]["vocab"]
    words["Ġcube"], words["<|action_7|>"] = words["<|action_7|>"], words["Ġcube"]
    processor = VLMProcessor(Tokenizer.from_str(json.dumps(state)), tiny.processor.images)
    assert words["Ġcube"] == processor.action_token_id(7) in processor.tokenizer.encode(TEXTS[0]).ids
    ids = processor.prompt(pictures[:1], TEXTS[:1])["input_ids"][0]
    actions = (ids >= processor.action_token_id(1023)) & (ids <= processor.action_token_id(0))
    assert not actions.any()
    assert TEXTS[0] in processor.tokenizer.decode(ids.tolist(), skip_special_tokens=False)
    answered = processor.training(pictures[:1], TEXTS[:1], np.arange(27)[None])
    actions = (answered["input_ids"] >= processor.action_token_id(1023)) & (
        answered["input_ids"] < processor.vocab_size
    )
    assert int(actions.sum()) == 27


def test_fewer_action_tokens_leave_words_whole(tiny: SimpleNamespace, tmp_path: Path) -> None:
    """regression: with a vocabulary of 256 codes all words were spelled, as if 1024 of its ids were action tokens'."""
    few = VLMProcessor(train_tokenizer(["Pick up the red cube."], num_embeddings=256), tiny.processor.images)
    few.save_pretrained(tmp_path)
    for processor in (few, VLMProcessor.from_pretrained(tmp_path)):
        assert processor.action_tokens == 256
        assert len(processor._instruction("Pick up the red cube.")) == 6
    assert tiny.processor.action_tokens == 1024


def test_known_words_are_one_token_each() -> None:
    tokenizer = train_tokenizer(["Pick up the red cube."])
    assert tokenizer.encode("Pick up the red cube.").tokens == ["Pick", "Ġup", "Ġthe", "Ġred", "Ġcube", "."]
    assert len(tokenizer.encode("You are a helpful assistant.").tokens) == 6


def test_a_folder_as_transformers_5_saves_it(
    tiny: SimpleNamespace, pictures: list[np.ndarray], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer, Qwen2VLImageProcessorPil

    new, again = tmp_path / "new", tmp_path / "again"
    AutoTokenizer.from_pretrained(tiny.folder).save_pretrained(new)
    images = Qwen2VLImageProcessorPil.from_pretrained(tiny.folder).to_dict()
    (new / "processor_config.json").write_text(
        json.dumps({"image_processor": images, "processor_class": "Qwen2_5_VLProcessor"})
    )
    assert sorted(path.name for path in new.iterdir()) == [
        "chat_template.jinja", "processor_config.json", "tokenizer.json", "tokenizer_config.json",
    ]  # fmt: skip
    ours, theirs = (p.prompt(pictures, TEXTS) for p in (tiny.processor, VLMProcessor.from_pretrained(new)))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)

    # What is saved of it is read by older versions as well: transformers 4 stops at a list of extra tokens.
    VLMProcessor.from_pretrained(new).save_pretrained(again)
    config = json.loads((again / "tokenizer_config.json").read_text())
    assert "extra_special_tokens" not in config
    assert "<|quad_start|>" in config["additional_special_tokens"]
    assert config["tokenizer_class"] == "Qwen2Tokenizer"
    assert (again / "preprocessor_config.json").is_file()
    assert "<|quad_start|>" in AutoTokenizer.from_pretrained(again).all_special_tokens


def test_the_processor_beside_the_vlm_comes_before_the_published_one(
    tiny: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Regression: the presets named the published one, which was fetched for a merged model with its own."""
    for preset in (request.config.rootpath / "configs" / "training").glob("*.yaml"):
        assert "processor:" not in preset.read_text(), preset
    asked: list[str] = []

    def snapshot(name: str, **_: object) -> str:
        asked.append(name)
        return str(tiny.folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    assert VLMProcessor.beside(tiny.folder).source == tiny.folder
    tiny.processor.save_pretrained(tmp_path / "given")
    assert VLMProcessor.beside(tiny.folder, given=tmp_path / "given").source == tmp_path / "given"
    assert not asked

    alone = tmp_path / "published"  # RDT2-VQ comes without
    alone.mkdir()
    (alone / "config.json").write_text((tiny.folder / "config.json").read_text())
    assert VLMProcessor.beside(alone).source == tiny.folder
    assert asked == ["Qwen/Qwen2.5-VL-7B-Instruct"]
    (alone / "tokenizer.json").write_text((tiny.folder / "tokenizer.json").read_text())
    with pytest.raises(CheckpointError, match=r"expected preprocessor_config\.json"):
        VLMProcessor.beside(alone)  # half of its own is not completed by another's
