"""The ways in which recordings go wrong: numbers, names, files and tables as people's recorders and copies leave them.

A mutation of numbers returns whether it can be seen in principle; None says yes.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from recordings import Recording
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS

Random = np.random.Generator
QUATERNION = {"xyzw": [0, 1, 2, 3], "wxyz": [3, 0, 1, 2]}

# --------------------------------------------------------------------------------- mutations of numbers


def _at(recording: Recording, random: Random) -> tuple[str, int]:
    return str(random.choice(ARMS)), int(random.integers(1, len(recording.times) - 1))


def lose_tracking(recording: Recording, random: Random) -> None:
    """NaN or infinity in one frame."""
    arm, frame = _at(recording, random)
    values = getattr(recording, str(random.choice(["position", "rotation", "width"])))[arm]
    values[frame] = random.choice([np.nan, np.inf, -np.inf])


def other_dtype(recording: Recording, random: Random) -> None:
    """Poses as other numbers, or as text."""
    recording.dtype = str(
        random.choice(["float32", ">f4", ">f8", "float16", "int32", "int64", "uint8", "S12"])
    )


def other_length_unit(recording: Recording, random: Random) -> None:
    """Positions in centimetres or millimetres."""
    factor = float(random.choice([100.0, 1000.0]))
    for arm in ARMS:
        recording.position[arm] *= factor


def other_width_unit(recording: Recording, random: Random) -> None:
    """Gripper openings in millimetres, as a share of the opening, or as an encoder's ticks."""
    factor = float(random.choice([1000.0, 1 / 0.088, 12000 / 0.088]))
    for arm in ARMS:
        recording.width[arm] *= factor


def other_clock(recording: Recording, random: Random) -> None:
    """Milliseconds to nanoseconds, since the start, the boot or 1970, whole or not; or a column vector."""
    since = float(random.choice([0.0, 5e4, 1.7e9]))
    ticks = (recording.times + since) * float(random.choice([1.0, 1e3, 1e6, 1e9]))
    recording.times = ticks.astype(np.int64) if ticks[-1] > 1e6 and random.random() < 0.5 else ticks
    if random.random() < 0.2:
        recording.times = recording.times[:, None]


def disorder(recording: Recording, random: Random) -> None:
    """A clock that stands still or goes back once."""
    _, frame = _at(recording, random)
    recording.times[frame] = recording.times[frame - 1] - float(random.choice([0.0, 0.02, 1.0]))


def cut_short(recording: Recording, random: Random) -> None:
    """One of the arrays ends before the others."""
    which = str(random.choice(["times", "position", "rotation", "width", "picture"]))
    frames = int(random.integers(0, len(recording.times) - 1))
    if which == "times":
        recording.times = recording.times[:frames]
        return
    arm = str(random.choice(ARMS))
    values = getattr(recording, which)
    values[arm] = values[arm][:frames]
    if which in ("position", "rotation", "width"):  # columns of one table end together
        for name in ("position", "rotation", "width"):
            for side in ARMS:
                getattr(recording, name)[side] = getattr(recording, name)[side][:frames]


def leave_out(recording: Recording, random: Random) -> None:
    """A dataset, feature or sentence that is not there."""
    what = str(
        random.choice(["poses", "times", "grippers", "tasks", "left camera", "right camera", "sentence"])
    )
    if what == "sentence":
        recording.sentence = random.choice([None, "", " "])  # type: ignore[arg-type]
    else:
        recording.missing.add(what)


def jump(recording: Recording, random: Random) -> None:
    """The tracker jumps by half a metre, for a frame or for good."""
    arm, frame = _at(recording, random)
    end = frame + 1 if random.random() < 0.5 else len(recording.times)
    recording.position[arm][frame:end] += random.choice([0.5, -0.5], size=3)


def bad_rotation(recording: Recording, random: Random) -> None:
    """One quaternion, or all of them, of another length."""
    arm, frame = _at(recording, random)
    rows = slice(frame, frame + 1) if random.random() < 0.7 else slice(None)
    recording.rotation[arm][rows] *= float(random.choice([0.0, 0.5, 1.2]))


def padded_arm(recording: Recording, random: Random) -> None:
    """An arm that was not there, written as zeros."""
    arm = str(random.choice(ARMS))
    for values in (recording.position, recording.rotation, recording.width):
        values[arm] = np.zeros_like(values[arm])


