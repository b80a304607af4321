"""Which normalizer a training run uses: the one named, else the one beside the shards."""

from __future__ import annotations

from pathlib import Path

from rdt2.errors import ConfigError, NormalizerError
from rdt2.normalizer import LinearNormalizer


def find_normalizer(name: str | None, data: Path) -> LinearNormalizer:
    """Load it. Raises ConfigError when none is named and none lies beside the shards."""
    if name is not None:
        return LinearNormalizer.from_pretrained(name)
    try:
        return LinearNormalizer.from_pretrained(data if data.is_dir() else data.parent)
    except NormalizerError as error:
        raise ConfigError(
            f"{data}: no normalizer beside the shards ({error}). "
            "Fit one with 'rdt2 data stats', or name one with --set normalizer=FILE."
        ) from error
