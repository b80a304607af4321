"""Recordings of the loop (`rdt2 run --record`), which know their robot: nothing is guessed.

What is learnt from is what the arms did: poses as measured, in the policy's frame, at the moments of the pictures. Of
the grippers it is what they were told, as it is the trigger of a handheld gripper: fingers that an object holds apart
measure wider than what holds it. A gripper does what it is told its latency later, and its opening is divided by its
scale; the recording's own yaml says both.

Frames are those of one arm's camera. While nobody drives (a pause, a hand-over, a stop) there are none, and no chunk
reaches over that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS
from rdt2.data.episode import Episode
from rdt2.data.recordings import Notes, Recording, find_recordings, read_notes, read_recording, topics
from rdt2.data.resample import nearest
from rdt2.data.sources.alignment import common_frames, poses_at
from rdt2.data.sources.base import OPTIONS, Pictures, Source, grey_picture
from rdt2.data.sources.numbers import to_matrices
from rdt2.data.sources.options import SourceOptions
from rdt2.errors import ConfigError, RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


UNCORRECTED = "without a correction"
"""Why a recording is left out of the corrections."""


class LoopRecordings(Source):
    """See the module. ``path`` is one .mcap file or a folder of them."""

    kind = "recording"
    meaningless = OPTIONS - {"marks", "missing_arm", "instruction"}
    because = "a recording of the loop knows its robot"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: no recording. ConfigError: options that recordings of the loop do not need, or none of
                the recordings has the marks that are asked for.
        """
        super().__init__(path, options)
        self._paths: list[Path] = []
        root = self.path.parent if self.path.is_file() else self.path
        left_out: dict[str, int] = {}
        for file in find_recordings(self.path):
            name = file.relative_to(root).with_suffix("").as_posix()
            try:
                notes = read_notes(file)
            except RecordingError as error:
                self.damaged[len(self._paths)] = error
            else:
                reason = _unwanted(notes, self.options.marks)
                if not reason and self.options.marks == "corrections" and _nobody_corrects(file):
                    reason = UNCORRECTED
                    self.notes.append(
                        f"{name} is passed over: no frame of it was driven by the person who took over"
                    )
                if reason:
                    left_out[reason] = left_out.get(reason, 0) + 1
                    continue
                if len(notes.robot["arms"]) < len(ARMS) and self.options.missing_arm == "refuse":
                    raise ConfigError(
                        f"{file}: robot {notes.robot['name']!r} has one arm and the models move two. Add --missing-arm "
                        "still to have the other one stand still with a grey picture."
                    )
            self._paths.append(file)
            self.names.append(name)
        told = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        if not self._paths:
            raise ConfigError(
                f"{self.path}: of {sum(left_out.values())} recordings none is taken: {told}. Mark those that are good "
                f"(rdt2 data mark RECORDING success), or take --marks all."
            )
        if told:
            self.notes.append(f"left out: {told} (--marks {self.options.marks})")
        self.lengths = [0 if number in self.damaged else self._length(number) for number in range(len(self))]

    def _length(self, number: int) -> int:
        file = self._paths[number]
        notes = read_notes(file)
        if notes.frames and not notes.clip:
            return notes.frames
        recording = read_recording(file)
        return len(recording.topics.get(topics.CAMERA.format(side=recording.sides[0]), ()))

    def episode(self, number: int) -> Episode:
        """One episode at the rate of its cameras. Raises RecordingError: damaged, or nothing to learn."""
        recording = read_recording(self._paths[number])
        drivers = ("person",) if self.options.marks == "corrections" else ("policy", "person")
        return to_episode(
            recording, drivers=drivers, name=self.names[number], instruction=self.options.instruction
        )


def _unwanted(notes: Notes, marks: str) -> str:
    """Why a recording is left out, or nothing."""
    if marks == "all":
        return ""
    if notes.mark == "failure":
        return "marked as failures"
    if marks == "corrections":
        return "" if notes.corrections else UNCORRECTED
    return "" if notes.mark == "success" else "without a mark"


def _nobody_corrects(file: Path) -> bool:
    """Whether no frame of a recording is of a moment in which a person drove. Of one that is damaged nobody knows that:
    it is told when it is read."""
    try:
        return not len(_frames(read_recording(file), ("person",))[0])
    except RecordingError:
        return False


