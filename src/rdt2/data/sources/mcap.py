"""ROS 2 recordings (rosbag2) in MCAP files, one file an episode.

Topics are told apart by their message types, and the arms by ``right`` and ``left`` in their names::

    geometry_msgs/PoseStamped                             pose of each gripper, metres
    std_msgs/Float32, Float64, or sensor_msgs/JointState  its opening (of several joints, the one named so)
    sensor_msgs/CompressedImage (JPEG, PNG), Image        its wrist camera
    std_msgs/String                                       optional: the instruction

The pictures of one camera give the frames. The other camera's nearest picture is taken; poses and openings lie
between two messages, linear and slerp, and never in a pause. Times are those of the headers, else of the recorder. A
sentence holds until the next one.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from rdt2.action import ARMS
from rdt2.data.clock import at_rate
from rdt2.data.resample import nearest
from rdt2.data.sources.alignment import Topic, common_frames, poses_at
from rdt2.data.sources.base import Source, guess_cameras
from rdt2.data.sources.options import SourceOptions
from rdt2.data.sources.pictures import MAX_SIDE, decode_image
from rdt2.errors import ConfigError, RDT2Error, RecordingError
from rdt2.files import unreadable

if TYPE_CHECKING:
    from rdt2.data.episode import Episode

Value = TypeVar("Value")

_POSES = ("geometry_msgs/msg/PoseStamped",)
_GRIPPERS = ("std_msgs/msg/Float32", "std_msgs/msg/Float64", "sensor_msgs/msg/JointState")
_IMAGES = ("sensor_msgs/msg/CompressedImage", "sensor_msgs/msg/Image")
_TEXTS = ("std_msgs/msg/String",)
_FINGERS = re.compile("gripper|finger|jaw|knuckle")
"""In the names of joints that are a gripper's."""
_SAMPLED = 16
"""Files that are read to judge the units of all."""


