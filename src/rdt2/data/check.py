"""What is wrong with a data set, said before anything is trained on it."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.action import ACTION_DIM, ARMS, MODEL_WIDTH_MAX, POSITION_DIMS, WIDTH_DIMS, arm_slice
from rdt2.data.check_samples import Read, ReadSample, Seen, Thinned, read_samples
from rdt2.data.continuity import EpisodeTrack
from rdt2.data.findings import TEXTS, CheckReport, Finding, Worst
from rdt2.data.hands import judge_motion
from rdt2.data.shards import INSTRUCTION_KEY, lookup_instruction
from rdt2.data.shards.ranges import shard_name
from rdt2.data.shards.remote import Unreachable, expand_locations, find_instructions
from rdt2.data.shards.tokens import tokens_of_shard
from rdt2.data.stats import magnified
from rdt2.errors import ConfigError, RDT2Error, ShardError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.normalizer import LinearNormalizer

_TOKEN_ERROR_M, _TOKEN_ERROR_RAD = 0.01, 0.1
"""How much worse than the tokenizer's own tokens a sample's may decode."""
_TOKEN_BATCH = 128
_WORDING = re.compile(r"^[A-Z][^.]*[a-zA-Z0-9]\.$")
_EXAMPLES = 3
_OPEN_TRACKS = 1024
"""Episodes whose samples may alternate."""


def check_shards(
    source: str | Path | Iterable[str | Path],
    *,
    normalizer: LinearNormalizer | None = None,
    tokenizer: Any = None,
    num_embeddings: int = 1024,
    decode: bool = True,
    instructions: Mapping[str, str] | Literal["file"] = "file",
    workers: int = 0,
    tokens: str | Path | None = None,
) -> CheckReport:
    """Read every sample, on disk or by URL, and report what is wrong; damaged samples are findings, not exceptions.

    normalizer: whose width range the data must keep to; without one, 0..0.088 m, and the one that would be fitted
        is judged.
    tokenizer: an ActionTokenizer whose tokens the data should have; needs the normalizer they were made with.
    decode: also decode every picture (2 ms each).
    workers: processes that read and decode; 0 does it here. The report does not depend on it.
    tokens: folder of the shards' token files; None: they lie beside the shards, where there are any.

    Of what was read 30 bytes a sample are kept, to find duplicates and swapped cameras.

    Raises:
        ShardError: there are no shards at all, or a server does not let them be read.
        ConfigError: a tokenizer without a normalizer.
    """
    if tokenizer is not None and normalizer is None:
        raise ConfigError("tokens are of normalised actions: give the normalizer they were made with, too.")
    if workers < 0:
        raise ConfigError(f"workers is {workers}, expected 0 or more.")
    check = _Check(normalizer, tokenizer, num_embeddings)
    for shard, samples in read_samples(expand_locations(source), decode=decode, workers=workers):
        check.shard(shard, samples, instructions, tokens)
    return check.finish()


class _Check:
    """A check under way."""

    def __init__(self, normalizer: LinearNormalizer | None, tokenizer: Any, num_embeddings: int) -> None:
        self._normalizer, self._tokenizer = normalizer, tokenizer
        self._num_embeddings = num_embeddings
        self._narrowest, self._widest = _width_limits(normalizer)
        self._found: dict[str, Finding] = {}
        self._counts = {
            "shards": 0, "samples": 0, "damaged": 0, "instructions": 0, "episodes": 0, "pieces": 0, "with tokens": 0,
        }  # fmt: skip
        self._seen = Seen()
        self._tracks: dict[str, EpisodeTrack] = {}
        self._sentences: dict[str, int] = {}
        self._tables: dict[str, Mapping[str, str]] = {}
        """Instruction key -> sentence, for each folder of shards."""
        self._low, self._high = np.full(ACTION_DIM, np.inf), np.full(ACTION_DIM, -np.inf)
        self._without_tokens: list[str] = []
        """The first few, and how many there are."""
        self._without_tokens_count = 0
        self._open_tracks: OrderedDict[str, EpisodeTrack] = OrderedDict()
        self._values: dict[str, Thinned] = {
            f"{name} {arm}": Thinned() for name in ("step", "turn", "width") for arm in ARMS
        }
        self._tokens: list[tuple[str, np.ndarray, np.ndarray, bytes]] = []

    def _note(
        self, name: str, where: str, detail: str = "", *, score: float = 0.0, jpeg: bytes = b""
    ) -> None:
        severity, text = TEXTS[name]
        finding = self._found.setdefault(name, Finding(name, severity, text))
        finding.count += 1
        if len(finding.examples) < _EXAMPLES:
            finding.examples.append(f"{where}: {detail}" if detail else where)
        if len(finding.worst) < _EXAMPLES or score > finding.worst[-1].score:
            finding.worst.append(Worst(where, detail, float(score), jpeg))
            finding.worst.sort(key=lambda worst: -worst.score)
            del finding.worst[_EXAMPLES:]

    def shard(
        self,
        shard: str,
        samples: Iterator[Read | ShardError],
        instructions: Mapping[str, str] | Literal["file"],
        tokens: str | Path | None,
    ) -> None:
        """Check the samples of one tar."""
        self._counts["shards"] += 1
        keys: set[str] = set()
        name = shard_name(shard)
        table = self._table(shard) if isinstance(instructions, str) else instructions
        beside = None
        try:
            beside = tokens_of_shard(shard, tokens)
        except Unreachable:
            raise
        except ShardError as error:
            self._note("token file", name, str(error))
        for row, sample in enumerate(samples):
            if isinstance(sample, ShardError):
                self._note("damaged shard", name, _without(name, sample))
                continue
            if beside is not None and isinstance(sample, ReadSample):
                sample = replace(sample, tokens=beside[row])
            key = sample.key if isinstance(sample, ReadSample) else sample[0]
            where = f"{name}, sample {key}"
            self._counts["samples"] += 1
            if key in keys:
                self._note("duplicate key", where)
            keys.add(key)
            if isinstance(sample, ReadSample):
                self._sample(where, sample, table)
            else:
                self._counts["damaged"] += 1
                self._note("damaged sample", where, _without(where, sample[1]))

    def _table(self, shard: str) -> Mapping[str, str]:
        """The sentences beside a shard, by their keys."""
        folder = shard.rpartition("/")[0]
        if folder not in self._tables:
            self._tables[folder] = {}
            try:
                self._tables[folder] = find_instructions(shard) or {}
            except Unreachable:
                raise
            except ShardError as error:
                self._note("damaged sample", shard_name(shard), _without(shard_name(shard), error))
        return self._tables[folder]

    def _sample(self, where: str, sample: ReadSample, table: Mapping[str, str]) -> None:
        jpeg, action = sample.jpeg, sample.action
        if self._seen.add(sample.digest):
            self._note("duplicate", where, jpeg=jpeg)
        for side in sample.black:
            self._note("black picture", where, side, jpeg=jpeg)
        sentence = self._sentence(where, sample.meta, table)
        track = self._track(str(sample.meta.get("episode", "")))
        if not np.isfinite(action).all():
            self._note("not finite", where, jpeg=jpeg)
            return
        self._check_tokens(where, action, sample.tokens, jpeg)
        for row, arm in enumerate(ARMS):
            self._arm(where, action[:, arm_slice(arm)], row, jpeg)
        self._low = np.minimum(self._low, action.min(axis=0))
        self._high = np.maximum(self._high, action.max(axis=0))
        for remark in track.add(action, sample.time, sample.thumbs, where=where, sentence=sentence):
            self._note(remark.finding, where, remark.detail, score=remark.score, jpeg=jpeg)

    def _track(self, name: str) -> EpisodeTrack:
        """The track of an episode; those that nothing was added to for long forget their last sample."""
        track = self._tracks.setdefault(name, EpisodeTrack(named=name != ""))
        self._open_tracks[name] = track
        self._open_tracks.move_to_end(name)
        if len(self._open_tracks) > _OPEN_TRACKS:
            self._open_tracks.popitem(last=False)[1].forget()
        return track

    def _sentence(self, where: str, meta: Mapping[str, Any], table: Mapping[str, str]) -> str:
        try:
            sentence = lookup_instruction(meta, table, where=where)
        except ShardError:
            self._note("instruction missing", where, repr(meta.get(INSTRUCTION_KEY)))
            return ""
        self._sentences[sentence] = self._sentences.get(sentence, 0) + 1
        if not _WORDING.match(sentence):
            self._note("instruction wording", where, sentence)
        return sentence

    def _arm(self, where: str, part: Float[np.ndarray, "24 10"], row: int, jpeg: bytes) -> None:
        arm, low, high = ARMS[row], self._narrowest[row], self._widest[row]
        first, second, width = part[:, 3:6], part[:, 6:9], part[:, 9]
        norms = np.abs(np.stack([(first**2).sum(-1), (second**2).sum(-1)]) - 1).max()
        slant = np.abs((first * second).sum(-1)).max()
        if norms > 1e-2 or slant > 1e-2:
            self._note("rotation", where, f"{arm} arm", score=max(norms, slant), jpeg=jpeg)
        motion = judge_motion(part)
        if motion.finding:
            detail = f"{arm} arm, step {motion.where}: {motion.step:.3f} m, {motion.turn:.2f} rad"
            self._note(motion.finding, where, detail, score=motion.step + 0.1 * motion.turn, jpeg=jpeg)
        if width.min() < low or width.max() > high:
            detail = f"{arm} {width.min():.4f} .. {width.max():.4f} m, range {low:.4f} .. {high:.4f}"
            self._note("width", where, detail, score=max(low - width.min(), width.max() - high), jpeg=jpeg)
        for name, value in (("step", motion.step), ("turn", motion.turn), ("width", width[0])):
            self._values[f"{name} {arm}"].append(float(value))

    def _check_tokens(self, where: str, action: np.ndarray, tokens: np.ndarray | None, jpeg: bytes) -> None:
        if tokens is None:
            self._without_tokens_count += 1
            if len(self._without_tokens) < _EXAMPLES:
                self._without_tokens.append(where)
            return
        self._counts["with tokens"] += 1
        if tokens.min() < 0 or tokens.max() >= self._num_embeddings:
            position = int(np.argmax((tokens < 0) | (tokens >= self._num_embeddings)))
            detail = f"token {position} is {tokens[position]}, legal 0..{self._num_embeddings - 1}"
            self._note("token range", where, detail, jpeg=jpeg)
        elif self._tokenizer is not None:
            self._tokens.append((where, action, tokens, jpeg))
            if len(self._tokens) >= _TOKEN_BATCH:
                self._decode_tokens()

    def _decode_tokens(self) -> None:
        """Compare what the tokens decode to with what the tokenizer's own tokens decode to."""
        import torch

        if not self._tokens:
            return
        assert self._normalizer is not None
        actions = np.stack([action for _, action, _, _ in self._tokens])
        tokens = torch.from_numpy(np.stack([row for _, _, row, _ in self._tokens]).astype(np.int64))
        normalized = self._normalizer.normalize(torch.from_numpy(actions))
        with torch.no_grad():
            own = self._tokenizer.decode(self._tokenizer.encode(normalized))
            given = self._tokenizer.decode(tokens)
        metres, radians = _chunk_errors(self._normalizer.denormalize(given).numpy(), actions)
        own_metres, own_radians = _chunk_errors(self._normalizer.denormalize(own).numpy(), actions)
        wrong = (metres > own_metres + _TOKEN_ERROR_M) | (radians > own_radians + _TOKEN_ERROR_RAD)
        for row in np.flatnonzero(wrong):
            where, _, _, jpeg = self._tokens[row]
            detail = (
                f"off by {metres[row]:.3f} m, {radians[row]:.2f} rad (fresh tokens {own_metres[row]:.3f} m)"
            )
            self._note("tokens differ", where, detail, score=metres[row] + 0.1 * radians[row], jpeg=jpeg)
        self._tokens.clear()

    def finish(self) -> CheckReport:
        """What only the whole says, and the report."""
        self._decode_tokens()
        self._rows()
        self._swapped()
        self._pieces()
        self._still()
        if self._counts["with tokens"] or self._tokenizer is not None:
            for where in self._without_tokens:
                self._note("tokens missing", where)
            if self._without_tokens:
                self._found["tokens missing"].count = self._without_tokens_count
        self._counts["instructions"] = len(self._sentences)
        told = bool(np.isfinite(self._low).all())
        return CheckReport(
            counts=self._counts,
            findings=sorted(self._found.values(), key=lambda finding: (finding.severity, -finding.count)),
            width_range=self._range(WIDTH_DIMS) if told else None,
            position_range=self._range(POSITION_DIMS) if told else None,
            sentences=self._sentences,
            values=self._values,
        )

    def _range(self, columns: Sequence[int]) -> tuple[float, float]:
        return float(self._low[list(columns)].min()), float(self._high[list(columns)].max())

    def _pieces(self) -> None:
        episodes = gaps = 0
        for track in self._tracks.values():
            episodes += track.episodes
            for where, remark in track.gaps():
                gaps += 1
                self._note(remark.finding, where, remark.detail, score=remark.score)
        self._counts["episodes"], self._counts["pieces"] = episodes, episodes + gaps

    def _still(self) -> None:
        if not np.isfinite(self._low).all():
            return
        for arm, detail in magnified(self._low, self._high, self._normalizer).items():
            self._note("resting arm", f"{arm} arm", detail)

    def _rows(self) -> None:
        pairs = sum(track.pairs for track in self._tracks.values())
        rows = sum(track.rows for track in self._tracks.values())
        if rows > 0.5 * pairs:
            # This says what the disagreement comes from, so it is not said twice.
            self._found.pop("chunks disagree", None)
            self._note("rotation rows", "all shards", f"{rows} of {pairs} pairs that can tell")

    def _swapped(self) -> None:
        told = {name: track.swapped() for name, track in self._tracks.items()}
        judged = {name: value for name, value in told.items() if value is not None}
        crossed = {name: value for name, value in judged.items() if value > 0}
        if len(crossed) <= 0.5 * len(judged):
            return  # a few episodes may look so by chance; swapped cables swap all
        # The pictures seem frozen because they follow the other arm.
        self._found.pop("frozen camera", None)
        for name, value in sorted(crossed.items(), key=lambda item: -item[1]):
            where = f"episode {name}" if name else "all samples"
            self._note(
                "left and right swapped",
                where,
                f"rank correlation better by {value:.2f} ({len(crossed)} of {len(judged)} episodes that can tell)",
                score=value,
            )


