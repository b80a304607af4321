"""The linear map between actions in metres and the models' numbers: ``x * scale + offset``, per column.

The published file is a pickled ``torch.nn.ParameterDict``. It is read with torch's restricted unpickler,
which builds tensors and the two container types the file needs and refuses everything else, so that a
hostile file cannot run code. Only scale, offset, min and max are used. This package writes safetensors.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import numpy as np
import torch

from rdt2.action import ACTION_DIM, POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS
from rdt2.errors import NormalizerError
from rdt2.files import require_file, whole_file, write_whole
from rdt2.hub import locate, offline_note

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Array = TypeVar("Array", np.ndarray, torch.Tensor)
NormalizerMode = Literal["limits", "mean_std"]

FILE_NAME = "normalizer.safetensors"
PUBLISHED_FILE_NAME = "normalizer.pt"
UMI_FILE_NAME = "umi_normalizer_wo_downsample_indentity_rot.pt"
"""What the published models' is called where they are published."""
FILE_NAMES = (FILE_NAME, PUBLISHED_FILE_NAME, UMI_FILE_NAME)
KEYS = {
    "scale": "action.scale",
    "offset": "action.offset",
    "minimum": "action.input_stats.min",
    "maximum": "action.input_stats.max",
}
"""Our field names and their keys in files: those of the published state dict."""


