"""What a check of data may find, and the report of what it found."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rdt2.data.hands import FAST_M, FAST_RAD, FASTEST_M, FASTEST_RAD

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Worst:
    """A sample that shows a finding. jpeg: its picture, empty where it cannot be shown."""

    where: str
    detail: str
    score: float
    jpeg: bytes = field(default=b"", repr=False)


@dataclass
class Finding:
    """One kind of thing that is wrong, how often, where first and where worst."""

    name: str
    severity: Severity
    text: str
    count: int = 0
    examples: list[str] = field(default_factory=list)
    worst: list[Worst] = field(default_factory=list, repr=False)


@dataclass
class CheckReport:
    """The outcome of a check (rdt2.data.check.check_shards).

    values: for plots, one number a sample, of many samples some: "{step, turn, width} {right, left}" (m, rad, m).
    """

    counts: dict[str, int]
    findings: list[Finding]
    width_range: tuple[float, float] | None
    position_range: tuple[float, float] | None
    """Metres; None without a sample that could be read."""
    sentences: dict[str, int] = field(default_factory=dict)
    values: Mapping[str, Sequence[float]] = field(default_factory=dict, repr=False)

    @property
    def ok(self) -> bool:
        """Whether nothing of severity "error" was found."""
        return not any(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "ok": self.ok,
            "counts": self.counts,
            "findings": [
                {
                    "name": finding.name,
                    "severity": finding.severity,
                    "text": finding.text,
                    "count": finding.count,
                    "examples": finding.examples,
                    "worst": [
                        {"where": worst.where, "detail": worst.detail, "score": worst.score}
                        for worst in finding.worst
                    ],
                }
                for finding in self.findings
            ],
            "width_range": self.width_range,
            "position_range": self.position_range,
            "sentences": self.sentences,
        }

    def counted(self) -> str:
        """What there is, in words; pieces where frames that are missing cut an episode into some."""
        counts = dict(self.counts)
        if counts.get("pieces") == counts.get("episodes"):
            counts.pop("pieces", None)
        nouns = {
            name: name if name == "with tokens" or value != 1 else name.removesuffix("s")
            for name, value in counts.items()
        }
        return ", ".join(f"{value} {nouns[name]}" for name, value in counts.items())

    def table(self, width: int | None = None) -> str:
        """The report as text, in lines of `width` characters."""
        lines = [self.counted()]
        if self.position_range is not None and self.width_range is not None:
            lines.append(
                f"positions {self.position_range[0]:.3f} .. {self.position_range[1]:.3f} m, "
                f"widths {self.width_range[0]:.4f} .. {self.width_range[1]:.4f} m"
            )
        if not self.findings:
            lines.append("nothing found")
        for finding in self.findings:
            lines.append(f"{finding.severity:8} {finding.count:7}  {finding.name}: {finding.text}")
            lines += [f"{'':18}{example}" for example in finding.examples]
        if width is not None:
            lines = [
                part for line in lines for part in textwrap.wrap(line, width, subsequent_indent=20 * " ")
            ]
        return "\n".join(lines)


TEXTS: dict[str, tuple[Severity, str]] = {
    "damaged shard": ("error", "the rest of the tar cannot be read"),
    "damaged sample": ("error", "a file is missing, of another shape or type, or does not decode"),
    "not finite": ("error", "NaN or infinity in the action"),
    "rotation": (
        "error",
        "the 6D rotation is not two orthonormal columns (quaternion or rotation vector stored?)",
    ),
    "rotation rows": (
        "error",
        "consecutive chunks fit together only when rotations are read as ROWS: stored transposed",
    ),
    "left and right swapped": (
        "error",
        "the pictures change with the OTHER arm's motion: cameras or arms are the wrong way round",
    ),
    "jump": (
        "warning",
        f"more than {FAST_M} m or {FAST_RAD} rad within 1/30 s (tracking lost, wrong rate?)",
    ),
    "impossible motion": (
        "error",
        f"no hand is so fast (over {FASTEST_M * 30:.0f} m/s, {FASTEST_RAD * 30:.0f} rad/s or 200 m/s2) or shakes so: "
        "tracking lost, or wrong units or rate. Cut the recording there, or leave the episode out",
    ),
    "chunks disagree": (
        "warning",
        "a chunk contradicts the one before (wrong rate, or not relative to its own frame)",
    ),
    "time order": ("error", "a sample lies before or at the same time as the one before it in its episode"),
    "time gap": (
        "warning",
        "frames are missing between two samples of an episode, so it has several pieces: lost, or left out on "
        "purpose ('data record' leaves out what a disturbance spoils). The chunks on both sides are whole",
    ),
    "frozen camera": ("warning", "equal pictures while the arm moves"),
    "width": ("warning", "gripper width outside the normalizer's range, so training clips or extrapolates"),
    "token range": ("error", "an action token outside the codebook"),
    "tokens differ": (
        "error",
        "the tokens do not decode to the action (of another tokenizer or normalizer?)",
    ),
    "token file": ("error", "the file of action tokens beside a shard cannot be used"),
    "tokens missing": (
        "warning",
        "no action tokens, while others have some, or a tokenizer was given to compare with (run 'rdt2 data tokenize')",
    ),
    "resting arm": (
        "warning",
        "the normalizer magnifies what is hardly more than noise: the loss is spent on it, and an arm trembles",
    ),
    "instruction missing": ("error", "no sentence for the sample's key"),
    "instruction wording": ("warning", "not of the form 'Verb + object.' with a capital and a full stop"),
    "duplicate": ("warning", "the same picture and action as an earlier sample"),
    "duplicate key": ("warning", "the same key twice in one shard"),
    "black picture": ("error", "a wrist picture without any light"),
}
