"""`rdt2 data recordings`, `mark` and `recover`: what `rdt2 run --record` left behind."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tyro.conf import Positional

from rdt2.cli.choices import DataPath


@dataclass(kw_only=True)
class DataRecordings:
    """List recordings of 'rdt2 run --record': length, ending, mark.

    What is missing in one is told. Each is an MCAP file that Foxglove and rerun open (rerun FILE.mcap), and a .json of
    notes beside it.

    For example:
      rdt2 data recordings recordings
    """

    data: DataPath
    """A folder of recordings, or one .mcap file."""
    json: Path | None = None
    """Write the list to this file. - is stdout, alone."""

    def run(self) -> None:
        from dataclasses import asdict

        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        from rdt2.cli.output import console, save_json
        from rdt2.data.recordings import RUNNING, find_recordings, read_notes
        from rdt2.errors import RecordingError
        from rdt2.progress import note

        table = Table(title=str(self.data), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
        table.add_column("recording", overflow="fold")
        for name in ("seconds", "frames", "corrected", "mark"):
            table.add_column(name, justify="left" if name == "mark" else "right", no_wrap=True)
        rows, cut = [], 0
        for path in find_recordings(self.data):
            try:
                notes = read_notes(path)
            except RecordingError as error:
                note(str(error))
                continue
            cut += notes.ending == RUNNING
            rows.append({"recording": path, **asdict(notes)})
            said = Text("\n".join((path.name, "; ".join(notes.instructions), f"ending: {notes.ending}")))
            counts = (f"{notes.seconds:.1f}", str(notes.frames), str(notes.corrections), notes.mark or "")
            table.add_row(said, *counts)
            if notes.unrecorded:
                note(f"{path.name}: {notes.unrecorded}")
        console().print(table)
        if cut:
            note(
                f"{cut} were cut off; they are read as far as they go. For viewers: rdt2 data recover {self.data}"
            )
        save_json(self.json, {"recordings": rows})


@dataclass(kw_only=True)
class DataMark:
    """Say whether recordings show what they should.

    'rdt2 data convert --from recording' takes successes.

    For example:
      rdt2 data mark recordings/20260102-101500-00.mcap success
      rdt2 data mark recordings none                           takes all marks back
    """

    data: DataPath
    """One .mcap file, or a folder: all in it."""
    mark: Positional[Literal["success", "failure", "none"]]
    """What they show; none takes the mark back."""
    json: Path | None = None
    """Write which were marked to this file; - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.data.recordings import find_recordings, mark_recording

        paths = find_recordings(self.data)
        for path in paths:
            mark_recording(path, None if self.mark == "none" else self.mark)
        console().print(f"{len(paths)} marked: {self.mark}", highlight=False)
        save_json(self.json, {"mark": None if self.mark == "none" else self.mark, "recordings": paths})


@dataclass(kw_only=True)
class DataRecover:
    """Give recordings that were cut off an end.

    After a kill, a power cut or a full disk they get an end and an index, as viewers want them. What was on the disk
    stays: at most the last second before the end is missing. Whole recordings stay as they are.

    For example:
      rdt2 data recover recordings
    """

    data: DataPath
    """A folder of recordings, or one .mcap file."""
    json: Path | None = None
    """Write what was found to this file; - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.data.recordings import RUNNING, find_recordings, recover
        from rdt2.errors import RecordingError
        from rdt2.progress import note

        paths = find_recordings(self.data)
        cut, lost = [], 0
        for path in paths:
            try:
                notes = recover(path)
            except RecordingError as error:
                note(str(error))
                lost += 1
                continue
            if notes.ending == RUNNING:
                cut.append(path)
                console().print(f"{path}: {notes.seconds:.1f} s, {notes.frames} frames", highlight=False)
        console().print(
            f"{len(paths)} recordings, {len(cut)} of them were cut off and have an end now"
            + (f"; of {lost} nothing can be read." if lost else "."),
            highlight=False,
        )
        save_json(self.json, {"recordings": len(paths), "recovered": cut, "lost": lost})
