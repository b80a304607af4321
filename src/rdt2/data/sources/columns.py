"""Which column of a state is which number of a pose: by the columns' names, and by their count without names.

Names are believed before counts: Euler angles and rotation vectors, quaternions with w first or last, arms in
either order are told apart by what their columns are called, and by nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from rdt2.data.sources.options import Rotation
from rdt2.errors import ConfigError

_LABELS: dict[str, tuple[str, ...]] = {
    "xyzw": ("x", "y", "z", "w"),
    "wxyz": ("w", "x", "y", "z"),
    "rotvec": ("x", "y", "z"),
    "columns": ("00", "10", "20", "01", "11", "21"),
    "rows": ("00", "01", "02", "10", "11", "12"),
    "euler-xyz": ("x", "y", "z"),
    "euler-zyx": ("z", "y", "x"),
    "euler-xyz-intrinsic": ("x", "y", "z"),
    "euler-zyx-intrinsic": ("z", "y", "x"),
}
"""The numbers that each storage of rotations has, in its order: axes, or entries of the matrix."""
EULER: tuple[Rotation, ...] = ("euler-xyz", "euler-zyx", "euler-xyz-intrinsic", "euler-zyx-intrinsic")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_FILLERS = _words(
    "observation observations state obs robot arm hand ee eef eff end effector endeffector tcp tool flange pose "
    "poses cartesian cart wrist follower leader world frame proprio proprioception"
)
_OTHER = _words("vel velocity speed acc acceleration force torque effort wrench current temperature base")
_DELTA = _words("delta rel relative diff")
_GRIPPER = _words("gripper grippers grip width opening openness aperture clamp jaw finger fingers claw")
_OF_GRIPPER = _words("pos position state value angle qpos joint distance open closed normalized norm m pct")
_JOINT = _words(
    "joint joints motor motors shoulder elbow waist forearm flex pan lift rotate servo dof qpos axis"
)
_POSITION = _words("pos position positions xyz translation trans location loc p t")
_QUATERNION = _words("quat quaternion quaternions q")
_EULER = _words("euler rpy")
_VECTOR = _words("rotvec rvec axisangle aa axis angle")
_TURN = _words("rot rotation orientation ori orn r")
_SIX = _words("6d rot6d r6d 6drot rotation6d ortho6d")
_AXIS_NAMES = {"roll": "x", "pitch": "y", "yaw": "z"}
_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimeters", "millimetre", "millimetres"), "mm"),
    **dict.fromkeys(("cm", "centimeter", "centimeters", "centimetre", "centimetres"), "cm"),
    **dict.fromkeys(("m", "meter", "meters", "metre", "metres"), "m"),
    **dict.fromkeys(("deg", "degree", "degrees"), "deg"),
    **dict.fromkeys(("rad", "radian", "radians"), "rad"),
}


@dataclass(frozen=True)
class ArmColumns:
    """Where the numbers of one arm stand in a row: 3 of the position, those of the rotation in the order of
    its storage, and the gripper's (None: elsewhere)."""

    position: tuple[int, ...]
    rotation: tuple[int, ...]
    gripper: int | None


@dataclass(frozen=True)
class Named:
    """What the names of the columns say. arms: in the order of the columns, by side where the names tell,
    else by number. kinds: the storages of rotations they allow, the likeliest first. Units where they tell."""

    arms: dict[str, dict[str, dict[str, int]]]
    kinds: tuple[Rotation, ...]
    units: dict[str, str] = field(default_factory=dict)

    def columns(self, arm: str, kind: Rotation) -> ArmColumns:
        """The columns of one arm with a rotation of one of ``kinds``."""
        parts = self.arms[arm]
        turn = next(values for name, values in parts.items() if name not in ("position", "gripper"))
        numbered = all(label.isdigit() and len(label) == 1 for label in turn)
        order = sorted(turn) if numbered else _LABELS[kind]
        place = parts["position"]
        return ArmColumns(
            position=tuple(place[label] for label in sorted(place)),
            rotation=tuple(turn[label] for label in order),
            gripper=next(iter(parts.get("gripper", {}).values()), None),
        )


@dataclass(frozen=True)
class _Column:
    """One name: the arm, part of a pose ("", where it is none) with a label inside it, and a unit."""

    arm: str
    part: str
    label: str = ""
    unit: str = ""


def counted(arms: int, kind: Rotation, *, gripper: bool) -> list[ArmColumns]:
    """Arms side by side, each position, rotation, and the gripper where there is one."""
    size, turn = 3 + len(_LABELS[kind]) + gripper, len(_LABELS[kind])
    return [
        ArmColumns(
            position=tuple(range(start, start + 3)),
            rotation=tuple(range(start + 3, start + 3 + turn)),
            gripper=start + 3 + turn if gripper else None,
        )
        for start in range(0, arms * size, size)
    ]


