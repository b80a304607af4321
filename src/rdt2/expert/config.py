"""What an expert is made of, and the two forms in which `config.json` says it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rdt2.errors import CheckpointError, ConfigError


@dataclass(frozen=True, kw_only=True)
class ExpertConfig:
    """Sizes of the flow-matching expert. The defaults are the published RDT2-FM.

    `num_kv_heads` and `head_dim` must equal the VLM's, whose keys and values the expert reads as they are.

    Raises:
        ConfigError: sizes that contradict each other.
    """

    action_dim: int = 20
    horizon: int = 24  # steps of a chunk; `pred_horizon` in the file
    state_dim: int = 20
    hidden_size: int = 1024
    depth: int = 14
    num_heads: int = 8
    num_kv_heads: int = 4
    num_register_tokens: int = 4
    norm_eps: float = 1e-5
    multiple_of: int = 256  # the feed-forward width is rounded up to a multiple of this
    ffn_dim_multiplier: float | None = None
    selected_layers: tuple[int, ...] = tuple(range(14))  # block i attends to VLM layer selected_layers[i]
    act_adaptor: str = "mlp3x_silu"
    state_adaptor: str = "mlp3x_silu"
    reads_state: bool = False  # trained with the arms' own poses and widths; the published models saw zeros
    prefix: int = (
        0  # trained to go on from so many given rows at most (see `Prefix`); the published models: none
    )
    steps: int = 5  # Euler steps of a sample; `noise_scheduler.num_inference_timesteps` in the file
    extra: Mapping[str, Any] = field(
        default_factory=dict, hash=False
    )  # entries of the file that say nothing to us

    def __post_init__(self) -> None:
        for name in (
            "action_dim",
            "horizon",
            "state_dim",
            "hidden_size",
            "depth",
            "num_heads",
            "num_kv_heads",
            "steps",
        ):
            if not isinstance(getattr(self, name), int) or getattr(self, name) < 1:
                raise ConfigError(
                    f"expert: {name} must be a positive whole number, it is {getattr(self, name)!r}"
                )
        if type(self.prefix) is not int or not 0 <= self.prefix < self.horizon:
            raise ConfigError(
                f"expert: prefix must be a whole number of 0 to {self.horizon - 1}, it is {self.prefix!r}"
            )
        if self.hidden_size % self.num_heads or self.hidden_size % 4:
            raise ConfigError(
                f"expert: hidden_size must be a multiple of 4 and of num_heads, it is {self.hidden_size} "
                f"with {self.num_heads} heads"
            )
        if self.num_heads % self.num_kv_heads:
            raise ConfigError(
                f"expert: num_heads must be a multiple of num_kv_heads, they are {self.num_heads} and "
                f"{self.num_kv_heads}"
            )
        if len(self.selected_layers) != self.depth:
            raise ConfigError(
                f"expert: each of the {self.depth} blocks needs one VLM layer, but selected_layers has "
                f"{len(self.selected_layers)} entries: {list(self.selected_layers)}"
            )
        for name in ("act_adaptor", "state_adaptor"):
            adaptor_layers(getattr(self, name))

    @property
    def head_dim(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_heads

    @property
    def num_tokens(self) -> int:
        """Length of the expert's own sequence: the steps of the chunk, then the register tokens."""
        return self.horizon + self.num_register_tokens

    @property
    def ffn_size(self) -> int:
        """Inner width of the gated feed-forward: two thirds of 4 x hidden, rounded up."""
        width = 2 * 4 * self.hidden_size // 3
        if self.ffn_dim_multiplier is not None:
            width = int(self.ffn_dim_multiplier * width)
        return -(-width // self.multiple_of) * self.multiple_of

    @classmethod
    def tiny(
        cls,
        *,
        hidden_size: int = 256,
        num_kv_heads: int = 2,
        head_dim: int = 64,
        selected_layers: tuple[int, ...] = (4, 5),
    ) -> ExpertConfig:
        """The preset that trains on a CPU, for a VLM with `num_kv_heads` x `head_dim` keys and values.

        Raises:
            ConfigError: heads that do not divide `hidden_size`.
        """
        if hidden_size % head_dim:
            raise ConfigError(f"expert: hidden_size {hidden_size} is not a multiple of head_dim {head_dim}")
        return cls(
            hidden_size=hidden_size,
            depth=len(selected_layers),
            num_heads=hidden_size // head_dim,
            num_kv_heads=num_kv_heads,
            selected_layers=tuple(selected_layers),
        )

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any], *, where: str = "config.json") -> ExpertConfig:
        """Read either published form: the model's sizes under `config`, or beside the other entries.

        Raises:
            CheckpointError: entries missing, or contradicting each other.
        """
        inner = raw["config"] if isinstance(raw.get("config"), Mapping) else raw
        rdt = inner.get("rdt")
        missing = [name for name in ("action_dim", "pred_horizon", "state_dim") if name not in raw]
        missing += [name for name in ("selected_layers",) if name not in inner]
        if not isinstance(rdt, Mapping):
            missing.append("rdt")
        else:
            missing += [
                f"rdt.{name}"
                for name in ("hidden_size", "depth", "num_heads", "num_kv_heads")
                if name not in rdt
            ]
        if missing or not isinstance(rdt, Mapping):
            raise CheckpointError(
                f"{where}: not the configuration of an expert, it lacks {', '.join(missing)}. "
                "Point at a folder in the layout of RDT2-FM."
            )
        known = {
            "config", "action_dim", "pred_horizon", "state_dim", "act_pos_emb_config",
            "rdt", "selected_layers", "act_adaptor", "state_adaptor", "noise_scheduler", "reads_state", "prefix",
        }  # fmt: skip
        optional = ("num_register_tokens", "norm_eps", "multiple_of", "ffn_dim_multiplier")
        try:
            config = cls(
                action_dim=raw["action_dim"],
                horizon=raw["pred_horizon"],
                state_dim=raw["state_dim"],
                hidden_size=rdt["hidden_size"],
                depth=rdt["depth"],
                num_heads=rdt["num_heads"],
                num_kv_heads=rdt["num_kv_heads"],
                selected_layers=tuple(inner["selected_layers"]),
                act_adaptor=inner.get("act_adaptor", "mlp3x_silu"),
                state_adaptor=inner.get("state_adaptor", "mlp3x_silu"),
                steps=inner.get("noise_scheduler", {}).get("num_inference_timesteps", 5),
                reads_state=bool(inner.get("reads_state", False)),
                prefix=inner.get("prefix", 0),
                extra={key: value for key, value in {**raw, **inner}.items() if key not in known},
                **{name: rdt[name] for name in optional if name in rdt},
            )
        except ConfigError as error:
            raise CheckpointError(f"{where}: {error}") from error
        tokens = raw.get("act_pos_emb_config")
        expected = [["action", config.horizon], ["register", config.num_register_tokens]]
        if tokens is not None and [list(entry) for entry in tokens] != expected:
            raise CheckpointError(
                f"{where}: act_pos_emb_config is {tokens}, the other entries ask for {expected}"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """The published form, with the model's sizes under `config`."""
        return {
            "action_dim": self.action_dim,
            "pred_horizon": self.horizon,
            "config": {
                **self.extra,
                "act_adaptor": self.act_adaptor,
                "state_adaptor": self.state_adaptor,
                "selected_layers": list(self.selected_layers),
                "rdt": {
                    "hidden_size": self.hidden_size,
                    "depth": self.depth,
                    "num_heads": self.num_heads,
                    "num_register_tokens": self.num_register_tokens,
                    "norm_eps": self.norm_eps,
                    "multiple_of": self.multiple_of,
                    "ffn_dim_multiplier": self.ffn_dim_multiplier,
                    "num_kv_heads": self.num_kv_heads,
                    "use_flash_attn": True,
                },
                "noise_scheduler": {"num_inference_timesteps": self.steps},
                **({"reads_state": True} if self.reads_state else {}),
                **({"prefix": self.prefix} if self.prefix else {}),
            },
            "act_pos_emb_config": [["action", self.horizon], ["register", self.num_register_tokens]],
            "state_dim": self.state_dim,
        }

    @classmethod
    def from_file(cls, path: Path) -> ExpertConfig:
        """Read a `config.json`.

        Raises:
            CheckpointError: no such file, not JSON, or of another model.
        """
        try:
            raw = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise CheckpointError(f"{path}: cannot be read as JSON ({error})") from error
        if not isinstance(raw, dict):
            raise CheckpointError(f"{path}: expected a JSON object, found {type(raw).__name__}")
        return cls.from_dict(raw, where=str(path))


def adaptor_layers(kind: str) -> int:
    """Number of linear layers of an adaptor named `linear` or `mlpNx_silu`.

    Raises:
        ConfigError: any other name.
    """
    if kind == "linear":
        return 1
    match = re.fullmatch(r"mlp([1-9])x_silu", kind)
    if match is None:
        raise ConfigError(f"expert: adaptor {kind!r} is not known; expected 'linear' or 'mlpNx_silu'")
    return int(match[1])
