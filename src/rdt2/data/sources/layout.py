"""How the numbers of a recording's poses are laid out: by names, by the numbers themselves, by their count."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from rdt2.data.sources.columns import EULER, ArmColumns, Named, counted, is_joint, read_names, sides, tells
from rdt2.data.sources.numbers import ROTATION_SIZE, is_6d, is_quaternion
from rdt2.data.sources.options import METRES, Rotation, SourceOptions
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from jaxtyping import Float

_ALIKE = {
    "xyzw": "wxyz would look the same: nothing in the numbers tells",
    "columns": "rows would look the same: nothing in the numbers tells",
    "rotvec": "Euler angles (euler-xyz: roll, pitch, yaw) or joint angles would look the same",
}
"""What a storage cannot be told from by its numbers; said beside the guess."""


@dataclass(frozen=True)
class Layout:
    """arms: the columns of each, in their order. order: their sides as --arms has them, "" where nothing tells.
    rotation_reason: why that storage, "" where names leave no choice. units: options that names tell."""

    arms: list[ArmColumns]
    order: str
    rotation: Rotation
    rotation_reason: str
    units: dict[str, str] = field(default_factory=dict)


def read_layout(
    key: str,
    names: Sequence[str],
    sample: Float[np.ndarray, "n columns"],
    options: SourceOptions,
    *,
    where: str,
) -> Layout:
    """The layout of poses ``key`` with these column names (none: []); sample: rows of a recording.

    Raises:
        ConfigError: joint angles, numbers or names that are no poses, or options that contradict them.
    """
    sample = sample[np.isfinite(sample).all(-1)]
    named = read_names(names, where=where) if len(names) == sample.shape[1] else None
    if named is not None:
        return _by_names(named, options, where=where)
    if any(is_joint(name) for name in names):
        raise ConfigError(
            f"{where}: holds joint angles ({', '.join(names[:3])}), which are no poses. {_ELSEWHERE}"
        )
    if len(names) != sample.shape[1] and any(tells(name) for name in names):
        raise ConfigError(
            f"{where}: has {sample.shape[1]} columns and {len(names)} names for them ({', '.join(names[:8])}). Name "
            f"all columns in their order: --pose-names left_x left_y ..."
        )
    return _by_count(key, names, sample, options, where=where)


_ELSEWHERE = "Point --pose-key at end-effector poses; where the names are wrong, name the columns: --pose-names x y ..."


def _by_names(named: Named, options: SourceOptions, *, where: str) -> Layout:
    rotation = options.rotation or named.kinds[0]
    if rotation not in named.kinds:
        raise ConfigError(
            f"{where}: its columns are named as {' or '.join(named.kinds)}, --rotation says {rotation}. Leave "
            f"--rotation out; where the names are wrong, name the columns: --pose-names left_x left_y ..."
        )
    reason = ""
    if len(named.kinds) > 1:
        others = ", ".join(named.kinds[1:])
        reason = f"by the columns' names, which do not tell it from {others}"
        if named.kinds == EULER:
            reason = f"columns named as Euler angles; most robots turn about fixed x, y, z. As well: {others}"
    units = {}
    for what, option in (
        ("position", "position_unit"),
        ("angle", "angle_unit"),
        ("gripper", "gripper_unit"),
    ):
        said, given = named.units.get(what), getattr(options, option)
        if said is None or (what == "angle" and ROTATION_SIZE[rotation] != 3):
            continue
        if what == "gripper" and said not in METRES:
            continue  # named as an angle: only a range says what opening that is
        if given not in (None, said):
            raise ConfigError(
                f"{where}: its columns are named in {said}, --{option.replace('_', '-')} says {given}. Leave it out; "
                f"where the names are wrong, name the columns: --pose-names left_x left_y ..."
            )
        units[option] = said
    sided = set(named.arms) <= {"left", "right"}
    return Layout(
        [named.columns(arm, rotation) for arm in named.arms],
        "-".join(named.arms) if sided else "",
        rotation,
        reason,
        units,
    )


def _by_count(
    key: str, names: Sequence[str], sample: np.ndarray, options: SourceOptions, *, where: str
) -> Layout:
    columns = sample.shape[1]
    arms = len(options.arms.split("-")) if options.arms else 2 if columns >= 12 else 1
    size = columns // arms
    turns, six = is_quaternion(sample[:, 3:7]), size in (9, 10) and is_6d(sample[:, 3:9])
    if is_joint(key) and not (size in (7, 8) and turns) and not six:
        raise ConfigError(
            f"{where}: holds joint angles by its name ({columns} columns), which are no poses. {_ELSEWHERE}"
        )
    rotation = options.rotation
    if rotation is None:
        quaternion = size == 8 or (size == 7 and turns)
        rotation = "columns" if size in (9, 10) else "xyzw" if quaternion else "rotvec"
    gripper = size - 3 - ROTATION_SIZE[rotation]
    if columns % arms or gripper not in (0, 1):
        fits = f"{arms} arm(s) of position, {rotation}, gripper have {arms * (4 + ROTATION_SIZE[rotation])}"
        choice = (
            "Choose another --rotation or --arms" if options.rotation or options.arms else "Choose --arms"
        )
        raise ConfigError(
            f"{where}: has {columns} columns; {fits}. {choice}, or name the columns (a name like 'other' leaves one "
            f"out): --pose-names left_x left_y ... Joint angles are no poses: point --pose-key at end-effector poses."
        )
    if ROTATION_SIZE[rotation] == 3 and size == 7 and turns:
        raise ConfigError(
            f"{where}: columns 4 to 7 of an arm are unit quaternions, --rotation says {rotation}. Say xyzw or wxyz."
        )
    if len(sample) and options.rotation is None and not (turns or six or rotation == "rotvec"):
        what = "quaternion" if ROTATION_SIZE[rotation] == 4 else "6D rotation"
        raise ConfigError(
            f"{where}: has {columns} columns, as {arms} arm(s) of position, {what}, gripper do, but columns 4 to "
            f"{3 + ROTATION_SIZE[rotation]} are no {what}{_found_elsewhere(sample, size)}. Name the columns in their "
            f"order: --pose-names left_x left_y ... Joint angles are no poses: point --pose-key at end-effector poses."
        )
    each = "position, rotation, gripper" if gripper else "position and rotation, no gripper"
    order = sides(names)
    return Layout(
        counted(arms, rotation, gripper=bool(gripper)),
        "-".join(order) if len(order) == arms else "",
        rotation,
        f"{columns} numbers for {arms} arm(s), each {each}; {_ALIKE[rotation]}"
        if not options.rotation
        else "",
    )


def _found_elsewhere(sample: np.ndarray, size: int) -> str:
    for start in range(size - 3):
        if is_quaternion(sample[:, start : start + 4]):
            return f" (columns {start + 1} to {start + 4} are unit quaternions)"
    return ""
