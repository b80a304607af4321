"""Loading and saving Qwen2.5-VL the way RDT2 uses it: strictly, and no tensor more than needed.

What lies on disk is described in :mod:`rdt2.vlm.layout`; weights are safetensors or pickled, in one file or several.
"""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import whole_file, write_whole
from rdt2.hub import locate
from rdt2.vlm.adapters import Delta, read_adapters
from rdt2.vlm.layout import (
    CONFIG,
    EMBEDDING,
    GENERATION_CONFIG,
    HEAD,
    find_tensors,
    published,
    published_config,
    read_config,
    read_generation_config,
)
from rdt2.vlm.memory import offload_linears, offloadable, require_memory, resident_bytes
from rdt2.vlm.quantize import fill_layer, quantize_layers
from rdt2.weights import WEIGHTS, opened

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rdt2.vlm.quantize import Quantization

_log = logging.getLogger(__name__)


def load_vlm(
    path: str | Path,
    *,
    layers: int | None = None,
    dtype: torch.dtype | None = torch.float32,
    device: str | torch.device = "cpu",
    quantize: Quantization | None = None,
    offload: int = 0,
    base: str | Path | None = None,
) -> Qwen2_5_VLForConditionalGeneration:
    """Load a Qwen2.5-VL checkpoint, tensor by tensor, straight to the device.

    Files that hold nothing needed are neither opened nor, from the hub, fetched; and no more than one tensor is
    in memory twice.

    Args:
        path: local folder or hub id, in the published layout; or of LoRA adapters, which are added to the weights
            of the VLM that they name.
        layers: load only what the KV caches of the first ``layers`` layers need: those layers, the last of
            them with nothing but its input norm and K/V projections, no final norm and no head. Such a model
            serves :func:`rdt2.vlm.prefill` and nothing else. None loads everything.
        dtype: of all parameters; none keeps what the files have, on a CPU without a copy: pages that all processes
            share.
        device: where they end up.
        quantize: "int8" or "int4" keeps the matrices of all layers, of vision and language, in so many bits;
            arithmetic stays in ``dtype``. Such a model is for inference only.
        offload: the matrices of so many language layers, from the first, stay in CPU memory and come to the device
            each time their layer runs: for cards that the model does not fit on. Each such matrix then costs a copy.
        base: folder or hub id of the VLM that adapters belong to, if it is not where they say.

    Raises:
        CheckpointError: a file or tensor is missing, unexpected or of another shape, or the model is not a
            Qwen2.5-VL.
        ConfigError: the device has too little memory, "int4" lacks its library, or offload is no number of layers or
            comes with quantize.
    """
    device = torch.device(device)
    if offload and quantize is not None:
        raise ConfigError("offload and quantize do not go together: choose one.")
    given, adapters = path, read_adapters(path, base=base)
    path = path if adapters is None else adapters.base
    folder = locate(path, (CONFIG, GENERATION_CONFIG), what="a Qwen2.5-VL")
    config = read_config(folder)
    asked = config.tie_word_embeddings
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = False  # the weights decide, below
    model: Any = empty_vlm(config, layers=layers)
    model.generation_config = read_generation_config(folder, config)
    quantized = quantize_layers(model, quantize) if quantize is not None else ()
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = find_tensors(path)
    if asked:  # one of the two stands for both
        for one, other in ((HEAD, EMBEDDING), (EMBEDDING, HEAD)):
            if other in found:
                found.setdefault(one, found[other])
    deltas: dict[str, Delta] = {}
    if adapters is not None:
        adapters.check_places(set(found))
        found |= adapters.whole
        deltas = adapters.deltas
    _check_names(folder, set(wanted), set(found), partial=layers is not None)
    absent = offloadable(model, offload)
    held = dtype or torch.bfloat16  # as published
    needed = resident_bytes(model, dtype=held, quantized=quantized, quantize=quantize, absent=absent)
    require_memory(needed, device, f"the VLM {path}")

    one_tensor = layers is None and found[HEAD] == found[EMBEDDING] and not {HEAD, EMBEDDING} & deltas.keys()
    if one_tensor:
        del wanted[HEAD]
    files = sorted({found[name][0] for name in wanted})
    folder = locate(path, [file for file in files if not Path(file).is_absolute()])  # these and no others
    for file in files:
        with opened(folder / file, "cpu" if offload else device) as handle:
            for name in (name for name in wanted if found[name][0] == file):
                value = handle.get_tensor(found[name][1])
                if value.shape != wanted[name]:
                    raise CheckpointError(
                        f"{folder / file}: expected {found[name][1]} of shape {tuple(wanted[name])} "
                        f"(config.json), got {tuple(value.shape)}; config and weights are of different models"
                    )
                if name in deltas:
                    value = deltas[name].added_to(value, f"{given}, {found[name][1]}")
                value = value.to(dtype) if name in absent else value.to(device, dtype)
                if name in quantized:
                    fill_layer(model.get_submodule(name.removesuffix(".weight")), value)
                else:
                    _assign(model, name, value)
                del value  # else it would stay while the next one is read
    if asked and layers is None:
        _tie(model, path, one_tensor=one_tensor)
    _move_buffers(model, device)
    if absent:
        offload_linears(model, absent, device)
    return model.eval()


