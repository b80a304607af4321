"""``load_policy``: from a name, a file, a folder or a hub id to a policy that is ready to run."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError, ConfigError
from rdt2.files import require_file
from rdt2.hub import locate
from rdt2.matching import own_normalizer, require_decoded_by, resolve
from rdt2.normalizer import FILE_NAMES
from rdt2.origin import TokenOrigin
from rdt2.packed import pack_linears
from rdt2.policy import bundle
from rdt2.policy.bundle import REQUIRED, Bundle, Kind, bundle_files, find_bundle, read_bundle
from rdt2.policy.client import Client, is_address, open_client
from rdt2.policy.compiled import CompiledFMPolicy, CompiledVQPolicy
from rdt2.policy.fm import FMPolicy
from rdt2.policy.place import checked_device, checked_dtype
from rdt2.policy.spec import BUILT_IN, PolicySpec
from rdt2.policy.vq import VQPolicy, check_draws
from rdt2.registry import did_you_mean

if TYPE_CHECKING:
    from rdt2.expert import Expert
    from rdt2.vlm import VLMProcessor

DEMOS = Path(__file__).resolve().parents[1] / "checkpoints" / "demo"
ALIASES = {name: DEMOS / f"{name.removeprefix('demo-')}.json" for name in BUILT_IN}


def load_policy(path: str | Path | PolicySpec, **options: Any) -> VQPolicy | FMPolicy | Client:
    """Loads a policy, strictly: nothing missing is replaced by random weights.

    Args:
        path: one of
            "demo-fm", "demo-vq": the small checkpoints that come with the package;
            a bundle: a ``.json`` file, or a folder (or hub repository) that holds ``policy.json`` or a single other;
            the folder or hub id of an RDT2-FM expert, with ``vlm`` (RDT2-VQ) and ``normalizer``;
            the folder or hub id of an RDT2-VQ model, with ``tokenizer`` and ``normalizer``;
            "ws://host:8000", a server of `rdt2 serve`, with ``api_key_file`` and ``jpeg``;
            or a :class:`PolicySpec`.
        options: the fields of :class:`PolicySpec`: ``vlm``, ``processor``, ``tokenizer``, ``normalizer`` (which replace
            a bundle's), ``device``, ``dtype``, ``steps``, ``temperature``, ``draws``, ``quantize``, ``offload``,
            ``compile``, ``revision``.

    Raises:
        CheckpointError: if a file is missing or damaged, is of another model, or parts do not fit each other.
        ConfigError: if there is no such option, steps is not a positive number, the expert learnt on another VLM, the
            device is not there or has too little memory, or a library is missing.
        NormalizerError: if the normalizer cannot be read or trusted.
        ServingError: a server that cannot be reached, or refuses.
    """
    spec = PolicySpec.of(path, **options)
    if is_address(spec.policy):
        return open_client(spec)
    if spec.compile and spec.offload:
        raise ConfigError(
            "a compiled policy keeps its weights on the device: leave out offload= or compile=True."
        )
    device = checked_device(spec.device)
    dtype = checked_dtype(spec.dtype, device)
    chosen = policy_parts(spec)
    if chosen.kind == "fm":
        if spec.temperature is not None:
            raise CheckpointError(
                f"{spec.policy} is an FM policy, which writes no tokens; leave out temperature={spec.temperature}."
            )
        return _load_fm(chosen, spec, device, dtype)
    if spec.steps is not None:
        raise CheckpointError(
            f"{spec.policy} is a VQ policy, which has no Euler steps; leave out steps={spec.steps}."
        )
    return _load_vq(chosen, spec, device, dtype)


# ------------------------------------------------------------------------------------------- what is meant


def policy_parts(spec: PolicySpec) -> Bundle:
    """What `load_policy` would load: local folders and files, or hub ids.

    Raises:
        CheckpointError, ConfigError: as `load_policy`; no weights are read.
    """
    given = {name: getattr(spec, name) for name in ("vlm", "processor", "tokenizer", "normalizer")}
    return _resolve(_revised(spec), {name: value for name, value in given.items() if value is not None})


def _revised(spec: PolicySpec) -> str:
    """The policy's name with its revision."""
    if spec.revision is None:
        return spec.policy
    if "@" in spec.policy or spec.policy in ALIASES or os.path.lexists(os.path.expanduser(spec.policy)):
        raise ConfigError(
            f"revision={spec.revision} is of a repository of the hub; {spec.policy} has one already, or lies here."
        )
    return f"{spec.policy}@{spec.revision}"


def _resolve(path: str, given: dict[str, str]) -> Bundle:
    """The parts of what lies at ``path``, replaced by those ``given``."""
    if path in ALIASES:
        file = ALIASES[path]
        if not file.is_file():
            raise CheckpointError(
                f"{path}: the demo checkpoint {file} is not there. Install the package with its checkpoints, "
                "or train one as docs/training.md shows."
            )
        return _override(read_bundle(file), given)
    if path.endswith(".json"):
        return _override(read_bundle(Path(path).expanduser()), given)
    if not os.path.lexists(os.path.expanduser(path)) and (meant := did_you_mean(path, ALIASES)):
        raise CheckpointError(f"{path}: no such policy, and no folder of that name is here.{meant}")
    folder = _folder(path)
    if (found := find_bundle(folder)) is not None:
        return _override(read_bundle(found), given)
    kind = _kind_of(folder, path)
    own = {"expert" if kind == "fm" else "vlm": path}
    parts = {**own, **given}
    theirs = (path, parts.get("tokenizer")) if kind == "vq" else (path,)
    for model in theirs if "normalizer" not in given else ():
        if model is not None and (held := own_normalizer(model)) is not None:
            parts["normalizer"] = held.place
            break
    if missing := [name for name in REQUIRED[kind] if name not in parts]:
        model = "an RDT2-FM expert" if kind == "fm" else "an RDT2-VQ model"
        raise CheckpointError(
            f"{path} is {model} alone, which needs other parts to run. Pass "
            + ", ".join(f"{name}=<folder or hub id>" for name in missing)
            + " as well."
        )
    return Bundle(kind, parts)


def _override(found: Bundle, given: dict[str, str]) -> Bundle:
    parts = {**found.parts, **given}
    if "vlm" in given and "processor" not in given:
        parts.pop("processor", None)  # the other VLM brings its own
    return Bundle(found.kind, parts, found.settings)


def _kind_of(folder: Path, path: str) -> Kind:
    """Which model a ``config.json`` in the published layout describes."""
    file = folder / "config.json"
    if (folder / "adapter_config.json").is_file():
        return "vq"
    if any((folder / "model" / name).is_file() for name in ("config.json", "adapter_config.json")):
        raise CheckpointError(f"{path} is the folder of a training run; its model is {Path(path) / 'model'}.")
    if not os.path.lexists(file):
        raise CheckpointError(
            f"{path} holds neither a bundle (such as {bundle.FILE_NAME}) nor config.json, so it is no checkpoint. "
            "Point at a bundle, an RDT2-FM expert or an RDT2-VQ model."
        )
    try:
        config = json.loads(require_file(file).read_text())
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read as JSON ({error}). Copy it again.") from error
    if config.get("model_type") == "qwen2_5_vl":
        return "vq"
    if "pred_horizon" in config:
        return "fm"
    hint = (
        "an action tokenizer: pass it as tokenizer=FOLDER" if "n_codebooks" in config else "of another model"
    )
    raise CheckpointError(
        f"{file} is {hint}. Expected an RDT2-FM expert or a Qwen2.5-VL model (model_type is "
        f"{config.get('model_type')!r})."
    )


def _folder(path: str) -> Path:
    """The folder of a checkpoint; from the hub all of a bundle, else only what says which model it is."""
    what = f"a policy ({', '.join(ALIASES)}, a bundle's .json, or a model's folder)"
    folder = locate(path, ("*.json", *FILE_NAMES), what=what)
    return locate(path, ("*",), what=what) if bundle_files(folder) else folder


# ------------------------------------------------------------------------------------------- loading


def _load_fm(parts: Bundle, spec: PolicySpec, device: torch.device, dtype: torch.dtype) -> FMPolicy:
    from rdt2.expert import Expert
    from rdt2.vlm import load_vlm
    from rdt2.vlm.mark import require_learnt_on

    # Cheap things first: what does not fit is said before gigabytes are read.
    normalizer = resolve(parts["normalizer"], models={"the expert": parts["expert"]}).normalizer
    processor = _load_processor(parts)
    steps, draws = spec.steps, parts.settings.get("draws", 1) if spec.draws is None else spec.draws
    if steps is not None and steps < 1:
        raise ConfigError(f"steps is {steps}, expected 1 or more Euler steps.")
    if draws < 1:
        raise ConfigError(f"draws is {draws}, expected 1 or more.")
    expert = Expert.from_pretrained(parts["expert"], dtype=dtype, device=device)
    _check_expert_fits_vlm(expert, parts)
    require_learnt_on(parts["expert"], parts["vlm"])
    if not expert.config.reads_state:  # else nothing can be tabulated
        expert.freeze_for_inference(*([] if steps is None else [steps]))
    needed = max(expert.config.selected_layers) + 1
    model = load_vlm(
        parts["vlm"], layers=needed, dtype=dtype, device=device, quantize=spec.quantize, offload=spec.offload
    )
    pack_linears(model.model)
    pack_linears(expert)
    kind = CompiledFMPolicy if spec.compile else FMPolicy
    return kind(
        vlm=model, processor=processor, expert=expert, normalizer=normalizer, steps=steps, draws=draws,
        patience=parts.settings.get("patience"),
    )  # fmt: skip


def _load_vq(parts: Bundle, spec: PolicySpec, device: torch.device, dtype: torch.dtype) -> VQPolicy:
    from rdt2.tokenizer import ActionTokenizer
    from rdt2.vlm import load_vlm

    own = parts.settings
    temperature = own.get("temperature", 0.0) if spec.temperature is None else spec.temperature
    draws = (own.get("draws", 1) if temperature > 0 else 1) if spec.draws is None else spec.draws
    check_draws(draws, temperature)
    normalizer = resolve(
        parts["normalizer"],
        models={"the VLM": parts["vlm"], "the action tokenizer": parts["tokenizer"]},
    ).normalizer
    processor = _load_processor(parts)
    tokenizer = ActionTokenizer.from_pretrained(parts["tokenizer"])
    require_decoded_by(parts["vlm"], TokenOrigin(tokenizer.digest, normalizer.digest))
    tokenizer.to(device)
    model = load_vlm(parts["vlm"], dtype=dtype, device=device, quantize=spec.quantize, offload=spec.offload)
    pack_linears(model.model)  # not the head, of which a few rows are all that decoding reads
    kind = CompiledVQPolicy if spec.compile else VQPolicy
    return kind(
        vlm=model, processor=processor, tokenizer=tokenizer, normalizer=normalizer,
        temperature=temperature, draws=draws, patience=own.get("patience"),
    )  # fmt: skip


def _load_processor(parts: Bundle) -> VLMProcessor:
    from rdt2.vlm import VLMProcessor

    return VLMProcessor.beside(parts["vlm"], given=parts.parts.get("processor"))


def _text_config(vlm: str) -> Any:
    """What a VLM's folder says of its language model."""
    from rdt2.vlm.adapters import base_of
    from rdt2.vlm.layout import read_config

    return read_config(locate(base_of(vlm), ("config.json",))).text_config


def _check_expert_fits_vlm(expert: Expert, parts: Bundle) -> None:
    """Layers and key-value heads are compared before the VLM's weights are read."""
    text = _text_config(parts["vlm"])
    layers, heads = text.num_hidden_layers, text.num_key_value_heads
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    config = expert.config
    if max(config.selected_layers) >= layers:
        raise CheckpointError(
            f"the expert {parts['expert']} reads VLM layers {list(config.selected_layers)}, but "
            f"{parts['vlm']} has layers 0..{layers - 1}. Use the VLM this expert was trained on."
        )
    if (config.num_kv_heads, config.head_dim) != (heads, width):
        raise CheckpointError(
            f"the expert {parts['expert']} attends to {config.num_kv_heads} key heads of {config.head_dim}, "
            f"but {parts['vlm']} has {heads} of {width}. Use the VLM this expert was trained on."
        )
