"""The published layout of a Qwen2.5-VL: how config.json and the tensors are named on disk.

Written is what Qwen published, a flat config.json and the names ``visual.*``, ``model.*`` and ``lm_head.*``, which
every version of transformers since 4.49 reads. Read is as well what those versions write: a nested config.json
(``text_config``), and the names ``model.visual.*`` and ``model.language_model.*`` that transformers uses inside.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.errors import CheckpointError
from rdt2.files import require_file
from rdt2.hub import locate, locate_any, offline_note
from rdt2.weights import PICKLED, WEIGHTS, opened

if TYPE_CHECKING:
    import torch

CONFIG = "config.json"
GENERATION_CONFIG = "generation_config.json"
EMBEDDING = "model.language_model.embed_tokens.weight"
HEAD = "lm_head.weight"
FILES = (
    WEIGHTS,
    f"{WEIGHTS}.index.json",
    PICKLED,
    f"{PICKLED}.index.json",
)  # the first that is there is read

# The keys that the published config.json takes from each part, in its order.
_IDS = ("vision_start_token_id", "vision_end_token_id", "vision_token_id", "image_token_id", "video_token_id")
_TEXT = (
    "attention_dropout", "bos_token_id", "eos_token_id", "pad_token_id", "hidden_act", "hidden_size",
    "initializer_range", "intermediate_size", "max_position_embeddings", "max_window_layers",
    "num_attention_heads", "num_hidden_layers", "num_key_value_heads", "rms_norm_eps", "use_cache",
    "use_sliding_window", "vocab_size",
)  # fmt: skip
_VISION = (
    "depth", "hidden_act", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "patch_size",
    "spatial_merge_size", "window_size", "fullatt_block_indexes", "tokens_per_second", "temporal_patch_size",
)  # fmt: skip
_WRAPPERS = re.compile(r"^(?:(?:module|_orig_mod)\.)+")  # of data parallel and of compiled models
_COMPUTED = re.compile(r"\.rotary(?:_pos)?_emb\.inv_freq$")  # old versions saved what they compute


def read_config(folder: Path) -> Any:
    """The Qwen2.5-VL configuration of a local folder, flat or nested.

    Raises:
        CheckpointError: there is none, or it is of another model or of quantized weights.
    """
    from transformers import Qwen2_5_VLConfig

    raw = read_json(folder / CONFIG, advice="Point at a Qwen2.5-VL checkpoint.")
    file = folder / CONFIG
    if raw.get("model_type") != "qwen2_5_vl":
        raise CheckpointError(f"{file}: expected model_type qwen2_5_vl, got {raw.get('model_type')!r}")
    if quantized := raw.get("quantization_config"):
        method = quantized.get("quant_method") if isinstance(quantized, dict) else quantized
        raise CheckpointError(
            f"{file}: the weights are quantized ({method}), expected whole ones. Point at the model that they were "
            "made from; quantize='int8' or quantize='int4' makes it as small while it is loaded. (Adapters that "
            "name it are merged by 'rdt2 export merge ADAPTERS OUT --base MODEL'.)"
        )
    try:
        return Qwen2_5_VLConfig(**raw)
    except (TypeError, ValueError, KeyError) as error:  # a size that is no number, and the like
        raise CheckpointError(
            f"{file} is not the configuration of a Qwen2.5-VL ({error}). Copy it again."
        ) from error


def read_generation_config(folder: Path | None, config: Any) -> Any:
    """How other programs draw text with this model: as its folder says, else with both tokens that end an answer."""
    from transformers import GenerationConfig

    text = config.text_config
    both = [text.eos_token_id, text.bos_token_id]  # <|im_end|>, <|endoftext|>
    if isinstance(text.eos_token_id, list) or None in both:
        both = text.eos_token_id
    raw = {"bos_token_id": text.bos_token_id, "pad_token_id": text.bos_token_id, "eos_token_id": both}
    if folder is not None and (folder / GENERATION_CONFIG).is_file():
        raw = read_json(folder / GENERATION_CONFIG, advice="Copy it again.")
    return GenerationConfig(**raw)


def read_json(file: Path, *, advice: str) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointError: it is missing, may not be read, or holds no object.
    """
    try:
        raw = json.loads(require_file(file, advice=advice).read_text(encoding="utf-8"))
    except ValueError as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again") from error
    if not isinstance(raw, dict):
        raise CheckpointError(f"{file}: expected a JSON object, got {type(raw).__name__}; download it again")
    return raw


def published_config(config: Any, *, tied: bool, dtype: torch.dtype) -> dict[str, Any]:
    """What config.json says of a model, in the published form.

    Args:
        config: a ``Qwen2_5_VLConfig``.
        tied: whether the head is the embedding, and not in the weights.
        dtype: of the weights.
    """
    import transformers

    text, vision = config.text_config, config.vision_config
    rope = dict(text.rope_parameters)
    theta = rope.pop("rope_theta")
    rope.setdefault("mrope_section", [16, 24, 24])
    kind = rope.pop("rope_type", "default")
    rope.pop("type", None)
    scaling = {"type": "mrope"} if kind == "default" else {"type": kind, "rope_type": kind}
    ids = {key: getattr(config, key, getattr(text, key, None)) for key in _IDS}
    flat = {
        "architectures": ["Qwen2_5_VLForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        **{key: value for key, value in ids.items() if value is not None},
        **{key: getattr(text, key) for key in _TEXT if getattr(text, key) is not None},
        "sliding_window": text.sliding_window or 32768,  # read only with use_sliding_window
        "rope_theta": theta,
        "rope_scaling": {**scaling, **rope},
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "transformers_version": transformers.__version__,
        "vision_config": {
            **{key: getattr(vision, key) for key in _VISION},
            "in_chans": vision.in_channels,
            "spatial_patch_size": vision.patch_size,
        },
    }
    flat["vision_config"]["fullatt_block_indexes"] = list(vision.fullatt_block_indexes)
    return flat


def find_tensors(path: str | Path) -> dict[str, tuple[str, str]]:
    """Our name of every tensor of the checkpoint -> (file, name in the file). Raises CheckpointError."""
    file = locate_any(path, (CONFIG,), FILES, what="a Qwen2.5-VL")
    if file is None:
        folder = locate(path, (CONFIG,))
        raise CheckpointError(
            f"expected {WEIGHTS} or {FILES[1]} in {folder}, found neither{offline_note(path)}. Download the checkpoint "
            "again"
        )
    if file.name in (WEIGHTS, PICKLED):
        with opened(file) as handle:
            places = dict.fromkeys(handle.keys(), file.name)
    else:
        places = read_json(file, advice="Download it again.").get("weight_map", {})
        if not isinstance(places, dict) or not places:
            raise CheckpointError(f"{file} is no index of weights (no weight_map); download it again")
    return {ours: (place, name) for name, place in places.items() if (ours := internal(name)) is not None}


def internal(name: str) -> str | None:
    """The name that transformers 5 gives a tensor of a checkpoint; None where it is computed and not read."""
    name = _WRAPPERS.sub("", name)
    if _COMPUTED.search(name):
        return None
    if name.startswith(("visual.", "language_model.")):
        name = "model." + name
    if name.startswith("model.language_model."):
        return name.replace("language_model.model.", "language_model.", 1)
    if name.startswith("model.") and not name.startswith("model.visual."):
        return "model.language_model." + name.removeprefix("model.")
    return name


def published(name: str) -> str:
    """The name on disk of a tensor of the model."""
    return re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.visual\.", "visual.", name))
