"""The worked example of a new device: one file and one yaml, found, opened, and as conforming as all others."""

from __future__ import annotations

import socketserver
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

pytest.register_assert_rewrite("conformance")

from conformance import GripperConformance  # noqa: E402
from fake_robot import fake_robot  # noqa: E402

from rdt2.devices import GRIPPER_DRIVERS, open_device  # noqa: E402
from rdt2.errors import ConfigError, RobotError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402

pytestmark = pytest.mark.realtime

EXAMPLES = Path(__file__).parents[2] / "examples"


class Lines(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        for line in self.rfile:
            word = line.decode().split()
            if word[0] == "W":
                self.server.width = float(word[1])
            self.wfile.write(f"{self.server.width}\n".encode())


@pytest.fixture
def server():
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Lines) as server:
        server.daemon_threads, server.width = True, 0.08
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


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


def test_it_is_short() -> None:
    code = [line for line in (EXAMPLES / "new_gripper.py").read_text().splitlines() if line.strip()]
    assert len(code) <= 75
