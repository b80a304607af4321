"""What action tokens were made with. Apart from what compares it, since data are read without torch."""

from __future__ import annotations

from typing import NamedTuple

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
