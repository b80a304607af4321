"""`rdt2 data convert`, `to-lerobot` and `view`: recordings of any source to shards, back, and on a page."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from tyro.conf import arg

from rdt2.cli.choices import DataPath, Out
from rdt2.data.sources import SourceKind, SourceOptions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rdt2.data import Episode

TASKS = ("pick", "place", "press", "all")


@dataclass(kw_only=True)
class DataConvert:
    """Make training shards from recordings of other projects.

    Recordings rarely say which hand is robot 0, how a rotation is stored or how fast they were taken. What is
    not said is guessed, and the command stops and shows the guesses with the flags that confirm or correct
    them, and all that has to be said; wrong ones give data that look right and teach the wrong motion. Names of
    columns (left_qw, right_roll, gripper) are believed before their count; --pose-names gives or corrects them.
    Afterwards: rdt2 data check OUT.

    umi-zarr: dataset.zarr.zip of UMI. lerobot: a LeRobotDataset v3.0 or v2.1 whose state are end-effector
    poses; v3 also in Lance tables, one or a folder of them, such as Hy-Embodied-0.5-VLA-Data (pip install
    'rdt2[lance]'). hdf5: a folder of FastUMI or ALOHA-style files, an episode a file. mcap: ROS 2 recordings, an
    episode a file. shards: shards made otherwise. recording: what 'rdt2 run --record' wrote, which knows its robot; by
    default only what is marked as a success (--marks). sim: no recording: DATA is a task, as in 'rdt2 data record'.

    An interrupted conversion goes on; the shards are the same bytes whatever --workers.

    For example:
      rdt2 data convert dataset.zarr.zip data/cups --from umi-zarr --instruction "Pick up the cup."
      rdt2 data convert recordings data/fold --from hdf5 --fps 30 --arms left-right --rotation xyzw --workers 4
      rdt2 data convert bags data/tidy --from mcap --pose-key "/{arm}/tcp_pose" --gripper-key "/{arm}/opening"
      rdt2 data convert recordings data/mine --from recording --marks corrections
      rdt2 data convert my_dataset data/set --from lerobot --pose-key observation.eef --rotation rotvec
      rdt2 data convert files data/one --from hdf5 --pose-names x y z roll pitch yaw --rotation euler-xyz \\
        --angle-unit deg --position-unit mm --gripper-key observations/gripper --arms right --missing-arm still
    """

    data: DataPath
    """The recordings: a file or a folder; with --from sim: pick, place, press or all."""
    out: Out
    """Folder for shards, instructions.json, normalizer and dataset.yaml."""
    kind: Annotated[
        Literal["umi-zarr", "lerobot", "hdf5", "mcap", "shards", "recording", "sim"], arg(name="from")
    ]
    """Layout of the recordings."""
    source: SourceOptions = field(default_factory=SourceOptions)
    accept_guesses: bool = False
    """Go on with all guesses as they are."""
    tail: Literal["drop", "pad"] = "drop"
    """Frames with less than 0.8 s of motion left: leave them out, or hold the last pose."""
    stride: int = 1
    """Keep every n-th sample of 30 a second."""
    samples_per_shard: int = 5000
    """A shard gets whole episodes until they have about so many samples."""
    episodes: int | None = None
    """Only the first so many episodes; with --from sim: successful episodes to record, 100 unless said."""
    workers: int = 1
    """Processes that convert at the same time."""
    engine: Literal["processes", "ray"] = "processes"
    """What the workers are: processes here, or tasks of the Ray cluster that RAY_ADDRESS names."""
    skip_damaged: bool = False
    """Leave damaged episodes out and list them, instead of stopping at the first."""
    json: Path | None = None
    """Write the counts to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.data.convert import convert
        from rdt2.progress import note, progress

        if self.kind == "sim":
            self._record()
            return
        with progress("shards", None) as advance:
            finished = 0

            def on_group(done: int, total: int) -> None:
                nonlocal finished
                advance(done - finished, total=total)
                finished = done

            report = convert(
                self.data,
                self.out,
                kind=self.kind,
                options=self.source,
                accept_guesses=self.accept_guesses,
                tail=self.tail,
                stride=self.stride,
                samples_per_shard=self.samples_per_shard,
                workers=self.workers,
                engine=self.engine,
                on_error="skip" if self.skip_damaged else "raise",
                episodes=self.episodes,
                progress=on_group,
            )
        console().print(
            f"{report.samples} samples of {report.episodes} episode{'s' * (report.episodes != 1)} in {report.shards} "
            f"shard{'s' * (report.shards != 1)}, {self.out} "
            f"({report.seconds:.0f} s)",
            highlight=False,
        )
        for line in report.notes:
            note(line)
        if report.too_short:
            few = "1 episode is" if len(report.too_short) == 1 else f"{len(report.too_short)} episodes are"
            note(f"{few} shorter than 0.8 s and left out (--tail pad keeps them)")
        for line in report.skipped:
            note(f"left out: {line}")
        for arm, detail in report.magnified.items():
            note(f"warning: the {arm} arm hardly moves, and the fitted normalizer magnifies that: {detail}")
        note(f"now look at them: rdt2 data check {self.out}")
        save_json(self.json, report.as_dict())

    def _record(self) -> None:
        """The scripted demonstrator of the simulated cell, which knows its arms, rate and units."""
        from rdt2.cli.data import DataRecord
        from rdt2.errors import ConfigError

        task = str(self.data)
        if task not in TASKS:
            raise ConfigError(f"--from sim: DATA is {task!r}, expected one of {', '.join(TASKS)}.")
        if self.source != SourceOptions() or self.tail != "drop" or self.engine != "processes":
            raise ConfigError("--from sim takes --episodes, --stride, --workers and --json only.")
        DataRecord(
            out=self.out,
            task=task,  # type: ignore[arg-type]
            episodes=100 if self.episodes is None else self.episodes,
            stride=self.stride,
            workers=self.workers,
            json=self.json,
        ).run()


