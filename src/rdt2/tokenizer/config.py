"""Sizes of the action tokenizer, as its ``config.json`` names them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rdt2.errors import ConfigError

PART_COLUMNS: dict[str, tuple[int, ...]] = {
    "pos": (0, 1, 2, 10, 11, 12),
    "rot": (3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18),
    "grip": (9, 19),
}
"""Columns of the (24, 20) chunk: right arm 0..9, left arm 10..19; each position 3, rotation 6, width 1."""
STAGES = (2, 4, 8)  # channel multipliers, one stride-2 stage each
STRIDE = 2 ** len(STAGES)


@dataclass(frozen=True, kw_only=True)
class CNNConfig:
    """Widths of the convolutional encoder and decoder."""

    hidden_size: int = 256
    output_size: int = 256
    dropout: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Mirrors ``config.json`` of the published tokenizer; the defaults are the published sizes.

    ``embedding_dim`` of the published file is not known from its description: read its config.json.
    """

    embedding_dim: int = 64
    cnn_config: CNNConfig = field(default_factory=CNNConfig)
    num_embeddings: int = 1024
    n_codebooks: Mapping[str, int] = field(default_factory=lambda: {"pos": 6, "rot": 2, "grip": 1})
    input_dim: Mapping[str, int] = field(default_factory=lambda: {"pos": 6, "rot": 12, "grip": 2})
    action_horizon: int = 24
    codebook_restart_interval: int = 64
    commitment_cost: float = 0.25
    codebook_cost: float = 0.0  # part of the published layout; codes learn by moving average, not by a loss
    # Keys of the file that mean nothing here (the published one holds local_rank); written back as they came.
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        widths = {part: len(columns) for part, columns in PART_COLUMNS.items()}
        if dict(self.input_dim) != widths:
            raise ConfigError(f"input_dim must be {widths} (the (24, 20) chunk), got {dict(self.input_dim)}")
        if set(self.n_codebooks) != set(PART_COLUMNS) or min(self.n_codebooks.values()) < 1:
            raise ConfigError(
                f"n_codebooks needs one codebook or more for each of {list(PART_COLUMNS)}, "
                f"got {dict(self.n_codebooks)}"
            )
        if self.action_horizon < STRIDE or self.action_horizon % STRIDE:
            raise ConfigError(f"action_horizon must be a multiple of {STRIDE}, got {self.action_horizon}")
        sizes = {
            "embedding_dim": self.embedding_dim,
            "num_embeddings": self.num_embeddings,
            "codebook_restart_interval": self.codebook_restart_interval,
            "cnn_config.hidden_size": self.cnn_config.hidden_size,
            "cnn_config.output_size": self.cnn_config.output_size,
        }
        if wrong := {name: size for name, size in sizes.items() if size < 1}:
            raise ConfigError(f"sizes must be positive, got {wrong}")

    @classmethod
    def tiny(cls) -> TokenizerConfig:
        """Small enough to train on a CPU in minutes: the same 27 tokens from 256 codes, about 4 MB."""
        return cls(
            embedding_dim=16,
            cnn_config=CNNConfig(hidden_size=12, output_size=32),
            num_embeddings=256,
            codebook_restart_interval=16,
        )

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TokenizerConfig:
        """From the content of config.json. Keys that are not the model's are kept in ``extra``.

        Raises:
            ConfigError: if a size is missing or does not describe a tokenizer.
        """
        values = dict(values)
        sizes = (
            "input_dim",
            "embedding_dim",
            "cnn_config",
            "num_embeddings",
            "action_horizon",
            "n_codebooks",
        )
        if missing := [name for name in sizes if name not in values]:
            raise ConfigError(f"config.json of an action tokenizer needs {missing}; it has {sorted(values)}")
        try:
            cnn = CNNConfig(**values.pop("cnn_config"))
        except TypeError as error:
            raise ConfigError(f"cnn_config must hold hidden_size, output_size, dropout: {error}") from error
        names = cls.__dataclass_fields__.keys() - {"cnn_config", "extra"}
        known = {name: values.pop(name) for name in names & values.keys()}
        return cls(cnn_config=cnn, extra=values, **known)

    def to_dict(self) -> dict[str, Any]:
        """What config.json holds."""
        values = asdict(self)
        return {**values.pop("extra"), **values}
