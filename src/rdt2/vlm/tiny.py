"""A small Qwen2.5-VL from scratch, with its own byte-level BPE tokenizer, in the published layout.

    processor, model = create_tiny_vlm("runs/vlm", sentences=instructions)

The folder that comes out is read by ``load_vlm``, ``VLMProcessor.from_pretrained`` and by plain transformers.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import ConfigError
from rdt2.vlm.images import ImageProcessor
from rdt2.vlm.layout import read_generation_config
from rdt2.vlm.model import save_vlm
from rdt2.vlm.processor import ACTION_NAME, AFTER_INSTRUCTION, BEFORE_PICTURE, VLMProcessor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from tokenizers import Tokenizer
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

# The control tokens of Qwen2.5-VL in their order behind the base vocabulary.
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|object_ref_start|>",
    "<|object_ref_end|>",
    "<|box_start|>",
    "<|box_end|>",
    "<|quad_start|>",
    "<|quad_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
PLAIN_TOKENS = (
    "<tool_call>",
    "</tool_call>",
    "<|fim_prefix|>",
    "<|fim_middle|>",
    "<|fim_suffix|>",
    "<|fim_pad|>",
    "<|repo_name|>",
    "<|file_sep|>",
)
# How Qwen2 cuts text into words before byte pairs are merged.
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Turns of text and pictures, as the template of Qwen2.5-VL renders them.
CHAT_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n{% endif %}"
    "<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
class TinyConfig:
    """Shape of a small Qwen2.5-VL; the defaults train on two CPU cores."""

    # language model
    hidden_size: int = 256
    num_layers: int = 6
    num_heads: int = 4
    num_kv_heads: int = 2
    intermediate_size: int = 512
    # The published 1e6 leaves the columns without a usable frequency: over a dozen cells the angle would not
    # change. This one leaves each axis one, and slow ones by which contents are compared.
    rope_theta: float = 1e4
    # vision tower
    vision_depth: int = 3
    vision_hidden_size: int = 128
    vision_num_heads: int = 4
    vision_intermediate_size: int = 256
    window_size: int = 84  # pixels; divides 168 x 336, so all windows are equal
    full_attention_block: int = 2
    # pictures: 384 x 768 becomes 168 x 336, which is 72 image tokens
    max_pixels: int = 168 * 336
    # text
    num_embeddings: int = 1024  # action tokens at the end of the base vocabulary
    max_merges: int = 512


def create_tiny_vlm(
    folder: str | Path,
    *,
    sentences: Iterable[str],
    config: TinyConfig | None = None,
    seed: int = 0,
    structure: Callable[[Any, VLMProcessor, Iterable[str]], None] | None = None,
) -> tuple[VLMProcessor, Qwen2_5_VLForConditionalGeneration]:
    """Make tokenizer, picture settings and an untrained model, save them to ``folder``, and return them.

    Args:
        folder: where the checkpoint goes, in the published Qwen2.5-VL layout.
        sentences: instructions the tokenizer learns its words from; other words still work, in pieces.
        config: the shape.
        seed: of the initial weights.
        structure: given the model as drawn, its processor and the sentences, writes what the weights are to begin with
            (see :mod:`rdt2.demo.sight`); None leaves them random.

    Raises:
        ConfigError: no sentences, or sizes that do not go together.
    """
    from transformers import Qwen2_5_VLForConditionalGeneration

    config, sentences = config or TinyConfig(), list(sentences)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(sentences, num_embeddings=config.num_embeddings, max_merges=config.max_merges)
    processor = VLMProcessor(tokenizer, ImageProcessor(max_pixels=config.max_pixels))
    _save_tokenizer(tokenizer, folder)
    processor.save_pretrained(folder)
    model = Qwen2_5_VLForConditionalGeneration(model_config(config, tokenizer))
    model.generation_config = read_generation_config(None, model.config)
    initialize(model, seed=seed)
    if structure is not None:
        structure(model, processor, sentences)
    save_vlm(model, folder)
    return processor, model


def train_tokenizer(
    sentences: Iterable[str], *, num_embeddings: int = 1024, max_merges: int = 512
) -> Tokenizer:
    """A byte-level BPE tokenizer with Qwen's control tokens and room for action tokens.

    The base vocabulary is 256 bytes, what is merged from the sentences, and last ``num_embeddings`` entries
    that no merge leads to, so that text never becomes an action token; action token ``a`` is entry
    ``vocab_size - (a + 1)``.

    Raises:
        ConfigError: no sentences.
    """
    from tokenizers import (
        AddedToken,
        Regex,
        Tokenizer,
        decoders,
        models,
        normalizers,
        pre_tokenizers,
        trainers,
    )

    sentences = list(sentences)
    if not any(sentence.strip() for sentence in sentences):
        raise ConfigError(
            "expected instructions to learn words from, got none; pass the data set's sentences"
        )

    def build(model: models.BPE) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer

    trainer = trainers.BpeTrainer(
        vocab_size=256 + max_merges, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    learned = build(models.BPE())
    frame = (BEFORE_PICTURE + AFTER_INSTRUCTION).replace("<|", "\n<|").replace("|>", "|>\n").split("\n")
    words = [line for line in frame if line and not line.startswith("<|")]
    learned.train_from_iterator([*words * max(2, len(sentences)), *sentences], trainer)
    state = json.loads(learned.to_str())["model"]
    vocab: dict[str, int] = state["vocab"]
    base = len(vocab) + num_embeddings
    vocab |= {ACTION_NAME.format(a): base - (a + 1) for a in range(num_embeddings)}
    tokenizer = build(models.BPE(vocab=vocab, merges=[tuple(pair) for pair in state["merges"]]))
    tokenizer.add_special_tokens(
        [AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS]
    )
    tokenizer.add_tokens([AddedToken(name, special=False, normalized=False) for name in PLAIN_TOKENS])
    return tokenizer


def initialize(model: Any, *, seed: int = 0) -> None:
    """Draw all weights for training from scratch, in place.

    Projections keep the variance of their input (1 / fan-in), those that write to the residual stream are
    shrunk by sqrt(2 x layers), so depth does not blow it up; words have variance 1, so that what they say is
    not drowned by the first layers; norms are 1 and biases 0; the head starts small, so the first loss is
    log(vocabulary).
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    depth = {
        "visual": len(model.model.visual.blocks),
        "language_model": len(model.model.language_model.layers),
    }
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if name.endswith("weight") else 0.0)
                continue
            std = parameter[0].numel() ** -0.5
            if name.endswith(("o_proj.weight", "down_proj.weight", "attn.proj.weight")):
                std /= math.sqrt(2 * depth[name.split(".")[1]])
            if name == "lm_head.weight":
                std = 0.02
            elif name.endswith("embed_tokens.weight"):
                std = 1.0
            parameter.normal_(0.0, std, generator=generator)


