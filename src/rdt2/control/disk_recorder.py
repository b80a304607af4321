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
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.control.telling import Teller
from rdt2.data.recordings import topics
from rdt2.data.recordings.files import ABOUT, RecordingFile, require_mcap
from rdt2.data.recordings.messages import Message
from rdt2.data.recordings.notes import RUNNING, Mark, Notes, write_notes
from rdt2.errors import ConfigError, RDT2Error
from rdt2.files import require_writable, write_problem
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
PATIENCE = 5.0
"""Seconds that `end` waits for a disk that does not answer."""
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
        return [*(replace(each, logged=begins, stamp=begins) for each in self._before.values()), *self._kept]


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
        self._lock = threading.Lock()
        self._sink: RecordingFile | Ring | None = None
        self._teller: Teller | None = None
        self._synced = 0.0
        self.files: list[Path] = []
        """Of this episode: one, or one each time the last seconds were kept."""
        self.problem = ""
        """Why nothing more is recorded."""

    def begin(self, clock: Clock, settings: RobotSettings, *, title: str = "") -> None:
        """A new episode begins; its file is made when there is something to write.

        Args:
            clock: the robot's.
            settings: of the robot.
            title: what a person calls the episode.
        """
        with self._lock:
            self.files, self.problem = [], ""
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
        """Write the last seconds to a file of their own; None of whole episodes, which are kept anyway."""
        with self._lock:
            if not isinstance(self._sink, Ring):
                return None
            messages = self._sink.messages()
        try:
            file = self._open()
            for message in messages:
                file.put(message)
            file.close()
        except (OSError, RDT2Error) as error:
            note(f"the last seconds cannot be kept: {write_problem(error) or error}.")
            return None
        note(f"the last {_span(messages):.1f} s are kept: {file.path}")
        return file.path

    def end(self, result: EpisodeResult, *, mark: Mark | None = None, marked_by: str = "") -> list[Path]:
        """The episode is over, and what was recorded of it is whole.

        Args:
            result: how it went.
            mark: whether it shows what it should; None leaves what a person said meanwhile.
            marked_by: who says so.

        Returns:
            The files.
        """
        if not self._lock.acquire(timeout=PATIENCE):
            self._tell(TimeoutError(f"the disk has not answered for {PATIENCE:.0f} s"))
            return self.files
        sink, self._sink = self._sink, None
        try:
            if self._teller is None:
                return self.files
            if mark is not None and self._notes.mark is None:
                self._notes = replace(self._notes, mark=mark, marked_by=marked_by)
            self._notes = self._known(result)
            if isinstance(sink, RecordingFile):
                sink.put(self._teller.end(result.ending))
                sink.close()
            for path in self.files:
                write_notes(path, self._notes)
        except Exception as error:
            self._sink = sink
            self._fail(error)
        finally:
            self._teller = None
            self._lock.release()
        return self.files

    # ----------------------------------------------------------------------------------------------------- parts

    def _known(self, result: EpisodeResult | None = None) -> Notes:
        """What is known by now."""
        teller = self._teller
        assert teller is not None
        notes = replace(
            self._notes,
            instructions=tuple(teller.sentences),
            corrections=teller.takeovers,
            frames=teller.frames,
        )
        if result is None:
            return notes
        missing = " ".join(filter(None, (result.unrecorded, self.problem)))
        return replace(notes, ending=result.ending, seconds=round(result.seconds, 3), unrecorded=missing)

    def _open(self) -> RecordingFile:
        """A new file with its notes. Raises OSError, RecordingError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        name, number = wall.strftime("%Y%m%d-%H%M%S"), 0
        while (path := self.folder / f"{name}-{number:02d}.mcap").exists():
            number += 1
        notes = replace(self._known(), ending=RUNNING)
        file = RecordingFile(path, {ABOUT: notes.text()})
        self.files.append(path)
        write_notes(path, notes)
        return file

    def _put(self, messages: Iterable[Message]) -> None:
        with self._lock:
            if self.problem or self._teller is None:
                return
            try:
                sink = self._sink = self._sink or self._open()
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
