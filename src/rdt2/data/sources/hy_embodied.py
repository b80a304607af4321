"""What is known of Hy-Embodied-0.5-VLA-Data (Tencent, CC-BY-4.0), two-armed UMI recordings in Lance tables.

Its files name neither the arms nor the units of the numbers; its README does: 16 numbers, left arm then right, each
position (m), quaternion xyzw, gripper; gripper commands of both arms in ``action``, in millimetres of travel from open
(0) to closed (90); the tool frame's x points left, y up, z forward. (An earlier README said up, forward, left; it was
corrected, and the code beside it always had left, up, forward.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import Any

from rdt2.data.sources.columns import flat_names, sides
from rdt2.data.sources.options import SourceOptions

_STATE, _ACTION = "observation.state", "action"
_RIGHT, _LEFT = "observation.images.cam_right_wrist", "observation.images.cam_left_wrist"
_CAMERAS = {"observation.images.cam_high", _RIGHT, _LEFT}
_SIZE = {240, 424}
_CLOSED_MM, _OPEN_MM = 90.0, 0.0
_QUATERNION = {"xyzw": ("qx", "qy", "qz", "qw"), "wxyz": ("qw", "qx", "qy", "qz")}


def is_hy_embodied(features: Mapping[str, Mapping[str, Any]], options: SourceOptions) -> bool:
    """Whether the features of Lance tables are those of this data set, and the options leave its poses as they are."""
    names = flat_names(features.get(_STATE, {}).get("names"))
    sized = all(set(features.get(name, {}).get("shape") or ()) >= _SIZE for name in _CAMERAS)
    return (
        set(features) >= _CAMERAS
        and _numbers(features, _STATE) == 16
        and (_numbers(features, _ACTION) == 2 or (_ACTION not in features and sized))
        and sides(names) in ((), ("left", "right"))
        and options.pose_key in (None, _STATE)
        and options.pose_names is None
        and options.rotation in (None, *_QUATERNION)
        and options.arms in (None, "left-right", "right-left")
    )


def as_hy_embodied(
    features: Mapping[str, Mapping[str, Any]], options: SourceOptions
) -> tuple[SourceOptions, list[str]]:
    """The options with what is known in the place of what they leave open, and a sentence on it."""
    order, rotation = options.arms or "left-right", options.rotation or "xyzw"
    labels = ("x", "y", "z", *_QUATERNION[rotation], "gripper")
    known: dict[str, Any] = {
        "pose_names": tuple(f"{arm}_{label}" for arm in order.split("-") for label in labels),
        "arms": order,
        "rotation": rotation,
        "position_unit": "m",
        "cameras": (_RIGHT, _LEFT),
        "tool_axes": ("left", "up", "forward"),
    }
    said = [f"arms {order}", f"quaternions {rotation}", f"positions in {options.position_unit or 'm'}"]
    if options.gripper_fixed is None and options.gripper_key in (None, _ACTION):
        where = _ACTION if _ACTION in features else _STATE
        known["gripper_key"] = _ACTION if where == _ACTION else None
        if options.gripper_unit in (None, "range"):
            known |= {"gripper_unit": "range", "gripper_range": (_CLOSED_MM, _OPEN_MM)}
            known["gripper_open"] = (_CLOSED_MM - _OPEN_MM) / 1e3
            closed, opened = options.gripper_range or known["gripper_range"]
            widest = 1e3 * (options.gripper_open or known["gripper_open"])
            said.append(f"gripper in {where}, {opened:g} open ({widest:g} mm) and {closed:g} closed")
        else:
            said.append(f"gripper in {where}, taken as its width in {options.gripper_unit}")
    chosen = {name: value for name, value in known.items() if getattr(options, name) is None}
    axes = options.tool_axes or known["tool_axes"]
    said.append(f"tool axes {' '.join(axes)}, turned to the models' right down forward")
    note = (
        f"read as Hy-Embodied-0.5-VLA-Data by its features: {'; '.join(said)}. Recordings of others in this layout: "
        f"--arms, --rotation, --position-unit, --gripper-key, --gripper-unit, --gripper-range, --gripper-open, "
        f"--tool-axes"
    )
    return replace(options, **chosen), [note]


def _numbers(features: Mapping[str, Mapping[str, Any]], key: str) -> int:
    shape = features.get(key, {}).get("shape")
    return prod(shape) if isinstance(shape, list) and all(isinstance(size, int) for size in shape) else 0
