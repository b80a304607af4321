"""Which normalizer a training run uses (see rdt2.matching), and what makes the tokens it learns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rdt2.data import ShardIndex
from rdt2.data.normalizers import data_normalizer
from rdt2.errors import CheckpointError
from rdt2.hub import locate
from rdt2.matching import PUBLISHED_DIGEST, differs, own_normalizer, require_made_by, resolve
from rdt2.normalizer import UMI_FILE_NAME, LinearNormalizer
from rdt2.origin import TOKENS_FILE, TokenOrigin, read_origin, write_origin
from rdt2.tokenizer import ActionTokenizer
from rdt2.training.config import BUILT_IN


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
        models=models or {},
        start=None if start in BUILT_IN else start,
        data=lambda: data_normalizer(index.sources, index.token_origin),
    ).normalizer


def of_another(normalizer: LinearNormalizer, start: str | None) -> list[str]:
    """What to tell where weights go on with another normalizer than they learnt, or may have learnt: at most a line."""
    if start is None or start in BUILT_IN:
        return []
    own = own_normalizer(start)
    if own is not None:
        difference = differs(own.normalizer, normalizer)
        so = f"and goes on with another, as it was named ({difference}): it has that to learn anew"
        return [f"{start} was trained with the normalizer {own.place}, {so}"] if difference else []
    if normalizer.digest == PUBLISHED_DIGEST:
        return []
    return [
        f"{start} does not say which normalizer it was trained with, and goes on with the one named, which is not the "
        f"published one ({UMI_FILE_NAME}): with another than its own it has to learn anew what its numbers mean"
    ]


class LearntTokens:
    """What the action tokens mean that a VLM learns: which tokenizer and normalizer made them.

    Attributes:
        tokenizer: encodes the chunks of the data; None where the data hold tokens.
        normalizer: None only where stored tokens do not say theirs.
        notes: lines to tell.
    """

    def __init__(
        self,
        tokenizer: str | None,
        normalizer: str | None,
        index: ShardIndex,
        *,
        start: str,
        evaluated: ShardIndex | None = None,
    ) -> None:
        """
        evaluated: data that are evaluated and not learnt from; none where they are a part of the same.

        Raises:
            NormalizerError: see rdt2.matching.resolve. CheckpointError: ``start`` writes tokens of another tokenizer or
                normalizer; the data hold tokens of another tokenizer than the one named; or ``evaluated`` other ones.
        """
        self.tokenizer = None if tokenizer is None else ActionTokenizer.from_pretrained(tokenizer)
        self.notes: list[str] = []
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
        if self._origin is not None and self.normalizer is None:
            self.notes.append(
                f"the action tokens in the data were made with the normalizer {self._origin.normalizer}, which does "
                "not lie beside the shards, and will not lie beside the model: name it with --set normalizer=FILE"
            )
        if self.tokenizer is None:
            if self._origin is None and index.has_tokens:
                self.notes.append(
                    "the action tokens in the data do not say what made them, and are learnt as they are: only the "
                    "tokenizer that made them reads what this model will write. 'rdt2 data check DATA --tokenizer "
                    "FOLDER' says whether they are a tokenizer's; --set tokenizer=FOLDER learns that one's own"
                )
            if evaluated is not None and evaluated.has_tokens and index.has_tokens:
                _require_of("those learnt from", index.token_origin, evaluated, "the data that are evaluated")
        else:
            for what, held in (("the data", index), ("the data that are evaluated", evaluated)):
                if held is not None and held.token_origin is not None:
                    _require_of(f"of the tokenizer {tokenizer}", self._origin, held, what)
            if index.token_origin is None and index.has_tokens:
                self.notes.append(
                    f"the action tokens in the data do not say what made them, and are left aside: {tokenizer} makes "
                    "new ones from the actions"
                )
        before = None if start in BUILT_IN else read_origin(locate(start, (TOKENS_FILE,)))
        if before is not None and self._origin is not None:
            require_made_by(before, f"the VLM {start}", other=self._origin, by="those of the data")

    def save(self, folder: Path) -> None:
        """Write beside a model what its tokens mean, as far as that is known."""
        if self.normalizer is not None:
            self.normalizer.save_pretrained(folder)
        if self._origin is not None:
            write_origin(folder, self._origin)


def _require_of(by: str, origin: TokenOrigin | None, held: ShardIndex, what: str) -> None:
    """Raises CheckpointError where data hold tokens that are not of ``origin``."""
    if held.token_origin == origin:
        return
    told = "one of the two does not say what made them"
    if held.token_origin is not None and origin is not None:
        told = held.token_origin.against(origin)
    raise CheckpointError(
        f"{what} hold action tokens that are not {by}: {told}. Name the tokenizer that made them, or none to learn "
        "them as they are stored; or write those of the other: 'rdt2 data tokenize --sidecar' puts them into small "
        "files, which go before the tokens inside shards."
    )
