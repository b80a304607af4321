"""LeRobot datasets as people have them: what is stored otherwise is read right, or its episode is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from motion import Motion

from rdt2.action import ARMS
from rdt2.data import Episode
from rdt2.data.clock import pieces
from rdt2.data.convert import convert
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RDT2Error, RecordingError

CAMERAS = {arm: f"images.{arm}_wrist" for arm in ARMS}
OPTIONS: dict[str, Any] = {
    "arms": "left-right",
    "rotation": "xyzw",
    "gripper_unit": "m",
    "cameras": (CAMERAS["right"], CAMERAS["left"]),
}
COUNT = 30


def write_video(path: Path, numbers: list[int], *, fps: float = 30, pts: list[int] | None = None) -> None:
    """Grey pictures whose brightness is 20 + 4 times their number; ``pts`` in units of 1/fps."""
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    rate = Fraction(fps).limit_denominator(1001)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate)
        stream.width = stream.height = 48
        stream.pix_fmt, stream.options, stream.thread_count = "yuv420p", {"g": "10", "bf": "2"}, 1
        for row, number in enumerate(numbers):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 48, 3), 20 + 4 * number, np.uint8), format="rgb24"
            )
            frame.pts, frame.time_base = row if pts is None else pts[row], 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def table(motion: Motion, episode: int, **columns: Any) -> pa.Table:
    count = len(motion.times)
    state = motion.table(("left", "right"), motion.quaternion).astype(np.float32)
    return pa.table(
        {
            "observation.state": pa.FixedSizeListArray.from_arrays(pa.array(state.reshape(-1)), 16),
            "timestamp": pa.array(motion.times.astype(np.float32)),
            "episode_index": np.full(count, episode),
            "frame_index": np.arange(count),
            "task_index": np.zeros(count, int),
        }
        | columns
    )


@pytest.fixture
def v21(tmp_path: Path) -> Callable[..., Path]:
    """Writes a v2.1 dataset of one episode; ``columns`` replace those of its table (None leaves one out), ``info``
    values of info.json."""

    def write(
        *,
        motion: Motion | None = None,
        video: dict[str, Any] | None = None,
        tasks: Any = ("Fold.",),
        info=None,
        **columns,
    ) -> Path:
        root = tmp_path / "set"
        motion = motion or Motion(COUNT)
        rows = table(motion, 0)
        for name, values in columns.items():
            rows = rows.drop([name])
            rows = rows if values is None else rows.append_column(name, pa.array(values))
        file = root / "data/chunk-000/episode_000000.parquet"
        file.parent.mkdir(parents=True)
        (root / "meta").mkdir()
        pq.write_table(rows, file)
        for camera in CAMERAS.values():
            path = root / f"videos/chunk-000/{camera}/episode_000000.mp4"
            write_video(path, **({"numbers": list(range(len(motion.times)))} | (video or {})))
        values = {
            "codebase_version": "v2.1",
            "fps": 30,
            "features": {
                "observation.state": {"dtype": "float32", "shape": [16]},
                **{camera: {"dtype": "video", "shape": [48, 48, 3]} for camera in CAMERAS.values()},
            },
        } | (info or {})
        (root / "meta/info.json").write_text(json.dumps(values))
        line = {"episode_index": 0, "tasks": tasks, "length": len(motion.times)}
        (root / "meta/episodes.jsonl").write_text(json.dumps(line))
        sentences = [{"task_index": n, "task": text} for n, text in enumerate(["Fold.", "Lift it.", ""])]
        (root / "meta/tasks.jsonl").write_text("\n".join(map(json.dumps, sentences)))
        return root

    return write


@pytest.fixture
def v3(tmp_path: Path) -> Callable[..., Path]:
    """Writes a v3.0 dataset of three episodes: two data files, one video file of the right camera, three of the left.
    Episode e, row k shows number 5 e + k. ``tweak`` changes the rows of meta/episodes, ``info`` info.json."""

    def write(
        *,
        tweak: Callable[[list[dict[str, Any]]], None] = lambda rows: None,
        info=None,
        fps: float = 30,
        step: float = 1 / 30,
    ) -> Path:
        root = tmp_path / "set3"
        data_files, video_files = (0, 0, 1), {"right": (0, 0, 0), "left": (0, 1, 2)}
        meta = [
            {
                "episode_index": e,
                "tasks": ["Fold."],
                "length": COUNT,
                "data/chunk_index": 0,
                "data/file_index": data_files[e],
                "stats/observation.state/min": [0.0],
            }
            for e in range(3)
        ]
        for file in {*data_files}:
            path = root / f"data/chunk-000/file-{file:03d}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            parts = [table(Motion(COUNT, number=e), e) for e in range(3) if data_files[e] == file]
            pq.write_table(pa.concat_tables(parts), path)
        for arm, files in video_files.items():
            shown: dict[int, list[int]] = {}
            for e, file in enumerate(files):
                numbers = shown.setdefault(file, [])
                start = len(numbers) * step
                numbers += [5 * e + k for k in range(COUNT)]
                key = f"videos/{CAMERAS[arm]}"
                meta[e] |= {
                    f"{key}/chunk_index": 0,
                    f"{key}/file_index": file,
                    f"{key}/from_timestamp": start,
                    f"{key}/to_timestamp": start + COUNT * step,
                }
            for file, numbers in shown.items():
                write_video(root / f"videos/{CAMERAS[arm]}/chunk-000/file-{file:03d}.mp4", numbers, fps=fps)
        tweak(meta)
        path = root / "meta/episodes/chunk-000/file-000.parquet"
        path.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(meta), path)
        values = {
            "codebase_version": "v3.0",
            "fps": 30,
            "data_path": "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
            "video_path": "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
            "features": {
                "observation.state": {"dtype": "float32", "shape": [16]},
                **{camera: {"dtype": "video", "shape": [48, 48, 3]} for camera in CAMERAS.values()},
            },
        } | (info or {})
        (root / "meta/info.json").write_text(json.dumps(values))
        return root

    return write


def opened(root: Path, **options: Any):
    return open_source(root, "lerobot", SourceOptions(**(OPTIONS | options)))


def numbers(episode: Episode, arm: str = "right", rows: range | None = None) -> list[float]:
    """The numbers that the pictures show."""
    return [(float(episode.videos[arm][row].mean()) - 20) / 4 for row in rows or range(len(episode))]


def shows(episode: Episode, expected: Any) -> None:
    for arm in ARMS:
        np.testing.assert_allclose(numbers(episode, arm), list(expected), atol=0.6)


def is_motion(episode: Episode, number: int = 0) -> None:
    truth = Motion(COUNT, number=number)
    np.testing.assert_allclose(episode.timestamps, truth.times, atol=1e-6)
    for arm in ARMS:
        np.testing.assert_allclose(episode.poses[arm][:, :3, 3], truth.position[arm], atol=1e-6)


# ------------------------------------------------------------------------------------------ where things lie


def as_floats(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        for name in row:
            if name.endswith(("chunk_index", "file_index", "length")):
                row[name] = float(row[name])


def stale(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        row["data/file_index"] = 1 - row["data/file_index"]


def missing_file(rows: list[dict[str, Any]]) -> None:
    rows[0]["data/file_index"] = 7


def late_starts(rows: list[dict[str, Any]]) -> None:
    """A start that is off by half a second: the pictures are counted."""
    for row in rows[1:]:
        row[f"videos/{CAMERAS['right']}/from_timestamp"] += 0.5


@pytest.mark.parametrize("tweak", [lambda rows: None, as_floats, stale, missing_file, late_starts])
def test_v3_wherever_the_rows_and_videos_lie(v3: Callable[..., Path], tweak: Any) -> None:
    source = opened(v3(tweak=tweak))
    for number in range(3):
        is_motion(source[number], number)
        shows(source[number], range(5 * number, 5 * number + COUNT))


@pytest.mark.parametrize("name", ["data_path", "video_path"])
@pytest.mark.parametrize("value", [None, ""])
def test_v3_templates_that_are_left_out_are_the_published_ones(
    v3: Callable[..., Path], name: str, value: Any
) -> None:
    is_motion(opened(v3(info={name: value}))[1], 1)


@pytest.mark.parametrize("shape", [None, [], [16]])
def test_a_shape_that_is_left_out_is_seen_in_the_table(v3: Callable[..., Path], shape: Any) -> None:
    root = v3()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["shape"] = shape
    (root / "meta/info.json").write_text(json.dumps(info))
    is_motion(opened(root)[2], 2)


def test_a_shape_that_contradicts_the_table_is_named(v3: Callable[..., Path]) -> None:
    root = v3()
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.state"]["shape"] = [14]
    (root / "meta/info.json").write_text(json.dumps(info))
    with pytest.raises(RecordingError, match=r"16 columns, info.json\s+promises 14"):
        opened(root, rotation="rotvec")[0]


LEFT = f"videos/{CAMERAS['left']}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (f"{LEFT}/file_index", None, "episode 1, images.left_wrist, file_index is None"),
        (f"{LEFT}/file_index", 1.5, "file_index is 1.5, expected a whole number"),
        (f"{LEFT}/chunk_index", float("nan"), "chunk_index is nan"),
        (f"{LEFT}/from_timestamp", None, "from_timestamp is None"),
        ("data/file_index", None, "episode 1, file_index is None"),
        ("length", None, "episode 1, length is None"),
        ("length", 0, "episode 1: has no frame"),
        ("length", 31, "30 rows, the episode table promises 31"),
        (f"{LEFT}/file_index", 9, r"file-009.mp4: cannot be read"),
    ],
)
def test_what_is_wrong_with_one_episode_is_named_and_the_others_are_read(
    v3: Callable[..., Path], tmp_path: Path, name: str, value: Any, message: str
) -> None:
    def tweak(rows: list[dict[str, Any]]) -> None:
        if isinstance(value, float):
            as_floats(rows)
        rows[1][name] = value

    root = v3(tweak=tweak)
    with pytest.raises(RecordingError, match=message):
        opened(root)[1]
    options = SourceOptions(**OPTIONS)
    report = convert(root, tmp_path / "out", kind="lerobot", options=options, on_error="skip")
    assert report.episodes == 2
    assert len(report.skipped) == 1


def test_the_first_episode_may_be_the_damaged_one(v3: Callable[..., Path], tmp_path: Path) -> None:
    def tweak(rows: list[dict[str, Any]]) -> None:
        rows[0]["data/chunk_index"] = None

    options = SourceOptions(arms="left-right", rotation="xyzw")
    report = convert(
        v3(tweak=tweak),
        tmp_path / "out",
        kind="lerobot",
        options=options,
        on_error="skip",
        accept_guesses=True,
    )
    assert (report.episodes, len(report.skipped)) == (2, 1)


@pytest.mark.parametrize(
    "line", ["[1]", '{"length": 30}', '{"episode_index": "x", "length": 30}', "{", '{"episode_index": 0}']
)
def test_episode_lines_that_are_none(v21: Callable[..., Path], line: str) -> None:
    root = v21()
    (root / "meta/episodes.jsonl").write_text(line)
    with pytest.raises(RDT2Error, match=r"episodes|episode 0, length is None"):
        opened(root)[0]


def test_pictures_beside_the_table(v21: Callable[..., Path]) -> None:
    """A table may hold bytes, or the path of a picture file."""
    import io

    from PIL import Image

    def png(number: int) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(np.full((48, 48, 3), 20 + 4 * number, np.uint8)).save(stream, "PNG")
        return stream.getvalue()

    features = {"observation.state": {"dtype": "float32", "shape": [16]}} | {
        camera: {"dtype": "image", "shape": [48, 48, 3]} for camera in CAMERAS.values()
    }
    root = v21(info={"features": features})
    for n in range(COUNT):
        (root / "images").mkdir(exist_ok=True)
        (root / f"images/{n}.png").write_bytes(png(n))
    file = root / "data/chunk-000/episode_000000.parquet"
    rows = pq.read_table(file)
    paths = [{"bytes": None, "path": f"images/{n}.png"} for n in range(COUNT)]
    paths[-1]["path"] = "../../outside.png"
    pq.write_table(
        rows.append_column(CAMERAS["right"], pa.array(paths)).append_column(
            CAMERAS["left"], pa.array([png(n) for n in range(COUNT)])
        ),
        file,
    )
    episode = opened(root)[0]
    np.testing.assert_allclose(numbers(episode, "right", range(29)), range(29), atol=0.1)
    np.testing.assert_allclose(numbers(episode, "left"), range(COUNT), atol=0.1)
    with pytest.raises(RecordingError, match=r"frame 29: the dataset has no picture file ../../outside.png"):
        episode.videos["right"][29]


# ---------------------------------------------------------------------------------------------- video and clock


@pytest.mark.parametrize(
    "video",
    [
        {"numbers": list(range(COUNT))},
        {"numbers": list(range(COUNT)), "pts": [7 + k for k in range(COUNT)]},
        {"numbers": list(range(COUNT)), "pts": [k + k // 3 for k in range(COUNT)]},
        {"numbers": list(range(COUNT)), "fps": 29.97},
        {"numbers": list(range(COUNT)), "fps": 25},
        {"numbers": list(range(COUNT)), "fps": 60},
        {"numbers": list(range(COUNT + 5))},
        {"numbers": list(range(COUNT + 1)), "pts": [3000 + k for k in range(COUNT + 1)]},
        {"numbers": [k // 2 for k in range(2 * COUNT)], "fps": 60},
        # Four pictures a row, the row's own in the middle of its window.
        {"numbers": [(k + 1) // 4 for k in range(4 * COUNT)], "fps": 120},
    ],
    ids=[
        "even",
        "late-start",
        "uneven",
        "29.97",
        "25",
        "60",
        "longer",
        "clock-of-its-own",
        "faster",
        "much-faster",
    ],
)
def test_each_row_gets_its_picture(v21: Callable[..., Path], video: dict[str, Any]) -> None:
    episode = opened(v21(video=video))[0]
    is_motion(episode)
    shows(episode, range(COUNT))


def test_a_picture_is_the_nearest_not_the_first_of_its_window(v21: Callable[..., Path]) -> None:
    """Ten rows a second and thirty pictures: row k is shown by picture 3 k."""
    motion = Motion(15, 10)
    source = opened(v21(motion=motion, info={"fps": 10}, video={"numbers": list(range(45))}))
    shows(source[0], range(0, 45, 3))


def test_a_video_shorter_than_its_table(v21: Callable[..., Path]) -> None:
    """One picture may lack at the end; where more do, nothing says which."""
    root = v21(video={"numbers": list(range(COUNT - 1))})
    episode = opened(root)[0]
    np.testing.assert_allclose(numbers(episode, rows=range(29)), range(29), atol=0.6)
    with pytest.raises(RecordingError, match="no picture for row 29"):
        episode.videos["left"][29]
    for camera in CAMERAS.values():
        write_video(root / f"videos/chunk-000/{camera}/episode_000000.mp4", list(range(COUNT - 4)))
    with pytest.raises(RecordingError, match="26 pictures for 30 rows"):
        opened(root)[0]
    (root / f"videos/chunk-000/{CAMERAS['left']}/episode_000000.mp4").write_bytes(b"no video")
    with pytest.raises(RecordingError, match="is no whole video"):
        opened(root)[0]


@pytest.mark.parametrize("per", [1, 1e3, 1e6, 1e9])
@pytest.mark.parametrize("start", [0.0, 20.0, 1.7e9])
def test_clocks_of_the_table(v21: Callable[..., Path], per: float, start: float) -> None:
    """Any unit, clocks that run on from episode to episode, wall clocks: the video begins with the episode."""
    stamps = np.round((start + Motion(COUNT).times) * per, 0 if per > 1 else 9)
    root = v21(timestamp=stamps, video={"numbers": list(range(COUNT + 2))})
    is_motion(opened(root)[0])
    shows(opened(root)[0], range(COUNT))
    shows(opened(root, fps=30)[0], range(COUNT))


def test_dates_as_a_clock(v21: Callable[..., Path]) -> None:
    stamps = np.datetime64("2026-03-01T10:00:00", "us") + np.round(Motion(COUNT).times * 1e6).astype("m8[us]")
    root = v21(timestamp=stamps, video={"numbers": list(range(COUNT + 2))})
    is_motion(opened(root)[0])
    shows(opened(root)[0], range(COUNT))


def test_rounded_clocks_are_exact_on_the_grid_of_their_rate(v21: Callable[..., Path]) -> None:
    is_motion(opened(v21(timestamp=(40_000 + Motion(COUNT).times).astype(np.float32)))[0])


@pytest.mark.parametrize(
    ("stamps", "message"),
    [
        (np.arange(COUNT) / 10, r"make 10 frames a second, the recording says 30.*--fps 10 or --fps 30"),
        ((1.7e9 + np.arange(COUNT) / 30).astype(np.float32), "float32.*--fps"),
        (np.repeat(np.arange(COUNT // 2) / 15, 2), "frame 1 is the same as that of frame 0.*--fps"),
        (np.where(np.arange(COUNT) > 9, np.nan, np.arange(COUNT) / 30), "frame 10 is no number"),
    ],
)
def test_a_clock_that_is_wrong_is_named_and_fps_takes_its_place(
    v21: Callable[..., Path], stamps: np.ndarray, message: str
) -> None:
    root = v21(timestamp=stamps)
    with pytest.raises(RDT2Error, match=message):
        opened(root)[0]
    is_motion(opened(root, fps=30)[0])
    shows(opened(root, fps=30)[0], range(COUNT))


def test_a_dataset_without_rate_or_clock(v21: Callable[..., Path]) -> None:
    root = v21(timestamp=None, frame_index=np.r_[:15, 60 : COUNT + 45])
    times = opened(root)[0].timestamps
    assert pieces(times) == [slice(0, 15), slice(15, 30)]
    np.testing.assert_allclose(times[-1], 74 / 30)
    info = json.loads((root / "meta/info.json").read_text())
    (root / "meta/info.json").write_text(json.dumps(info | {"fps": None}))
    with pytest.raises(ConfigError, match=r"neither timestamps nor fps.*--fps"):
        opened(root)[0]
    assert len(opened(root, fps=30)[0]) == COUNT


def test_without_a_rate_the_clock_alone_counts(v21: Callable[..., Path]) -> None:
    is_motion(opened(v21(info={"fps": None}))[0])


def test_a_pause_in_the_table_is_no_motion(v21: Callable[..., Path], tmp_path: Path) -> None:
    motion = Motion(150)
    motion.times = np.r_[np.arange(30) / 30, 5 + np.arange(30) / 30]
    for values in (motion.position, motion.rotvec, motion.width, motion.picture):
        for arm in ARMS:
            values[arm] = values[arm][np.r_[:30, 120:150]]
    root = v21(motion=motion, video={"numbers": [k // 2 for k in range(60)]})
    report = convert(root, tmp_path / "out", kind="lerobot", options=SourceOptions(**OPTIONS))
    assert report.samples == 12


def test_one_frame(v21: Callable[..., Path], tmp_path: Path) -> None:
    root = v21(motion=Motion(1))
    assert len(opened(root)[0]) == 1
    options = SourceOptions(**OPTIONS)
    assert convert(root, tmp_path / "out", kind="lerobot", options=options, tail="pad").samples == 1


# -------------------------------------------------------------------------------------------------- sentences


def test_each_frame_has_its_own_task(v21: Callable[..., Path], tmp_path: Path) -> None:
    root = v21(tasks=["Fold.", "Lift it."], task_index=np.repeat([0, 1, 2], [2, 2, 26]))
    with pytest.raises(RecordingError, match="frame 4 has no instruction"):
        opened(root)[0]
    episode = opened(root, instruction="Put it down.")[0]
    assert [episode.sentence(frame) for frame in (0, 2, 4)] == ["Fold.", "Lift it.", "Put it down."]
    options = SourceOptions(**OPTIONS, instruction="Put it down.")
    convert(root, tmp_path / "out", kind="lerobot", options=options)
    table = json.loads((tmp_path / "out/instructions.json").read_text())
    assert sorted(table.values()) == ["Fold.", "Lift it.", "Put it down."]


def test_tasks_that_no_index_tells_apart(v21: Callable[..., Path]) -> None:
    root = v21(tasks=["Fold.", "Lift it."], task_index=None)
    with pytest.raises(RecordingError, match=r"lists 2 tasks, and no task_index says.*--instruction"):
        opened(root)[0]
    assert opened(root, instruction="Tidy up.")[0].instruction == "Tidy up."


@pytest.mark.parametrize(
    ("tasks", "expected"),
    [("Fold.", "Fold."), ([], "Tidy up."), ([None, ""], "Tidy up."), (None, "Tidy up.")],
)
def test_sentences_of_the_episode(v21: Callable[..., Path], tasks: Any, expected: str) -> None:
    root = v21(tasks=tasks)
    (root / "meta/tasks.jsonl").unlink()
    assert opened(root, instruction="Tidy up.")[0].instruction == expected


@pytest.mark.parametrize("column", ["task", "__index_level_0__", "name"])
def test_v3_task_tables_as_pandas_writes_them(v3: Callable[..., Path], column: str) -> None:
    def tweak(rows: list[dict[str, Any]]) -> None:
        for row in rows:
            row["tasks"] = None if column == "name" else ["Stack."]

    root = v3(tweak=tweak)
    pq.write_table(pa.table({"task_index": [0.0], column: ["Stack."]}), root / "meta/tasks.parquet")
    assert opened(root)[1].instruction == "Stack."


def test_a_task_that_the_episode_does_not_list(v3: Callable[..., Path]) -> None:
    """Where episodes list their tasks, one that lists none has none; a row with another task is named."""

    def tweak(rows: list[dict[str, Any]]) -> None:
        rows[0]["tasks"], rows[1]["tasks"], rows[2]["tasks"] = ["Stack."], [], ["Lift it."]

    root = v3(tweak=tweak)
    pq.write_table(
        pa.table({"task_index": [0, 1], "task": ["Stack. ", "Lift it."]}), root / "meta/tasks.parquet"
    )
    source = opened(root, instruction="Fold.")
    assert [source[0].instruction, source[1].instruction] == ["Stack.", "Fold."]
    with pytest.raises(RecordingError, match=r"rows of episode 2 have the task 'Stack\.'.*lists 'Lift it\.'"):
        source[2]


# ----------------------------------------------------------------------------------------------------- damage


def test_files_that_are_something_else(v21: Callable[..., Path]) -> None:
    """Pointers of Git LFS say what to run; shadow files of macOS are no episodes."""
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"
    root = v21()
    (root / f"videos/chunk-000/{CAMERAS['left']}/episode_000000.mp4").write_bytes(pointer)
    with pytest.raises(RecordingError, match=r"episode_000000\.mp4: is a pointer of Git LFS.*git lfs pull"):
        opened(root)[0]
    (root / "data/chunk-000/episode_000000.parquet").write_bytes(pointer)
    with pytest.raises(
        RecordingError, match=r"episode_000000\.parquet: is a pointer of Git LFS.*git lfs pull"
    ):
        opened(root)[0]


def test_shadow_files(v3: Callable[..., Path]) -> None:
    root = v3(tweak=stale)
    for folder in ("meta/episodes/chunk-000", "data/chunk-000"):
        (root / folder / "._file-000.parquet").write_bytes(b"\x00\x05\x16\x07")
    is_motion(opened(root)[2], 2)


@pytest.mark.parametrize("name", ["observation.state", "timestamp", "episode_index", "task_index"])
@pytest.mark.parametrize(
    "values", [["x"] * COUNT, [[]] * COUNT, [[0.0], [0.0, 1.0]] * (COUNT // 2), [None] * COUNT]
)
def test_columns_that_hold_something_else(v21: Callable[..., Path], name: str, values: list[Any]) -> None:
    root = v21(**{name: values})
    with pytest.raises(RDT2Error, match=r"episode_000000|episode 0|no episode"):
        opened(root)[0]


def test_marks_and_separators_in_the_texts(v21: Callable[..., Path]) -> None:
    """A byte order mark before a file, Windows' line ends, and letters that end lines elsewhere but not in JSON."""
    root = v21(tasks=["Lift\u2028it\x85now."])
    (root / "meta/tasks.jsonl").unlink()
    for name in ("info.json", "episodes.jsonl"):
        text = (root / "meta" / name).read_text(encoding="utf-8")
        text = text.replace("\\u2028", "\u2028").replace("\\u0085", "\x85")
        (root / "meta" / name).write_bytes(b"\xef\xbb\xbf" + text.encode() + b"\r\n")
    assert opened(root)[0].instruction == "Lift\u2028it\x85now."
