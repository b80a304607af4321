"""LoRA adapters as PEFT writes them, added to the weights of their VLM while these are read.

    load_vlm("runs/lora/model")    # the VLM that adapter_config.json names, with the adapters in its weights

Read are the names that every version of transformers gives the modules, adapters on any linear layer or on the
embedding, rsLoRA, DoRA, trained biases, and modules that were trained and saved whole. What would be another sum
than ``W + scale B A`` is refused by name.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rdt2.errors import CheckpointError
from rdt2.files import require_file
from rdt2.hub import locate, locate_any
from rdt2.vlm.layout import CONFIG, FILES, internal, published, read_json
from rdt2.weights import opened

if TYPE_CHECKING:
    from torch import Tensor

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_model.bin")

# Settings of PEFT that change what is computed, and mean something else here when they are set.
_UNKNOWN = (
    "layer_replication", "target_parameters", "trainable_token_indices", "lora_bias", "use_qalora", "use_bdlora",
    "ensure_weight_tying", "alora_invocation_tokens", "arrow_config", "kasa_config", "velora_config",
    "monteclora_config", "megatron_config",
)  # fmt: skip
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva")  # others change the base weights as well
_PREFIX = re.compile(r"^(?:base_model\.model\.)+")
_PART = re.compile(
    r"\.(?P<part>lora_A|lora_B|lora_embedding_A|lora_embedding_B|lora_magnitude_vector)(?:\.default)?(?:\.weight)?$"
)
_WHOLE = re.compile(r"\.(?:base_layer|modules_to_save(?:\.default)?)(?=\.)")


@dataclass(frozen=True)
class Delta:
    """What one module's adapters add to its weight (out, in): ``scale`` x b (out, r) x a (r, in).

    Those of a convolution have the kernel's axes behind these.
    """

    a: Tensor
    b: Tensor
    scale: float
    magnitude: Tensor | None = None
    """Of DoRA: the length (out,) of every row of the sum."""
    embedding: bool = False
    """The weight is (words, width), and so the other way round."""

    def added_to(self, weight: Tensor, what: str) -> Tensor:
        """The sum with a `weight` (out, in), in float32; whoever takes it rounds it, once.

        Raises:
            CheckpointError: the shapes do not go together, or a value is not finite.
        """
        a, b = (part.to(weight.device, torch.float32).flatten(1) for part in (self.a, self.b))
        ours = weight.float().flatten(1)
        ours = ours.T if self.embedding else ours
        if len(a) != b.shape[1] or ours.shape != (len(b), a.shape[1]):
            raise CheckpointError(
                f"{what}: these adapters do not fit: {tuple(self.a.shape)} and {tuple(self.b.shape)}, where the "
                f"VLM's weight is {tuple(weight.shape)}. Name the VLM they were trained beside."
            )
        total = ours + self.scale * (b @ a)
        if self.magnitude is not None:
            total *= (self.magnitude.to(total).flatten() / total.norm(dim=1))[:, None]
        if not total.isfinite().all():
            raise CheckpointError(f"{what}: the adapters hold values that are not finite (NaN or infinity).")
        return (total.T if self.embedding else total).reshape(weight.shape)


@dataclass(frozen=True)
class Adapters:
    """Adapters and the VLM they belong to."""

    folder: Path
    base: str
    """Folder or hub id of the VLM."""
    settings: dict[str, Any]
    """As ``adapter_config.json`` has them."""
    deltas: dict[str, Delta]
    """By the name of the weight that each changes."""
    whole: dict[str, tuple[str, str]]
    """Weights that were saved whole and take the place of the VLM's: (file, name in the file)."""

    def check_places(self, names: set[str]) -> None:
        """See that all adapters find their place among the VLM's weights, and that none are missing.

        Raises:
            CheckpointError: some do not, or are.
        """
        if lost := sorted((self.deltas.keys() | self.whole.keys()) - names):
            raise CheckpointError(
                f"{self.folder}: {len(lost)} of its tensors do not fit {self.base}, first that of {lost[0]}. Name the "
                f"VLM they were trained beside: rdt2 export merge {self.folder} OUT --base VLM"
            )
        if missing := self._missing(names):
            raise CheckpointError(
                f"{self.folder}: by its target_modules {len(missing)} more weights should have adapters, first "
                f"{missing[0]}: the file is not whole. Copy it again."
            )

    def _missing(self, names: set[str]) -> list[str]:
        """Weights that the settings mean to have adapters, and that have none; none where they do not say which."""
        targets = self.settings.get("target_modules")
        if targets in (None, "all-linear") or any(
            self.settings.get(key) for key in ("layers_to_transform", "exclude_modules")
        ):
            return []
        readings = []
        for naming in (str, published):  # the names of modules, of newer and of older versions
            meant = {name for name in names - self.whole.keys() if _is_target(naming(name), targets)}
            if self.deltas.keys() <= meant:
                readings.append(sorted(meant - self.deltas.keys()))
        return min(readings, key=len, default=[])


def _is_target(weight: str, targets: str | list[str]) -> bool:
    """Whether PEFT would put adapters on the module of this weight."""
    module, _, leaf = weight.rpartition(".")
    if isinstance(targets, str):
        return leaf == "weight" and re.fullmatch(targets, module) is not None
    return leaf == "weight" and any(f".{module}".endswith(f".{target}") for target in targets)


