"""`rdt2 device`: what is installed, what a device does alone, and that nothing moves unless somebody says so."""

from __future__ import annotations

import json

import fake_devices
import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.cli.main import main
from rdt2.devices.known import missing_of
from rdt2.devices.trial import latency
from rdt2.errors import RobotError

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def fakes():
    fake_devices.made.clear()


def test_a_list_of_drivers_says_what_is_to_be_installed(tmp_path, capsys, monkeypatch):
    from importlib import metadata

    monkeypatch.setattr(
        metadata, "requires", lambda name: ["nowhere-lib>=1; extra == 'thing'", "numpy; extra == 'thing'"]
    )
    assert missing_of("thing") == ("nowhere-lib",)
    assert missing_of("") == ()
    assert missing_of("another") == ("the extra another of this version",)
    main(["device", "list", "--json", str(tmp_path / "list.json")])
    rows = json.loads((tmp_path / "list.json").read_text())["drivers"]
    assert {row["part"] for row in rows} == {"arm", "gripper", "camera", "tracker"}
    assert "zhixing" in capsys.readouterr().out


def test_an_arm_alone_is_asked_to_stay_and_moves_only_when_told(tmp_path, capsys):
    robot, figures = fake_devices.robot_yaml(tmp_path), tmp_path / "arm.json"
    words = ["--robot", str(robot), "--side", "left", "--seconds", "0.5", "--yes", "--json", str(figures)]
    main(["device", "test", "fake_devices:ARM", *words])
    (arm,) = fake_devices.made
    assert arm.calls
    assert all(np.allclose(value, arm.calls[0][2][0]) for _, _, values in arm.calls for value in values)
    assert not arm.health().connected
    values = json.loads(figures.read_text())
    assert values["part"] == "arm"
    assert values["states_hz"] > 5
    assert values["commands_hz"] > 5
    assert "latency_ms" not in values
    assert "states hz" in capsys.readouterr().out


def test_a_gripper_that_moves_says_how_late_it_is(tmp_path):
    robot, figures = fake_devices.robot_yaml(tmp_path), tmp_path / "gripper.json"
    main([
        "device", "test", "gripper", "--robot", str(robot), "--side", "right", "--seconds", "0.3", "--move", "--yes",
        "--json", str(figures),
    ])  # fmt: skip
    values = json.loads(figures.read_text())
    assert values["latency_ms"] < 60  # it has none
    assert values["latency_in_yaml_ms"] == pytest.approx(30)
    (gripper,) = fake_devices.made
    asked = np.concatenate([values for _, _, values in gripper.calls])
    assert np.ptp(asked) == pytest.approx(0.01, abs=1e-3)


def test_a_gripper_that_is_not_to_move_is_told_nothing(tmp_path):
    """Regression: it was told to be as far open as it is, and what it held fell."""
    robot, figures = fake_devices.robot_yaml(tmp_path), tmp_path / "gripper.json"
    words = ["--robot", str(robot), "--side", "right", "--seconds", "0.3", "--yes", "--json", str(figures)]
    main(["device", "test", "gripper", *words])
    (gripper,) = fake_devices.made
    assert gripper.calls == []
    assert "commands_hz" not in json.loads(figures.read_text())


@pytest.mark.parametrize("broken", [False, True])
def test_a_camera_is_compared_with_the_one_of_the_other_wrist(tmp_path, broken):
    def change(values):
        values["arms"]["left"]["camera"]["device"]["broken"] = broken

    robot, figures = fake_devices.robot_yaml(tmp_path, change), tmp_path / "camera.json"
    words = ["--robot", str(robot), "--side", "right", "--seconds", "0.3", "--yes", "--json", str(figures)]
    main(["device", "test", "camera", *words])
    values = json.loads(figures.read_text())
    if broken:
        assert values["skew"] == "not measured: no route to host"
    else:
        assert values["skew_worst_ms"] < 60  # each is taken when it is read, one after the other
    assert len(fake_devices.made) == 2
    assert not any(device.health().connected for device in fake_devices.made)


def test_an_arm_is_lifted_through_the_guard(tmp_path):
    robot, figures = fake_devices.robot_yaml(tmp_path), tmp_path / "arm.json"
    words = [
        "--robot",
        str(robot),
        "--side",
        "left",
        "--seconds",
        "0.3",
        "--move",
        "--yes",
        "--json",
        str(figures),
    ]
    main(["device", "test", "arm", *words])
    arm = fake_devices.made[0]
    heights = np.concatenate([poses[:, 2, 3] for _, _, poses in arm.calls])
    assert np.ptp(heights) == pytest.approx(0.02, abs=3e-3)
    assert json.loads(figures.read_text())["latency_ms"] < 60


@pytest.mark.parametrize("answers", [["n"], ["y", "n"]])
def test_what_is_not_confirmed_is_not_done(tmp_path, monkeypatch, capsys, answers):
    said = iter(answers)
    monkeypatch.setattr("builtins.input", lambda text: next(said))
    robot = fake_devices.robot_yaml(tmp_path)
    with pytest.raises(SystemExit) as done:
        main(
            [
                "device",
                "test",
                "gripper",
                "--robot",
                str(robot),
                "--side",
                "left",
                "--seconds",
                "0.2",
                "--move",
            ]
        )
    assert done.value.code == 2
    assert "nobody confirmed it" in capsys.readouterr().err
    widths = {
        float(width) for device in fake_devices.made for _, _, values in device.calls for width in values
    }
    assert len(widths) <= 1


def test_a_name_that_is_none_of_the_robots_devices_is_told_which_there_are(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["device", "test", "ur_rtde", "--robot", "cell_ur5e", "--side", "left"])
    assert "Say arm, gripper or camera" in capsys.readouterr().err


def test_latency_is_what_lies_between_what_was_asked_and_what_was_seen():
    times = np.arange(0, 2.5, 0.008)
    way = 0.01 * (1 - np.cos(np.pi * np.minimum(times, 2.0)))
    asked, seen = np.stack([times, way], axis=1), np.stack([times + 0.123, way], axis=1)
    assert latency(asked, seen) == pytest.approx(0.123, abs=1e-3)
    with pytest.raises(RobotError, match="asked to move by 20 mm and moved by 0 mm"):
        latency(asked, seen * (1, 0))


def test_a_device_that_is_not_set_up_as_the_yaml_says_is_a_problem_found(tmp_path, capsys):
    def wrong(values):
        values["arms"]["left"]["device"]["says"] = 1.5

    figures = tmp_path / "arm.json"
    words = [
        "--robot",
        fake_devices.robot_yaml(tmp_path, wrong),
        "--side",
        "left",
        "--seconds",
        "0.3",
        "--yes",
    ]
    with pytest.raises(SystemExit) as done:
        main(["device", "test", "arm", *map(str, words), "--json", str(figures)])
    assert done.value.code == 1
    assert "1.5 kg (NOT 0.82 kg)" in capsys.readouterr().out
    assert not all(check["ok"] for check in json.loads(figures.read_text())["checks"])
