"""Wrist cameras: what is put right in the yaml, and a lens from pictures by the whole command."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from boards import DISTORTION, MATRIX, photographs
from PIL import Image

from rdt2.calibration.eyes import eyes, take
from rdt2.calibration.lens import Lens
from rdt2.calibration.writing import write_changes
from rdt2.cli.main import main
from rdt2.errors import CalibrationError
from rdt2.robot.protocols import Check, Frame
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings

UR5E = RobotSettings.read("bimanual_ur5e")
LENS = Lens(MATRIX, DISTORTION, 0.1, (384, 384), 20, 1.0)


class Cameras:
    """A robot of two cameras, each with the other's picture where `crossed`."""

    def __init__(self, *, grey: int = 120, crossed: bool = False) -> None:
        self.clock = SimpleNamespace(now=lambda: 1.0)
        self.images = {side: np.full((384, 384, 3), grey, np.uint8) for side in ("right", "left")}
        order = ("left", "right") if crossed else ("right", "left")
        self.cameras = {
            side: SimpleNamespace(read=lambda of=of: Frame(1.0, 0, self.images[of].copy()))
            for side, of in zip(("right", "left"), order, strict=True)
        }

    def wave(self, side: str | None) -> None:
        """A hand before one gripper, and none before the other."""
        for each, image in self.images.items():
            image[100:300, 100:300] = 250 if each == side else 120


def test_cameras_that_are_exchanged_are_put_right(tmp_path) -> None:
    robot = Cameras(crossed=True)
    found = eyes(robot, UR5E, wave=robot.wave)
    assert found.values["hand"] == {"right": "left", "left": "right"}
    path = tmp_path / "mine.yaml"
    path.write_text((CONFIGS / "bimanual_ur5e.yaml").read_text())
    write_changes(path, found.changes, by="test", copy_to=tmp_path)
    after = RobotSettings.read(path)
    assert after.arms["right"].camera == UR5E.arms["left"].camera
    assert after.arms["left"].camera == UR5E.arms["right"].camera


def test_exchanged_cameras_take_their_latencies_with_them() -> None:
    robot = Cameras(crossed=True)
    found = eyes(robot, UR5E.changed({"arms.left.camera.latency": 0.123}), wave=robot.wave)
    assert found.changes["arms.right.camera"]["latency"] == 0.123
    assert found.changes["arms.left.camera"]["latency"] == UR5E.arms["right"].camera.latency


def test_cameras_that_are_right_stay() -> None:
    robot = Cameras()
    found = eyes(robot, UR5E, wave=robot.wave)
    assert (found.changes, found.notes) == ({}, [])


def test_one_camera_that_sees_both_hands_is_no_camera_of_a_hand() -> None:
    robot = Cameras()
    with pytest.raises(CalibrationError, match="a hand before either gripper was seen by the left camera"):
        eyes(robot, UR5E, wave=lambda side: robot.wave(side and "left"))


def test_an_exposure_is_put_right_as_far_as_pictures_leave_time() -> None:
    assert eyes(Cameras(grey=240), UR5E).changes["arms.left.camera.device.exposure_us"] == round(
        20000 * 128 / 240
    )
    found = eyes(Cameras(grey=5), UR5E)
    assert found.changes["arms.right.camera.device.exposure_us"] == 30000
    assert "it needs more light" in found.notes[0]
    cell = eyes(Cameras(grey=5), RobotSettings.read("cell_ur5e"))
    assert cell.changes == {}
    assert "change the light" in cell.notes[0]


