"""`rdt2 tokenizer`: what an action tokenizer is, and what it loses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdt2.data import ShardIndex
    from rdt2.normalizer import LinearNormalizer
    from rdt2.tokenizer import ActionTokenizer


@dataclass(kw_only=True)
class TokenizerInspect:
    """Show an action tokenizer's layout; with --data also its reconstruction error and how many codes it
    uses.

    For example:
      rdt2 tokenizer inspect --tokenizer runs/tokenizer
      rdt2 tokenizer inspect --tokenizer runs/tokenizer --data data/pick --json tokenizer.json
    """

    tokenizer: str
    """Folder or hub id of the tokenizer."""
    data: Path | None = None
    """Folder of shards whose chunks are encoded and decoded again."""
    normalizer: str | None = None
    """Normalizer file or folder; none takes the one beside the shards."""
    limit: int = 2000
    """At most so many chunks, spread evenly."""
    json: Path | None = None
    """Write the figures to this file."""

    def run(self) -> None:
        from rich.table import Table

        from rdt2.cli.output import console, existing, save_json
        from rdt2.data import ShardIndex
        from rdt2.normalizer import LinearNormalizer
        from rdt2.tokenizer import ActionTokenizer

        tokenizer = ActionTokenizer.from_pretrained(self.tokenizer).eval()
        values: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "tokens": tokenizer.num_tokens,
            "codes": tokenizer.num_embeddings,
            "parts": {name: [part.start, part.stop] for name, part in tokenizer.part_slices.items()},
        }
        if self.data is not None:
            existing(self.data, "folder of shards")
            index = ShardIndex(self.data, instructions="ignore")
            normalizer = LinearNormalizer.from_pretrained(self.normalizer or self.data)
            values.update(reconstruction(tokenizer, normalizer, index, limit=self.limit))

        table = Table(title=f"action tokenizer {self.tokenizer}", title_justify="left", show_header=False)
        for key, value in values.items():
            if isinstance(value, float):
                value = f"{value:.4g}"
            elif isinstance(value, dict):
                value = ", ".join(f"{name} {item}" for name, item in value.items())
            table.add_row(key.replace("_", " "), str(value))
        console().print(table)
        save_json(self.json, values)


def reconstruction(
    tokenizer: ActionTokenizer, normalizer: LinearNormalizer, index: ShardIndex, *, limit: int
) -> dict[str, Any]:
    """Errors of encoding and decoding the chunks of a data set, and the share of codes in use by part."""
    import numpy as np
    import torch

    from rdt2.evaluation.shards import chosen_samples
    from rdt2.metrics import action_errors

    actions = index.all_actions(chosen_samples(index, "all", limit))
    decoded, tokens = [], []
    with torch.no_grad():
        for start in range(0, len(actions), 256):
            codes = tokenizer.encode(normalizer.normalize(torch.from_numpy(actions[start : start + 256])))
            tokens.append(codes.numpy())
            decoded.append(normalizer.denormalize(tokenizer.decode(codes)).numpy())
    written = np.concatenate(tokens)
    used = {
        name: len(np.unique(written[:, part])) / tokenizer.num_embeddings
        for name, part in tokenizer.part_slices.items()
    }
    errors = action_errors(np.concatenate(decoded), actions)
    return {**errors.as_dict(), "codes_in_use": {name: round(share, 4) for name, share in used.items()}}
