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
    """Errors of encoding and decoding the chunks of a data set, also by number of codebooks read, and by part
    the share of codes in use and each codebook's perplexity."""
    import numpy as np
    import torch

    from rdt2.evaluation.shards import chosen_samples
    from rdt2.metrics import action_errors
    from rdt2.tokenizer import code_use

    actions = index.all_actions(chosen_samples(index, "all", limit))
    batches = torch.from_numpy(actions).split(256)
    tokens = [tokenizer.encode(normalizer.normalize(batch)) for batch in batches]
    by_levels = []
    for levels in range(1, max(tokenizer.config.n_codebooks.values()) + 1):
        decoded = [normalizer.denormalize(tokenizer.decode(codes, levels=levels)).numpy() for codes in tokens]
        by_levels.append(action_errors(np.concatenate(decoded), actions))
    use, perplexity = code_use(tokenizer, torch.cat(tokens).numpy())
    return {
        **by_levels[-1].as_dict(),
        "position_mm_by_codebooks": [round(errors.position_mm, 3) for errors in by_levels],
        "codes_in_use": {part: [round(share, 4) for share in shares] for part, shares in use.items()},
        "perplexity": {part: [round(value, 1) for value in values] for part, values in perplexity.items()},
    }
