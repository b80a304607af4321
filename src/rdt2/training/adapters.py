"""Low-rank adapters (LoRA): a few million weights beside a frozen VLM, kept in PEFT's own format.

They sit on the projections of the language model only; the vision tower and the head stay as they are. For
QLoRA the frozen projections are kept in 4 bits (nf4, by bitsandbytes); merging is always into whole weights.
"""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import whole_folder
from rdt2.hub import locate
from rdt2.matching import own_normalizer
from rdt2.origin import TOKENS_FILE, read_origin, write_origin
from rdt2.vlm.adapters import ADAPTER_CONFIG, Adapters, adapters_folder
from rdt2.vlm.quantize import BLOCK

if TYPE_CHECKING:
    from peft import PeftModel

    from rdt2.training.config import VQTraining

# Matched against whole names: the vision tower has projections of the same last names.
TARGETS = r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\.(q|k|v|o|gate|up|down)_proj"


def add_adapters(vlm: Any, config: VQTraining, *, base: str, earlier: Adapters | None = None) -> PeftModel:
    """Freeze ``vlm`` and give it float32 adapters, the only weights that then train.

    Args:
        vlm: a whole Qwen2.5-VL, of any dtype; its projections are replaced in place.
        config: rank, alpha and dropout.
        base: folder or hub id of the VLM, noted in the adapters so that they can be merged later.
        earlier: adapters of this VLM to go on from; none starts where nothing is added yet.

    Raises:
        ConfigError: the earlier ones are of another rank, scale or place than config asks for.
    """
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        lora_dropout=config.lora_dropout,
        target_modules=TARGETS,
    )
    with warnings.catch_warnings():  # PEFT asks transformers in a way that goes out of use
        warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
        model = get_peft_model(vlm, settings)
    place = Path(base)
    settings.base_model_name_or_path = str(place.resolve()) if place.is_dir() else base
    if earlier is not None:
        _go_on_from(earlier, model, config)
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


def _go_on_from(earlier: Adapters, model: PeftModel, config: VQTraining) -> None:
    """Put earlier adapters in the place of the new ones."""
    merge = f"merge them, and start from what comes out: rdt2 export merge {earlier.folder} OUT"
    ours: dict[str, Any] = {
        f"{name}.weight": module
        for name, module in model.get_base_model().named_modules()
        if hasattr(module, "lora_A")
    }
    plain = not earlier.whole and all(delta.magnitude is None for delta in earlier.deltas.values())
    if earlier.deltas.keys() != ours.keys() or not plain:
        raise ConfigError(
            f"{earlier.folder}: expected plain adapters on the {len(ours)} projections of the language model and "
            f"nothing else, got {len(earlier.deltas)}{'' if plain else ', with DoRA or whole weights'}, of which "
            f"{len(earlier.deltas.keys() & ours.keys())} are on these. To go on from them, {merge}"
        )
    scale = config.lora_alpha / config.lora_rank
    for name, delta in earlier.deltas.items():
        rank = delta.a.shape[0]
        if rank != config.lora_rank or abs(delta.scale - scale) > 1e-6 * scale:
            raise ConfigError(
                f"{earlier.folder}: adapters of rank {rank} and alpha {delta.scale * rank:g}, but lora_rank is "
                f"{config.lora_rank} and lora_alpha {config.lora_alpha}. Go on from them with lora_rank={rank} and "
                f"lora_alpha={delta.scale * rank:g}, or {merge}"
            )
        for part, values in ((ours[name].lora_A, delta.a), (ours[name].lora_B, delta.b)):
            weight = part["default"].weight
            if weight.shape != values.shape:
                raise ConfigError(
                    f"{earlier.folder}: the adapter of {name} is {tuple(values.shape)}, expected "
                    f"{tuple(weight.shape)}: it is of another VLM."
                )
            weight.data.copy_(values)


def merge_adapters(
    adapter: str | Path,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """Add adapters to the weights they were trained beside, and write a whole VLM in the published layout, with what
    its action tokens mean.

    Args:
        adapter: folder or hub id of what `save_adapters` (or PEFT) wrote.
        out: a folder that is empty or not there.
        base: folder or hub id of the VLM; none takes the one that the adapters name.
        dtype: of the weights that are written; the sums are made in float32.

    Raises:
        CheckpointError: no adapters there, adapters of another model, values that are not finite, or ``out``
            holds something already.
    """
    from rdt2.vlm import VLMProcessor, load_vlm, save_vlm

    out = Path(out)
    if adapters_folder(adapter) is None:
        raise CheckpointError(
            f"{adapter}: expected {ADAPTER_CONFIG}, found a whole model or none. Point at the model folder of a run "
            "with adapters."
        )
    own, made = own_normalizer(adapter), read_origin(locate(adapter, (TOKENS_FILE,)))
    with whole_folder(out, error=CheckpointError) as partial:
        save_vlm(load_vlm(adapter, dtype=dtype, base=base), partial)
        VLMProcessor.beside(adapter, base=base).save_pretrained(partial)
        if own is not None:
            own.normalizer.save_pretrained(partial)
        if made is not None:
            write_origin(partial, made)
    return out
