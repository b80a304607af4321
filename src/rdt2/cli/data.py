"""`rdt2 data`: record, check, describe, tokenize and look at training data; converting is in convert.py."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from rdt2.cli.choices import Data

if TYPE_CHECKING:
    from collections import Counter

    from rich.table import Table

    from rdt2.data import ActionStatistics


@dataclass(kw_only=True)
class DataRecord:
    """Record demonstrations of a scripted expert in simulation.

    It moves the handheld grippers; what succeeds becomes shards.

    For example:
      rdt2 data record --task pick --episodes 200 --out data/pick
      rdt2 data record --episodes 3000 --stride 3 --workers 2 --out data/mixed
    """

    out: Path
    """Folder for shards, instructions.json, normalizer and dataset.yaml; an interrupted recording goes on."""
    task: Literal["pick", "place", "press", "all"] = "all"
    """What is demonstrated; all mixes the three."""
    episodes: int = 100
    """Successful episodes to record."""
    seed: int = 0
    """Scenes and motions follow from it; evaluation never meets the same scenes."""
    stride: int = 1
    """Keep every n-th frame as a sample."""
    workers: int = 1
    """Processes that simulate at the same time; the data do not depend on it."""
    json: Path | None = None
    """Write the counts to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.progress import progress
        from rdt2.sim.recording import TASK_MIX, record_dataset

        with progress("episodes", self.episodes) as advance:
            finished = 0

            def on_episode(done: int, _: int) -> None:
                nonlocal finished
                advance(done - finished)
                finished = done

            report = record_dataset(
                self.out,
                self.episodes,
                seed=self.seed,
                tasks=TASK_MIX if self.task == "all" else {self.task: 1.0},
                stride=self.stride,
                workers=self.workers,
                progress=on_episode,
            )
        attempts = sum(report.attempts.values())
        console().print(
            f"{report.episodes} episode{'s' * (report.episodes != 1)}, {report.samples} samples in {self.out} "
            f"({attempts} attempts in this run, {report.seconds:.0f} s)",
            highlight=False,
        )
        save_json(self.json, report.as_dict())


@dataclass(kw_only=True)
class DataAugmentSheet:
    """Draw what training sees: pictures, and how it corrupts them.

    The left column is as recorded, each other one an epoch.

    For example:
      rdt2 data augment-sheet data/pick --out sheet.png
    """

    out_is_file: ClassVar[bool] = True

    data: Data
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    out: Path = Path("augmentation.png")
    """Picture to write, PNG or JPEG."""
    samples: int = 4
    """Rows, spread over the data."""
    epochs: int = 4
    """Columns beside the recorded picture."""
    seed: int = 0
    """Seed of the training run."""
    json: Path | None = None
    """Write which samples were drawn to this file; - is stdout, alone."""

    def run(self) -> None:
        import numpy as np
        from PIL import Image

        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import ShardIndex
        from rdt2.data.augmentation import ImageCorruption, contact_sheet
        from rdt2.errors import ConfigError

        data_there(self.data)
        if min(self.samples, self.epochs) < 1 or self.out.suffix.lower() not in (".png", ".jpg", ".jpeg"):
            raise ConfigError("--samples and --epochs are at least 1, --out ends in .png or .jpg.")
        index = ShardIndex(self.data, instructions="ignore", tokens=False)
        numbers = np.unique(np.linspace(0, len(index) - 1, self.samples).astype(int)).tolist()
        sheet = contact_sheet(
            [index.picture(number) for number in numbers],
            ImageCorruption(seed=self.seed),
            samples=numbers,
            epochs=self.epochs,
        )
        self.out.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(sheet).save(self.out)
        console().print(f"{len(numbers)} samples, {self.epochs} epochs: {self.out}", highlight=False)
        save_json(self.json, {"samples": numbers, "epochs": self.epochs, "out": self.out})


