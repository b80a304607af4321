"""The messages of a recording: ROS 2 definitions, as Foxglove, rerun and every reader of rosbag2 know them.

The libraries that write them take a Python call for every byte of a picture, tens of milliseconds of the lock that
the servo needs, too. These few are packed here (CDR, little endian); what reads them is held against the libraries'
readers in the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

_SEP = "=" * 80 + "\nMSG: "
_STAMP = f"{_SEP}builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
_HEADER = f"{_SEP}std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n{_STAMP}"
_VECTOR = f"{_SEP}geometry_msgs/Vector3\nfloat64 x\nfloat64 y\nfloat64 z\n"
_POSE = (
    f"{_SEP}geometry_msgs/Pose\ngeometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
    f"{_SEP}geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    f"{_SEP}geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n"
)
_STAMPED = f"std_msgs/Header header\ngeometry_msgs/Pose pose\n{_HEADER}{_POSE}"

PICTURE = "sensor_msgs/msg/CompressedImage"
POSE = "geometry_msgs/msg/PoseStamped"
PATH = "nav_msgs/msg/Path"
TWIST = "geometry_msgs/msg/TwistStamped"
WRENCH = "geometry_msgs/msg/WrenchStamped"
JOINTS = "sensor_msgs/msg/JointState"
TEXT = "std_msgs/msg/String"
NUMBER = "std_msgs/msg/Float64"
ARRAY = "std_msgs/msg/Float32MultiArray"
LOG = "rcl_interfaces/msg/Log"

DEFINITIONS = {
    PICTURE: f"std_msgs/Header header\nstring format\nuint8[] data\n{_HEADER}",
    POSE: _STAMPED,
    PATH: f"std_msgs/Header header\ngeometry_msgs/PoseStamped[] poses\n{_HEADER}"
    f"{_SEP}geometry_msgs/PoseStamped\nstd_msgs/Header header\ngeometry_msgs/Pose pose\n{_POSE}",
    TWIST: f"std_msgs/Header header\ngeometry_msgs/Twist twist\n{_HEADER}{_SEP}geometry_msgs/Twist\n"
    f"geometry_msgs/Vector3 linear\ngeometry_msgs/Vector3 angular\n{_VECTOR}",
    WRENCH: f"std_msgs/Header header\ngeometry_msgs/Wrench wrench\n{_HEADER}{_SEP}geometry_msgs/Wrench\n"
    f"geometry_msgs/Vector3 force\ngeometry_msgs/Vector3 torque\n{_VECTOR}",
    JOINTS: "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n"
    f"{_HEADER}",
    TEXT: "string data\n",
    NUMBER: "float64 data\n",
    ARRAY: f"std_msgs/MultiArrayLayout layout\nfloat32[] data\n{_SEP}std_msgs/MultiArrayLayout\n"
    "std_msgs/MultiArrayDimension[] dim\nuint32 data_offset\n"
    f"{_SEP}std_msgs/MultiArrayDimension\nstring label\nuint32 size\nuint32 stride\n",
    LOG: "builtin_interfaces/Time stamp\nuint8 level\nstring name\nstring msg\nstring file\nstring function\n"
    f"uint32 line\n{_STAMP}",
}
CELL = "cell"
"""The frame of all poses."""
INFO, WARN, ERROR = 20, 30, 40
"""Levels of a log line."""


@dataclass(frozen=True)
class Message:
    """One message of a topic. Times are nanoseconds since 1970."""

    topic: str
    kind: str
    """Its definition, a key of `DEFINITIONS`."""
    data: bytes
    logged: int
    """When it was known."""
    stamp: int
    """What moment it speaks of."""


# ------------------------------------------------------------------------------------------------------- packing


_CDR = b"\x00\x01\x00\x00"
# What comes a thousand times a second has one layout: a stamp, the frame "cell", numbers.
_POSES, _SIXES = struct.Struct("<4siII5s7x7d"), struct.Struct("<4siII5s7x6d")


class _Packer:
    def __init__(self) -> None:
        self.out = bytearray(_CDR)

    def put(self, kind: str, *values: Any) -> None:
        """Values of one size, one after the other, aligned to it."""
        self.out += bytes(-(len(self.out) - 4) % struct.calcsize(kind))
        self.out += struct.pack(f"<{len(values)}{kind}", *values)

    def text(self, text: str) -> None:
        encoded = text.encode() + b"\0"
        self.put("I", len(encoded))
        self.out += encoded

    def numbers(self, values: Sequence[float], kind: str = "d") -> None:
        self.put("I", len(values))
        if len(values):
            self.put(kind, *values)

    def stamp(self, time: int) -> None:
        seconds, nanoseconds = divmod(time, 10**9)
        self.put("i", seconds)
        self.put("I", nanoseconds)

    def header(self, time: int, frame: str) -> None:
        self.stamp(time)
        self.text(frame)

    def pose(self, pose: Float[ndarray, "4 4"]) -> None:
        self.put("d", *pose[:3, 3].tolist(), *quaternion(pose[:3, :3]))


def quaternion(rotation: Float[ndarray, "3 3"]) -> tuple[float, float, float, float]:
    """x y z w of a rotation matrix."""
    (a, b, c), (d, e, f), (g, h, i) = rotation.tolist()
    # each of the four from where it is largest, or small numbers are divided by small ones
    x, y, z, w = max(
        (
            (1 + a - e - i, b + d, c + g, h - f),
            (b + d, 1 - a + e - i, f + h, c - g),
            (c + g, f + h, 1 - a - e + i, d - b),
            (h - f, c - g, d - b, 1 + a + e + i),
        ),
        key=lambda row: sum(value * value for value in row),
    )
    length = (x * x + y * y + z * z + w * w) ** 0.5
    return x / length, y / length, z / length, w / length


def pack_picture(stamp: int, camera: str, jpeg: bytes) -> bytes:
    """A JPEG picture, exposed at `stamp` (ns) by the camera of this name."""
    packer = _Packer()
    packer.header(stamp, camera)
    packer.text("jpeg")
    packer.put("I", len(jpeg))
    packer.out += jpeg
    return bytes(packer.out)


def pack_pose(stamp: int, pose: Float[ndarray, "4 4"]) -> bytes:
    """A pose of the cell frame, metres."""
    place = pose[:3, 3].tolist()
    return _POSES.pack(_CDR, *divmod(stamp, 10**9), 5, b"cell", *place, *quaternion(pose[:3, :3]))


def pack_path(stamp: int, times: Sequence[int], poses: Float[ndarray, "n 4 4"]) -> bytes:
    """Poses of the cell frame with the times at which they are due, ns."""
    packer = _Packer()
    packer.header(stamp, CELL)
    packer.put("I", len(poses))
    for time, pose in zip(times, poses, strict=True):
        packer.header(time, CELL)
        packer.pose(pose)
    return bytes(packer.out)


def pack_six(stamp: int, values: Float[ndarray, " 6"]) -> bytes:
    """A twist (m/s, rad/s) or a wrench (N, N m) along the cell's axes."""
    return _SIXES.pack(_CDR, *divmod(stamp, 10**9), 5, b"cell", *map(float, values))


