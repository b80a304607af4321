"""Message definitions of ROS 2, as recorders store them in MCAP files."""

from __future__ import annotations

from typing import Any

_TIME = "builtin_interfaces/Time stamp\nstring frame_id\n"
_SEP = "=" * 80 + "\nMSG: "
_HEADER = f"{_SEP}std_msgs/Header\n{_TIME}{_SEP}builtin_interfaces/Time\nint32 sec\nuint32 nanosec\n"
POSE = (
    "geometry_msgs/msg/PoseStamped",
    f"std_msgs/Header header\ngeometry_msgs/Pose pose\n{_HEADER}{_SEP}geometry_msgs/Pose\n"
    f"geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n"
    f"{_SEP}geometry_msgs/Point\nfloat64 x\nfloat64 y\nfloat64 z\n"
    f"{_SEP}geometry_msgs/Quaternion\nfloat64 x\nfloat64 y\nfloat64 z\nfloat64 w\n",
)
JPEG = (
    "sensor_msgs/msg/CompressedImage",
    f"std_msgs/Header header\nstring format\nuint8[] data\n{_HEADER}",
)
IMAGE = (
    "sensor_msgs/msg/Image",
    "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\nuint8 is_bigendian\nuint32 step\n"
    f"uint8[] data\n{_HEADER}",
)
FLOAT = ("std_msgs/msg/Float64", "float64 data\n")
TEXT = ("std_msgs/msg/String", "string data\n")


def header(seconds: float) -> dict[str, Any]:
    """The header of a message taken ``seconds`` after 1000 s."""
    stamp = round(1e9 * (1000 + seconds))
    return {"stamp": {"sec": stamp // 10**9, "nanosec": stamp % 10**9}, "frame_id": "base"}