@dataclass(frozen=True, eq=False)
class LinearNormalizer:
    """Normalises and de-normalises actions ``(..., 20)``. All tensors: float32 (20,), without gradients."""

    scale: Float[Tensor, " 20"]
    offset: Float[Tensor, " 20"]
    minimum: Float[Tensor, " 20"]
    """Smallest value of each column in the data the map was fitted to (m, or 6D rotation)."""
    maximum: Float[Tensor, " 20"]

    def __post_init__(self) -> None:
        for name in KEYS:
            value = _owned(getattr(self, name)).to(torch.float32)
            if value.shape != (ACTION_DIM,):
                raise NormalizerError(
                    f"the normalizer's {name} has shape {tuple(value.shape)}, expected ({ACTION_DIM},)."
                )
            if not torch.isfinite(value).all():
                raise NormalizerError(f"the normalizer's {name} holds NaN or infinite values; fit it again.")
            object.__setattr__(self, name, value)
        if (self.scale.abs() < 1e-8).any():
            raise NormalizerError("the normalizer's scale holds zeros and cannot be inverted; fit it again.")
        if (self.minimum > self.maximum).any():
            raise NormalizerError("the normalizer's min is above its max: the file is damaged; fit it again.")

    @property
    def digest(self) -> str:
        """A name for this map: the same for equal numbers, from whatever file they came."""
        numbers = torch.stack([self.scale, self.offset]).cpu().numpy().astype("<f4")
        return hashlib.sha256(numbers.tobytes()).hexdigest()[:16]

    # ------------------------------------------------------------------------------------------- the map

    def normalize(self, actions: Array) -> Array:
        """Actions ``(..., 20)`` in metres to the models' numbers; keeps type, device and dtype."""
        return self._apply(actions, lambda x, scale, offset: x * scale + offset)

    def denormalize(self, actions: Array) -> Array:
        """The models' numbers ``(..., 20)`` to metres; keeps type, device and dtype."""
        return self._apply(actions, lambda x, scale, offset: (x - offset) / scale)

    def _apply(self, actions: Any, formula: Any) -> Any:
        if actions.shape[-1:] != (ACTION_DIM,):
            raise NormalizerError(f"actions have shape {tuple(actions.shape)}, expected (..., {ACTION_DIM}).")
        if isinstance(actions, torch.Tensor):
            if not actions.is_floating_point():
                raise NormalizerError(f"actions are {actions.dtype}, expected a floating-point type.")
            # Half types are widened for the arithmetic: 0.088 m in bf16 is already off by 0.2 mm.
            wide = torch.promote_types(actions.dtype, torch.float32)
            scale, offset = (p.to(actions.device, wide) for p in (self.scale, self.offset))
            return formula(actions.to(wide), scale, offset).to(actions.dtype)
        if not np.issubdtype(actions.dtype, np.floating):
            raise NormalizerError(f"actions are {actions.dtype}, expected a floating-point type.")
        wide_numpy = np.promote_types(actions.dtype, np.float32)
        factors = (p.cpu().numpy().astype(wide_numpy) for p in (self.scale, self.offset))
        return formula(actions.astype(wide_numpy), *factors).astype(actions.dtype)

    def to(self, device: str | torch.device) -> LinearNormalizer:
        """The same map with its tensors on ``device``, so that training does not copy them every step."""
        moved = LinearNormalizer(self.scale, self.offset, self.minimum, self.maximum)
        for name in KEYS:
            object.__setattr__(moved, name, getattr(self, name).to(device))
        return moved

    @classmethod
    def fit(
        cls,
        actions: Float[np.ndarray, "*b 20"] | Float[Tensor, "*b 20"],
        *,
        mode: NormalizerMode = "limits",
    ) -> LinearNormalizer:
        """A map fitted to actions.

        Modes:
            limits: positions and gripper widths to [-1, 1], each column by its limits; 6D rotations stay as they
                are. This is the published normalizer's.
            mean_std: every column to mean 0, and positions, rotations and widths each to a standard deviation
                of 1 over all their columns of both arms. Limits depend on the rarest motion: where one hand
                often stays still, most positions come out near 0.1 and rotations near 0.02, and squared errors
                then hardly count them.

        A column (mode mean_std: a kind of column) that never changes (by 0.1 mm) keeps scale 1 and is moved to 0.

        Raises:
            NormalizerError: if there is no data, or it is not finite.
        """
        values = _owned(actions).to("cpu", torch.float64)
        if values.shape[-1:] != (ACTION_DIM,) or values.numel() == 0:
            raise NormalizerError(
                f"actions have shape {tuple(values.shape)}, expected (..., {ACTION_DIM}), not empty."
            )
        values = values.reshape(-1, ACTION_DIM)
        if not torch.isfinite(values).all():
            raise NormalizerError("actions hold NaN or infinite values; run 'rdt2 data check' on the shards.")
        return cls.from_statistics(
            minimum=values.amin(dim=0),
            maximum=values.amax(dim=0),
            mean=values.mean(dim=0),
            std=values.std(dim=0, correction=0),
            mode=mode,
        )

    @classmethod
    def from_statistics(
        cls,
        *,
        minimum: Float[np.ndarray, " 20"] | Float[Tensor, " 20"],
        maximum: Float[np.ndarray, " 20"] | Float[Tensor, " 20"],
        mean: Float[np.ndarray, " 20"] | Float[Tensor, " 20"],
        std: Float[np.ndarray, " 20"] | Float[Tensor, " 20"],
        mode: NormalizerMode = "limits",
    ) -> LinearNormalizer:
        """As :meth:`fit`, from what is known of each column.

        Raises:
            NormalizerError: an unknown mode, or values that are not finite.
        """
        low, high, middle, spread = (
            _owned(values).to("cpu", torch.float64) for values in (minimum, maximum, mean, std)
        )
        if mode == "limits":
            constant = high - low < 1e-4
            scale = torch.where(constant, 1.0, 2 / (high - low).clamp(min=1e-4))
            offset = torch.where(constant, -low, -1 - scale * low)
            scale[list(ROTATION_DIMS)], offset[list(ROTATION_DIMS)] = 1.0, 0.0
        elif mode == "mean_std":
            for columns in map(list, (POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS)):
                spread[columns] = spread[columns].square().mean().sqrt()
            scale = torch.where(spread < 1e-4, 1.0, 1 / spread.clamp(min=1e-4))
            offset = -middle * scale
        else:
            raise NormalizerError(f"mode is {mode!r}, expected 'limits' or 'mean_std'.")
        return cls(scale, offset, low, high)

    # ------------------------------------------------------------------------------------------- files

    @classmethod
    def from_pretrained(cls, path: str | Path) -> LinearNormalizer:
        """Reads a normalizer from a ``.safetensors`` or published ``.pt`` file, a folder, or a hub id.

        A folder is searched for all of ``FILE_NAMES``. Nothing is executed.

        Raises:
            NormalizerError: if the file is missing, damaged, of another kind, or tries to run code; or if a folder
                holds several that differ.
        """
        files = _find(path)
        found = [
            cls(**(_read_safetensors(file) if file.suffix == ".safetensors" else _read_published(file)))
            for file in files
        ]
        for file, each in zip(files, found, strict=True):
            if each.digest != found[0].digest:
                raise NormalizerError(
                    f"{file.parent} holds two normalizers that differ: {files[0].name} ({found[0].digest}) and "
                    f"{file.name} ({each.digest}). Name the one that is meant, or move the other away."
                )
        return found[0]

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes ``normalizer.safetensors`` into ``folder`` (made if missing) and returns its path."""
        from safetensors.torch import save_file

        file = Path(folder) / FILE_NAME
        with whole_file(file, error=NormalizerError) as partial:
            save_file({key: getattr(self, name).cpu().contiguous() for name, key in KEYS.items()}, partial)
        return file

    def save_published(self, path: str | Path) -> Path:
        """Writes the published ``.pt`` form, for programs that only read that.

        Its readers expect a mean and a std beside the limits; they are written as those of values spread
        evenly between the limits, and used by nobody.
        """
        low, high = self.minimum.cpu(), self.maximum.cpu()
        stats = {"min": low, "max": high, "mean": (low + high) / 2, "std": (high - low) / 12**0.5}
        field = {
            "scale": self.scale.cpu(),
            "offset": self.offset.cpu(),
            "input_stats": _frozen_parameters(stats),
        }
        buffer = io.BytesIO()
        torch.save(_frozen_parameters({"action": _frozen_parameters(field)}), buffer)
        return write_whole(path, buffer.getvalue(), error=NormalizerError)


def has_normalizer(folder: str | Path) -> bool:
    """Whether a normalizer's file lies in a local folder."""
    return any((Path(folder) / name).is_file() for name in FILE_NAMES)


