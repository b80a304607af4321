"""Low-rank adapters (LoRA): a few million weights beside a frozen VLM, kept in PEFT's own format.

They sit on the projections of the language model only; the vision tower and the head stay as they are. For
QLoRA the frozen projections are kept in 4 bits (nf4, by bitsandbytes); merging is always into whole weights.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import whole_folder
from rdt2.vlm.quantize import BLOCK

if TYPE_CHECKING:
    from peft import PeftModel

    from rdt2.training.config import VQTraining

# Matched against whole names: the vision tower has projections of the same last names.
TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"
WEIGHTS = "adapter_model.safetensors"


def add_adapters(vlm: Any, config: VQTraining, *, base: str) -> PeftModel:
    """Freeze ``vlm`` and give it float32 adapters, the only weights that then train.

    Args:
        vlm: a whole Qwen2.5-VL, of any dtype; its projections are replaced in place.
        config: rank, alpha and dropout.
        base: folder or hub id of the VLM, noted in the adapters so that they can be merged later.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=TARGETS,
    )
    model = get_peft_model(vlm, settings)
    place = Path(base)
    settings.base_model_name_or_path = str(place.resolve()) if place.is_dir() else base
    return model  # type: ignore[return-value]  # a mixed model only when asked for one


def quantise(vlm: Any, *, device: torch.device | str, compute: torch.dtype) -> None:
    """Keep the projections that adapters sit on in 4 bits (nf4, double quantisation), in place.

    Those whose rows are no whole blocks of 64 weights stay as they are; the published model has none.

    Args:
        vlm: a whole Qwen2.5-VL; the rest of it keeps its dtype.
        device: where the projections are quantised and stay.
        compute: dtype of the products with them.

    Raises:
        ConfigError: bitsandbytes is not installed.
    """
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise ConfigError(
            f"adapter=qlora needs bitsandbytes, which could not be imported ({error}). "
            "Install it with pip install 'rdt2[train,quant]', or set adapter=lora."
        ) from error
    for name, module in list(vlm.named_modules()):
        if not re.fullmatch(TARGETS, name) or module.in_features % BLOCK:
            continue
        small = Linear4bit(
            module.in_features, module.out_features, bias=module.bias is not None, compute_dtype=compute,
            compress_statistics=True, quant_type="nf4", device="meta",
        )  # fmt: skip
        small.weight = Params4bit(
            module.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4"
        )
        small.bias = module.bias
        owner, _, leaf = name.rpartition(".")
        setattr(vlm.get_submodule(owner), leaf, small.to(device))  # the move quantises
    vlm.is_loaded_in_4bit = True  # tells PEFT to put its own kind of layer around them


def save_adapters(model: PeftModel, folder: Path) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``, as PEFT reads them."""
    # "auto" would ask the hub whether the base model's vocabulary was resized.
    model.save_pretrained(str(folder), save_embedding_layers=False)


def merge_adapters(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Add adapters to the weights they were trained beside, and write a whole VLM in the published layout.

    Args:
        adapter: folder that `save_adapters` (or PEFT) wrote.
        out: a folder that is empty or not there.
        base: folder or hub id of the VLM; none takes the one that the adapters name.
        dtype: in which the weights are loaded, merged and written.

    Raises:
        CheckpointError: no adapters there, adapters of another model, values that are not finite, or ``out``
            holds something already.
    """
    from peft import PeftConfig, PeftModel

    from rdt2.vlm import VLMProcessor, load_vlm, save_vlm

    adapter, out = Path(adapter), Path(out)
    for name in ("adapter_config.json", WEIGHTS):
        if not (adapter / name).is_file():
            raise CheckpointError(
                f"{adapter}: expected {name}, found none. Point at the model folder of a run with adapters."
            )
    if out.exists() and any(out.iterdir()):
        raise CheckpointError(f"{out}: is not empty. Merge into a new folder.")
    base = base or PeftConfig.from_pretrained(str(adapter)).base_model_name_or_path
    if base is None:
        raise CheckpointError(f"{adapter}: does not say which VLM it belongs to. Name it with --base.")
    processor = VLMProcessor.from_pretrained(adapter if (adapter / "tokenizer.json").is_file() else base)
    vlm = load_vlm(base, dtype=dtype)
    try:
        model = PeftModel.from_pretrained(vlm, str(adapter))
    except RuntimeError as error:  # shapes that differ
        raise CheckpointError(f"{adapter}: these adapters do not fit {base} ({error}).") from error
    _check_complete(model, adapter, base)
    try:
        merged = model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    except ValueError as error:
        raise CheckpointError(f"{adapter}: cannot be merged into {base} ({error}).") from error
    with whole_folder(out, error=CheckpointError) as partial:
        save_vlm(merged, partial)
        processor.save_pretrained(partial)
    return out


def _check_complete(model: PeftModel, adapter: Path, base: str | Path) -> None:
    """PEFT only warns of adapters that found no place or got no weights; both mean a wrong result here."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(adapter / WEIGHTS, framework="pt") as handle:
        found = set(handle.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if different := sorted(found ^ wanted):
        raise CheckpointError(
            f"{adapter}: {len(different)} of its tensors do not fit {base}, first {different[0]}. "
            "Name the VLM they were trained beside with --base."
        )
