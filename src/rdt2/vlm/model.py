"""Loading and saving Qwen2.5-VL the way RDT2 uses it: strictly, and no tensor more than needed.

Checkpoints on disk carry the published key names (``visual.*``, ``model.layers.*``, ``lm_head.*``); the newer
names that transformers uses inside (``model.visual.*``, ``model.language_model.*``) are read as well.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError
from rdt2.vlm.processor import locate

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2_5_VLForConditionalGeneration

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load_vlm(
    path: str | Path,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Qwen2_5_VLForConditionalGeneration:
    """Load a Qwen2.5-VL checkpoint, tensor by tensor, straight to the device.

    Args:
        path: local folder or hub id, in the published layout.
        layers: load only what the KV caches of the first ``layers`` layers need: those layers, the last of
            them with nothing but its input norm and K/V projections, no final norm and no head. Such a model
            serves :func:`rdt2.vlm.prefill` and nothing else. None loads everything.
        dtype: of all parameters.
        device: where they end up.

    Raises:
        CheckpointError: a file or tensor is missing, unexpected or of another shape, or the model is not a
            Qwen2.5-VL.
    """
    folder = locate(path, ("*.json", "*.safetensors"))
    model: Any = _empty(read_config(folder), layers)
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    files = _files(folder)
    if model.config.tie_word_embeddings and not any("lm_head" in name for name in files):
        wanted.pop("lm_head.weight", None)
    _check_names(folder, set(wanted), set(files), partial=layers is not None)

    from safetensors import safe_open

    for file in sorted({files[name][0] for name in wanted}):
        with safe_open(file, framework="pt", device=str(device)) as handle:
            for name in (name for name in wanted if files[name][0] == file):
                value = handle.get_tensor(files[name][1])
                if value.shape != wanted[name]:
                    raise CheckpointError(
                        f"{file}: expected {files[name][1]} of shape {tuple(wanted[name])} (config.json), "
                        f"got {tuple(value.shape)}; config and weights are of different models"
                    )
                _assign(model, name, value.to(dtype))
    if "lm_head.weight" not in wanted and layers is None:
        model.tie_weights()
    return model.to(device).eval()


def read_config(folder: Path) -> Any:
    """The Qwen2.5-VL configuration of a local folder, old flat or new nested form.

    Raises:
        CheckpointError: there is none, or it is of another model.
    """
    from transformers import Qwen2_5_VLConfig

    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(
            f"expected config.json in {folder}, found none; point at a Qwen2.5-VL checkpoint"
        )
    try:
        raw = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON ({error}); download it again") from error
    if raw.get("model_type") != "qwen2_5_vl":
        raise CheckpointError(f"{file}: expected model_type qwen2_5_vl, got {raw.get('model_type')!r}")
    return Qwen2_5_VLConfig(**raw)


def save_vlm(model: Any, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write config and weights in the published layout, which transformers and :func:`load_vlm` read.

    Args:
        model: a whole Qwen2.5-VL.
        folder: made if missing.
        dtype: of the weights on disk; None keeps the model's.
    """
    from safetensors.torch import save_file

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tied = model.config.tie_word_embeddings
    state = {
        _published(name): value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == "lm_head.weight")
    }
    config = model.config
    config.architectures = ["Qwen2_5_VLForConditionalGeneration"]
    config.save_pretrained(folder)
    model.generation_config.save_pretrained(folder)
    partial = folder / (WEIGHTS + ".partial")
    save_file(state, partial, metadata={"format": "pt"})
    partial.replace(folder / WEIGHTS)  # never half a file under the final name


def _empty(config: Any, layers: int | None) -> Qwen2_5_VLForConditionalGeneration:
    """The model without storage for its parameters; buffers (rotary frequencies) are real."""
    from accelerate import init_empty_weights
    from transformers import Qwen2_5_VLForConditionalGeneration

    text = config.text_config
    if layers is not None:
        if not 1 <= layers <= text.num_hidden_layers:
            raise CheckpointError(
                f"expected 1..{text.num_hidden_layers} layers of this VLM, asked for {layers}"
            )
        text.num_hidden_layers = layers
        text.layer_types = text.layer_types[:layers]
    with init_empty_weights(include_buffers=False):
        model = Qwen2_5_VLForConditionalGeneration(config)
    if layers is not None:
        last = model.model.language_model.layers[-1]
        del model.lm_head, model.model.language_model.norm
        del last.mlp, last.post_attention_layernorm, last.self_attn.q_proj, last.self_attn.o_proj
    return model


def _files(folder: Path) -> dict[str, tuple[str, str]]:
    """Our name of every tensor of the checkpoint -> (file, name in the file)."""
    from safetensors import SafetensorError, safe_open

    if (folder / INDEX).is_file():
        shards = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    else:
        shards = [WEIGHTS]
    found = {}
    for shard in shards:
        file = folder / shard
        if not file.is_file():
            raise CheckpointError(f"expected {shard} in {folder}, found none; download the checkpoint again")
        try:
            with safe_open(file, framework="pt") as handle:
                found.update({_internal(name): (str(file), name) for name in handle.keys()})  # noqa: SIM118
        except SafetensorError as error:
            raise CheckpointError(f"{file} is damaged ({error}); download it again") from error
    return found


def _check_names(folder: Path, wanted: set[str], found: set[str], *, partial: bool) -> None:
    missing, unexpected = sorted(wanted - found), sorted(found - wanted)
    if partial:  # what was left out on purpose is no surprise
        left_out = re.compile(r"model\.language_model\.(layers\.\d+|norm)\.|lm_head\.")
        unexpected = [name for name in unexpected if not left_out.match(name)]
    if missing or unexpected:
        raise CheckpointError(
            f"{folder}: the weights are not those of its config.json. Missing: {_some(missing)}. "
            f"Unexpected: {_some(unexpected)}. Download the checkpoint again, or merge adapters into it first"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(_published(name) for name in names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "none"


def _internal(name: str) -> str:
    if name.startswith("visual."):
        return "model." + name
    if name.startswith("model.") and not name.startswith(("model.visual.", "model.language_model.")):
        return "model.language_model." + name.removeprefix("model.")
    return name


def _published(name: str) -> str:
    return re.sub(r"^model\.language_model\.", "model.", re.sub(r"^model\.visual\.", "visual.", name))


def _assign(model: torch.nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value))