def _owned(values: Any) -> torch.Tensor:
    """A tensor of its own, without gradient, of a tensor or (possibly read-only) array."""
    return values.detach().clone() if isinstance(values, torch.Tensor) else torch.from_numpy(np.array(values))


def _frozen_parameters(values: Mapping[str, Any]) -> torch.nn.ParameterDict:
    def wrap(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return torch.nn.Parameter(value.clone(), requires_grad=False)
        return value

    return torch.nn.ParameterDict({key: wrap(value) for key, value in values.items()})


def _find(path: str | Path) -> list[Path]:
    """The file, or those of a folder."""
    given = Path(path).expanduser()
    if given.suffix in (".pt", ".safetensors"):
        return [
            require_file(
                given,
                error=NormalizerError,
                advice="Pass a .safetensors or .pt file, a folder, or a hub id 'owner/name'.",
            )
        ]
    if os.path.isfile(given):
        return [require_file(given, error=NormalizerError)]
    folder = locate(path, FILE_NAMES, what="a normalizer", error=NormalizerError)
    found = [folder / name for name in FILE_NAMES if os.path.lexists(folder / name)]
    if not found:
        raise NormalizerError(
            f"{folder} holds none of {', '.join(FILE_NAMES)}{offline_note(path)}; pass the file itself."
        )
    return [require_file(file, error=NormalizerError) for file in found]


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors = load_file(file)
    except SafetensorError as error:
        raise NormalizerError(f"{file} is not a whole safetensors file: {error}. Copy it again.") from error
    if set(tensors) != set(KEYS.values()):
        raise NormalizerError(
            f"{file} holds {sorted(tensors)}, expected {sorted(KEYS.values())}: another kind of file?"
        )
    return {name: tensors[key] for name, key in KEYS.items()}


def _read_published(file: Path) -> dict[str, torch.Tensor]:
    # The two extra names are allowed inside this block only; a global list would weaken every other load.
    try:
        with torch.serialization.safe_globals([torch.nn.ParameterDict, set]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged or hostile file can make the unpickler raise anything
        reason = str(error).strip().splitlines()
        raise NormalizerError(
            f"{file} was refused: it is damaged, or holds something other than the tensors of a normalizer "
            f"({type(error).__name__}: {next((line for line in reversed(reason) if line), '')}). "
            "Nothing in it was executed. Take the file from its publisher again."
        ) from error
    return {name: _lookup(content, key, file) for name, key in KEYS.items()}


def _lookup(content: Any, dotted: str, file: Path) -> torch.Tensor:
    value = content
    for key in dotted.split("."):
        if not isinstance(value, (torch.nn.ParameterDict, dict)) or key not in value:
            raise NormalizerError(f"{file} has no {dotted!r}: it is not a normalizer for actions.")
        value = value[key]
    if not isinstance(value, torch.Tensor):
        raise NormalizerError(f"{file}: {dotted!r} is {type(value).__name__}, expected a tensor.")
    return value
