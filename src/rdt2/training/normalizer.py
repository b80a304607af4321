"""Which normalizer a training run uses: the one named, else that of its start, else the one beside the shards."""

from __future__ import annotations

from pathlib import Path

from rdt2.errors import ConfigError, NormalizerError
from rdt2.normalizer import LinearNormalizer, has_normalizer


def find_normalizer(name: str | None, data: Path, *, start: str | None = None) -> LinearNormalizer:
    """Load it. A trained model's numbers mean what its own normalizer says, so that goes before the data's.

    Args:
        name: file, folder or hub id that the configuration names.
        data: the shards, or their folder.
        start: local folder of the model that training goes on from.

    Raises:
        ConfigError: none is named, and none lies in either place.
    """
    if name is not None:
        return LinearNormalizer.from_pretrained(name)
    if start is not None and has_normalizer(start):
        return LinearNormalizer.from_pretrained(start)
    try:
        return LinearNormalizer.from_pretrained(data if data.is_dir() else data.parent)
    except NormalizerError as error:
        raise ConfigError(
            f"{data}: no normalizer beside the shards ({error}). "
            "Fit one with 'rdt2 data stats', or name one with --set normalizer=FILE."
        ) from error