class Mcap(Source):
    """See the module. ``path`` is one .mcap file or a folder of them. Needs mcap and mcap-ros2-support."""

    kind = "mcap"
    meaningless = frozenset({"missing_chunks", "marks", "pose_names", "angle_unit", "time_unit"})

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """
        Raises:
            RecordingError: a truncated file, or one without poses, openings or pictures.
            ConfigError: options that are missing or contradict the files.
        """
        super().__init__(path, options)
        self._paths = (
            [self.path]
            if self.path.is_file()
            else sorted(path for path in self.path.rglob("*.mcap") if not path.name.startswith("._"))
        )
        if not self._paths:
            raise RecordingError(f"{self.path}: holds no .mcap file.")
        root = self.path.parent if self.path.is_file() else self.path
        self.names = [path.relative_to(root).with_suffix("").as_posix() for path in self._paths]
        found = self._each_readable(_topic_types)
        if not found:
            raise self.damaged[0]
        first = min(found)
        types, where = found[first], str(self._paths[first])
        self._text = next((topic for topic, kind in sorted(types.items()) if kind in _TEXTS), None)
        with self._asking_as_well(lambda: self._ask_without_layout(types, where)):
            pose_topics = _of_arms(
                types, _POSES, self.options.pose_key, where=where, what="pose", flag="--pose-key"
            )
            if "" in pose_topics:
                robots = self._robots(1, "right", "one pose topic is named and nothing says which arm")
                pose_topics = {arm: pose_topics[""] for arm in robots}
                named = tuple(robots)
            else:
                named = tuple(pose_topics)
                robots = self._robots(len(named), "-".join(named), "by the names of the pose topics")
        grippers = {} if self.options.gripper_fixed is not None else self._grippers(types, named, where)
        cameras = self._cameras(types, named, where)
        # robots says which recorded arm each of ours is, by its place in the names.
        self._topics = {
            arm: (pose_topics[named[robot]], grippers.get(named[robot]), cameras.get(named[robot], ""))
            for arm, robot in robots.items()
        }
        if self.options.rotation not in (None, "xyzw"):
            self._ask(
                f"messages name the parts of their quaternions, --rotation says {self.options.rotation}. "
                f"Leave --rotation out"
            )
        self.options = replace(self.options, rotation="xyzw")
        texts: list[str] = []
        self._settle_units(self._sampled(texts))
        self._ask_instruction(texts)
        self._settle()
        camera = next(iter(self._topics.values()))[2]
        counts = self._each_readable(lambda path: _count(path, camera))
        self.lengths = [counts.get(number, 0) for number in range(len(self))]

    def _ask_without_layout(self, types: dict[str, str], where: str) -> None:
        """Ask for what does not depend on which topics hold the poses."""
        if self.options.gripper_fixed is None:
            self._grippers(types, (), where)
        self._cameras(types, (), where)
        if self._text is None:
            self._ask_instruction([None] * len(self))

    def _each_readable(self, read: Callable[[Path], Value]) -> dict[int, Value]:
        """What ``read`` finds in each file; a file that cannot be read is damaged."""
        found = {}
        for number, path in enumerate(self._paths):
            try:
                if number not in self.damaged:
                    found[number] = read(path)
            except RecordingError as error:
                self.damaged[number] = error
        return found

    def _grippers(self, types: dict[str, str], arms: Sequence[str], where: str) -> dict[str, str]:
        try:
            found = _of_arms(
                types, _GRIPPERS, self.options.gripper_key, where=where, what="gripper", flag="--gripper-key"
            )
        except ConfigError as error:
            self._ask(f"{error} Or declare the width in metres: --gripper-fixed 0.05")
            return {}
        if "" in found:
            if len(arms) == 2:
                self._ask(
                    f"{where}: {found['']} is one gripper topic for two arms. Name both: --gripper-key '/{{arm}}/...'"
                )
            return dict.fromkeys(arms, found[""])
        missing = [arm for arm in arms if arm not in found]
        if missing:
            self._ask(
                f"{where}: no gripper topic of the {missing[0]} arm. Name it: --gripper-key '/{{arm}}/...', or "
                f"declare the width in metres: --gripper-fixed 0.05"
            )
        return found

    def _sampled(self, texts: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Names and numbers of some files, evenly spread: reading the numbers means reading all pictures.

        texts: gets a sentence of each, or "".
        """
        whole = [number for number in range(len(self)) if number not in self.damaged]
        for number in whole[:: -(-len(whole) // _SAMPLED)]:
            wanted = [topic for topics in self._topics.values() for topic in topics[:2] if topic]
            try:
                read = _read(self._paths[number], [*wanted, *([self._text] if self._text else [])])
            except RecordingError as error:
                self.damaged[number] = error
                continue
            said = [str(text) for text in read[self._text].values] if self._text else []
            texts.append(next((text for text in said if text.strip()), ""))
            parts = {}
            for arm, (pose, opening, _) in self._topics.items():
                values = np.array(read[pose].values, np.float64).reshape(-1, 7)
                numbers = np.array(read[opening].values, np.float64) if opening else None
                parts[arm] = (values[:, :3], values[:, 3:], numbers)
            yield self.names[number], parts

    def episode(self, number: int) -> Episode:
        """One episode at the rate of its camera. Raises RDT2Error that names file and topic."""
        path = self._paths[number]
        wanted = [topic for topics in self._topics.values() for topic in topics if topic]
        topics = _read(path, [*wanted, *([self._text] if self._text else [])])
        times = {name: self._times(topics[name], path, name) for name in wanted}
        cameras = [camera for _, _, camera in self._topics.values()]
        rows = common_frames(
            {name: times[name] for name in cameras},
            {name: times[name] for name in wanted if name not in cameras},
            where=str(path),
        )
        frames = times[cameras[0]][rows]
        position, rotation, gripper, pictures = {}, {}, {}, {}
        for arm, (pose, opening, camera) in self._topics.items():
            position[arm], rotation[arm] = poses_at(
                times[pose], topics[pose].values, frames, where=f"{path}, {pose}"
            )
            if opening is not None:
                gripper[arm] = np.interp(frames, times[opening], np.array(topics[opening].values))
            shots = [topics[camera].values[row] for row in nearest(times[camera], frames)]
            pictures[arm] = _Pictures(shots, f"{path}, {camera}")
        return self._episode(
            number,
            position=position,
            rotation=rotation,
            gripper=gripper,
            frames=pictures,
            timestamps=frames if self.options.fps is None else at_rate(self.options.fps, len(frames), frames),
            instruction=self._sentences_of(topics, np.array(topics[cameras[0]].logged)[rows]),
        )

    def _times(self, topic: Topic, path: Path, name: str) -> np.ndarray:
        """Seconds of a topic's messages."""
        times = topic.times(self.options.message_clock)
        if not len(times):
            raise RecordingError(f"{path}: no message of {name}. Leave that file out.")
        if (np.diff(times) <= 0).any():
            number = int((np.diff(times) <= 0).argmax()) + 1
            raise RecordingError(
                f"{path}: message {number} of {name} is not later than the one before it. If the headers are at "
                f"fault, --message-clock recorder takes the times of the recorder. Else leave that file out."
            )
        return times

    def _sentences_of(self, topics: dict[str, Topic], recorded: np.ndarray) -> list[str] | None:
        """The sentence of each frame: the last one that was recorded before it."""
        texts = topics[self._text] if self._text else Topic()
        if not texts.values:
            return None
        last = np.searchsorted(texts.logged, recorded, side="right") - 1
        return [texts.values[number] for number in np.maximum(last, 0)]

    def _cameras(self, types: dict[str, str], arms: Sequence[str], where: str) -> dict[str, str]:
        images = [topic for topic, kind in types.items() if kind in _IMAGES]
        if len(arms) == 1 and self.options.cameras is None and len(images) == 1:
            return {arms[0]: images[0]}
        chosen = self._choose("cameras", lambda: guess_cameras(sorted(images), where=where))
        if chosen is None:
            return {}
        unknown = [topic for topic in chosen if topic not in images]
        if unknown:
            raise ConfigError(
                f"{where}: {unknown[0]} is no picture topic; there are {', '.join(images) or 'none'}."
            )
        return dict(zip(ARMS, chosen, strict=True))


def _of_arms(
    types: dict[str, str], kinds: Sequence[str], key: str | None, *, where: str, what: str, flag: str
) -> dict[str, str]:
    """arm -> topic: ``key`` with the arm's name in it, or the one topic of these types with that name.

    A ``key`` without {arm} is one topic of one arm: it comes under the name "".

    Raises:
        ConfigError: no such topic, or several.
    """
    if key is not None and "{arm}" not in key and types.get(key) in kinds:
        return {"": key}
    found = {}
    for arm, other in zip(ARMS, reversed(ARMS), strict=True):
        if key is not None:
            matches = [topic for topic in {key.replace("{arm}", arm)} if types.get(topic) in kinds]
        else:
            matches = [
                topic
                for topic, kind in types.items()
                if kind in kinds and arm in topic.lower() and other not in topic.lower()
            ]
        if len(matches) > 1:
            raise ConfigError(
                f"{where}: {', '.join(sorted(matches))} may all be the {arm} {what}. Name one: {flag} '/{{arm}}/...'"
            )
        if matches:
            found[arm] = matches[0]
    if not found:
        there = ", ".join(sorted(topic for topic, kind in types.items() if kind in kinds)) or "none"
        raise ConfigError(
            f"{where}: no {what} topic of an arm found (of types {', '.join(kinds)} there are: {there}). "
            f"Name them with {{arm}} for right and left: {flag} '/{{arm}}/...'; of one arm alone, its topic"
        )
    return found


# -------------------------------------------------------------------------------------------------- messages


@contextmanager
def _reader(path: Path) -> Iterator[Any]:
    import zstandard
    from mcap.exceptions import McapError
    from mcap.reader import make_reader
    from mcap_ros2.decoder import DecoderFactory

    try:
        with open(path, "rb") as stream:
            yield make_reader(stream, decoder_factories=[DecoderFactory()])
    except RDT2Error:
        raise
    # Nothing guards the bytes of a file that holds no checksums: decoders trip over damaged ones in their own ways.
    except (
        McapError,
        zstandard.ZstdError,
        struct.error,
        EOFError,
        OSError,
        ValueError,
        LookupError,
        RuntimeError,
    ) as error:
        raise RecordingError(
            unreadable(
                path,
                f"no whole MCAP file ({error or type(error).__name__}). Copy it again, or 'mcap recover' it.",
            )
        ) from None


def _topic_types(path: Path) -> dict[str, str]:
    with _reader(path) as reader:
        summary = reader.get_summary()
        if summary is None:
            raise RecordingError(f"{path}: has no summary: the recording was cut off. 'mcap recover' it.")
        return {
            channel.topic: summary.schemas[channel.schema_id].name
            for channel in summary.channels.values()
            if channel.schema_id in summary.schemas
        }


def _count(path: Path, topic: str) -> int:
    with _reader(path) as reader:
        summary = reader.get_summary()
        if summary is None or summary.statistics is None:
            raise RecordingError(f"{path}: has no summary: the recording was cut off. 'mcap recover' it.")
        counts = summary.statistics.channel_message_counts
        return sum(counts.get(number, 0) for number, each in summary.channels.items() if each.topic == topic)


def _read(path: Path, names: Sequence[str]) -> dict[str, Topic]:
    """The messages of some topics, pictures still compressed."""
    topics = {name: Topic() for name in names}
    with _reader(path) as reader:
        for schema, channel, message, decoded in reader.iter_decoded_messages(topics=list(names)):
            topic = topics[channel.topic]
            topic.stamps.append(_header_seconds(decoded))
            topic.logged.append(_seconds(*divmod(message.log_time, 10**9)))
            topic.values.append(_value(schema.name, decoded, where=f"{path}, {channel.topic}"))
    return topics


def _header_seconds(decoded: Any) -> float | None:
    stamp = getattr(getattr(decoded, "header", None), "stamp", None)
    return _seconds(stamp.sec, stamp.nanosec) if stamp is not None and (stamp.sec or stamp.nanosec) else None


def _seconds(seconds: int, nanoseconds: int) -> float:
    return seconds + 1e-9 * nanoseconds


def _value(kind: str, decoded: Any, *, where: str) -> Any:
    if kind in _POSES:
        place, turn = decoded.pose.position, decoded.pose.orientation
        return [place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w]
    if kind == "sensor_msgs/msg/JointState":
        return _opening(list(decoded.name), list(decoded.position), where=where)
    if kind == "sensor_msgs/msg/CompressedImage":
        return bytes(decoded.data)
    if kind == "sensor_msgs/msg/Image":
        return _packed(decoded, where=where)
    return decoded.data


def _opening(names: Sequence[str], positions: Sequence[float], *, where: str) -> float:
    """The gripper's number among joints: the only one, or the only one with such a name.

    Raises:
        RecordingError: there is none, or several may be it.
    """
    fingers = [number for number, name in enumerate(names) if _FINGERS.search(name.lower())]
    if len(positions) == 1:
        return float(positions[0])
    if len(fingers) != 1 or fingers[0] >= len(positions):
        raise RecordingError(
            f"{where}: a JointState with {len(positions)} positions of {', '.join(names) or 'no names'}; which of them "
            f"is the gripper's opening? Name a topic that holds it alone: --gripper-key '/{{arm}}/...', or declare the "
            f"width in metres: --gripper-fixed 0.05"
        )
    return float(positions[fingers[0]])


def _packed(image: Any, *, where: str) -> bytes:
    """A raw picture as PNG: an episode of raw ones does not fit in memory."""
    import cv2

    if image.encoding not in ("rgb8", "bgr8") or not 0 < max(image.height, image.width) <= MAX_SIDE:
        raise RecordingError(
            f"{where}: a picture is {image.encoding} {image.height} x {image.width}, expected rgb8 or bgr8."
        )
    rows = np.frombuffer(image.data, np.uint8)
    if rows.size != image.height * image.step or image.step < 3 * image.width:
        raise RecordingError(f"{where}: a picture has {rows.size} bytes, its header promises another number.")
    picture = rows.reshape(image.height, image.step)[:, : 3 * image.width].reshape(
        image.height, image.width, 3
    )
    picture = picture if image.encoding == "bgr8" else picture[..., ::-1]  # imencode takes BGR
    return cv2.imencode(".png", np.ascontiguousarray(picture), [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()


class _Pictures:
    """Decodes the picture of a frame, RGB."""

    def __init__(self, packed: Sequence[bytes], where: str) -> None:
        self._packed, self._where = packed, where

    def __call__(self, frame: int) -> np.ndarray:
        return decode_image(self._packed[frame], where=f"{self._where}, frame {frame}")