@dataclass(kw_only=True)
class DataCheck:
    """Say what is wrong with data before a model is trained on them.

    Ends with 1 when there is an error.

    For example:
      rdt2 data check data/pick
      rdt2 data check data/pick --report check.html
      rdt2 data check recordings --normalizer normalizer.pt --tokenizer runs/tokenizer
    """

    data: Data
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    normalizer: str | None = None
    """Normalizer file or folder whose gripper range the data must keep to; none checks 0 to 0.088 m."""
    tokenizer: str | None = None
    """Folder or hub id of the tokenizer whose tokens the data should have, by its own normalizer or --normalizer."""
    fast: bool = False
    """Do not decode the pictures."""
    workers: int = 0
    """Processes that read and decode; 0 does it in this one. The findings do not depend on it."""
    report: Path | None = None
    """Write a page with distributions and the worst samples of each finding."""
    json: Path | None = None
    """Write the findings to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import check_shards, open_sources
        from rdt2.data.check_paths import path_findings, together_findings
        from rdt2.data.normalizers import tokenizer_normalizer
        from rdt2.normalizer import LinearNormalizer
        from rdt2.progress import note, working

        data_there(self.data)
        normalizer = None if self.normalizer is None else LinearNormalizer.from_pretrained(self.normalizer)
        tokenizer: Any = None
        if self.tokenizer is not None:
            from rdt2.tokenizer import ActionTokenizer

            tokenizer = ActionTokenizer.from_pretrained(self.tokenizer).eval()
            normalizer = tokenizer_normalizer(self.tokenizer, self.normalizer, self.data)
        reports = {}
        sources = open_sources(self.data, instructions="ignore")
        for source in sources:
            with working(f"checking {source.name}"):
                reports[source.name] = report = check_shards(
                    source.shards,
                    normalizer=normalizer,
                    tokenizer=tokenizer,
                    num_embeddings=1024 if tokenizer is None else tokenizer.num_embeddings,
                    decode=not self.fast,
                    instructions=source.instructions.get("", "file"),
                    workers=self.workers,
                    tokens=source.tokens,
                )
            report.findings[:0] = path_findings(source)
            if source is sources[-1] and all(each.ok for each in reports.values()):
                report.findings[:0] = together_findings(sources)
            out = console()
            text = report.table(width=out.width if out.is_terminal else None)
            out.print(text, markup=False, highlight=False, soft_wrap=True)
            if self.report is not None:
                from rdt2.data.pages.check import write_check_page

                page = self.report
                if len(reports) > 1:
                    page = page.with_stem(f"{page.stem}-{source.name}")
                note(f"page: {write_check_page(page, report, title=f'Check of {source.name}')}")
        figures = {name: report.as_dict() for name, report in reports.items()}
        save_json(self.json, next(iter(figures.values())) if len(figures) == 1 else figures)
        if not all(report.ok for report in reports.values()):
            sys.exit(1)


@dataclass(kw_only=True)
class DataStats:
    """Describe data, and fit a normalizer to them.

    Samples, episodes, sentences, and the range of every action.

    For example:
      rdt2 data stats data/pick --json stats.json
      rdt2 data stats data/pick --fit runs/normalizer --compare normalizer.pt
      rdt2 train expert --data data/pick --set normalizer=runs/normalizer ...
    """

    data: Data
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    fit: Path | None = None
    """Fit a normalizer and write it to this folder: normalizer.safetensors, the published form
    normalizer.pt, and ranges.png, which shows the actions in its numbers."""
    mode: Literal["limits", "mean_std"] = "limits"
    """How to fit: 'limits' maps positions and widths to -1..1, as the published one; 'mean_std' gives positions,
    rotations and widths each a standard deviation of 1."""
    compare: str | None = None
    """Another normalizer (file, folder or hub id): how far its numbers reach on this data; drawn in ranges.png."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from collections import Counter

        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import ShardIndex, action_statistics, open_sources, split_by_episode
        from rdt2.data.mixture import has_instructions
        from rdt2.data.stats import magnified, recorded_minutes
        from rdt2.normalizer import LinearNormalizer
        from rdt2.progress import note

        data_there(self.data)
        other = None if self.compare is None else LinearNormalizer.from_pretrained(self.compare)
        sources = open_sources(self.data, instructions="ignore")
        told = all(source.instructions or has_instructions(source) for source in sources)
        index = ShardIndex(self.data, instructions="file" if told else "ignore")
        if not told:
            note("no instructions.json beside the shards: sentences are left out")
        statistics = action_statistics(index)
        sentences = Counter(index.instruction_counts() if told else {})
        train, held_out = split_by_episode(index)
        minutes, timed = recorded_minutes(index)
        # two data sets may both have an episode_000000
        named = sum(
            len({name for name, _ in index.episode_runs(part)} - {""}) for part in range(len(index.sources))
        )
        values = {
            "samples": len(index),
            "minutes": minutes,
            "shards": len(index.shards),
            "episodes": named,
            "tokens": index.has_tokens,
            "training_samples": len(train),
            "held_out_samples": len(held_out),
            **dataclasses.asdict(statistics),
            "sentences": dict(sentences.most_common()),
        }
        out = console()
        out.print(
            f"{len(index)} samples, {_counted(named, 'episode') if named else 'episodes without names'}, "
            f"{_counted(len(index.shards), 'shard')}, {minutes:.1f} minutes"
            f"{'' if timed else ' at 30 samples a second (no times are recorded)'}, "
            f"tokens: {'yes' if index.has_tokens else 'no'}; training holds out {len(held_out)} samples"
        )
        if not len(train):
            note("that leaves none to train on: record more, or train with --set held_out=0")
        if not named:
            note("'rdt2 data check' counts episodes without names by what fits together")
        out.print(range_table(statistics))
        if told:
            out.print(sentence_table(sentences))
        normalizers = {}
        if self.fit is not None:
            normalizers[f"fitted ({self.mode})"] = fitted = statistics.normalizer(self.mode)
            for arm, detail in magnified(statistics.minimum, statistics.maximum, fitted).items():
                values.setdefault("magnified", {})[arm] = detail  # type: ignore[attr-defined]
                note(
                    f"warning: the {arm} arm hardly moves, and the fitted normalizer magnifies that: {detail}"
                )
            fitted.save_pretrained(self.fit)
            fitted.save_published(self.fit / "normalizer.pt")
        if other is not None:
            normalizers[str(self.compare)] = other
            ends = (statistics.minimum, statistics.maximum)
            reach = max(float(abs(other.normalize(end)).max()) for end in ends)
            values["compared_reach"] = reach
            out.print(f"in the numbers of {self.compare} the data reach {reach:.2f}; models expect about 1")
        if self.fit is not None:
            from rdt2.data.stats import ranges_figure

            figure = ranges_figure(statistics, normalizers, title=f"actions of {self.data}")
            figure.savefig(self.fit / "ranges.png", dpi=110)
            out.print(f"normalizer written to {self.fit}", highlight=False)
        save_json(self.json, values)


