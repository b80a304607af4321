"""What drivers and peers have in common: options that are checked before anything is opened."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from rdt2.devices import Options
from rdt2.devices.drivers import Driver, Peer, checked_options
from rdt2.devices.opening import open_device
from rdt2.devices.peers import run
from rdt2.errors import ConfigError
from rdt2.robot.settings import RobotSettings


class Port(Options):
    address: str = Field(description="where it answers")
    port: int = Field(default=1, description="its port")


def test_a_peer_is_told_its_options_and_says_how_it_is_reached(capsys):
    def serve(options, ready):
        ready({"address": options.address, "port": options.port + 1})

    peer = Peer(serve=serve, options=Port, what="a thing")
    run(peer, ["address=127.0.0.1", "port=7"])
    assert capsys.readouterr().out == 'device: {"address": "127.0.0.1", "port": 8}\n'
    with pytest.raises(
        ConfigError, match=r"(?s)a thing cannot be.*prt.*address \(where it answers\), port \(its"
    ):
        run(peer, ["address=127.0.0.1", "prt=7"])
    with pytest.raises(ConfigError, match="expected key=value"):
        run(peer, ["7"])


opened = []
THING = Driver(open=opened.append, options=Port, extra="")


def test_drivers_need_not_know_the_joints_that_an_arm_begins_from():
    """Regression: reset_degrees, which the robot itself reads, was an option that no driver had."""
    settings = RobotSettings.read("bimanual_ur5e")
    reset = settings.arms["left"].device["reset_degrees"]
    device = {"type": f"{__name__}:THING", "address": "10.0.0.1", "reset_degrees": reset}
    open_device(settings.changed({"arms.left.device": device}), "left", "arm")
    assert opened[0].options == Port(address="10.0.0.1")
    with pytest.raises(ConfigError, match=r"(?s)left arm cannot be opened.*arms\.left\.device\.speed"):
        open_device(settings.changed({"arms.left.device": {**device, "speed": 1}}), "left", "arm")


@pytest.mark.parametrize(
    ("robot", "key", "teaches"),
    [
        ("bimanual_ur5e", "speed_slider", "begin with 0.3"),
        ("bimanual_ur5e", "payload_centre", "6 cm in front of the flange"),
        ("bimanual_fr3", "payload_centre", "6 cm in front of the flange"),
        ("bimanual_fr3", "payload_inertia", "where nobody has measured it"),
    ],
)
def test_nothing_about_an_arm_is_guessed(robot, key, teaches):
    """Regression: the slider was 100 %, and the load's centre that of the flange, where nobody had said so."""
    settings = RobotSettings.read(robot)
    if robot == "bimanual_fr3":  # what is wrong with all options together is of no key
        with pytest.raises(ConfigError, match=r"(?s)arms\.left\.device\.: .*published configuration"):
            open_device(settings.changed({"arms.left.device": {"port": 4242}}), "left", "arm")
    for side in settings.sides:
        assert not open_device(settings, side, "arm").health().connected
    device = {name: value for name, value in settings.arms["left"].device.items() if name != key}
    with pytest.raises(
        ConfigError,
        match=rf"(?s)left arm cannot be opened.*arms\.left\.device\.{key}: is missing\. .*{teaches}",
    ):
        open_device(settings.changed({"arms.left.device": device}), "left", "arm")


@pytest.mark.parametrize("robot", ["bimanual_ur5e", "bimanual_fr3"])
def test_cameras_of_the_robots_that_come_along_are_opened_by_their_driver(robot):
    """Regression: their files say serial, fps and exposure_us, as the published ones do."""
    settings = RobotSettings.read(robot)
    for side in settings.sides:
        camera = open_device(settings, side, "camera")
        assert not camera.health().connected
        assert camera.timing.latency == settings.arms[side].camera.latency


def test_any_ur_that_is_described_has_its_driver(monkeypatch):
    """Regression: a UR10e, which examples/new_arm.py describes, was refused by the driver of all UR arms."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "examples"))
    settings = RobotSettings.read("bimanual_ur5e").changed({"arms.left.model": "new_arm:ARM"})
    assert open_device(settings, "left", "arm").model.name == "ur10e"
    fr3 = RobotSettings.read("bimanual_fr3")
    device = {**settings.arms["left"].device, "type": "ur_rtde"}
    del device["reset_degrees"]
    with pytest.raises(ConfigError, match="of model 'fr3': expected an arm of six joints"):
        open_device(fr3.changed({"arms.left.device": device}), "left", "arm")


def test_an_option_that_is_none_is_told_in_whole_sentences() -> None:
    """Regression: "Extra inputs are not permitted Did you mean 'address'?"."""
    with pytest.raises(ConfigError, match=r"\n  adress: is no option\. Did you mean 'address'\?\nIt takes: "):
        checked_options(Port, {"address": "here", "adress": 3}, "the peer cannot start")
    with pytest.raises(ConfigError, match=r"\n  zzzz: is no option\.\nIt takes: "):
        checked_options(Port, {"address": "here", "zzzz": 3}, "the peer cannot start")
