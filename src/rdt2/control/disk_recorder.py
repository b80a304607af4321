"""Records episodes to disk: pictures, states, wishes, commands, chunks, holds, faults, timings and marks.

    recorder = DiskRecorder("recordings", policy={"policy": "demo-fm"})
    recorder.begin(robot.clock, settings)
    result = run_episode(robot, policy, sentence, settings=settings, recorder=recorder)
    recorder.end(result, mark="success", marked_by="a person")

Whatever it meets, such as a full disk, ends the recording and nothing else: it is told at once, and again by `end`.
"""

from __future__ import annotations

import threading
import time as wall
from collections import deque
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.control.telling import Teller
from rdt2.data.recordings import topics
from rdt2.data.recordings.files import ABOUT, RecordingFile, require_mcap
from rdt2.data.recordings.messages import Message
from rdt2.data.recordings.notes import Mark, Notes, write_notes
from rdt2.data.recordings.reading import Recording, known
from rdt2.errors import ConfigError
from rdt2.files import require_writable, whole_file, write_problem
from rdt2.progress import note

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.control.recording import Moment
    from rdt2.control.result import EpisodeResult
    from rdt2.observation import Observation
    from rdt2.robot import Clock
    from rdt2.robot.settings import RobotSettings

SYNC = 0.4
"""Seconds after which what was recorded is pushed to the disk: with what waits in a chunk less than one is lost."""
PATIENCE, A_SECOND = 5.0, 0.2
"""Seconds that `end` waits for a disk that does not answer, and so many more for each second that may be kept."""
LONGEST = 600.0
"""Seconds that may be kept in memory."""
LASTING = topics.INSTRUCTION, topics.DRIVER
"""Said when it changes: what was said before the last seconds holds in them."""


class Ring:
    """The last seconds, in memory."""

    def __init__(self, seconds: float) -> None:
        self._kept: deque[Message] = deque()
        self._before: dict[str, Message] = {}
        self._span = round(1e9 * seconds)

    def put(self, message: Message) -> None:
        """Add one message, and forget those that are too old."""
        self._kept.append(message)
        while self._kept[0].logged < message.logged - self._span:
            old = self._kept.popleft()
            if old.topic in LASTING:
                self._before[old.topic] = old

    def messages(self) -> list[Message]:
        """What is there now, after what still held when it began."""
        if not self._kept:
            return []
        begins = self._kept[0].logged
        anew = {message.topic for message in takewhile(lambda message: message.logged == begins, self._kept)}
        still = [
            replace(each, logged=begins, stamp=begins)
            for each in self._before.values()
            if each.topic not in anew
        ]
        return [*still, *self._kept]


