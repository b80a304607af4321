"""RDT2: a vision-language-action model for two-armed robots."""

from __future__ import annotations

__version__ = "0.1.0"
