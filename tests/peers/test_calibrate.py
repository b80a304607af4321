"""`rdt2 calibrate` as it is typed, with two UR, their grippers, cameras and trackers in front of one simulated cell,
spoken to over their own protocols: what it finds is true of that cell."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import yaml

pytest.importorskip("rtde_control", reason="ur_rtde is not installed: pip install 'rdt2[ur]'")
pytest.importorskip("pymodbus", reason="pymodbus is not installed: pip install 'rdt2[zhixing]'")
pytest.importorskip("mujoco")

from boards import MATRIX, photographs

from rdt2.calibration.handeye import difference
from rdt2.devices.libaravis import library
from rdt2.devices.peers import started
from rdt2.devices.peers.ur import trouble
from rdt2.errors import RDT2Error
from rdt2.pose import pose_to_matrix
from rdt2.robot.settings import RobotSettings
from rdt2.sim import make_scene
from rdt2.sim.board import Board
from rdt2.threads import cores

pytestmark = [
    pytest.mark.realtime,
    pytest.mark.skipif(
        cores() < 4 and "RDT2_LONG" not in os.environ,
        reason="takes minutes, and two cores that nothing else uses: make test-calibrate",
    ),
]

SEED, SIDE = 3, "right"
TRUE = RobotSettings.read("cell_ur5e").arms[SIDE]
ADDRESS = f"127.90.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
WRONG = pose_to_matrix(np.array([0.012, -0.012, 0.01, 0.05, -0.05, 0.05]))
"""About 20 mm and 5 degrees."""


@pytest.fixture(scope="module")
def peers(tmp_path_factory):
    """Arms, grippers and trackers, no cameras, and the yaml that they wrote."""
    path = tmp_path_factory.mktemp("robot") / "peers.yaml"
    left = ADDRESS.replace("127.90", "127.91")
    with started(
        "cell", seed=SEED, right=ADDRESS, left=left, cameras=False, rate=0.2, yaml=str(path)
    ) as devices:
        yield path, devices


@pytest.fixture
def robot(peers, tmp_path):
    """A copy of the yaml with the right arm alone."""
    return altered(peers[0], tmp_path / "mine.yaml", lambda arm: None)


def altered(path, copy, change, sides=(SIDE,)):
    """A copy of the peers' yaml with the right arm changed, and no arms but these."""
    values = yaml.safe_load(path.read_text())
    values["arms"] = {side: values["arms"][side] for side in sides}
    change(values["arms"][SIDE])
    copy.write_text(yaml.safe_dump(values))
    return copy


def command(what, robot, *options):
    return [
        *(sys.executable, "-m", "rdt2.cli.main", "calibrate", what, "--robot", str(robot)),
        *("--out", str(robot.parent / "out"), *options),
    ]


def calibrate(what, robot, *options, expected=0):
    """Give the command, a few times, as a person at the pendant would: on two cores that all devices share with the
    cell a device may rightly stop."""
    for _ in range(3):
        trouble(ADDRESS, "release")
        ended = subprocess.run(
            command(what, robot, "--yes", *options), capture_output=True, text=True, timeout=400
        )
        if ended.returncode == expected:
            return
    raise AssertionError(f"{what} ended with {ended.returncode}: {ended.stderr}")


def found(robot, name):
    return json.loads((robot.parent / "out" / f"{name}.json").read_text())


def tracker_of(peers, side=SIDE):
    return [f"{key}={value}" for key, value in peers[1][side]["tracker"].items()]


def test_a_wrong_tool_is_mended_and_the_check_says_so(peers, tmp_path) -> None:
    def spoil(arm):
        arm["policy_to_tcp"] = (TRUE.policy_to_tcp @ WRONG).tolist()

    robot, tracker = altered(peers[0], tmp_path / "mine.yaml", spoil), tracker_of(peers)
    calibrate("check", robot, "--tracker", *tracker, expected=1)
    assert not found(robot, "check_right")["holds"]
    calibrate("handeye", robot, "--seconds", "12", "--tracker", *tracker)
    off = difference(RobotSettings.read(robot).arms[SIDE].policy_to_tcp, TRUE.policy_to_tcp)
    assert np.linalg.norm(off[:3]) < 1e-3
    assert np.degrees(np.linalg.norm(off[3:])) < 0.2
    calibrate("check", robot, "--tracker", *tracker)
    assert found(robot, "check_right")["holds"]


def test_an_arm_that_stands_elsewhere_is_placed_by_the_tracker(peers, tmp_path) -> None:
    def spoil(arm):
        arm["base"] = (np.asarray(arm["base"]) @ WRONG).tolist()

    robot = altered(peers[0], tmp_path / "mine.yaml", spoil, sides=("right", "left"))
    for side in ("left", "right"):
        calibrate("handeye", robot, "--side", side, "--seconds", "12", "--tracker", *tracker_of(peers, side))
    reports = [str(tmp_path / "out" / f"handeye_{side}.json") for side in ("left", "right")]
    calibrate("arms", robot, "--reports", *reports)
    off = difference(RobotSettings.read(robot).arms[SIDE].base, TRUE.base)
    assert np.linalg.norm(off[:3]) < 2e-3
    assert np.degrees(np.linalg.norm(off[3:])) < 0.2


