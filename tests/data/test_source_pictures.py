"""Pictures as recordings store them: colour of 8 bits is read whatever its packing, all else refused by name."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from motion import same_pictures
from PIL import Image

from rdt2.data.sources import SourceOptions, open_source
from rdt2.data.sources.pictures import decode_image, to_picture
from rdt2.errors import ConfigError, RecordingError

OPTIONS = SourceOptions(fps=30.0, instruction="Pick up the cup.")


def png(picture: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, "PNG")
    return stream.getvalue()


def deep_colour_png(value: int) -> bytes:
    """48-bit RGB, which PIL opens as 24-bit."""
    import cv2

    return cv2.imencode(".png", np.full((16, 16, 3), value, np.uint16))[1].tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (png(np.full((16, 16), 700, np.uint16)), "16 bits a channel"),
        (deep_colour_png(700), "16 bits a channel"),
        (png(np.full((16, 16), 70, np.uint8)), "one channel"),
        (png(np.full((16, 16, 2), 70, np.uint8)), "one channel"),
    ],
)
def test_packed_pictures_that_are_no_colour(data, message) -> None:
    with pytest.raises(RecordingError, match=rf"camera a, frame 3: the picture has {message}.*--cameras"):
        decode_image(data, where="camera a, frame 3")


def test_alpha_is_left_out() -> None:
    colour = np.full((16, 16, 4), (10, 20, 30, 0), np.uint8)
    assert (decode_image(png(colour), where="test") == (10, 20, 30)).all()
    assert (to_picture(colour, SourceOptions(), where="test") == (10, 20, 30)).all()
    assert (to_picture(colour, SourceOptions(color="bgr"), where="test") == (30, 20, 10)).all()


@pytest.mark.parametrize(
    ("dtype", "channels", "message"),
    [("uint16", 3, "uint16"), ("float32", 3, "float32"), ("uint8", 1, "uint8"), ("uint16", 0, "uint16")],
)
def test_arrays_that_are_no_colour(fastumi, motions, dtype, channels, message) -> None:
    import h5py

    folder = fastumi(motions[:1])
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        del file["robot_1/observations/images/front"]
        shape = (30, 16, 16, channels) if channels else (30, 16, 16)
        file["robot_1/observations/images/front"] = np.zeros(shape, dtype)
    source = open_source(folder, "hdf5", OPTIONS)
    with pytest.raises(RecordingError, match=rf"robot_1/observations/images/front is {message}.*8-bit RGB"):
        source[0]


@pytest.mark.parametrize("storage", ["padded", "variable", "strings", "void", "column"])
def test_packed_bytes_in_hdf5(fastumi, motions, storage) -> None:
    import h5py

    folder = fastumi(motions[:1])
    with h5py.File(folder / "episode_0.hdf5", "a") as file:
        for robot, arm in enumerate(("left", "right")):
            data = [png(picture) for picture in motions[0].picture[arm]]
            size, key = max(map(len, data)), f"robot_{robot}/observations/images/front"
            padded = np.stack([np.frombuffer(each.ljust(size, b"\0"), np.uint8) for each in data])
            del file[key]
            if storage == "variable":
                rows = file.create_dataset(key, (30,), dtype=h5py.vlen_dtype(np.uint8))
                for row, each in enumerate(data):
                    rows[row] = np.frombuffer(each, np.uint8)
            elif storage == "padded":
                file[key] = padded
            elif storage == "void":
                file[key] = padded.view(f"V{size}")[:, 0]
            else:
                strings = np.array(data, f"S{size}")
                file[key] = strings[:, None] if storage == "column" else strings
    same_pictures(open_source(folder, "hdf5", OPTIONS)[0], motions[0])


def test_depth_by_its_description_is_no_camera(lerobot_v21, motions) -> None:
    path = lerobot_v21(motions[:1])
    info = json.loads((path / "meta" / "info.json").read_text())
    for arm in ("left", "right"):
        info["features"][f"cam_{arm}_wrist_depth"] = {"dtype": "video", "shape": [48, 48, 1]}
        described = {"dtype": "video", "shape": [48, 48, 3], "info": {"video.is_depth_map": True}}
        info["features"][f"cam_{arm}_wrist_d"] = described
    (path / "meta" / "info.json").write_text(json.dumps(info))
    same_pictures(open_source(path, "lerobot")[0], motions[0])
    with pytest.raises(ConfigError, match="'cam_right_wrist_d' holds depth by its description"):
        open_source(path, "lerobot", SourceOptions(cameras=("cam_right_wrist_d", "cam_left_wrist")))


def test_depth_beside_colour_in_hdf5_is_no_camera(tmp_path, motions) -> None:
    import h5py

    with h5py.File(tmp_path / "episode_0.hdf5", "w") as file:
        file["observations/eef_pose"] = motions[0].table(("left", "right"), motions[0].quaternion)
        for arm in ("left", "right"):
            file[f"observations/images/{arm}_wrist"] = motions[0].picture[arm]
            file[f"observations/images/{arm}_wrist_depth"] = np.zeros((30, 16, 16), np.uint16)
    same_pictures(open_source(tmp_path, "hdf5", OPTIONS)[0], motions[0])
    named = ("right_wrist_depth", "left_wrist")
    with pytest.raises(RecordingError, match=r"right_wrist_depth is uint16 \(30, 16, 16\).*8-bit RGB"):
        open_source(tmp_path, "hdf5", SourceOptions(fps=30.0, instruction="Fold.", cameras=named))[0]
