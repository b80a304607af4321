"""One recorded episode in memory, and the action chunks cut from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2 import pose
from rdt2.action import ARMS, FPS, HORIZON, chunk_from_poses, state_vector
from rdt2.data.clock import pieces, require_seconds
from rdt2.errors import ActionError, PoseError, RecordingError

if TYPE_CHECKING:
    from jaxtyping import Float

    from rdt2.data.shards import ShardWriter


@dataclass(frozen=True)
class Episode:
    """Two wrist videos and the motion of both grippers.

    videos: {"right", "left"} -> n pictures, each JPEG bytes or uint8 RGB (384, 384, 3).
    poses: {"right", "left"} -> (n, 4, 4), absolute pose of the handheld gripper's own (policy) frame, metres,
        in any fixed frame.
    widths: {"right", "left"} -> (n,) gripper opening in metres.
    timestamps: (n,) seconds, increasing.
    instruction: the sentence, or n sentences where the task changes on the way.
    meta: what every sample's meta says beside the usual; frame_meta: what that of each frame says, n of them or none.
    """

    videos: Mapping[str, Sequence[bytes | np.ndarray]]
    poses: Mapping[str, Float[np.ndarray, "n 4 4"]]
    widths: Mapping[str, Float[np.ndarray, " n"]]
    timestamps: Float[np.ndarray, " n"]
    instruction: str | Sequence[str]
    source: str = ""
    meta: Mapping[str, Any] = field(default_factory=dict)
    frame_meta: Sequence[Mapping[str, Any]] = ()

    def __post_init__(self) -> None:
        where = f"episode {self.source}" if self.source else "episode"
        count = len(self.timestamps)
        if count == 0:
            raise RecordingError(f"{where}: has no frame.")
        times = np.asarray(self.timestamps, dtype=np.float64)
        if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
            raise RecordingError(
                f"{where}: timestamps must be finite and increase at every frame. Sort the recording."
            )
        require_seconds(times, where=where)
        if not isinstance(self.instruction, str) and len(self.instruction) != count:
            raise RecordingError(
                f"{where}: {len(self.instruction)} sentences for {count} frames; expected one, or one a frame."
            )
        if self.frame_meta and len(self.frame_meta) != count:
            raise RecordingError(
                f"{where}: {len(self.frame_meta)} frame_meta for {count} frames, expected as many."
            )
        if not all(sentence.strip() for sentence in self.sentences):
            raise RecordingError(
                f"{where}: the instruction is empty. Give a sentence such as 'Pick up the apple.'"
            )
        for arm in ARMS:
            for name, values, shape in (
                ("poses", np.asarray(self.poses.get(arm, ())), (count, 4, 4)),
                ("widths", np.asarray(self.widths.get(arm, ())), (count,)),
            ):
                if values.shape != shape:
                    raise RecordingError(f"{where}: {name}[{arm!r}] is {values.shape}, expected {shape}.")
                if not np.isfinite(values).all():
                    raise PoseError(
                        f"{where}: {name}[{arm!r}] holds NaN or infinity. Cut the frames without tracking."
                    )
            if len(self.videos.get(arm, ())) != count:
                raise RecordingError(
                    f"{where}: {len(self.videos.get(arm, ()))} {arm} pictures for {count} timestamps. "
                    f"A missing frame is never filled in: cut the episode there."
                )

    def __len__(self) -> int:
        return len(self.timestamps)

    @property
    def sentences(self) -> list[str]:
        """The different sentences, in the order in which they come."""
        return (
            [self.instruction] if isinstance(self.instruction, str) else list(dict.fromkeys(self.instruction))
        )

    def sentence(self, frame: int) -> str:
        """The instruction of a frame."""
        return self.instruction if isinstance(self.instruction, str) else self.instruction[frame]

    def chunks(
        self, *, tail: Literal["drop", "pad"] = "drop", stride: int = 1
    ) -> Iterator[tuple[int, Float[np.ndarray, "24 20"]]]:
        """(frame number, chunk) for every ``stride``-th frame.

        A chunk is (24, 20) float32: the poses 1/30, 2/30, ... 24/30 s after the frame, relative to the
        frame's, and the widths then; between recorded frames positions and widths are linear, rotations
        slerp. Nothing is made up across a pause of the recording (see rdt2.data.clock): it ends the motion.

        tail: what becomes of frames with less than 0.8 s of motion left. "drop" leaves them out, "pad"
            takes the last pose for all later steps.

        Raises:
            ActionError: an unknown tail.
        """
        yield from cut_chunks(
            self.poses, self.widths, self.timestamps, range(0, len(self), stride), tail=tail
        )

    def told(self, frame: int) -> dict[str, Any]:
        """What the meta of a frame's sample says beside the usual."""
        return {**self.meta, **(self.frame_meta[frame] if self.frame_meta else {})}

    def state(self, frame: int) -> list[float]:
        """Where both arms are at a frame (see `rdt2.action.state_vector`), for a sample's meta."""
        return stored_state(self.poses, self.widths, frame)

    def write(self, writer: ShardWriter, *, tail: Literal["drop", "pad"] = "drop", stride: int = 1) -> int:
        """Write the episode's samples with ``writer``; returns how many.

        Raises:
            RecordingError: as ShardWriter.write.
        """
        count = 0
        for frame, chunk in self.chunks(tail=tail, stride=stride):
            left, right = (decoded_picture(self.videos[arm][frame]) for arm in ("left", "right"))
            writer.write(
                picture=np.concatenate([left, right], axis=1),
                action=chunk,
                instruction=self.sentence(frame),
                meta={"frame": frame, "state": self.state(frame), **self.told(frame)},
            )
            count += 1
        return count


