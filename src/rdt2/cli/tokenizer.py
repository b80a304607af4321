"""`rdt2 tokenizer`: what an action tokenizer is, and what it loses of your actions."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.cli.choices import Data

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from rich.table import Table

    from rdt2.normalizer import LinearNormalizer
    from rdt2.tokenizer import ReconstructionReport

STEPS_SHOWN = (0, 5, 11, 17, 23)
"""Of the 24 of a chunk."""


@dataclass(kw_only=True)
class TokenizerInspect:
    """Show an action tokenizer's layout.

    For example:
      rdt2 tokenizer inspect --tokenizer runs/tokenizer/model
    """

    tokenizer: str
    """Folder or hub id of the tokenizer."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rich.table import Table

        from rdt2.cli.output import console, save_json
        from rdt2.tokenizer import ActionTokenizer

        tokenizer = ActionTokenizer.from_pretrained(self.tokenizer).eval()
        values: dict[str, Any] = {
            "tokenizer": self.tokenizer,
            "parameters": sum(p.numel() for p in tokenizer.parameters()),
            "tokens": tokenizer.num_tokens,
            "codes": tokenizer.num_embeddings,
            "parts": {name: [part.start, part.stop] for name, part in tokenizer.part_slices.items()},
        }
        table = Table(title=f"action tokenizer {self.tokenizer}", title_justify="left", show_header=False)
        for key, value in values.items():
            if isinstance(value, dict):
                value = ", ".join(f"{name} {item}" for name, item in value.items())
            table.add_row(key, str(value))
        console().print(table)
        save_json(self.json, values)


@dataclass(kw_only=True)
class TokenizerCheck:
    """Say whether a tokenizer suits your data.

    Are the actions within the range it was made for, and how much is lost when they are encoded and decoded? Ends
    with 1 when either answer is no.

    For example:
      rdt2 tokenizer check data/pick --tokenizer robotics-diffusion-transformer/RVQActionTokenizer
      rdt2 tokenizer check data/pick --tokenizer runs/tokenizer/model --plot worst.png --json check.json
    """

    data: Data
    """Whose chunks are encoded and decoded again: folder of shards, tar, URL, range of tars, or dataset yaml."""
    tokenizer: str
    """Folder or hub id of the tokenizer."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id that the tokenizer was trained with; none takes the one in its folder."""
    limit: int = 4000
    """At most so many chunks, spread evenly."""
    max_position_mm: float = 5.0
    """Largest mean position error that is good enough."""
    max_rotation_degrees: float = 2.0
    """Largest mean rotation error that is good enough."""
    plot: Path | None = None
    """Draw the worst chunks, decoded against recorded, into this PNG."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import ShardIndex
        from rdt2.data.normalizers import tokenizer_normalizer
        from rdt2.evaluation.shards import chosen_samples
        from rdt2.progress import note
        from rdt2.tokenizer import ActionTokenizer, evaluate_reconstruction, outside_range, worst_chunks

        data_there(self.data)
        tokenizer = ActionTokenizer.from_pretrained(self.tokenizer).eval()
        index = ShardIndex(self.data, instructions="ignore", tokens=False)
        normalizer = tokenizer_normalizer(self.tokenizer, self.normalizer, self.data)
        actions = index.all_actions(chosen_samples(index, "all", self.limit))
        report = evaluate_reconstruction(tokenizer, normalizer, actions)
        outside = outside_range(normalizer, actions)
        summary = report.summary()

        faults = _range_faults(outside, actions, normalizer)
        for what, figure, most, unit in (
            ("position", summary["position_mm"], self.max_position_mm, "mm"),
            ("rotation", summary["rotation_degrees"], self.max_rotation_degrees, "degrees"),
        ):
            if figure > most:
                faults.append(f"the mean {what} error is {figure:.2f} {unit}, good enough is {most:g}")
        out = console()
        out.print(reconstruction_table(report, title=f"{report.chunks} chunks of {self.data}, decoded again"))
        by_codebooks = ", ".join(f"{value:.2f}" for value in report.position_mm_by_codebooks)
        out.print(f"position error with 1, 2, ... codebooks of each part: {by_codebooks} mm", highlight=False)
        for part, shares in report.code_use.items():
            perplexity = ", ".join(f"{value:.0f}" for value in report.perplexity[part])
            used = ", ".join(f"{100 * share:.0f} %" for share in shares)
            out.print(f"{part}: codes in use {used}; perplexity {perplexity}", highlight=False)
        for fault in faults:
            out.print(f"not good: {fault}", highlight=False, markup=False, soft_wrap=True)
        if not faults:
            out.print("good: in range, and decoded closely enough")
        if self.plot is not None:
            from rdt2.training.plots import chunks_figure, save_figure

            worst = worst_chunks(tokenizer, normalizer, actions, report)
            note(f"worst chunks: {save_figure(chunks_figure(*worst, title='worst chunks'), self.plot)}")
        save_json(
            self.json, {**report.as_dict(), "outside_range": outside, "ok": not faults, "faults": faults}
        )
        if faults:
            sys.exit(1)


def reconstruction_table(report: ReconstructionReport, *, title: str) -> Table:
    """Errors of each arm at some steps of the horizon, and of all."""
    from rich.table import Table

    from rdt2.action import ARMS, FPS, HORIZON, SIDES

    table = Table(title=title, title_justify="left")
    for name in ("arm", "after (s)", "position (mm)", "x", "y", "z", "rotation (degrees)", "width (mm)"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    rows = {f"{(step + 1) / FPS:.2f}": [step] for step in STEPS_SHOWN}
    rows["all"] = list(range(HORIZON))
    for arm in SIDES:
        k = ARMS.index(arm)
        for when, steps in rows.items():
            figures = (
                report.position_mm[steps, k].mean(),
                *report.position_axis_mm[steps, k].mean(axis=0),
                report.rotation_degrees[steps, k].mean(),
                report.grip_mm[steps, k].mean(),
            )
            table.add_row(arm, when, *(f"{figure:.2f}" for figure in figures))
    return table


def _range_faults(
    outside: Float[ndarray, " 20"], actions: Float[ndarray, "n 24 20"], normalizer: LinearNormalizer
) -> list[str]:
    """Which columns of which arm leave the range of the normalizer, how often, and how far."""
    from rdt2.action import ARMS, arm_slice

    faults = []
    for arm in ARMS:
        part = arm_slice(arm)
        for k, name in ((0, "x"), (1, "y"), (2, "z"), (9, "width")):
            column = part.start + k
            if outside[column] > 0:
                values = actions[..., column]
                faults.append(
                    f"{arm} {name} runs from {1e3 * values.min():.1f} to {1e3 * values.max():.1f} mm, the range is "
                    f"{1e3 * float(normalizer.minimum[column]):.1f} to "
                    f"{1e3 * float(normalizer.maximum[column]):.1f} ({100 * outside[column]:.2g} % of values outside)"
                )
    return faults