def model_config(config: TinyConfig, tokenizer: Tokenizer) -> Qwen2_5_VLConfig:
    """The configuration of a Qwen2.5-VL of this shape whose vocabulary is the tokenizer's.

    Raises:
        ConfigError: sizes that do not go together.
    """
    from transformers import Qwen2_5_VLConfig

    head_dim = config.hidden_size // config.num_heads
    if head_dim * config.num_heads != config.hidden_size or head_dim % 16:
        raise ConfigError(
            f"expected hidden_size to be num_heads times a multiple of 16, got {config.hidden_size} and "
            f"{config.num_heads} heads"
        )
    # Shares of time, row and column: the columns have the slow frequencies too.
    section = [head_dim // 8, head_dim // 16, head_dim * 5 // 16]
    ids = {name: tokenizer.token_to_id(name) for name in SPECIAL_TOKENS}
    used = tokenizer.get_vocab_size(with_added_tokens=True)
    settings: dict[str, Any] = {
        "text_config": {
            "vocab_size": math.ceil(used / 64) * 64,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_layers,
            "num_attention_heads": config.num_heads,
            "num_key_value_heads": config.num_kv_heads,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": config.rope_theta,
                "mrope_section": section,
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
        },
        "vision_config": {
            "depth": config.vision_depth,
            "hidden_size": config.vision_hidden_size,
            "num_heads": config.vision_num_heads,
            "intermediate_size": config.vision_intermediate_size,
            "out_hidden_size": config.hidden_size,
            "patch_size": 14,
            "window_size": config.window_size,
            "fullatt_block_indexes": [config.full_attention_block],
            "tokens_per_second": 2,
        },
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
        "bos_token_id": ids["<|endoftext|>"],
        "eos_token_id": ids["<|im_end|>"],
        "pad_token_id": ids["<|endoftext|>"],
        "tie_word_embeddings": False,
    }
    return Qwen2_5_VLConfig(**settings)


def _save_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """The files beside tokenizer.json that older readers of the layout look for."""
    state = json.loads(tokenizer.to_str())
    added = {entry["content"]: entry.pop("id") for entry in state["added_tokens"]}
    special = [name for name in SPECIAL_TOKENS if name != "<|endoftext|>"]
    names = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    config = {
        "tokenizer_class": "Qwen2Tokenizer",
        "processor_class": "Qwen2_5_VLProcessor",
        "add_prefix_space": False,
        "added_tokens_decoder": {str(added[entry["content"]]): entry for entry in state["added_tokens"]},
        "additional_special_tokens": special,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "errors": "replace",
        "model_max_length": 4096,
        "split_special_tokens": False,
        "unk_token": None,
        **names,
    }
    files = {
        "tokenizer_config.json": config,
        "vocab.json": state["model"]["vocab"],
        "added_tokens.json": added,
        "special_tokens_map.json": {"additional_special_tokens": special, **names},
        "chat_template.json": {"chat_template": CHAT_TEMPLATE},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    merges = "".join(f"{left} {right}\n" for left, right in state["model"]["merges"])
    (folder / "merges.txt").write_text("#version: 0.2\n" + merges, encoding="utf-8")