def stored_state(
    poses: Mapping[str, Float[np.ndarray, "n 4 4"]], widths: Mapping[str, Float[np.ndarray, " n"]], frame: int
) -> list[float]:
    """The proprioceptive state (20,) at a frame as a sample's meta has it: metres, to a micrometre."""
    state = state_vector({arm: poses[arm][frame] for arm in ARMS}, {arm: widths[arm][frame] for arm in ARMS})
    return [round(value, 6) for value in state.tolist()]


def cut_chunks(
    poses: Mapping[str, Float[np.ndarray, "n 4 4"]],
    widths: Mapping[str, Float[np.ndarray, " n"]],
    timestamps: Float[np.ndarray, " n"],
    frames: Sequence[int],
    *,
    tail: Literal["drop", "pad"] = "drop",
) -> Iterator[tuple[int, Float[np.ndarray, "24 20"]]]:
    """The chunks of the given frames, of TCP poses and widths in metres; see Episode.chunks.

    Raises:
        ActionError: another `tail`, or no episode to cut.
    """
    if tail not in ("drop", "pad"):
        raise ActionError(f"tail is {tail!r}, expected 'drop' or 'pad'.")
    times = np.asarray(timestamps, dtype=np.float64)
    paths = {arm: np.asarray(poses[arm], dtype=np.float64) for arm in ARMS}
    ends = np.concatenate([np.full(part.stop - part.start, part.stop) for part in pieces(times)])
    steps = np.arange(1, HORIZON + 1) / FPS
    for frame in frames:
        query, last = times[frame] + steps, int(ends[frame]) - 1
        # A hundredth of a step of slack: timestamps are sums of 1/30 and end a rounding error early.
        if query[-1] > times[last] + 0.01 / FPS and tail == "drop":
            continue
        query = np.minimum(query, times[last])
        # no further than the chunk: of an hour each frame would look at all that follows
        ahead = slice(frame, min(last, int(np.searchsorted(times, query[-1], side="right"))) + 1)
        known = times[ahead]
        future = {arm: pose.interpolate(known, paths[arm][ahead], query) for arm in ARMS}
        opening = {arm: np.interp(query, known, widths[arm][ahead]) for arm in ARMS}
        yield frame, chunk_from_poses({arm: paths[arm][frame] for arm in ARMS}, future, opening)


def decoded_picture(picture: bytes | np.ndarray) -> np.ndarray:
    """A picture of an episode as uint8 RGB (384, 384, 3), decoded if it is compressed."""
    if isinstance(picture, np.ndarray):
        return picture
    import simplejpeg

    return simplejpeg.decode_jpeg(picture, colorspace="RGB")
