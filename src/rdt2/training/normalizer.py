"""Which normalizer a training run uses (see rdt2.matching), and what makes the tokens it learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rdt2.data import ShardIndex
from rdt2.data.normalizers import data_normalizer
from rdt2.hub import locate
from rdt2.matching import own_normalizer, require_made_by, resolve
from rdt2.normalizer import LinearNormalizer
from rdt2.origin import TOKENS_FILE, TokenOrigin, read_origin, write_origin
from rdt2.tokenizer import ActionTokenizer
from rdt2.training.config import BUILT_IN

OPTION = "--set normalizer=FILE"


def find_normalizer(
    name: str | None,
    index: ShardIndex,
    *,
    start: str | None = None,
    models: Mapping[str, str | None] | None = None,
) -> LinearNormalizer:
    """Load it.

    Args:
        name: file, folder or hub id that the configuration names.
        index: the data, which may bring one.
        start: the model that training goes on from, or one of the built-in names.
        models: what is used and stays as it is, as in rdt2.matching.resolve.

    Raises:
        NormalizerError: see rdt2.matching.resolve.
    """
    return resolve(
        name,
        option=OPTION,
        models=models or {},
        start=None if start in BUILT_IN else start,
        data=lambda: data_normalizer(index.sources, index.token_origin),
    ).normalizer


class LearntTokens:
    """What the action tokens mean that a VLM learns: which tokenizer and normalizer made them.

    Attributes:
        tokenizer: encodes the chunks of the data; None where the data hold tokens.
        normalizer: None only where stored tokens do not say theirs.
    """

    def __init__(
        self, tokenizer: str | None, normalizer: str | None, index: ShardIndex, *, start: str
    ) -> None:
        """
        Raises:
            NormalizerError: see rdt2.matching.resolve. CheckpointError: ``start`` writes tokens of another tokenizer or
                normalizer.
        """
        self.tokenizer = None if tokenizer is None else ActionTokenizer.from_pretrained(tokenizer)
        self._origin = index.token_origin if tokenizer is None else None
        self.normalizer: LinearNormalizer | None = None
        own = None if start in BUILT_IN else own_normalizer(start)
        if tokenizer is not None or normalizer is not None or own is not None:
            models = {"the action tokenizer": tokenizer, "the VLM": None if own is None else start}
            self.normalizer = find_normalizer(normalizer, index, models=models)
        elif self._origin is not None:
            found = data_normalizer(index.sources, self._origin)
            self.normalizer = found.normalizer if found is not None and found.of_model else None
        if self.normalizer is not None:
            if self.tokenizer is not None:
                self._origin = TokenOrigin(self.tokenizer.digest, self.normalizer.digest)
            elif self._origin is not None:
                used = self._origin._replace(normalizer=self.normalizer.digest)
                require_made_by(self._origin, "the data", other=used, by="this run would have")
        before = None if start in BUILT_IN else read_origin(locate(start, (TOKENS_FILE,)))
        if before is not None and self._origin is not None:
            require_made_by(before, f"the VLM {start}", other=self._origin, by="those of the data")

    def save(self, folder: Path) -> None:
        """Write beside a model what its tokens mean, as far as that is known."""
        if self.normalizer is not None:
            self.normalizer.save_pretrained(folder)
        if self._origin is not None:
            write_origin(folder, self._origin)