def _tie(model: Any, path: str | Path, *, one_tensor: bool) -> None:
    """Make head and embedding one, as config.json asks, unless the weights are of a model that has two."""
    if not one_tensor and not torch.equal(model.lm_head.weight, model.get_parameter(EMBEDDING)):
        _log.warning(
            "%s: config.json says tie_word_embeddings, but the weights hold a head of its own. Both are kept, as two; "
            "what is saved says so.",
            path,
        )
        return
    model.config.tie_word_embeddings = model.config.text_config.tie_word_embeddings = True
    model.tie_weights()


def empty_vlm(config: Any, *, layers: int | None = None) -> Qwen2_5_VLForConditionalGeneration:
    """The model without storage for its parameters (they are on the meta device); buffers are real.

    Args:
        config: of the whole model; with ``layers`` it is changed to say so.
        layers: as for :func:`load_vlm`.

    Raises:
        CheckpointError: the model does not have so many layers.
    """
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


def save_vlm(model: Any, folder: str | Path, *, dtype: torch.dtype | None = None) -> None:
    """Write config and weights in the published layout, which transformers and :func:`load_vlm` read.

    Args:
        model: a whole Qwen2.5-VL.
        folder: made if missing.
        dtype: of the weights on disk; None keeps the model's.

    Raises:
        CheckpointError: the model was quantized.
    """
    from safetensors.torch import save_file

    if not all(parameter.is_floating_point() for parameter in model.parameters()):
        raise CheckpointError(f"{folder}: a quantized VLM cannot be written; load it without quantize=")
    if not hasattr(model, "lm_head"):
        raise CheckpointError(
            f"{folder}: the first layers of a VLM are no whole one; load it without layers="
        )
    folder = Path(folder)
    head = model.lm_head.weight
    tied = head is model.get_parameter(EMBEDDING)
    state = {
        published(name): value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in model.state_dict().items()
        if not (tied and name == HEAD)
    }
    config = published_config(model.config, tied=tied, dtype=dtype or head.dtype)
    for name, content in ((CONFIG, config), (GENERATION_CONFIG, model.generation_config.to_diff_dict())):
        write_whole(folder / name, json.dumps(content, indent=2) + "\n", error=CheckpointError)
    with whole_file(folder / WEIGHTS, error=CheckpointError) as partial:
        save_file(state, partial, metadata={"format": "pt"})


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
    shown = ", ".join(published(name) for name in names[:8])
    return (shown + (f" and {len(names) - 8} more" if len(names) > 8 else "")) or "none"


def _assign(model: torch.nn.Module, name: str, value: Tensor) -> None:
    owner, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(owner), leaf, torch.nn.Parameter(value))


def _move_buffers(model: torch.nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