def to_episode(
    recording: Recording,
    *,
    drivers: Sequence[str] = ("policy", "person"),
    name: str = "",
    instruction: str | None = None,
) -> Episode:
    """What a recording teaches.

    Args:
        recording: with its pictures.
        drivers: frames are of moments in which one of these drove.
        name: for messages and meta.
        instruction: the sentence where none was recorded.

    Raises:
        RecordingError: topics are missing or too slow, or no frame is left.
    """
    where = str(recording.path)
    sides = recording.sides
    frames, cameras, arms = _frames(recording, drivers)
    if not len(frames):
        raise RecordingError(
            f"{where}: no frame in which {' or '.join(drivers)} drove: it ended before the arms moved. Mark it as a "
            "failure (rdt2 data mark FILE failure), or leave such ones out with --skip-damaged."
        )
    driven = recording_drivers(recording, frames)
    poses: dict[str, Any] = {side: np.tile(np.eye(4), (len(frames), 1, 1)) for side in ARMS}
    widths: dict[str, Any] = {side: np.zeros(len(frames)) for side in ARMS}
    videos: dict[str, Any] = {side: Pictures(len(frames), grey_picture) for side in ARMS}
    for side in sides:
        settings = recording.notes.robot["arms"][side]
        times, kept = arms[topics.TCP.format(side=side)]
        values = recording.values(topics.TCP.format(side=side))
        position, turn = poses_at(times, [values[row] for row in kept], frames, where=f"{where}, {side} arm")
        tcp = to_matrices(position, turn, "xyzw", where=f"{where}, {side} arm")
        poses[side] = tcp @ np.array(settings["policy_to_tcp"])
        widths[side] = np.maximum(_openings(recording, side, frames, settings["gripper"]), 0.0)
        shots, kept = cameras[topics.CAMERA.format(side=side)]
        pictures = recording.values(topics.CAMERA.format(side=side))
        videos[side] = [pictures[kept[row]] for row in nearest(shots, frames)]
    notes = recording.notes
    return Episode(
        videos=videos,
        poses=poses,
        widths=widths,
        timestamps=frames,
        instruction=_sentences(recording, frames, instruction),
        source=where,
        meta={
            "episode": name or recording.path.stem,
            "robot": notes.robot["name"],
            "mark": notes.mark,
            **(
                {"still_arms": [side for side in ARMS if side not in sides]} if len(sides) < len(ARMS) else {}
            ),
        },
        frame_meta=[{"driver": driver, "correction": driver == "person"} for driver in driven],
    )


_Stamped = dict[str, tuple[np.ndarray, list[int]]]
"""Times and messages, see `_times`, by topic."""


def _frames(recording: Recording, drivers: Sequence[str]) -> tuple[Float[ndarray, " n"], _Stamped, _Stamped]:
    """Times (seconds) of the pictures of the first camera at which all else is known and one of these drove; all
    cameras and all arms.

    Raises:
        RecordingError: topics are missing or too slow, or have no time in common.
    """
    cameras = {
        topics.CAMERA.format(side=side): _times(recording, topics.CAMERA, side) for side in recording.sides
    }
    arms = {topics.TCP.format(side=side): _times(recording, topics.TCP, side) for side in recording.sides}
    rows = common_frames(
        {topic: times for topic, (times, _) in cameras.items()},
        {topic: times for topic, (times, _) in arms.items()},
        where=str(recording.path),
    )
    frames = next(iter(cameras.values()))[0][rows]
    return frames[np.isin(recording_drivers(recording, frames), drivers)], cameras, arms


def _times(recording: Recording, topic: str, side: str) -> tuple[Float[ndarray, " n"], list[int]]:
    """Increasing times of a topic, and which messages they are of: a stamp that came before is left out.

    Raises:
        RecordingError: there is none.
    """
    times = recording.times(topic.format(side=side))
    if not len(times):
        raise RecordingError(
            f"{recording.path}: nothing of {topic.format(side=side)} was recorded. Leave that file out."
        )
    latest = np.maximum.accumulate(np.concatenate([[-np.inf], times[:-1]]))
    kept = np.flatnonzero(times > latest)
    return times[kept], kept.tolist()


def _openings(
    recording: Recording, side: str, frames: Float[ndarray, " n"], gripper: Mapping[str, Any]
) -> Float[ndarray, " n"]:
    """Of the models' space: what the gripper was told, when it did it; before that, what it measured."""

    def of(topic: str) -> tuple[ndarray, ndarray]:
        times, kept = _times(recording, topic, side)
        values = recording.values(topic.format(side=side))
        return times, np.array([next(iter(values[row].values())) for row in kept])

    measured_at, measured = of(topics.GRIPPER)
    if topics.GRIPPER_COMMAND.format(side=side) not in recording.topics:
        return np.interp(frames, measured_at, measured) / gripper["scale"]
    told_at, told = of(topics.GRIPPER_COMMAND)
    told_at = told_at + gripper["latency"]
    before = frames < told_at[0]
    widths = np.interp(frames, told_at, told)
    widths[before] = np.interp(frames[before], measured_at, measured)
    return widths / gripper["scale"]


def recording_drivers(recording: Recording, times: Float[ndarray, " n"]) -> ndarray:
    """Who moved the arms at n moments (seconds): policy, person or nobody, as an array (n,) of words."""
    found: ndarray = np.full(len(times), "nobody", dtype="<U6")
    for begins, ends, driver in recording.spans(topics.DRIVER):
        found[(times >= begins) & (times < ends)] = driver
    return found


def _sentences(recording: Recording, frames: Float[ndarray, " n"], instead: str | None) -> str | list[str]:
    """The sentence of each frame, or of all; before the first was said, that one."""
    spans = list(recording.spans(topics.INSTRUCTION))
    if not spans:
        if not instead:
            raise RecordingError(
                f"{recording.path}: no instruction was recorded. Give one: --instruction 'Pick up the apple.'"
            )
        return instead
    begins = np.array([begins for begins, _, _ in spans])
    last = np.maximum(np.searchsorted(begins, frames, side="right") - 1, 0)
    said = [spans[number][2] for number in last]
    return said[0] if len(set(said)) == 1 else said