def _without(where: str, error: ShardError) -> str:
    """What an error says, without the place that stands before it anyway."""
    text = str(error)
    return text.removeprefix(where).lstrip(",: ") if text.startswith(where) else text


def _width_limits(normalizer: LinearNormalizer | None) -> tuple[list[float], list[float]]:
    """Smallest and largest width of (right, left), with a tenth of a millimetre of grace."""
    if normalizer is None:
        return [-1e-4, -1e-4], [MODEL_WIDTH_MAX + 1e-4] * 2
    columns = [arm_slice(arm).start + 9 for arm in ARMS]
    low, high = np.asarray(normalizer.minimum), np.asarray(normalizer.maximum)
    return [float(low[c]) - 1e-4 for c in columns], [float(high[c]) + 1e-4 for c in columns]


def _chunk_errors(
    found: Float[np.ndarray, "n 24 20"], expected: Float[np.ndarray, "n 24 20"]
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Mean distance (m) and mean angle (rad) between chunks, of the arm that is worse."""
    from rdt2.pose import geodesic_angle, rot6d_to_matrix

    metres, radians = [], []
    for arm in ARMS:
        one, other = found[..., arm_slice(arm)], expected[..., arm_slice(arm)]
        metres.append(np.linalg.norm(one[..., :3] - other[..., :3], axis=-1).mean(axis=-1))
        try:
            angle = geodesic_angle(rot6d_to_matrix(one[..., 3:9]), rot6d_to_matrix(other[..., 3:9]))
        except RDT2Error:  # an action without rotations, which is a finding of its own
            angle = np.zeros(one.shape[:-1])
        radians.append(angle.mean(axis=-1))
    return np.max(metres, axis=0), np.max(radians, axis=0)