@dataclass(kw_only=True)
class DataToLerobot:
    """Write shards as a LeRobotDataset v3.0.

    It has absolute poses in the frame of each episode's start, and videos.

    For example:
      rdt2 data to-lerobot data/pick lerobot/pick
    """

    data: DataPath
    """Folder of shards, with every frame of an episode or every few."""
    out: Out
    """New folder for the dataset."""
    json: Path | None = None
    """Write the counts to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.data.lerobot_writer import write_lerobot
        from rdt2.data.sources import open_source
        from rdt2.progress import note, progress

        source = open_source(self.data, "shards")
        with progress("episodes", len(source)) as advance:

            def told() -> Iterator[Episode]:
                for episode in source:
                    yield episode
                    advance()

            count = write_lerobot(told(), self.out)
        console().print(f"{count} episode{'s' * (count != 1)} written to {self.out}", highlight=False)
        if count != len(source):
            note(
                f"the {len(source)} episodes of {self.data} have {count} pieces: where frames are missing, a "
                f"LeRobotDataset, which has one even rate, begins another episode"
            )
        save_json(self.json, {"episodes": count, "out": str(self.out)})


@dataclass(kw_only=True)
class DataView:
    """Look at episodes, on a page or in rerun.

    Both cameras, both paths in 3-D, widths, and the chunk at the cursor.

    For example:
      rdt2 data view data/pick --out pick.html
      rdt2 data view dataset.zarr.zip --from umi-zarr --arms right-left --rerun cups.rrd
    """

    out_is_file: ClassVar[bool] = True

    data: DataPath
    """Folder of shards, or recordings of another layout."""
    kind: Annotated[SourceKind, arg(name="from")] = "shards"
    """Layout of the recordings."""
    source: SourceOptions = field(default_factory=SourceOptions)
    out: Path = Path("episodes.html")
    """Page to write."""
    rerun: str | None = None
    """Instead of the page: an .rrd file to write, or 'viewer' to start one."""
    first: int = 0
    """Number of the first episode shown."""
    episodes: int = 3
    """How many episodes are shown."""
    every: int = 3
    """The page shows every n-th picture; paths are whole."""
    json: Path | None = None
    """Write which episodes are shown to this file; - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.data.sources import open_source
        from rdt2.errors import ConfigError
        from rdt2.progress import note, progress

        source = open_source(self.data, self.kind, self.source)
        for line in source.notes:
            note(line)
        for guess in source.guesses:
            note(f"guessed: {guess.flag} ({guess.reason})")
        numbers = range(len(source))[self.first : self.first + self.episodes]
        if self.first < 0 or not numbers:
            there = "there is 1 episode" if len(source) == 1 else f"there are {len(source)} episodes"
            raise ConfigError(f"--first {self.first} --episodes {self.episodes}: {there}, from 0.")
        with progress("episodes", len(numbers)) as advance:

            def shown() -> Iterator[Episode]:
                for number in numbers:
                    yield source[number]
                    advance()

            if self.rerun is None:
                from rdt2.data.pages.view import write_view_page

                where = str(write_view_page(self.out, shown(), title=str(self.data), every=self.every))
            else:
                from rdt2.data.pages.rerun import write_rerun

                write_rerun(shown(), None if self.rerun == "viewer" else self.rerun)
                where = self.rerun
        console().print(
            f"{len(numbers)} of {len(source)} episode{'s' * (len(source) != 1)}: {where}", highlight=False
        )
        names = [source.names[number] for number in numbers]
        save_json(self.json, {"episodes": names, "all": len(source), "out": where})