def flat_names(names: object, prefix: str = "") -> list[str]:
    """Names of columns as datasets keep them: a list, lists by arm or part, or numbers by name."""
    if isinstance(names, dict):
        if names and all(isinstance(value, int) for value in names.values()):
            return [f"{prefix}{name}" for name in sorted(names, key=lambda name: names[name])]
        out = []
        for key, part in names.items():
            plain = str(key).lower() in ("motors", "axes", "names", "columns", "dims", "state")
            out += flat_names(part, prefix if plain else f"{prefix}{key}.")
        return out
    if isinstance(names, (list, tuple)):
        return [name for part in names for name in flat_names(part, prefix)]
    return [] if names is None else [f"{prefix}{names}"]


def sides(names: Sequence[str]) -> tuple[str, ...]:
    """The arms that names of columns tell, in order; empty where one of them tells none."""
    arms = [_parse(name).arm for name in names]
    return tuple(dict.fromkeys(arms)) if set(arms) <= {"left", "right"} else ()


def of_arm(name: str, arm: str) -> str:
    """A column's name in a table of one arm alone as it is called beside those of the other: "x" of left is left_x.
    A name that tells a side keeps it, right or wrong; a number of the robot, which counts elsewhere, is left out."""
    told, rest = _arm_of(_tokens(name))
    return name if told in ("left", "right") else "_".join((arm, *(rest if told else (name,))))


def is_joint(name: str) -> bool:
    """A name of joint angles."""
    return _parse(name).part == "joint"


def tells(name: str) -> bool:
    """A name of a number in a pose, or of a gripper."""
    return _parse(name).part not in ("", "joint", "delta")


def read_names(names: Sequence[str], *, where: str) -> Named | None:
    """What names of columns say about poses; None where they say nothing ("state_0", "state_1", ...).

    Raises:
        ConfigError: names of joint angles, or of differences, or of a part of a pose only.
    """
    found = [_parse(name) for name in names]
    arms: dict[str, dict[str, dict[str, int]]] = {}
    units: dict[str, set[str]] = {}
    twice = False
    for number, column in enumerate(found):
        if column.part in ("", "joint", "delta"):
            continue
        # A label that comes again without an arm's name begins the next arm.
        again = 0
        while not column.arm and column.label in arms.get(str(again), {}).get(column.part, {}):
            again += 1
        part = arms.setdefault(column.arm or str(again), {}).setdefault(column.part, {})
        twice = twice or column.label in part
        part[column.label] = number
        if column.unit:
            what = column.part if column.part in ("position", "gripper") else "angle"
            units.setdefault(what, set()).add(column.unit)
    for parts in arms.values():
        if "matrix" in parts and not any("0" in label for label in parts["matrix"]):  # counted from 1
            parts["matrix"] = {f"{int(label) - 11:02d}": place for label, place in parts["matrix"].items()}
    shown = ", ".join(names[:8]) + (", ..." if len(names) > 8 else "")
    complete = bool(arms) and all(_kinds(parts) for parts in arms.values())
    if not complete:
        _refuse_what_is_no_pose(found, shown, where)
        if not arms:
            return None
        raise ConfigError(
            f"{where}: its columns ({shown}) name no whole pose: expected x, y, z, a rotation (qx qy qz qw, "
            f"roll pitch yaw, rotvec_0.., rot6d_0..) and gripper of each arm. Name all columns in their order: "
            f"--pose-names left_x left_y ...; joint angles are no poses."
        )
    kinds = {_kinds(parts) for parts in arms.values()}
    several = [arm for arm, parts in arms.items() if len(parts.get("gripper", {})) > 1]
    mixed = len(arms) > 2 or not (set(arms) <= {"left", "right"} or all(arm.isdigit() for arm in arms))
    if twice or len(kinds) > 1 or several or mixed or any(len(said) > 1 for said in units.values()):
        raise ConfigError(
            f"{where}: its columns ({shown}) name something twice, more than two arms, different rotations or "
            f"units, or several grippers of an arm. "
            f"Name all columns in their order: --pose-names left_x left_y ...; a name like 'other' leaves one out."
        )
    if all(arm.isdigit() for arm in arms):  # robot 0 is the first, wherever its columns stand
        arms = dict(sorted(arms.items()))
    return Named(arms, kinds.pop(), {what: said.pop() for what, said in units.items()})


def _refuse_what_is_no_pose(found: Sequence[_Column], shown: str, where: str) -> None:
    for part, what in (
        ("joint", "holds joint angles"),
        ("delta", "holds differences from one frame to the next"),
    ):
        if any(column.part == part for column in found):
            raise ConfigError(
                f"{where}: {what} ({shown}), which are no poses. Point --pose-key at absolute end-effector poses; "
                f"where the names are wrong, name the columns: --pose-names left_x left_y ..."
            )