def pack_joints(stamp: int, names: tuple[str, ...], positions: Sequence[float]) -> bytes:
    """Positions (rad, m) of joints by name."""
    return _joints(names).pack(*divmod(stamp, 10**9), *map(float, positions))


class _Joints:
    """A message of joints with these names: all but its numbers is the same every time."""

    def __init__(self, names: tuple[str, ...]) -> None:
        before, after = _Packer(), _Packer()
        before.header(0, "")
        before.put("I", len(names))
        for name in names:
            before.text(name)
        before.put("I", len(names))
        before.put("d")
        after.put("I", 0, 0)
        self._before, self._after = bytes(before.out[12:]), bytes(after.out[4:])
        self._numbers = struct.Struct(f"<{len(names)}d")

    def pack(self, seconds: int, nanoseconds: int, *positions: float) -> bytes:
        stamp = struct.pack("<4siI", _CDR, seconds, nanoseconds)
        return stamp + self._before + self._numbers.pack(*positions) + self._after


_joints = lru_cache(maxsize=None)(_Joints)


def pack_text(text: str) -> bytes:
    """A text."""
    packer = _Packer()
    packer.text(text)
    return bytes(packer.out)


def pack_number(value: float) -> bytes:
    """One number."""
    packer = _Packer()
    packer.put("d", value)
    return bytes(packer.out)