def adapters_folder(path: str | Path) -> Path | None:
    """The folder of adapters that ``path`` (a folder or hub id) is; None where it is a whole model.

    Some trainers put the model's config.json beside adapters, hence the weights decide.
    """
    folder = locate(path, (CONFIG, ADAPTER_CONFIG), what="a Qwen2.5-VL")
    if not os.path.lexists(folder / ADAPTER_CONFIG):
        return None
    if not os.path.lexists(folder / CONFIG):
        return folder
    return None if locate_any(path, (CONFIG,), FILES) is not None else folder


def base_of(path: str | Path, *, base: str | Path | None = None) -> str:
    """The whole VLM of a folder or hub id: itself, or of adapters ``base``, else the one they name."""
    folder = adapters_folder(path)
    return str(path) if folder is None else _base(folder, base)


def read_adapters(path: str | Path, *, base: str | Path | None = None) -> Adapters | None:
    """The adapters of a folder or hub id; None where it is a whole model.

    Args:
        path: what ``save_adapters``, PEFT or a trainer wrote.
        base: folder or hub id of their VLM; none takes the one they name.

    Raises:
        CheckpointError: they are damaged, of another kind than is read, or name no VLM.
    """
    folder = adapters_folder(path)
    if folder is None:
        return None
    settings = read_json(folder / ADAPTER_CONFIG, advice="Copy it again.")
    _check_kind(folder, settings)
    file = locate_any(path, (ADAPTER_CONFIG,), ADAPTER_FILES, what="adapters")
    if file is None:
        raise CheckpointError(f"{folder}: expected {' or '.join(ADAPTER_FILES)}, neither is there.")
    parts: dict[str, dict[str, Tensor]] = defaultdict(dict)
    modules, whole = {}, {}
    with opened(require_file(file)) as handle:
        for key in handle.keys():  # noqa: SIM118  a reader, no mapping
            name = _PREFIX.sub("", key)
            if part := _PART.search(name):
                module = name[: part.start()]
                weight = internal(f"{module}.weight") or ""
                modules[weight] = module
                parts[weight][part["part"]] = handle.get_tensor(key)
            elif name.endswith((".weight", ".bias")) and "lora_" not in name:
                whole[internal(_WHOLE.sub("", name)) or ""] = (str(file), key)
            else:
                raise CheckpointError(f"{file}: {key} is of a kind of adapter that is not known here.")
    deltas = {name: _delta(file, modules[name], found, settings) for name, found in parts.items()}
    if not deltas:
        raise CheckpointError(f"{file}: holds no adapters.")
    return Adapters(folder, _base(folder, base), settings, deltas, whole)


def _base(folder: Path, base: str | Path | None) -> str:
    given = base
    base = base or read_json(folder / ADAPTER_CONFIG, advice="Copy it again.").get("base_model_name_or_path")
    merge = f"rdt2 export merge {folder} OUT --base VLM"
    if not base:
        raise CheckpointError(f"{folder}: does not say which VLM it belongs to. Name it: {merge}")
    try:
        nested = adapters_folder(base)
    except CheckpointError as error:
        if given is not None:
            raise
        raise CheckpointError(
            f"{folder}: adapters of {base}, which is not to be had ({error}). Name the VLM where it is now: {merge}"
        ) from error
    if nested is not None:
        raise CheckpointError(
            f"{folder}: adapters of {base}, which is adapters itself. Merge those first: rdt2 export merge {base} OUT, "
            f"and then {merge.replace('VLM', 'OUT')}"
        )
    return str(base)


def _check_kind(folder: Path, settings: dict[str, Any]) -> None:
    kind = settings.get("peft_type", "LORA")
    problem = f"they are of kind {kind}" if kind != "LORA" else ""
    for name in _UNKNOWN:
        if settings.get(name):
            problem = f"{name} is {settings[name]}"
    start = settings.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        problem = f"init_lora_weights is {start!r}, which changed the VLM's own weights as well"
    if problem:
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG}: {problem}; expected LoRA, rsLoRA or DoRA. Merge these adapters with PEFT "
            "where they were trained (merge_and_unload), and point at what comes out."
        )


def _delta(file: Path, module: str, parts: dict[str, Tensor], settings: dict[str, Any]) -> Delta:
    embedding = "lora_embedding_A" in parts
    a, b = (parts.get(f"lora_{'embedding_' * embedding}{side}") for side in "AB")
    magnitude = parts.get("lora_magnitude_vector")
    if a is None or b is None or (magnitude is None) == settings.get("use_dora", False):
        raise CheckpointError(
            f"{file}: of {module} there is {', '.join(f'{k} {tuple(v.shape)}' for k, v in sorted(parts.items()))}, "
            "expected two matrices lora_A and lora_B (and with DoRA a magnitude). Copy it again."
        )
    if embedding and magnitude is not None:
        raise CheckpointError(
            f"{file}: DoRA on an embedding ({module}) is not known here; merge it with PEFT."
        )
    patterns = settings.get("alpha_pattern") or {}
    own = (value for key, value in patterns.items() if re.match(rf"(.*\.)?({key})$", module))
    rank = a.shape[0]
    scale = next(own, settings.get("lora_alpha", 8)) / (rank**0.5 if settings.get("use_rslora") else rank)
    return Delta(a, b, scale, magnitude, embedding)