class DiskRecorder:
    """A recorder for `run_episode`.

    Args:
        folder: where recordings go; made where it is missing.
        policy: which one drives, as plain values.
        last: keep only so many seconds, in memory, until `keep` is called; None records whole episodes.

    Raises:
        ConfigError: mcap is not installed, or `last` makes no sense. RecordingError: the folder cannot be written to.
    """

    wants_pictures = True

    def __init__(self, folder: str | Path, *, policy: Mapping[str, Any], last: float | None = None) -> None:
        require_mcap()
        if last is not None and not 1 <= last <= LONGEST:
            raise ConfigError(
                f"the last {last:g} seconds cannot be kept in memory, expected 1 to {LONGEST:g}."
            )
        self.folder = Path(require_writable(folder))
        self._policy, self._last, self._notes = dict(policy), last, Notes({})
        self._lock, self._keeping = threading.Lock(), threading.Lock()
        self._sink: RecordingFile | Ring | None = None
        self._teller: Teller | None = None
        self._synced = 0.0
        self._clips: dict[Path, Notes] = {}
        self.files: list[Path] = []
        """Of this episode: one, or one each time the last seconds were kept."""
        self.problem = ""
        """Why nothing more is recorded."""
        self.unkept = ""
        """Why `keep` wrote nothing when it was last asked; empty where it wrote a file."""

    def begin(self, clock: Clock, settings: RobotSettings, *, title: str = "") -> None:
        """A new episode begins; its file is made when there is something to write.

        Args:
            clock: the robot's.
            settings: of the robot.
            title: what a person calls the episode.
        """
        with self._lock:
            self.files, self._clips, self.problem = [], {}, ""
            self._teller, self._synced = Teller(clock), wall.monotonic()
            began, clip = wall.strftime("%Y-%m-%dT%H:%M:%S%z"), self._last is not None
            self._notes = Notes(settings.model_dump(mode="json"), self._policy, began, title, clip=clip)
            self._sink = None if self._last is None else Ring(self._last)

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """As of a recorder: what the policy was asked, and what it answered."""
        if self._teller is not None:
            self._put(self._teller.cycle(observation, chunk, time))

    def on_frame(self, moment: Moment) -> None:
        """As of a recorder: everything since the last moment."""
        if self._teller is not None:
            self._put(self._teller.moment(moment))

    def mark(self, mark: Mark | None) -> None:
        """A person says whether the episode shows what it should; until the next one begins."""
        if self._teller is not None:
            self._notes = replace(self._notes, mark=mark, marked_by="a person" if mark else "")
            self._put([self._teller.mark(mark)])

    def keep(self) -> Path | None:
        """Write the last seconds to a file of their own, whole or not at all.

        Returns:
            The file; None where there is none, and `unkept` says why: nothing has been recorded yet, whole episodes are
            kept anyway, recording has ended, or the disk refuses.
        """
        with self._keeping:  # `end` waits for what is written here
            with self._lock:
                teller, begun = self._teller, self._notes
                messages = self._sink.messages() if isinstance(self._sink, Ring) else []
                self.unkept = self._nothing_to_keep(messages)
            if self.unkept:
                return None
            try:
                path = self._free_path()
                notes = _notes_of(messages, begun, path)
                with whole_file(path) as partial:
                    partial.unlink()
                    file = RecordingFile(partial, {ABOUT: notes.text()})
                    try:
                        for message in messages:
                            file.put(message)
                        file.close()
                    finally:
                        file.abandon()
                    write_notes(path, notes)
            except Exception as error:  # also of what no disk is to blame for
                self.unkept = write_problem(error) or str(error) or type(error).__name__
                return None
            with self._lock:
                if self._teller is teller:
                    self.files.append(path)
                    self._clips[path] = notes
        note(f"the last {notes.seconds:.1f} s are kept: {path}")
        return path

    def end(self, result: EpisodeResult, *, mark: Mark | None = None, marked_by: str = "") -> list[Path]:
        """The episode is over, and what was recorded of it is whole.

        Args:
            result: how it went.
            mark: whether it shows what it should; None leaves what a person said meanwhile.
            marked_by: who says so.

        Returns:
            The files.
        """
        patience = PATIENCE + A_SECOND * (self._last or 0.0)
        until = wall.monotonic() + patience
        with ExitStack() as held:
            for lock in (self._keeping, self._lock):
                if not lock.acquire(timeout=max(0.0, until - wall.monotonic())):
                    self._tell(TimeoutError(f"the disk has not answered for {patience:.0f} s"))
                    return self.files
                held.callback(lock.release)
            sink, self._sink = self._sink, None
            try:
                if self._teller is not None:
                    if mark is not None and self._notes.mark is None:
                        self._notes = replace(self._notes, mark=mark, marked_by=marked_by)
                    self._finish(sink, self._teller, result)
            except Exception as error:
                self._sink = sink
                self._fail(error)
            finally:
                self._teller = None
        return self.files

    # ----------------------------------------------------------------------------------------------------- parts

    def _finish(self, sink: RecordingFile | Ring | None, teller: Teller, result: EpisodeResult) -> None:
        """Write the end of a whole episode, and beside every file how the episode ended. Raises what the disk does."""
        if isinstance(sink, RecordingFile):
            sink.put(teller.end(result.ending))
            sink.close()
        whole = replace(self._known(teller), seconds=round(result.seconds, 3))
        missing = " ".join(filter(None, (result.unrecorded, self.problem)))
        for path in self.files:
            notes = replace(self._clips.get(path, whole), ending=result.ending, unrecorded=missing)
            write_notes(path, replace(notes, mark=self._notes.mark, marked_by=self._notes.marked_by))

    def _known(self, teller: Teller) -> Notes:
        """What is known of the whole episode by now."""
        return replace(
            self._notes,
            instructions=tuple(teller.sentences),
            corrections=teller.takeovers,
            frames=teller.frames,
        )

    def _nothing_to_keep(self, messages: list[Message]) -> str:
        """Why there are no last seconds, if so."""
        if self.problem:
            return self.problem
        if self._last is None:
            return "whole episodes are recorded, and this one with them"
        return "" if _span(messages) else "nothing of this episode has been recorded yet"

    def _free_path(self) -> Path:
        """A name that no recording has. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name, number = wall.strftime("%Y%m%d-%H%M%S"), 0
        while (path := self.folder / f"{name}-{number:02d}.mcap").exists():
            number += 1
        return path

    def _open(self, teller: Teller) -> RecordingFile:
        """A new file with its notes. Raises OSError, RecordingError."""
        path, notes = self._free_path(), self._known(teller)
        file = RecordingFile(path, {ABOUT: notes.text()})
        self.files.append(path)
        write_notes(path, notes)
        return file

    def _put(self, messages: Iterable[Message]) -> None:
        with self._lock:
            if self.problem or self._teller is None:
                return
            try:
                sink = self._sink = self._sink or self._open(self._teller)
                for message in messages:
                    sink.put(message)
                if isinstance(sink, RecordingFile) and wall.monotonic() - self._synced > SYNC:
                    sink.sync()
                    self._synced = wall.monotonic()
            except Exception as error:  # such as a picture that no encoder takes
                self._fail(error)

    def _fail(self, error: Exception) -> None:
        """End the recording; what is on the disk stays."""
        sink, self._sink = self._sink, None
        if isinstance(sink, RecordingFile):
            sink.abandon()
        self._tell(error)

    def _tell(self, error: Exception) -> None:
        self.problem = f"Recording has ended: {write_problem(error) or error}."
        note(f"{self.problem} The arms go on.")


def _span(messages: list[Message]) -> float:
    """Seconds."""
    return 1e-9 * (messages[-1].logged - messages[0].logged) if messages else 0.0


def _notes_of(messages: list[Message], episode: Notes, path: Path) -> Notes:
    """The notes of some seconds of an episode: what is counted is counted in them alone."""
    found: dict[str, list[Message]] = {}
    for message in messages:
        found.setdefault(message.topic, []).append(message)
    return known(Recording(path, episode, found, cut="", begins=messages[0].logged))
