"""Recordings of any source to training shards: in parallel, resumable, the same bytes whatever the workers.

Episodes are put in groups of about ``samples_per_shard`` recorded frames, in the order of the source; a group
becomes one tar, written by one process. What is in a tar depends on nothing but the recording and the
options, so the number of workers changes only how long it takes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rdt2.data.episode import Episode, cut_chunks, decoded_picture
from rdt2.data.resample import sample_frames
from rdt2.data.shards import ShardWriter, encode_jpeg, write_atomic, write_dataset_yaml, write_instructions
from rdt2.data.sources import Source, SourceKind, SourceOptions, open_source
from rdt2.data.sources.base import explain
from rdt2.data.sources.shards import Shards
from rdt2.errors import ConfigError, RDT2Error, RecordingError
from rdt2.workers import worker_pool

_STATE = ".convert"
_DONE = "conversion.json"


@dataclass
class ConversionReport:
    """What came of a conversion. skipped: one line for each episode left out, and why. notes: what was known of
    recordings of this origin and taken for granted."""

    episodes: int = 0
    samples: int = 0
    shards: int = 0
    too_short: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    magnified: dict[str, str] = field(default_factory=dict)
    """arm -> what the fitted normalizer magnifies although it hardly moves, and what helps."""
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Plan:
    """Everything the shards depend on. ``options`` hold the guesses, made good."""

    path: str
    kind: SourceKind
    options: SourceOptions
    tail: Literal["drop", "pad"]
    stride: int
    samples_per_shard: int
    on_error: Literal["raise", "skip"]
    episodes: int | None

    def signature(self, source: Source) -> dict[str, Any]:
        """For comparison with an earlier run; holds no path, so that a copied folder can be gone on with."""
        values = asdict(self)
        del values["path"]
        listing = json.dumps([source.names, source.lengths]).encode()
        return json.loads(
            json.dumps(
                {
                    **values,
                    "source": source.path.name,
                    "guesses": {guess.option: guess.value for guess in source.guesses},
                    "listing": hashlib.sha256(listing).hexdigest(),
                }
            )
        )


def convert(
    source: str | Path,
    out: str | Path,
    *,
    kind: SourceKind,
    options: SourceOptions | None = None,
    accept_guesses: bool = False,
    tail: Literal["drop", "pad"] = "drop",
    stride: int = 1,
    samples_per_shard: int = 5000,
    workers: int = 1,
    engine: Literal["processes", "ray"] = "processes",
    on_error: Literal["raise", "skip"] = "raise",
    episodes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> ConversionReport:
    """Write recordings as shards with instructions, normalizer and ``dataset.yaml``.

    Samples come at 30 Hz / ``stride``; a sample's frame is a recorded one and its chunk lies at 1/30, 2/30, ...
    24/30 s after it, by time, whatever the rate of the recording. An interrupted conversion goes on when the
    same call is made again.

    accept_guesses: go on although the recording leaves things open that the options do not say.
    tail: frames with less than 0.8 s of motion left: "drop" them, or "pad" with the last pose.
    engine: what the workers are: processes here, or tasks of a Ray cluster (RAY_ADDRESS names one, else a
        local one of ``workers`` CPUs is started); its machines must share the file system.
    on_error: "skip" leaves damaged episodes out, whole, and lists them in the report.
    episodes: convert the first so many episodes only.
    progress: called with (groups done, groups).

    Raises:
        ConfigError: guesses that nobody confirmed, or ``out`` holds another conversion.
        RecordingError, PoseError, ShardError: the recording is damaged, by file, episode and frame.
    """
    if tail not in ("drop", "pad") or on_error not in ("raise", "skip"):
        raise ConfigError(f"tail {tail!r}, on_error {on_error!r}: expected drop or pad, raise or skip.")
    if engine not in ("processes", "ray"):
        raise ConfigError(f"engine is {engine!r}, expected 'processes' or 'ray'.")
    if min(stride, samples_per_shard, workers, 1 if episodes is None else episodes) < 1:
        raise ConfigError("stride, samples_per_shard, workers and episodes must be at least 1.")
    began, folder = time.monotonic(), Path(out)
    if folder.resolve() == Path(source).resolve():
        raise ConfigError(f"{folder}: the shards need a folder of their own, not the recording's.")
    if kind == "shards" and tail != "drop":
        raise ConfigError(
            "tail is 'pad': shards keep the chunks that they have. It is for recordings: leave it out."
        )
    opened = open_source(source, kind, options)
    if opened.guesses and not accept_guesses:
        raise ConfigError(explain(opened.path, opened.guesses))
    lengths = opened.lengths[:episodes]
    damaged = min(opened.damaged, default=len(lengths))
    if damaged < len(lengths) and on_error == "raise":
        raise opened.damaged[damaged]
    path = str(Path(source).absolute())  # a worker elsewhere has another working directory
    plan = _Plan(path, kind, options or SourceOptions(), tail, stride, samples_per_shard, on_error, episodes)
    signature = plan.signature(opened)
    finished = _earlier(folder, signature)
    if finished is not None:
        told = f"{folder} holds this conversion already, and nothing was read. Remove it if the recordings have changed"
        return replace(finished, notes=[*finished.notes, told])
    state = folder / _STATE
    state.mkdir(parents=True, exist_ok=True)
    write_atomic(state / "plan.json", json.dumps(signature))
    groups = _groups(lengths, samples_per_shard * stride)
    open_groups = [number for number in range(len(groups)) if not _result_path(folder, number).is_file()]
    done = len(groups) - len(open_groups)
    if progress is not None:
        progress(done, len(groups))
    jobs = [(plan, str(folder.absolute()), number, groups[number]) for number in open_groups]
    for _ in (_run if engine == "processes" else _run_on_ray)(jobs, workers):
        done += 1
        if progress is not None:
            progress(done, len(groups))
    report = _finish(folder, len(groups), signature, opened.notes)
    report.seconds = time.monotonic() - began
    return report


def episode_samples(
    episode: Episode, *, tail: Literal["drop", "pad"] = "drop", stride: int = 1
) -> Iterator[tuple[int, np.ndarray, bytes]]:
    """(frame, chunk (24, 20) float32, JPEG bytes of left | right) for the samples of an episode, at 30 Hz."""
    frames = sample_frames(episode.timestamps)[::stride].tolist()
    for frame, chunk in cut_chunks(episode.poses, episode.widths, episode.timestamps, frames, tail=tail):
        halves = [decoded_picture(episode.videos[arm][frame]) for arm in ("left", "right")]
        yield frame, chunk, encode_jpeg(np.concatenate(halves, axis=1))


# ------------------------------------------------------------------------------------------------ one group


def _groups(lengths: list[int], size: int) -> list[list[int]]:
    """Consecutive episodes of at least ``size`` recorded frames together; the last group may have fewer."""
    groups: list[list[int]] = []
    frames = size
    for number, length in enumerate(lengths):
        if frames >= size:
            groups.append([])
            frames = 0
        groups[-1].append(number)
        frames += length
    return groups


_Job = tuple[_Plan, str, int, list[int]]
_opened: dict[tuple[str, str], Source] = {}
"""The source a worker process has open: it is opened once, not for every group."""


def _convert_group(job: _Job) -> int:
    plan, folder, number, episodes = job
    key = (plan.path, json.dumps(asdict(plan.options)))
    if key not in _opened:
        _opened.clear()
        _opened[key] = open_source(plan.path, plan.kind, plan.options)
    source = _opened[key]
    result: dict[str, Any] = {"episodes": 0, "samples": 0, "too_short": [], "skipped": []}
    with ShardWriter(
        folder, samples_per_shard=1 << 40, first_shard=number, write_instructions=False
    ) as writer:
        for index in episodes:
            try:
                # An episode is written when all of it was read: a damaged one leaves no half behind.
                samples = list(_samples(source, index, plan))
            except RDT2Error as error:
                if plan.on_error == "raise":
                    raise
                result["skipped"].append(str(error))
                continue
            if not samples:
                result["too_short"].append(source.names[index])
                continue
            for sample in samples:
                writer.write(**sample)
            result["episodes"] += 1
            result["samples"] += len(samples)
    result["instructions"] = writer.instructions
    write_atomic(_result_path(Path(folder), number), json.dumps(result))
    return number


def _samples(source: Source, index: int, plan: _Plan) -> Iterator[dict[str, Any]]:
    """The samples of an episode, as arguments of `ShardWriter.write`. Those of shards stay as they are."""
    if isinstance(source, Shards):
        yield from source.samples(index, stride=plan.stride)
        return
    episode = source[index]
    for frame, chunk, jpeg in episode_samples(episode, tail=plan.tail, stride=plan.stride):
        seconds = float(episode.timestamps[frame] - episode.timestamps[0])
        yield {
            "picture": jpeg,
            "action": chunk,
            "instruction": episode.sentence(frame),
            "meta": {
                **episode.told(frame),
                "frame": frame,
                "timestamp": round(seconds, 9),
                "state": episode.state(frame),
            },
            "key": f"{index:06d}_{frame:06d}",
        }


def _run(jobs: list[_Job], workers: int) -> Iterator[int]:
    if workers == 1 or len(jobs) < 2:
        try:
            yield from map(_convert_group, jobs)
        finally:
            _opened.clear()
        return
    from concurrent.futures import as_completed

    with worker_pool(min(workers, len(jobs))) as pool:
        for future in as_completed([pool.submit(_convert_group, job) for job in jobs]):
            yield future.result()


def _run_on_ray(jobs: list[_Job], workers: int) -> Iterator[int]:
    try:
        import ray
    except ImportError:
        raise ConfigError("ray is not installed. Install the extra: pip install 'rdt2[ray]'.") from None

    started = not ray.is_initialized()
    if started:
        # A named cluster has its own CPUs; a local one gets as many as there are workers.
        local: dict[str, Any] = (
            {} if os.environ.get("RAY_ADDRESS") else {"num_cpus": workers, "include_dashboard": False}
        )
        ray.init(log_to_driver=False, **local)
    task = ray.remote(max_retries=2)(_convert_group)
    waiting = list(reversed(jobs))
    running: list[Any] = []
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                running.append(task.remote(waiting.pop()))
            ready, running = ray.wait(running)
            for number in ready:
                yield ray.get(number)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise RecordingError(
            f"a task of the Ray cluster was lost ({type(error).__name__}). Start again: finished shards are kept."
        ) from None
    finally:
        if started:
            ray.shutdown()


# ------------------------------------------------------------------------------------------- begin and finish


def _result_path(folder: Path, number: int) -> Path:
    return folder / _STATE / f"{number:06d}.json"


def _earlier(folder: Path, signature: dict[str, Any]) -> ConversionReport | None:
    """The report of this same conversion if it is complete. Raises ConfigError for another one."""
    done, begun = folder / _DONE, folder / _STATE / "plan.json"
    for path in (done, begun):
        if not path.is_file():
            continue
        try:
            found = json.loads(path.read_text())
            plan = found["plan"] if path == done else found
            report = ConversionReport(**found["report"]) if path == done else None
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"{path}: cannot be read ({error}). Choose an empty folder.") from None
        if plan.get("on_error") == "raise":  # nothing was left out so far: what is there fits either way
            plan = plan | {"on_error": signature["on_error"]}
        if plan != signature:
            if path == begun and not any(folder.glob("*.tar")):
                shutil.rmtree(folder / _STATE)  # it was refused before it wrote anything
                return None
            raise ConfigError(
                f"{folder}: holds another conversion, {'finished' if path == done else 'begun'} with other settings: "
                f"{_differences(plan, signature)}. Choose another folder, or remove this one."
            )
        return report
    if folder.is_dir() and any(folder.glob("*.tar")):
        raise ConfigError(f"{folder}: holds shards that are not from a conversion. Choose another folder.")
    return None


def _differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """What differs between two plans, in words; options one by one."""
    flat = [
        {**{k: v for k, v in plan.items() if k != "options"}, **plan.get("options", {})}
        for plan in (before, now)
    ]
    return ", ".join(
        f"{name} was {flat[0].get(name)!r}, is {value!r}"
        for name, value in flat[1].items()
        if flat[0].get(name) != value
    )


def _finish(folder: Path, groups: int, signature: dict[str, Any], notes: list[str]) -> ConversionReport:
    from rdt2.data.stats import action_statistics, magnified

    report = ConversionReport(notes=notes)
    table: dict[str, Any] = {}
    for number in range(groups):
        result = json.loads(_result_path(folder, number).read_text())
        report.episodes += result["episodes"]
        report.samples += result["samples"]
        report.shards += bool(result["samples"])
        report.too_short += result["too_short"]
        report.skipped += result["skipped"]
        for key, sentence in result["instructions"].items():
            if table.setdefault(key, sentence) != sentence:
                raise RecordingError(f"{sentence!r} and {table[key]!r} get the same key. Reword one.")
    if report.samples == 0:
        shutil.rmtree(folder / _STATE)
        raise RecordingError(
            f"{folder}: no sample came of the recording: {len(report.too_short)} episode(s) shorter than "
            f"0.8 s (--tail pad keeps them), {len(report.skipped)} damaged. In what 'rdt2 run' recorded, time when "
            "nobody drove (a pause, a hand-over, a stop) counts as an end: its log (/events) says why."
            + "".join(f"\n  {line}" for line in report.skipped[:5])
        )
    write_instructions(folder, table)
    statistics = action_statistics(folder)
    normalizer = statistics.normalizer()
    normalizer.save_pretrained(folder)
    report.magnified = magnified(statistics.minimum, statistics.maximum, normalizer)
    write_dataset_yaml(folder, name=folder.resolve().name)
    # Without the seconds, which differ from run to run while nothing else does.
    values = {"plan": signature, "report": replace(report, seconds=0.0).as_dict()}
    write_atomic(folder / _DONE, json.dumps(values, indent=1, sort_keys=True) + "\n")
    shutil.rmtree(folder / _STATE)
    return report
