"""Loading and saving Qwen2.5-VL the way RDT2 uses it: strictly, and no tensor more than needed.

Checkpoints on disk carry the published key names (``visual.*``, ``model.layers.*``, ``lm_head.*``); the newer
names that transformers uses inside (``model.visual.*``, ``model.language_model.*``) are read as well.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import whole_file
from rdt2.hub import locate
from rdt2.vlm.memory import offload_linears, offloadable, require_memory, resident_bytes
from rdt2.vlm.quantize import fill_layer, quantize_layers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor
    from transformers import Qwen2_5_VLForConditionalGeneration

    from rdt2.vlm.quantize import Quantization

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load_vlm(
    path: str | Path,
    *,
    layers: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    quantize: Quantization | None = None,
    offload: int = 0,
) -> Qwen2_5_VLForConditionalGeneration:
    """Load a Qwen2.5-VL checkpoint, tensor by tensor, straight to the device.

    Files that hold nothing needed are neither opened nor, from the hub, fetched; and no more than one tensor is
    in memory twice.

    Args:
        path: local folder or hub id, in the published layout.
        layers: load only what the KV caches of the first ``layers`` layers need: those layers, the last of
            them with nothing but its input norm and K/V projections, no final norm and no head. Such a model
            serves :func:`rdt2.vlm.prefill` and nothing else. None loads everything.
        dtype: of all parameters.
        device: where they end up.
        quantize: "int8" or "int4" keeps the matrices of all layers, of vision and language, in so many bits;
            arithmetic stays in ``dtype``. Such a model is for inference only.
        offload: the matrices of so many language layers, from the first, stay in CPU memory and come to the device
            each time their layer runs: for cards that the model does not fit on. Each such matrix then costs a copy.

    Raises:
        CheckpointError: a file or tensor is missing, unexpected or of another shape, or the model is not a
            Qwen2.5-VL.
        ConfigError: the device has too little memory, "int4" lacks its library, or offload is no number of layers or
            comes with quantize.
    """
    device = torch.device(device)
    if offload and quantize is not None:
        raise ConfigError("offload and quantize do not go together: choose one.")
    folder = locate(path, ("*.json",))
    model: Any = empty_vlm(read_config(folder), layers=layers)
    quantized = quantize_layers(model, quantize) if quantize is not None else ()
    wanted = {name: parameter.shape for name, parameter in model.named_parameters()}
    found = _find_tensors(path, folder)
    if model.config.tie_word_embeddings and not any("lm_head" in name for name in found):
        wanted.pop("lm_head.weight", None)
    _check_names(folder, set(wanted), set(found), partial=layers is not None)
    absent = offloadable(model, offload)
    needed = resident_bytes(model, dtype=dtype, quantized=quantized, quantize=quantize, absent=absent)
    require_memory(needed, device, f"the VLM {path}")

    files = sorted({found[name][0] for name in wanted})
    folder = locate(path, files)  # from the hub: these files and no others
    for file in files:
        with _opened(folder / file, "cpu" if offload else str(device)) as handle:
            for name in (name for name in wanted if found[name][0] == file):
                value = handle.get_tensor(found[name][1])
                if value.shape != wanted[name]:
                    raise CheckpointError(
                        f"{folder / file}: expected {found[name][1]} of shape {tuple(wanted[name])} "
                        f"(config.json), got {tuple(value.shape)}; config and weights are of different models"
                    )
                value = value.to(dtype) if name in absent else value.to(device, dtype)
                if name in quantized:
                    fill_layer(model.get_submodule(name.removesuffix(".weight")), value)
                else:
                    _assign(model, name, value)
                del value  # else it would stay while the next one is read
    if "lm_head.weight" not in wanted and layers is None:
        model.tie_weights()
    _move_buffers(model, device)
    if absent:
        offload_linears(model, absent, device)
    return model.eval()


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
    with whole_file(folder / WEIGHTS, error=CheckpointError) as partial:
        save_file(state, partial, metadata={"format": "pt"})


def _find_tensors(path: str | Path, folder: Path) -> dict[str, tuple[str, str]]:
    """Our name of every tensor of the checkpoint -> (file, name in the file)."""
    index = folder / INDEX
    if index.is_file():
        try:
            places = json.loads(index.read_text())["weight_map"].items()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(f"{index} is no index of weights ({error!r}); download it again") from error
        return {_internal(name): (file, name) for name, file in places}
    with _opened(locate(path, (WEIGHTS,)) / WEIGHTS, "cpu") as handle:
        return {_internal(name): (WEIGHTS, name) for name in handle.keys()}  # noqa: SIM118


@contextmanager
def _opened(file: Path, device: str) -> Iterator[Any]:
    """A safetensors file whose tensors are read to the device."""
    from safetensors import SafetensorError, safe_open

    if not file.is_file():
        raise CheckpointError(
            f"expected {file.name} in {file.parent}, found none; download the checkpoint again"
        )
    try:
        with safe_open(file, framework="pt", device=device) as handle:
            yield handle
    except SafetensorError as error:
        raise CheckpointError(f"{file} is damaged ({error}); download it again") from error


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


def _move_buffers(model: torch.nn.Module, device: torch.device) -> None:
    for module in model.modules():
        for name, buffer in module.named_buffers(recurse=False):
            setattr(module, name, buffer.to(device))