def pack_array(values: Float[ndarray, "n m"], names: tuple[str, str]) -> bytes:
    """A table of float32 numbers; names: of its two dimensions."""
    packer = _Packer()
    packer.put("I", 2)
    for name, size, stride in zip(names, values.shape, (values.size, values.shape[1]), strict=True):
        packer.text(name)
        packer.put("I", size, stride)
    packer.put("I", 0)
    packer.numbers(np.asarray(values, dtype=np.float32).ravel().tolist(), "f")
    return bytes(packer.out)


def pack_log(stamp: int, level: int, name: str, text: str) -> bytes:
    """A line of a log; name: who or what says it."""
    packer = _Packer()
    packer.stamp(stamp)
    packer.put("B", level)
    packer.text(name)
    packer.text(text)
    packer.text("")
    packer.text("")
    packer.put("I", 0)
    return bytes(packer.out)


# ------------------------------------------------------------------------------------------------------ unpacking


class Unpacker:
    """Reads the fields of a message in their order; raises struct.error or ValueError where they end too soon."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 4

    def take(self, kind: str, count: int = 1) -> tuple[Any, ...]:
        """So many values of one size."""
        size = struct.calcsize(kind)
        self._at += -(self._at - 4) % size
        values = struct.unpack_from(f"<{count}{kind}", self._data, self._at)
        self._at += size * count
        return values

    def text(self) -> str:
        """A text."""
        return self._bytes()[:-1].decode()

    def blob(self) -> bytes:
        """A sequence of bytes."""
        return self._bytes()

    def _bytes(self) -> bytes:
        (length,) = self.take("I")
        found = self._data[self._at : self._at + length]
        if len(found) != length:
            raise ValueError(f"{length} bytes are announced, {len(found)} are there")
        self._at += length
        return found

    def numbers(self, kind: str = "d") -> tuple[Any, ...]:
        """A sequence of numbers."""
        (count,) = self.take("I")
        return self.take(kind, count) if count else ()

    def stamp(self) -> int:
        """Nanoseconds since 1970."""
        (seconds,), (nanoseconds,) = self.take("i"), self.take("I")
        return seconds * 10**9 + nanoseconds


def unpack(message: Message) -> Any:
    """What a message says: JPEG bytes; (7,) position and x y z w; (24, 20) float32; name -> position; (level, name,
    text); a text; a number. Other kinds are for viewers.

    Raises:
        struct.error, ValueError: it is damaged. KeyError: another kind.
    """
    fields = Unpacker(message.data)
    if message.kind in (PICTURE, POSE, JOINTS):
        fields.stamp()
        fields.text()
    if message.kind == PICTURE:
        fields.text()
        return fields.blob()
    if message.kind == POSE:
        return fields.take("d", 7)
    if message.kind == JOINTS:
        names = [fields.text() for _ in range(fields.take("I")[0])]
        return dict(zip(names, fields.numbers(), strict=True))
    if message.kind == TEXT:
        return fields.text()
    if message.kind == NUMBER:
        return fields.take("d")[0]
    if message.kind == LOG:
        fields.stamp()
        (level,) = fields.take("B")
        return level, fields.text(), fields.text()
    if message.kind == ARRAY:
        shape = []
        for _ in range(fields.take("I")[0]):
            fields.text()
            shape.append(fields.take("I", 2)[0])
        fields.take("I")
        return np.array(fields.numbers("f"), dtype=np.float32).reshape(shape)
    raise KeyError(message.kind)