def test_fingers_are_measured(robot) -> None:
    calibrate("gripper", robot, "--measured", "0.0", "0.092")
    assert found(robot, "gripper_right")["says_m"]["open"] == pytest.approx(0.092, abs=3e-3)


def test_a_table_is_touched(peers, robot) -> None:
    calibrate("table", robot)
    height = make_scene("pick", SEED).table_height
    assert RobotSettings.read(robot).safety.table_height == pytest.approx(height, abs=2e-3)


def test_how_late_an_arm_and_its_fingers_are(peers, robot) -> None:
    calibrate("latency", robot, "--no-camera")
    told, before = found(robot, "latency_right"), RobotSettings.read(peers[0]).arms[SIDE]
    assert told["arm"]["seconds"] == pytest.approx(before.latency, abs=0.03)
    assert np.ptp(told["arm"]["interval"]) < 0.01
    after = RobotSettings.read(robot).arms[SIDE]  # what is known badly is told, and not written
    assert after.latency == pytest.approx(told["arm"]["seconds"], abs=1e-3)
    assert 0.04 < after.gripper.latency < 0.2


class Eyes:
    """What two cameras see, ten times a second: a room, and a hand before one of them, or a picture."""

    def __init__(self) -> None:
        self.board, self.waved, self.closed = Board(), "", threading.Event()
        self.picture: np.ndarray | None = None
        self.board.write_cell(began=0.0)
        self.thread = threading.Thread(target=self.show)

    def show(self) -> None:
        for number in itertools.count():
            for side in ("right", "left"):
                picture = np.full((384, 384, 3), 220 if side == self.waved else 110, np.uint8)
                picture[::16] = 60
                if self.picture is not None:
                    picture = self.picture
                self.board.put_picture(f"{side} camera", time.monotonic(), number, picture)
            if self.closed.wait(0.1):
                return


class Person:
    """Somebody who reads what a command prints, says yes, and types."""

    def __init__(self, words) -> None:
        self.said = ""
        self.command = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def hears(self, end: str) -> bool:
        """Whether it asks with these words, before it has ended."""
        while letter := self.command.stdout.read(1):
            self.said += letter
            if self.said.endswith("[y/N] "):
                self.types("y")
            if self.said.endswith(end):
                return True
        return False

    def types(self, line: str) -> None:
        self.command.stdin.write(f"{line}\n")
        self.command.stdin.flush()

    def ends(self) -> None:
        rest, _ = self.command.communicate(timeout=60)
        self.said += rest
        assert self.command.returncode == 0, self.said


@pytest.fixture
def eyes():
    try:
        library()
    except RDT2Error as error:
        pytest.skip(f"there are no GigE cameras: {error}")
    with contextlib.ExitStack() as stack:
        eyes = Eyes()
        stack.callback(eyes.board.close)
        stack.callback(eyes.thread.join)
        stack.callback(eyes.closed.set)
        eyes.thread.start()
        devices = {
            side: stack.enter_context(started("gige", serial=f"EYE-{side}", cell=eyes.board.name, side=side))
            for side in ("right", "left")
        }
        yield eyes, devices


@pytest.fixture
def looking(eyes, peers, robot):
    """The yaml with both arms, each with the other's camera, and what they see."""
    shown, devices = eyes
    values = yaml.safe_load(peers[0].read_text())
    for side, other in (("right", "left"), ("left", "right")):
        values["arms"][side]["camera"]["device"] = {**devices[other], "fps": 5, "crop": 384}
    robot.write_text(yaml.safe_dump(values))
    trouble(ADDRESS, "release")
    return shown, robot


def test_an_exposure_is_put_right(looking) -> None:
    shown, robot = looking
    shown.picture = np.full((384, 384, 3), 20, np.uint8)
    calibrate("camera", robot)
    told = found(robot, "camera")["exposure"][SIDE]
    assert told["wrong"]
    device = RobotSettings.read(robot).arms[SIDE].camera.device
    assert device["exposure_us"] == round(told["exposure_us"])
    calibrate("camera", robot)  # with it the camera starts


def test_a_lens_is_found_and_the_crop_that_shows_as_much_as_was_asked(looking, tmp_path) -> None:
    shown, robot = looking
    boards, folder = photographs(12), tmp_path / "lens"
    shown.picture = boards[0]
    person = Person(command("camera", robot, "--take", str(folder)))
    for board in [*boards, None]:
        assert person.hears("done ends it): "), person.said
        shown.picture = board
        time.sleep(0.5)  # until a picture of it has come
        person.types("" if board is not None else "done")
    person.ends()
    shown.picture = None
    calibrate("camera", robot, "--pictures", str(folder), "--view", "90")
    lens = found(robot, "camera")["lens"]
    np.testing.assert_allclose(lens["matrix"], MATRIX, atol=3)
    assert RobotSettings.read(robot).arms[SIDE].camera.device["crop"] > 0


def test_cameras_that_are_exchanged_are_put_right(looking) -> None:
    shown, robot = looking
    person = Person(command("camera", robot))
    while person.hears("press Enter. "):
        asked = person.said.rpartition("Hold ")[2]
        shown.waved = next((side for side in ("right", "left") if f"the {side} camera" in asked), "")
        person.types("")
    person.ends()
    assert "the wrong way round" in person.said
    after = RobotSettings.read(robot)
    for side in ("right", "left"):
        assert after.arms[side].camera.device["serial"] == f"EYE-{side}"