def _kinds(parts: dict[str, dict[str, int]]) -> tuple[Rotation, ...]:
    """The storages of a rotation that its labels allow; none where position or rotation are not whole."""
    place = sorted(parts.get("position", {}))
    turns = [name for name in parts if name not in ("position", "gripper")]
    if place not in (["x", "y", "z"], ["0", "1", "2"], ["1", "2", "3"]) or len(turns) != 1:
        return ()
    (name,) = turns
    labels = sorted(parts[name], key=parts[name].__getitem__)
    axes = "".join(sorted(label for label in labels if label in "xyzw"))
    count = len(labels)
    if axes == "wxyz" and count == 4 and name in ("quaternion", "turn"):
        return ("wxyz",) if labels[0] == "w" else ("xyzw",)
    if name == "matrix":
        entries: tuple[Rotation, ...] = ("columns", "rows")
        return tuple(kind for kind in entries if set(_LABELS[kind]) <= set(labels))[:1]
    if axes and axes != "xyz":
        return ()
    if not axes and not all(label.isdigit() for label in labels):
        return ()
    allowed: dict[tuple[str, int], tuple[Rotation, ...]] = {
        ("quaternion", 4): ("xyzw", "wxyz"),
        ("turn", 4): ("xyzw", "wxyz"),
        ("vector", 3): ("rotvec",),
        ("euler", 3): EULER,
        ("turn", 3): ("rotvec", *EULER),
        ("six", 6): ("columns", "rows"),
        ("turn", 6): ("columns", "rows"),
    }
    return allowed.get((name, count), ())


def _parse(name: str) -> _Column:
    tokens = _tokens(name)
    arm, tokens = _arm_of(tokens)
    unit = ""
    if len(tokens) > 1 and tokens[-1] in _UNITS:
        unit, tokens = _UNITS[tokens[-1]], tokens[:-1]
    words = [token for token in tokens if token not in _FILLERS]
    if not words or _OTHER & set(words):
        return _Column(arm, "")
    if _DELTA & set(words):
        return _Column(arm, "delta")
    last, before = words[-1], frozenset(words[:-1])
    if _GRIPPER & set(words):
        rest = [word for word in words if word not in _GRIPPER and word not in _OF_GRIPPER]
        if not rest or (len(rest) == 1 and rest[0].isdigit()):
            return _Column(arm, "gripper", "".join(rest), unit)
        before, words = before - _GRIPPER, [word for word in words if word not in _GRIPPER]
    part, label = _part(last, before)
    if not part and (_JOINT & set(words) or (name.lower().endswith(".pos") and before)):
        return _Column(arm, "joint")
    return _Column(arm, part, label, unit)


def _part(last: str, before: frozenset[str]) -> tuple[str, str]:
    """Part of a pose and label inside it, of a name's words: the last, and those before it."""
    if last in _AXIS_NAMES and before <= _EULER | _TURN:
        return "euler", _AXIS_NAMES[last]
    if last in ("x", "y", "z", "w") or (last.isdigit() and len(last) == 1):
        for part, allowed in (
            ("quaternion", _QUATERNION),
            ("euler", _EULER),
            ("vector", _VECTOR),
            ("six", _SIX),
            ("turn", _TURN),
        ):
            if before & allowed and before <= allowed | _TURN | _SIX:
                # q0, q1, ... may be joints as well as a quaternion.
                return ("", "") if before == {"q"} and last.isdigit() else (part, last)
        if last != "w" and before <= _POSITION and (before or not last.isdigit()):
            return "position", last
    if last.isdigit() and len(last) == 2 and before <= _TURN | {"matrix", "m"} and before:
        return "matrix", last
    for pattern, part in (
        (r"(?:q|quat)([xyzw])", "quaternion"),
        (r"r([xyzw])", "turn"),
        (r"w([xyz])", "vector"),
        (r"(?:p|t|pos)([xyz])", "position"),
    ):
        match = re.fullmatch(pattern, last)
        if match and before <= _POSITION | _TURN | _QUATERNION | _VECTOR:
            return part, match.group(1)
    return "", ""


def _tokens(name: str) -> list[str]:
    """Lower-case words and numbers of a name: ``robot0_eefPos.x`` is robot, 0, eef, pos, x."""
    out: list[str] = []
    for word in re.split(r"[^a-z0-9]+", re.sub(r"(?<=[a-z])(?=[A-Z][a-z])", " ", name).lower()):
        match = re.fullmatch(r"([a-z]+)(\d+)", word)
        out += match.groups() if match else [word] if word else []
    return out


def _arm_of(tokens: list[str]) -> tuple[str, list[str]]:
    """The arm that a name's words tell ("" for none), and the other words."""
    for number, token in enumerate(tokens):
        side = next((side for side in ("left", "right") if token.startswith(side)), None)
        single = {"l": "left", "r": "right"}.get(token) if len(tokens) > 1 else None
        if single and number + 1 < len(tokens) and re.fullmatch(r"\d+", tokens[number + 1]):
            single = None  # r00 and r1 are entries of a rotation
        if side or single:
            rest = token[len(side) :] if side else ""
            return side or str(single), [*tokens[:number], *([rest] if rest else []), *tokens[number + 1 :]]
        after = tokens[number + 1] if number + 1 < len(tokens) else ""
        if token in ("robot", "arm", "hand", "agent", "manipulator") and re.fullmatch(r"[0-3]", after):
            return after, [*tokens[:number], *tokens[number + 2 :]]
    return "", tokens