def other_names(recording: Recording, random: Random) -> None:
    """Right arm first, w first, or Euler angles, and columns that say so."""
    if random.random() < 0.5:
        recording.arms = ("right", "left")
    kind = str(random.choice(["xyzw", "wxyz", "rpy", "degrees"]))
    if kind in QUATERNION:
        order = QUATERNION[kind]
        recording.rotation_names = tuple(np.array(["qx", "qy", "qz", "qw"])[order])
        recording.rotation = {arm: recording.rotation[arm][:, order] for arm in ARMS}
        return
    degrees = kind == "degrees"
    suffix = "_deg" if degrees else ""
    recording.rotation_names = ("roll" + suffix, "pitch" + suffix, "yaw" + suffix)
    recording.rotation = {
        arm: Rotation.from_quat(recording.rotation[arm]).as_euler("xyz", degrees=degrees) for arm in ARMS
    }


def other_pictures(recording: Recording, random: Random) -> None:
    """Depth, grey, float or transparent pictures from one camera or both."""
    kind = str(
        random.choice(
            ["uint16", "float32", "float16", "int64", "grey", "alpha", "channels first", "extra axis", "tiny"]
        )
    )
    for arm in ARMS if random.random() < 0.5 else (str(random.choice(ARMS)),):
        pictures = recording.picture[arm]
        if kind == "uint16":
            recording.picture[arm] = pictures[..., 0].astype(np.uint16) * 40
        elif kind in ("float32", "float16"):
            recording.picture[arm] = pictures.astype(kind) / 255
        elif kind == "int64":
            recording.picture[arm] = pictures.astype(np.int64)
        elif kind == "channels first":
            recording.picture[arm] = pictures.transpose(0, 3, 1, 2)
        elif kind == "extra axis":
            recording.picture[arm] = pictures[:, None]
        elif kind == "tiny":
            recording.picture[arm] = pictures[:, :1, :1]
        elif kind == "grey":
            recording.picture[arm] = pictures.max(-1)
        else:
            alpha = np.full((*pictures.shape[:3], 1), 255, np.uint8)
            recording.picture[arm] = np.concatenate([pictures, alpha], axis=-1)


def shuffle(recording: Recording, random: Random) -> None:
    """Rows in any order, each with its pictures and maybe its time."""
    order = random.permutation(len(recording.times))
    for values in (recording.position, recording.rotation, recording.width, recording.picture):
        for arm in ARMS:
            values[arm] = values[arm][order]
    if random.random() < 0.5:
        recording.times = recording.times[order]


def repeat_frames(recording: Recording, random: Random) -> None:
    """Frames that are written twice, with their times."""
    order = np.sort(np.concatenate([np.arange(len(recording.times)), [_at(recording, random)[1]]]))
    recording.times = recording.times[order]
    for values in (recording.position, recording.rotation, recording.width, recording.picture):
        for arm in ARMS:
            values[arm] = values[arm][order]


def append_times(recording: Recording, random: Random) -> None:
    """The clock of another episode goes on after this one's."""
    recording.times = np.concatenate([recording.times, recording.times[: int(random.integers(1, 20))]])


def empty_episode(recording: Recording, random: Random) -> None:
    """Recording was stopped as soon as it began."""
    recording.times = recording.times[:0]
    for values in (recording.position, recording.rotation, recording.width, recording.picture):
        for arm in ARMS:
            values[arm] = values[arm][:0]


def other_shape(recording: Recording, random: Random) -> None:
    """Poses in one row, with frames as columns, with an axis too many, as complex numbers or as one number."""
    recording.reshape = random.choice(
        [np.ravel, np.transpose, lambda table: table[None], lambda table: table[:, None], lambda table: table[0, 0],
         lambda table: table + 1j, lambda table: table[:, :, None]]
    )  # fmt: skip


def other_columns(recording: Recording, random: Random) -> bool:
    """Columns in another order, one that is lost, or one more; names stay."""
    kind = str(random.choice(["roll", "lost", "more", "width first"]))
    places = int(random.integers(1, 8))
    if kind == "roll":
        recording.reshape = lambda table: np.roll(table, places, axis=1)
    elif kind == "lost":
        recording.reshape = lambda table: np.delete(table, places, axis=1)
    elif kind == "more":
        recording.reshape = lambda table: np.insert(table, places, 0.5, axis=1)
    else:
        recording.reshape = lambda table: np.concatenate([table[:, 7:8], table[:, :7], table[:, 8:]], axis=1)
    return True


def fewer_names(recording: Recording, random: Random) -> None:
    """Names of some columns only."""
    count = int(random.integers(0, 16))
    recording.names = lambda names: names[:count]