def test_a_crop_is_found_for_a_view() -> None:
    assert LENS.radius(0.8) == pytest.approx(
        150 * 0.8 * (1 + 0.05 * 0.64 - 0.01 * 0.64**2 + 0.004 * 0.64**3 - 0.001 * 0.64**4)
    )
    assert LENS.view(2 * LENS.radius(0.8)) == pytest.approx(1.6, abs=1e-4)
    found = eyes(Cameras(), UR5E, lens=("left", LENS), view=80.0)
    crop = found.changes["arms.left.camera.device.crop"]
    # the driver's own crop is 480: a square of 480 pixels became 384
    assert crop == round(480 * 2 * LENS.radius(np.radians(40)) / 384)
    assert set(found.changes) == {"arms.left.camera.device.crop"}
    assert ("shows from edge to edge", f"{np.degrees(LENS.view(384)):.0f} degrees") in found.rows
    with pytest.raises(CalibrationError, match="Set crop"):
        eyes(Cameras(), RobotSettings.read("cell_ur5e"), lens=("left", LENS), view=80.0)
    aside = Lens(
        MATRIX + np.array([[0, 0, 60.0], [0, 0, 0], [0, 0, 0]]), DISTORTION, 0.1, (384, 384), 20, 1.0
    )
    small = replace(LENS, size=(480, 640))
    with pytest.raises(CalibrationError, match="board are 640x480, and the left camera's are now 384x384"):
        eyes(Cameras(), UR5E, lens=("left", small), view=80.0)
    assert "the lens's middle is +64, -4 pixels" in eyes(Cameras(), UR5E, lens=("left", aside)).notes[0]


@pytest.mark.parametrize(
    ("lens", "view", "message"),
    [
        (
            replace(LENS, distortion=np.array([-0.3, 0.0, 0.0, 0.0])),
            170.0,
            "expected 121 or less: beyond that",
        ),
        (LENS, 160.0, r"needs a crop of 56\d pixels, expected 16 to 540"),
        (replace(LENS, matrix=MATRIX / 6), 10.0, "expected 16 to"),
    ],
)
def test_a_crop_that_no_camera_takes_is_refused(lens, view, message) -> None:
    """Regression: it was written, and the camera did not open any more."""
    robot = Cameras()
    picture = Check("picture", "at least 480 x 480", "720 x 540", True)
    robot.cameras["left"].checks = lambda: [picture]
    with pytest.raises(CalibrationError, match=message):
        eyes(robot, UR5E, lens=("left", lens), view=view)


def test_a_view_that_no_picture_of_the_board_showed_is_a_guess() -> None:
    lens = replace(LENS, matrix=MATRIX * np.array([[2], [2], [1]]) - [[0, 0, 195], [0, 0, 188], [0, 0, 0]])
    shown = np.degrees(lens.view(2 * np.hypot(195, 195)))
    for view, notes in ((shown - 2, 0), (shown + 2, 1)):
        found = eyes(Cameras(), UR5E, lens=("left", lens), view=view)
        assert len([note for note in found.notes if "the new crop is a guess" in note]) == notes


def test_pictures_are_taken_when_somebody_says_so(tmp_path) -> None:
    typed = iter(["", "", "done"])
    assert take(Cameras(), "left", tmp_path / "lens", lambda text: next(typed)) == 2
    assert [path.name for path in sorted((tmp_path / "lens").iterdir())] == ["left-000.png", "left-001.png"]
    typed = iter(["", "done"])
    assert take(Cameras(), "left", tmp_path / "lens", lambda text: next(typed)) == 3


def test_a_lens_is_found_from_photographs_by_the_whole_command(tmp_path) -> None:
    pytest.importorskip("mujoco")
    (tmp_path / "lens").mkdir()
    for number, picture in enumerate(photographs(16)):
        Image.fromarray(picture).save(tmp_path / "lens" / f"right-{number:03d}.png")
    command = [
        "calibrate",
        "camera",
        "--robot",
        str(CONFIGS / "cell_ur5e.yaml"),
        "--yes",
        "--out",
        str(tmp_path),
    ]
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(
        tmp_path / "lens" / "left-000.png"
    )  # of the other camera
    main([*command, "--pictures", str(tmp_path / "lens")])
    lens = json.loads((tmp_path / "camera.json").read_text())["lens"]
    assert lens["side"] == "right"
    assert lens["error_px"] < 0.5
    np.testing.assert_allclose(lens["matrix"], MATRIX, atol=3)
    assert "data:image/jpeg" in (tmp_path / "camera.html").read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--view", "90"], "--view needs the lens"),
        (["--square", "30"], "--square, metres, is 30, expected 0.001 to 1"),
        (["--pictures", "nowhere"], "has no pictures"),
    ],
)
def test_what_cannot_be_done_is_said_before_a_robot_is_opened(options, message, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["calibrate", "camera", "--robot", "bimanual_ur5e", *options])
    assert message in capsys.readouterr().err
