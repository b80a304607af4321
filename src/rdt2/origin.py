"""What action tokens were made with, as it stands beside models and shards. Apart from what compares it, since data are
read without torch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from rdt2.errors import CheckpointError, RDT2Error
from rdt2.files import write_whole

TOKENS_FILE = "tokens.json"


class TokenOrigin(NamedTuple):
    """What made action tokens, by digest: `ActionTokenizer.digest` and `LinearNormalizer.digest`."""

    tokenizer: str
    normalizer: str

    def against(self, other: TokenOrigin) -> str:
        """In which of the two it differs from another, in words; empty where in none."""
        return " and ".join(
            f"another {name} ({mine} there, {theirs} here)"
            for name, mine, theirs in zip(self._fields, self, other, strict=True)
            if mine != theirs
        )


def write_origin(
    folder: str | Path, origin: TokenOrigin, *, error: type[RDT2Error] = CheckpointError
) -> None:
    """Say in a folder what made the tokens that its shards hold, or its model writes.

    Raises:
        error: the system does not let it be written.
    """
    write_whole(Path(folder) / TOKENS_FILE, json.dumps(origin._asdict(), indent=1) + "\n", error=error)


def read_origin(folder: str | Path, *, error: type[RDT2Error] = CheckpointError) -> TokenOrigin | None:
    """What made the tokens of a local folder; None where that is not told.

    Raises:
        error: the file is damaged.
    """
    file = Path(folder) / TOKENS_FILE
    if not file.is_file():
        return None
    try:
        data = file.read_bytes()
    except OSError as refused:
        raise error(f"{file}: cannot be read ({refused}). See to it that it may be.") from None
    return parse_origin(data, str(file), error=error)


def parse_origin(data: bytes, place: str, *, error: type[RDT2Error] = CheckpointError) -> TokenOrigin:
    """What a tokens.json says. Raises ``error`` where that is nothing."""
    try:
        return TokenOrigin(**{key: str(value) for key, value in json.loads(data).items()})
    except (ValueError, TypeError, AttributeError) as damage:
        raise error(
            f"{place}: does not say what made the tokens ({damage}). Write the tokens again, or delete it."
        ) from None