def other_sentence(recording: Recording, random: Random) -> None:
    """Letters that break lines and files elsewhere."""
    recording.sentence = str(
        random.choice(
            ["Pick up\u2028the cup.", "Pick\x85up.", "\ufeffPick up the cup.", "拿起杯子。", "Pick up the cup.\n",
             'Say "cup".', "Pick up the cup." * 50, "{x}", "Pick \x1c up."]
        )
    )  # fmt: skip


def hold_still(recording: Recording, random: Random) -> bool:
    """A gripper that was never read. It looks like one that never moved."""
    for arm in ARMS:
        recording.width[arm][:] = recording.width[arm][0]
    return False


def swap_cameras(recording: Recording, random: Random) -> bool:
    """Cables the wrong way round. Flat pictures do not tell."""
    recording.picture = {"left": recording.picture["right"], "right": recording.picture["left"]}
    return False


MUTATIONS: list[Callable[[Recording, Random], bool | None]] = [
    lose_tracking, other_dtype, other_length_unit, other_width_unit, other_clock, disorder, cut_short, leave_out, jump,
    bad_rotation, padded_arm, other_names, other_pictures, shuffle, repeat_frames, append_times, empty_episode,
    other_shape, other_columns, fewer_names, other_sentence, hold_still, swap_cameras,
]  # fmt: skip

# ----------------------------------------------------------------------------------- mutations of files

POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 12345\n"


def damage_file(path: Path, random: Random) -> bool:
    """Cut, emptied, overwritten or replaced by a pointer. Returns whether the damage can be seen in principle."""
    data = path.read_bytes()
    kind = str(random.choice(["cut", "empty", "pointer", "bytes", "shadow"]))
    if kind == "cut":
        path.write_bytes(data[: int(random.integers(1, len(data)))])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "pointer":
        path.write_bytes(POINTER)
    elif kind == "bytes":
        changed = bytearray(data)
        for place in random.integers(0, len(data), size=20):
            changed[place] = int(random.integers(0, 256))
        path.write_bytes(bytes(changed))
        return False  # most layouts keep numbers without a checksum
    else:
        path.with_name("._" + path.name).write_bytes(b"\0\5\26\7\0\2\0\0Mac OS X        " + b"\0" * 100)
    return True


_VALUES: list[Any] = [
    None, 0, -1, 1, 7, 2.5, 10**12, 1e400, float("nan"), True, "", "x", "30", "../../x", "v9", [], [None], {}, {"x": 1},
]  # fmt: skip


def change_json(path: Path, random: Random) -> bool:
    """A key of a JSON file (or of a line, for .jsonl) that is gone or holds something else, or another encoding.
    Returns whether that can be seen in principle: another sentence cannot."""
    text, visible = path.read_text(encoding="utf-8"), True
    kind = str(
        random.choice(
            ["key", "value", "mark", "lines", "utf-16", "comma", "twice"], p=[0.3, 0.4, *[0.06] * 5]
        )
    )
    if kind in ("key", "value"):
        rows = (
            [json.loads(line) for line in text.split("\n") if line]
            if path.suffix == ".jsonl"
            else [json.loads(text)]
        )
        if not rows:
            return True
        place = rows[int(random.integers(len(rows)))]
        while True:
            name = str(random.choice(sorted(place)))
            if not (isinstance(place[name], dict) and random.random() < 0.7):
                break
            place = place[name]
        if kind == "key":
            del place[name]
        else:
            before, place[name] = place[name], _VALUES[int(random.integers(len(_VALUES)))]
            visible = not (isinstance(before, str) and isinstance(place[name], str))
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n", encoding="utf-8")
    elif kind == "mark":
        path.write_text("\ufeff" + text, encoding="utf-8")
    elif kind == "lines":
        path.write_bytes(text.replace("\n", "\r\n").encode() + b"\r\n")
    elif kind == "utf-16":
        path.write_text(text, encoding="utf-16")
    elif kind == "comma":
        path.write_text(text.rstrip() + ",", encoding="utf-8")
    else:
        path.write_text(text + text, encoding="utf-8")
    return visible


