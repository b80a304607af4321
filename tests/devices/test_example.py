"""The worked examples of new devices: one file and one yaml, found, opened, and as conforming as all others."""

from __future__ import annotations

import contextlib
import socketserver
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.register_assert_rewrite("conformance")

from conformance import Conformance, GripperConformance  # noqa: E402
from fake_robot import fake_robot  # noqa: E402

from rdt2.devices import GRIPPER_DRIVERS, open_device  # noqa: E402
from rdt2.errors import ConfigError, RobotError, SafetyError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402

pytestmark = pytest.mark.realtime

EXAMPLES = Path(__file__).parents[2] / "examples"


class Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.server.connections += 1
        try:
            for line in self.rfile:
                word = line.decode().split()
                if word[0] == "W":
                    self.server.width = float(word[1])
                    self.server.told.append(self.server.width)
                self.wfile.write(f"{self.server.width}\n".encode())
        finally:
            self.server.connections -= 1


@contextmanager
def answering(handler, **holds):
    """A server on a port of its own, which holds these values for its handlers."""
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        vars(server).update(holds, daemon_threads=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


@pytest.fixture
def server():
    with answering(Lines, width=0.08, told=[], connections=0) as server:
        yield server


@pytest.fixture
def gripper(server, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    address, port = server.server_address
    settings = RobotSettings.read(EXAMPLES / "new_gripper.yaml")
    device = {**settings.arms["right"].gripper.device, "address": address, "port": port}
    return open_device(settings.changed({"arms.right.gripper.device": device}), "right", "gripper")


class TestConformance(GripperConformance):
    @pytest.fixture
    def robot(self, gripper):
        return replace(fake_robot(sides=("right",), real=True), grippers={"right": gripper})


def test_a_gripper_that_goes_away_is_a_fault(gripper, server) -> None:
    gripper.connect()
    gripper.enable()
    server.width = "no number"
    until = time.monotonic() + 10
    while not gripper.health().fault and time.monotonic() < until:
        time.sleep(0.01)
    assert "does not answer" in gripper.health().fault
    with pytest.raises(RobotError, match="not connected any more"):
        gripper.recover()  # nobody would speak with it
    assert not gripper.health().ok
    gripper.close()


def test_what_is_not_there_is_said(gripper, server) -> None:
    server.server_close()
    server.shutdown()
    with pytest.raises(RobotError, match="Is it on"):
        gripper.connect()
    with pytest.raises(ConfigError, match="cannot be loaded from no_such_module:DRIVER"):
        GRIPPER_DRIVERS["no_such_module:DRIVER"]
    with pytest.raises(ConfigError, match="there is no gripper driver called 'a:b:c'"):
        GRIPPER_DRIVERS["a:b:c"]
    with pytest.raises(ConfigError, match=r"os:path is a module, expected a Driver"):
        GRIPPER_DRIVERS["os:path"]


def test_closing_it_closes_its_connection_and_it_can_be_connected_again(gripper, server) -> None:
    gripper.close()
    for _ in range(2):
        gripper.connect()
        line = gripper._line
        gripper.close()
        assert line.closed
    until = time.monotonic() + 10
    while server.connections and time.monotonic() < until:
        time.sleep(0.01)
    assert server.connections == 0


def test_what_it_holds_is_held_until_it_is_told_a_width(gripper, server) -> None:
    gripper.connect()
    gripper.enable()
    time.sleep(0.1)
    assert server.told == []
    now = gripper._clock.now()
    gripper.execute([now + 0.05], [0.03])
    until = time.monotonic() + 10
    while not server.told and time.monotonic() < until:
        time.sleep(0.01)
    assert server.told
    gripper.close()


class Joints(socketserver.StreamRequestHandler):
    """An arm that is where it was last told to be; its speed is that of the last telling."""

    def handle(self) -> None:
        arm, joints = self.server, np.array(self.server.joints)
        told, speeds = time.monotonic(), np.zeros(6)
        for line in self.rfile:
            word, *numbers = line.decode().split()
            now = time.monotonic()
            if word == "J":
                there = np.array(numbers, np.float64)
                speeds, joints, told = (there - joints) / (now - told), there, now
            arm.joints = joints.tolist()
            self.wfile.write((" ".join(map(str, [*joints, *speeds])) + "\n").encode())
            if arm.silent:
                return


@pytest.fixture
def arm_server():
    joints = np.radians([-102.0, -112.0, -138.89, 54.98, 81.91, -1.68]).tolist()
    with answering(Joints, joints=joints, silent=False) as server:
        yield server


@pytest.fixture
def arm(arm_server, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    address, port = arm_server.server_address
    device = {"type": "new_arm_driver:DRIVER", "address": address, "port": port}
    settings = RobotSettings.read(EXAMPLES / "new_gripper.yaml")
    return open_device(settings.changed({"arms.right.device": device}), "right", "arm")


class TestArmConformance(Conformance):
    @pytest.fixture
    def robot(self, arm):
        return replace(fake_robot(sides=("right",), honest=True, real=True), arms={"right": arm})


def test_an_arm_that_goes_away_is_a_fault(arm, arm_server) -> None:
    arm.connect()
    arm.enable()
    arm_server.silent = True
    until = time.monotonic() + 10
    while not arm.health().fault and time.monotonic() < until:
        time.sleep(0.01)
    assert "does not answer" in arm.health().fault
    with pytest.raises(RobotError, match="not connected any more"):
        arm.recover()
    arm.close()
    arm_server.silent = False
    arm.connect()
    arm.enable()
    assert arm.health().ok
    arm.close()


@pytest.mark.parametrize(("name", "lines"), [("new_gripper", 67), ("new_arm_driver", 100)])
def test_it_is_short(name, lines) -> None:
    _, _, code = (EXAMPLES / f"{name}.py").read_text().split('"""', 2)
    assert len([line for line in code.splitlines() if line.strip()]) <= lines


def test_its_first_width_begins_where_its_fingers_are_now(gripper, server) -> None:
    """Regression: it began where they were when it was connected, and let go of what it held."""
    gripper.connect()
    gripper.enable()
    server.width, until = 0.03, time.monotonic() + 10  # closed by hand, around something
    while gripper.state().width != 0.03 and time.monotonic() < until:
        time.sleep(0.01)
    gripper.execute([gripper._clock.now() + 0.05], [0.02])
    while 0.02 not in server.told and time.monotonic() < until:
        time.sleep(0.01)
    assert 0.02 <= min(server.told) <= max(server.told) <= 0.03
    gripper.close()


def test_a_width_that_is_refused_is_no_sign_of_life(gripper) -> None:
    """Regression: whoever sent nothing but nonsense kept a gripper moving."""
    gripper.connect()
    gripper.enable()
    gripper.execute([gripper._clock.now() + 10.0], [0.02])
    until = time.monotonic() + 10
    while not gripper.health().fault and time.monotonic() < until:
        with contextlib.suppress(SafetyError):
            gripper.execute([gripper._clock.now() + 10.0], [1.0])
        time.sleep(0.01)
    assert "heard nothing" in gripper.health().fault
    gripper.close()