@dataclass(kw_only=True)
class DataTokenize:
    """Write the action tokens of a tokenizer: what VQ training reads.

    An interrupted run goes on. They go into new shards, or with --sidecar into small files beside the shards, which
    saves writing all pictures again. Either way it is kept which tokenizer and normalizer made them, and never mixed.

    For example:
      rdt2 data tokenize data/pick --tokenizer runs/tokenizer --out data/tokens
      rdt2 data tokenize data/pick --tokenizer runs/tokenizer --sidecar
      rdt2 data tokenize s3://bucket/pick --tokenizer runs/tokenizer --sidecar --out tokens
      rdt2 train vq --data tokens/dataset.yaml --out runs/vq
    """

    data: Data
    """Folder of shards, dataset yaml, or URL."""
    tokenizer: str
    """Folder or hub id of the action tokenizer."""
    out: Path | None = None
    """Folder for the new shards. With --sidecar: for the token files and a dataset.yaml to train on; none puts them
    beside the shards."""
    sidecar: bool = False
    """Write shard-000000.tar.tokens for each shard (54 bytes a sample) instead of new shards."""
    normalizer: str | None = None
    """Normalizer file, folder or hub id that the tokenizer was trained with; none takes the one beside it."""
    device: str = "auto"
    """Where the tokenizer runs: cpu, cuda or cuda:1; auto takes a GPU where there is one."""
    workers: int = 0
    """Processes that read ahead; 0 reads between the batches."""
    json: Path | None = None
    """Write the count to this file. - is stdout, alone."""

    def run(self) -> None:
        import torch

        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import tokenize_beside, tokenize_shards
        from rdt2.data.mixture import open_sources
        from rdt2.data.normalizers import tokenizer_normalizer
        from rdt2.errors import ConfigError
        from rdt2.policy.place import checked_device
        from rdt2.progress import note, working
        from rdt2.tokenizer import ActionTokenizer

        data_there(self.data)
        if self.out is None and not self.sidecar:
            raise ConfigError(
                "where to? --out FOLDER for new shards, or --sidecar for files beside the shards."
            )
        if self.workers < 0:
            raise ConfigError(f"--workers is {self.workers}, expected 0 or more.")
        auto = "cuda" if torch.cuda.is_available() else "cpu"
        device = checked_device(auto if self.device == "auto" else self.device)
        tokenizer = ActionTokenizer.from_pretrained(self.tokenizer).eval().to(device)
        normalizer = tokenizer_normalizer(self.tokenizer, self.normalizer, self.data)
        options: dict[str, Any] = {"device": device, "workers": self.workers}
        if not self.sidecar and len(open_sources(self.data, instructions="ignore")) > 1:
            note(
                "the new shards are one data set: training on them sees every sample equally often, whatever the "
                f"weights in {self.data}. To keep these, write --sidecar without --out, and train on the same yaml."
            )
        with working(f"tokenizing {self.data}"):
            if self.sidecar:
                written = tokenize_beside(self.data, tokenizer, normalizer, out_dir=self.out, **options)
            else:
                assert self.out is not None
                written = tokenize_shards(self.data, self.out, tokenizer, normalizer, **options)
        place = self.out or f"files beside the shards of {self.data}"
        console().print(
            f"tokens of {written} samples written to {place}, by tokenizer {tokenizer.digest} and normalizer "
            f"{normalizer.digest}",
            highlight=False, soft_wrap=True,
        )  # fmt: skip
        save_json(self.json, {
            "samples": written, "out": str(place), "tokenizer": tokenizer.digest, "normalizer": normalizer.digest,
        })  # fmt: skip


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def sentence_table(sentences: Counter[str]) -> Table:
    """The most frequent sentences and their samples."""
    from rich.table import Table

    table = Table(title=_counted(len(sentences), "sentence"), title_justify="left")
    table.add_column("sentence")
    table.add_column("samples", justify="right")
    for sentence, count in sentences.most_common(12):
        table.add_row(sentence, str(count))
    if rest := sentences.most_common()[12:]:
        table.add_row(f"and {len(rest)} more", str(sum(count for _, count in rest)))
    return table


def range_table(statistics: ActionStatistics) -> Table:
    """Smallest and largest position and opening of each arm."""
    from rich.table import Table

    from rdt2.action import SIDES, arm_slice

    table = Table(title="range of the actions, from the observation on", title_justify="left")
    for name in ("arm", "x (mm)", "y (mm)", "z (mm)", "gripper (mm)"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in SIDES:
        low, high = (ends[arm_slice(arm)] for ends in (statistics.minimum, statistics.maximum))
        # position and width of an arm's ten columns
        table.add_row(arm, *(f"{round(1000 * low[k])} .. {round(1000 * high[k])}" for k in (0, 1, 2, 9)))
    return table