def change_table(path: Path, random: Random) -> None:
    """A column of a parquet file that is gone, null, of another type, or has other numbers or another order."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    place = int(random.integers(table.num_columns))
    name, column = table.column_names[place], table.column(place)
    values = column.to_pylist()
    row = int(random.integers(len(values))) if values else 0
    kind = str(
        random.choice(["gone", "null", "one null", "text", "float", "more", "reverse", "twice", "none"])
    )
    if kind == "gone":
        pq.write_table(table.drop_columns([name]), path)
        return
    if kind == "twice":
        pq.write_table(pa.concat_tables([table, table]), path)
        return
    if kind == "none":
        pq.write_table(table.slice(0, 0), path)
        return
    if kind == "null":
        values = [None] * len(values)
    elif kind == "one null" and values:
        values[row] = None
    elif kind == "text":
        values = [str(value) for value in values]
    elif kind == "float":
        values = [float(value) if isinstance(value, int) else value for value in values]
    elif kind == "more":
        values = [value + 1 if isinstance(value, int | float) else value for value in values]
    elif kind == "reverse" and "meta" in path.parts:  # a motion back in time is a motion
        values = values[::-1]
    pq.write_table(table.set_column(place, name, pa.array(values)), path)


# ------------------------------------------------------------------------------------- mutations of shards


def change_shard(path: Path, random: Random) -> bool:
    """One sample of a tar is changed, or all of them alike. Returns whether that can be seen in principle."""
    with tarfile.open(path) as tar:
        files = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
    names = [name for name, _ in files if name.endswith(".action.npy")]
    chosen = set(names if random.random() < 0.3 else [names[int(random.integers(len(names)))]])
    change, visible = _CHANGES[int(random.integers(len(_CHANGES)))]
    formats = [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT]
    with tarfile.open(path, "w", format=formats[int(random.integers(3))]) as tar:
        for name, data in files:
            mine = f"{name.split('.')[0]}.action.npy" in chosen
            for new, content in change(name, data, random) if mine else [(name, data)]:
                info = tarfile.TarInfo(new)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return visible


_Files = Sequence[tuple[str, bytes]]


def _action(change: Callable[[np.ndarray], np.ndarray]) -> Callable[[str, bytes, Random], _Files]:
    def apply(name: str, data: bytes, _: Random) -> _Files:
        if not name.endswith("action.npy"):
            return [(name, data)]
        stream = io.BytesIO()
        np.save(stream, change(np.load(io.BytesIO(data))))
        return [(name, stream.getvalue())]

    return apply


def _meta(change: Callable[[dict[str, Any]], Any]) -> Callable[[str, bytes, Random], _Files]:
    def apply(name: str, data: bytes, _: Random) -> _Files:
        if not name.endswith("meta.json"):
            return [(name, data)]
        meta = json.loads(data)
        changed = change(meta)
        return [(name, json.dumps(meta if changed is None else changed).encode())]

    return apply


def _lost(name: str, data: bytes, random: Random) -> _Files:
    return [] if random.random() < 0.4 else [(name, data)]


def _twice(name: str, data: bytes, random: Random) -> _Files:
    return [(name, data), (name, data)]


def _cut(name: str, data: bytes, random: Random) -> _Files:
    return [(name, data[: int(random.integers(0, len(data)))])]


def _folder(name: str, data: bytes, random: Random) -> _Files:
    return [(f"./a/{name}", data)]


def _nan(action: np.ndarray) -> np.ndarray:
    action[3, 4] = np.nan
    return action


def _as_rows(action: np.ndarray) -> np.ndarray:
    for start in (3, 13):
        first, second = action[:, start : start + 3].copy(), action[:, start + 3 : start + 6].copy()
        matrix = np.stack([first, second, np.cross(first, second)], axis=-1)
        action[:, start : start + 6] = matrix[:, :2].reshape(-1, 6)
    return action


_CHANGES: list[tuple[Callable[[str, bytes, Random], _Files], bool]] = [
    (_lost, True), (_twice, True), (_cut, True), (_folder, True),
    (_action(_nan), True), (_action(lambda action: action.T.copy()), True),
    *((_action(lambda action, kind=kind: action.astype(kind)), True) for kind in ("f8", "f2", ">f4", "i2", object)),
    (_action(lambda action: action[:-1]), True),
    (_action(lambda action: (action * 1000).astype(np.int32)), True), (_action(lambda action: action * 1000), True),
    (_action(lambda action: action[:, [*range(10, 20), *range(10)]]), False),
    (_action(lambda action: np.asfortranarray(action)), True),
    (_action(_as_rows), False),  # of one sample that hardly turns
    (_meta(lambda meta: meta.clear()), True), (_meta(lambda meta: [meta]), True),
    (_meta(lambda meta: meta.update(timestamp="x")), True), (_meta(lambda meta: meta.update(timestamp=None)), True),
    (_meta(lambda meta: meta.update(sub_task_instruction_key="other")), True),
    (_meta(lambda meta: meta.update(sub_task_instruction_key=["a"])), True),
    (_meta(lambda meta: meta.update(episode={"x": [1]})), False),
    (_meta(lambda meta: meta.update(episode=None)), False), (_meta(lambda meta: meta.update(timestamp=1e300)), True),
]  # fmt: skip
