"""What is wrong with a data set, said before anything is trained on it."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import ARMS, MODEL_WIDTH_MAX, arm_slice
from rdt2.data.shards import (
    INSTRUCTION_KEY,
    find_shards,
    lookup_instruction,
    parse_action,
    parse_meta,
    parse_tokens,
    read_instructions,
    scan_shard,
)
from rdt2.data.shards import decode_jpeg as _decode_jpeg
from rdt2.errors import ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.normalizer import LinearNormalizer

Severity = Literal["error", "warning"]
_MAX_STEP_M = 0.10
"""A hand at 3 m/s moves 10 cm in 1/30 s: faster is a tracking jump."""
_MAX_STEP_RAD = 0.7
_WORDING = re.compile(r"^[A-Z][^.]*[a-zA-Z0-9]\.$")
_EXAMPLES = 3


@dataclass
class Finding:
    """One kind of thing that is wrong, how often, and where first."""

    name: str
    severity: Severity
    text: str
    count: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class CheckReport:
    """The outcome of check_shards."""

    counts: dict[str, int]
    findings: list[Finding]
    width_range: tuple[float, float]
    position_range: tuple[float, float]

    @property
    def ok(self) -> bool:
        """Whether nothing of severity "error" was found."""
        return not any(finding.severity == "error" for finding in self.findings)

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {"ok": self.ok, **asdict(self)}

    def table(self) -> str:
        """The report as text."""
        counts = ", ".join(f"{value} {name}" for name, value in self.counts.items())
        lines = [
            counts,
            f"positions {self.position_range[0]:.3f} .. {self.position_range[1]:.3f} m, "
            f"widths {self.width_range[0]:.4f} .. {self.width_range[1]:.4f} m",
        ]
        if not self.findings:
            lines.append("nothing found")
        for finding in self.findings:
            lines.append(f"{finding.severity:8} {finding.count:7}  {finding.name}: {finding.text}")
            lines += [f"{'':18}{example}" for example in finding.examples]
        return "\n".join(lines)


_TEXTS: dict[str, tuple[Severity, str]] = {
    "damaged shard": ("error", "the rest of the tar cannot be read"),
    "damaged sample": ("error", "a file is missing, of another shape or type, or does not decode"),
    "not finite": ("error", "NaN or infinity in the action"),
    "rotation": (
        "error",
        "the 6D rotation is not two orthonormal columns (quaternion or rotation vector stored?)",
    ),
    "jump": (
        "warning",
        f"more than {_MAX_STEP_M} m or {_MAX_STEP_RAD} rad within 1/30 s (tracking lost, wrong rate?)",
    ),
    "width": ("warning", "gripper width outside the normalizer's range, so training clips or extrapolates"),
    "token range": ("error", "an action token outside the codebook"),
    "tokens missing": ("warning", "no action tokens (run tokenize_shards before VQ training)"),
    "instruction missing": ("error", "no sentence for the sample's key"),
    "instruction wording": ("warning", "not of the form 'Verb + object.' with a capital and a full stop"),
    "duplicate": ("warning", "the same picture and action as an earlier sample"),
    "duplicate key": ("warning", "the same key twice in one shard"),
    "black picture": ("error", "a wrist picture without any light"),
}


def check_shards(
    source: str | Path | Iterable[str | Path],
    *,
    normalizer: LinearNormalizer | None = None,
    num_embeddings: int = 1024,
    decode: bool = True,
    instructions: Mapping[str, str] | Literal["file"] = "file",
) -> CheckReport:
    """Read every sample and report what is wrong; damaged samples are findings, not exceptions.

    normalizer: whose width range the data must keep to; without one, 0..0.088 m.
    decode: also decode every picture (2 ms each).

    Raises:
        ShardError: there are no shards at all.
    """
    found: dict[str, Finding] = {}
    counts = {"shards": 0, "samples": 0, "damaged": 0, "instructions": 0, "episodes": 0}
    seen: set[bytes] = set()
    episodes: set[str] = set()
    sentences: dict[str, bool] = {}
    widths, positions = [np.inf, -np.inf], [np.inf, -np.inf]
    low, high = _width_limits(normalizer)

    def note(name: str, where: str, detail: str = "") -> None:
        severity, text = _TEXTS[name]
        finding = found.setdefault(name, Finding(name, severity, text))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(f"{where}: {detail}" if detail else where)

    for path in find_shards(source):
        counts["shards"] += 1
        keys: set[str] = set()
        try:
            table = (read_instructions(path) or {}) if isinstance(instructions, str) else instructions
        except ShardError as error:
            note("damaged sample", path.name, str(error))
            table = {}
        samples = scan_shard(path)
        with open(path, "rb") as stream:
            while True:
                try:
                    key, members = next(samples)
                except StopIteration:
                    break
                except ShardError as error:
                    note("damaged shard", path.name, str(error))
                    break
                where = f"{path.name}, sample {key}"
                counts["samples"] += 1
                if key in keys:
                    note("duplicate key", where)
                keys.add(key)
                data = {}
                for name, member in members.items():
                    stream.seek(member.offset)
                    data[name] = stream.read(member.size)
                try:
                    action = parse_action(data["action.npy"], where=where)
                    meta = parse_meta(data["meta.json"], where=where)
                    tokens = (
                        parse_tokens(data["action_token.npy"], where=where)
                        if "action_token.npy" in data
                        else None
                    )
                    picture = _decode_jpeg(data["image.jpg"], where=where) if decode else None
                except ShardError as error:
                    counts["damaged"] += 1
                    note("damaged sample", where, str(error))
                    continue
                episodes.add(str(meta.get("episode", "")))
                digest = hashlib.blake2b(data["image.jpg"] + data["action.npy"], digest_size=16).digest()
                if digest in seen:
                    note("duplicate", where)
                seen.add(digest)
                if picture is not None:
                    for side, half in (("left", picture[::8, :376:8]), ("right", picture[::8, 392::8])):
                        if half.max() < 8:
                            note("black picture", where, side)
                try:
                    sentence = lookup_instruction(meta, table, where=where)
                    if sentence not in sentences:
                        sentences[sentence] = bool(_WORDING.match(sentence))
                    if not sentences[sentence]:
                        note("instruction wording", where, sentence)
                except ShardError:
                    note("instruction missing", where, repr(meta.get(INSTRUCTION_KEY)))
                if tokens is None:
                    note("tokens missing", where)
                elif tokens.min() < 0 or tokens.max() >= num_embeddings:
                    position = int(np.argmax((tokens < 0) | (tokens >= num_embeddings)))
                    note(
                        "token range",
                        where,
                        f"token {position} is {tokens[position]}, legal 0..{num_embeddings - 1}",
                    )
                if not np.isfinite(action).all():
                    note("not finite", where)
                    continue
                for number, arm in enumerate(ARMS):
                    _check_arm(action[:, arm_slice(arm)], arm, where, low[number], high[number], note)
                    part = action[:, arm_slice(arm)]
                    widths = [
                        min(widths[0], float(part[:, 9].min())),
                        max(widths[1], float(part[:, 9].max())),
                    ]
                    positions = [
                        min(positions[0], float(part[:, :3].min())),
                        max(positions[1], float(part[:, :3].max())),
                    ]
    counts["instructions"], counts["episodes"] = len(sentences), len(episodes)
    order = sorted(found.values(), key=lambda finding: (finding.severity, -finding.count))
    return CheckReport(counts, order, (widths[0], widths[1]), (positions[0], positions[1]))


def _width_limits(normalizer: LinearNormalizer | None) -> tuple[list[float], list[float]]:
    """Smallest and largest width of (right, left), with a tenth of a millimetre of grace."""
    if normalizer is None:
        return [-1e-4, -1e-4], [MODEL_WIDTH_MAX + 1e-4] * 2
    columns = [arm_slice(arm).start + 9 for arm in ARMS]
    low, high = np.asarray(normalizer.minimum), np.asarray(normalizer.maximum)
    return [float(low[c]) - 1e-4 for c in columns], [float(high[c]) + 1e-4 for c in columns]


def _check_arm(
    part: Float[np.ndarray, "24 10"], arm: str, where: str, low: float, high: float, note: Any
) -> None:
    first, second, width = part[:, 3:6], part[:, 6:9], part[:, 9]
    norms = np.abs(np.stack([(first**2).sum(-1), (second**2).sum(-1)]) - 1).max()
    if norms > 1e-2 or np.abs((first * second).sum(-1)).max() > 1e-2:
        note("rotation", where, f"{arm} arm")
    step = np.linalg.norm(np.diff(part[:, :3], axis=0, prepend=np.zeros((1, 3), part.dtype)), axis=-1)
    identity = np.array([[1, 0, 0, 0, 1, 0]], part.dtype)
    # Between near rotations the angle is the columns' distance up to the third order.
    turn = np.linalg.norm(np.diff(part[:, 3:9], axis=0, prepend=identity), axis=-1) / np.sqrt(2)
    if step.max() > _MAX_STEP_M or turn.max() > _MAX_STEP_RAD:
        note(
            "jump",
            where,
            f"{arm} arm, step {int(step.argmax()) + 1}: {step.max():.3f} m, {turn.max():.2f} rad",
        )
    if width.min() < low or width.max() > high:
        note("width", where, f"{arm} {width.min():.4f} .. {width.max():.4f} m, range {low:.4f} .. {high:.4f}")
