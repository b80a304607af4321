"""Recordings of the loop, read again: what was seen, measured and told, and as an episode to learn from."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.data.recordings import topics
from rdt2.data.recordings.files import ABOUT, read_file, rewrite
from rdt2.data.recordings.messages import Message, unpack
from rdt2.data.recordings.notes import RUNNING, Mark, Notes, notes_path, write_notes
from rdt2.errors import RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


def find_recordings(place: Path) -> list[Path]:
    """The MCAP files of a folder, in the order of their names, or the one that is named.

    Raises:
        RecordingError: there is none.
    """
    if place.is_file():
        return [place]
    if not place.is_dir():
        raise RecordingError(f"{place}: no such file or folder.")
    found = sorted(path for path in place.rglob("*.mcap") if not path.name.startswith("."))
    if not found:
        raise RecordingError(f"{place}: holds no .mcap file. Record with: rdt2 run --record {place}")
    return found


@dataclass(frozen=True, eq=False)
class Recording:
    """One episode as it was recorded. All times are seconds of one clock that begins with the first message."""

    path: Path
    notes: Notes
    topics: dict[str, list[Message]]
    cut: str
    """Why the file has no end; empty for a whole one."""
    begins: int
    """Nanoseconds since 1970."""

    @property
    def sides(self) -> tuple[str, ...]:
        """The arms there are, right first."""
        return tuple(side for side in ("right", "left") if side in self.notes.robot["arms"])

    def times(self, topic: str) -> Float[ndarray, " n"]:
        """What moments the messages of a topic speak of."""
        return np.array([1e-9 * (message.stamp - self.begins) for message in self.topics.get(topic, ())])

    def logged(self, topic: str) -> Float[ndarray, " n"]:
        """When they were known."""
        return np.array([1e-9 * (message.logged - self.begins) for message in self.topics.get(topic, ())])

    def values(self, topic: str) -> list[Any]:
        """What they say, see `messages.unpack`. Raises RecordingError: a message is damaged."""
        found = []
        for number, message in enumerate(self.topics.get(topic, ())):
            try:
                found.append(unpack(message))
            except (ValueError, KeyError, struct.error) as error:
                raise RecordingError(
                    f"{self.path}: message {number} of {topic} is damaged ({error})."
                ) from None
        return found

    def spans(self, topic: str) -> Iterator[tuple[float, float, str]]:
        """From when to when (when it was said) the text of a topic held; the last to the end of time."""
        times = [*self.times(topic).tolist(), np.inf]
        for (begins, ends), text in zip(pairwise(times), self.values(topic), strict=True):
            yield begins, ends, text


def read_recording(path: Path, *, pictures: bool = True) -> Recording:
    """A recording, also one that was cut off.

    Args:
        path: the MCAP file.
        pictures: False leaves them out.

    Raises:
        RecordingError: nothing of it can be read.
    """
    contents = read_file(path, pictures=pictures)
    found: dict[str, list[Message]] = {}
    for message in contents.messages:
        found.setdefault(message.topic, []).append(message)
    begins = min((message.stamp for message in contents.messages), default=0)
    notes = _notes_beside(path) or Notes.parse(contents.about.get(ABOUT, ""), where=str(path))
    return Recording(path, notes, found, contents.cut, begins)


def read_notes(path: Path) -> Notes:
    """What is said about a recording; of one that nobody ended, what it says itself. Raises RecordingError: nothing."""
    beside = _notes_beside(path)
    if beside is not None and beside.ending != RUNNING:
        return beside
    return known(read_recording(path))


def recover(path: Path) -> Notes:
    """Give a recording that was cut off an end, an index and notes; one that is whole stays as it is.

    Raises:
        RecordingError: nothing of it can be read, or it cannot be written; it is as before then.
    """
    recording = read_recording(path)
    notes = known(recording)
    if recording.cut:
        rewrite(path, read_file(path))
    if notes != _notes_beside(path):
        write_notes(path, notes)
    return notes


def mark_recording(path: Path, mark: Mark | None) -> None:
    """Say afterwards whether a recording shows what it should; None takes it back.

    Raises:
        RecordingError: no recording, or its notes cannot be written.
    """
    write_notes(path, replace(read_notes(path), mark=mark, marked_by="a person, afterwards" if mark else ""))


def _notes_beside(path: Path) -> Notes | None:
    file = notes_path(path)
    return Notes.parse(file.read_text(encoding="utf-8"), where=str(file)) if file.is_file() else None


def known(recording: Recording) -> Notes:
    """The notes of a recording that nobody ended, by what it holds."""
    notes = recording.notes
    if notes.ending != RUNNING:
        return notes
    marks = [text for _, name, text in recording.values(topics.EVENTS) if name == "mark"]
    logged = [message.logged for messages in recording.topics.values() for message in messages]
    cameras = recording.topics.get(topics.CAMERA.format(side=recording.sides[0]), ())
    return replace(
        notes,
        mark=notes.mark or (marks[-1] if marks and marks[-1] != "none" else None),
        seconds=round(1e-9 * (max(logged) - min(logged)), 3) if logged else 0.0,
        instructions=tuple(dict.fromkeys(recording.values(topics.INSTRUCTION))),
        frames=len(cameras),
        corrections=recording.values(topics.DRIVER).count("person"),
    )
