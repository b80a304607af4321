"""Arms and grippers of another machine: they move as others do, and stop whatever happens to what lies between."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.register_assert_rewrite("conformance")

from conformance import follow, path, ready, run  # noqa: E402
from lateness import on_time  # noqa: E402
from remote_robot import Network, hosted, remote_robot, remote_settings  # noqa: E402

from rdt2.devices import WallClock, open_device, remote  # noqa: E402
from rdt2.devices.clock import HostClock  # noqa: E402
from rdt2.devices.host import DeviceHost, HostSettings  # noqa: E402
from rdt2.errors import ConfigError, LateError, RobotError, SafetyError  # noqa: E402
from rdt2.robot.settings import RobotSettings  # noqa: E402
from rdt2.wire import packed, unpacked  # noqa: E402

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


SLACK = 0.1
"""Seconds that a busy machine may take beyond what is promised."""


def moving(robot, way=0.3):
    """On its way up, and so it will be for half a second."""
    arm = ready(robot).arms["right"]
    times, poses = path(robot, "right", 1.0)
    follow(robot, arm, times, poses, until=times[15])
    assert arm.state().velocity[2] > 0.1
    return arm


def stopped_after(there, seconds=10.0):
    """Seconds until the arm over there has stopped."""
    began, arm = time.monotonic(), there[0].arms["right"]
    while not arm.health().stopped:
        assert time.monotonic() - began < seconds, "it goes on"
        time.sleep(0.002)
    return time.monotonic() - began


def test_a_cut_connection_stops_the_arm_and_a_person_brings_it_back(there, network, robot) -> None:
    arm = moving(robot)
    network.cut()
    assert stopped_after(there) < SLACK
    assert "lost" in wait_for_fault(arm)
    with pytest.raises(RobotError, match="lost"):
        arm.state()
    with pytest.raises(SafetyError, match="lost"):
        arm.execute(robot.clock.now() + np.array([0.1, 0.2]), np.stack([np.eye(4)] * 2))
    arm.recover()
    robot.grippers["right"].recover()
    assert robot.faults() == []
    before = arm.state().pose[2, 3]
    follow(robot, arm, *path(robot, "right", 0.3))
    run(robot, 0.2)
    assert arm.state().pose[2, 3] > before + 0.02


def wait_for_fault(arm, seconds=10.0):
    until = time.monotonic() + seconds
    while not (fault := arm.health().fault):
        assert time.monotonic() < until, "no fault"
        time.sleep(0.005)
    return fault


def test_a_network_that_says_nothing_any_more_stops_the_arm(there, network, robot) -> None:
    """Nobody closes a connection there: a pulled cable, a switch without power."""
    arm = moving(robot)
    network.silent = True
    assert stopped_after(there) < 0.1 + SLACK
    assert "heard nothing for 100 ms" in there[0].arms["right"].health().fault
    assert "silent" in wait_for_fault(arm)
    network.silent = False
    arm.recover()
    assert arm.health().ok


def test_a_slow_network_is_followed_later_by_as_much_as_was_said(there, host) -> None:
    slow = Network(host.port, delay=0.05)
    settings = remote_settings(there[1], slow.port, lead=0.09).changed(
        {"arms.right.latency": 0.1, "arms.right.gripper.latency": 0.1}
    )
    robot = remote_robot(settings, there[0].cameras)
    try:
        arm = ready(robot).arms["right"]
        assert 0.05 <= arm.timing.clock_error < 0.2
        for _ in range(3):  # its clock is known better than what it was allowed to be wrong
            state = arm.state()
            assert -arm.timing.clock_error <= robot.clock.now() - state.timestamp < 0.2 + SLACK
            run(robot, 0.02)
        times, poses = path(robot, "right", 0.5)
        follow(robot, arm, times, poses, until=times[-6])
        assert arm.state().velocity[2] == pytest.approx(0.2, abs=0.05), "it does not move smoothly"
        follow(robot, arm, times, poses)
        run(robot, 0.5)
        np.testing.assert_allclose(arm.state().pose, poses[-1], atol=0.004)
        assert there[0].arms["right"].health().ok
        began = time.monotonic()
        arm.stop()
        assert time.monotonic() - began < 0.1 + SLACK
        assert arm.health().stopped
    finally:
        robot.close()
        slow.close()


def test_a_network_slower_than_was_said_is_told_with_what_to_do(there, host) -> None:
    slow = Network(host.port, delay=0.05)
    robot = remote_robot(remote_settings(there[1], slow.port, lead=0.0), there[0].cameras)
    try:
        arm = ready(robot).arms["right"]
        start, up = arm.state().pose, arm.state().pose.copy()
        up[2, 3] += 0.2
        arm.execute(np.array([robot.clock.now() + 2.0]), up[None])

        def step_by_step():  # each past when it comes there
            while True:
                with suppress(LateError):  # as whoever drives a robot does
                    arm.execute(np.array([robot.clock.now() + 0.02]), start[None])
                time.sleep(0.02)

        with pytest.raises(SafetyError, match=r"came too late, by up to \d+ ms.*larger lead"):
            step_by_step()
    finally:
        robot.close()
        slow.close()


class Sender:
    """Tells a device of a slow network to stay where it is, and counts the late commands of which it is told."""

    def __init__(self, robot, kind):
        self.device = getattr(robot, f"{kind}s")["right"]
        state = self.device.state()
        self.clock, self.value, self.told = robot.clock, state.pose if kind == "arm" else state.width, []

    def send(self, ahead):
        try:
            self.device.execute(np.array([self.clock.now() + ahead]), np.array([self.value]))
        except LateError as error:
            found = re.match(
                r"(\d+) of the commands before this one came to the host of the right \w+ too late, by up to "
                r"\d\d ms: .* larger lead",
                str(error),
            )
            self.told.append(int(found[1]))


@pytest.mark.parametrize("kind", ["arm", "gripper"])
def test_commands_that_come_too_late_are_told_to_who_sends_them_and_each_once(
    there, host, kind, monkeypatch
) -> None:
    """Regression: only the host counted them. An arm whose every command came too late, from rest, stood still, and was
    stopped as one that something holds."""
    monkeypatch.setattr(remote, "PAUSE", 10.0)
    slow = Network(host.port, delay=0.05)
    robot = remote_robot(remote_settings(there[1], slow.port, lead=0.0), there[0].cameras)
    try:
        ready(robot)
        sender, there_device = Sender(robot, kind), getattr(there[0], f"{kind}s")["right"]
        for _ in range(20):
            sender.send(ahead=0.02)
            time.sleep(0.02)
        assert len(sender.told) > 5
        assert sum(sender.told) < 20
        assert there_device.calls == []
        wait_until(lambda: sender.device._link.status.late == 20)
        sender.send(ahead=0.13)
        assert sum(sender.told) == 20
        wait_until(lambda: len(there_device.calls) == 1)  # the one that was told of the others is driven
        sender.send(ahead=0.13)
        assert sum(sender.told) == 20
        sender.device.recover()  # the host counts from 0 again
        sender.send(ahead=0.13)
        assert sum(sender.told) == 20
        sender.send(ahead=0.02)
        wait_until(lambda: sender.device._link.status.late == 1)
        sender.send(ahead=0.13)
        assert sum(sender.told) == 21
    finally:
        robot.close()
        slow.close()


def test_what_came_too_late_of_an_earlier_motion_is_no_reason_against_the_next(
    there, host, monkeypatch
) -> None:
    monkeypatch.setattr(remote, "PAUSE", 0.2)
    slow = Network(host.port, delay=0.05)
    robot = remote_robot(remote_settings(there[1], slow.port, lead=0.0), there[0].cameras)
    try:
        sender = Sender(ready(robot), "arm")
        sender.send(ahead=0.02)
        wait_until(lambda: sender.device._link.status.late == 1)
        time.sleep(0.2)
        for _ in range(2):
            sender.send(ahead=0.13)
        assert sender.told == []
    finally:
        robot.close()
        slow.close()


def test_one_client_at_a_time_moves_it_and_anybody_with_the_key_stops_it(there, host, robot) -> None:
    from websockets.sync.client import connect

    arm = moving(robot)
    other = remote_robot(remote_settings(there[1], host.port, connect_seconds=0.3), there[0].cameras)
    with pytest.raises(
        RobotError, match=r"right arm cannot be connected.*127\.0\.0\.1:\d+ moves this device"
    ):
        other.connect()
    with connect(f"ws://127.0.0.1:{host.port}/right/arm/stop") as stop:
        stop.send(b"")
        assert unpacked(stop.recv(timeout=5))["error"] is None
        assert there[0].arms["right"].health().stopped
    wait_until(lambda: arm.health().stopped)


def test_a_stop_comes_through_while_the_host_is_busy_with_something_else(there, robot) -> None:
    arm = moving(robot)
    busy = threading.Event()

    def recover():
        busy.set()
        time.sleep(2.0)

    object.__setattr__(there[0].arms["right"], "recover", recover)

    def ask():
        with suppress(RobotError):  # it was stopped again meanwhile
            arm.recover()

    thread = threading.Thread(target=ask)
    thread.start()
    busy.wait(10)
    began = time.monotonic()
    arm.stop()
    assert time.monotonic() - began < 1.0
    thread.join()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"arms.right.base": np.diag([1.0, 1.0, 1.0, 1.0]) + np.eye(4, k=3) * 0.01}, "another base"),
        ({"arms.right.gripper.stroke": 0.1}, "stroke of 0.2 m"),
        ({"arms.right.bounds.acceleration": 30}, r"another bounds \(acceleration.*brake along another way"),
    ],
)
def test_another_yaml_on_the_host_is_noticed(there, host, change, told) -> None:
    """Poses would mean other places, silently."""
    robot = remote_robot(remote_settings(there[1].changed(change), host.port), there[0].cameras)
    with pytest.raises(RobotError, match=f"{told}.*the same file"):
        robot.connect()
    assert not there[0].arms["right"].health().connected


def test_a_key_lets_in_and_nothing_else_does(there, tmp_path) -> None:
    (tmp_path / "key").write_text("opensesame\n")
    (tmp_path / "other").write_text("openbarley\n")
    with hosted(*there, HostSettings(port=0, api_key="opensesame")) as host:
        for file in (None, "other"):
            options = {} if file is None else {"api_key_file": str(tmp_path / file)}
            robot = remote_robot(remote_settings(there[1], host.port, **options), there[0].cameras)
            with pytest.raises(RobotError, match="API key"):
                robot.connect()
        settings = remote_settings(there[1], host.port, api_key_file=str(tmp_path / "key"))
        robot = ready(remote_robot(settings, there[0].cameras))
        robot.close()


def test_what_cannot_be_right_is_said_before_anything_is_opened(there, host) -> None:
    with pytest.raises(ConfigError, match=r"latency of 0\.02 s and a lead of 0\.05 s"):
        remote_robot(remote_settings(there[1], host.port, lead=0.05), {})
    wrong = there[1].changed({"arms.right.device": {"type": "remote", "address": "host:8790"}})
    with pytest.raises(ConfigError, match="expected that of `rdt2 robot serve`"):
        open_device(wrong, "right", "arm")
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        port = nobody.getsockname()[1]
    robot = remote_robot(remote_settings(there[1], port, connect_seconds=0.2), there[0].cameras)
    with pytest.raises(RobotError, match=r"could not be reached for 0\.2 s.*rdt2 robot serve"):
        robot.connect()
    with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1 port {host.port}"):
        DeviceHost({}, there[0].clock, settings=HostSettings(port=host.port))


GOOD = {"execute": 1, "times": np.array([1.0]), "values": np.eye(4)[None]}


@pytest.mark.parametrize(
    "message",
    [
        b"", b"\x00", b"\xff" * 300, b"x" * 400_000, "a text", packed({"hello": 1}), packed({"execute": 1}),
        packed({"ask": 1, "do": "explode"}), packed({"ask": "one", "do": "stop"}), packed({"ask": 1, "do": ["stop"]}),
        packed({"beat": float("nan")}), packed({"beat": None}), packed({**GOOD, "times": np.zeros(5000)}),
        packed({**GOOD, "values": "up"}), packed({**GOOD, "times": np.float64(1.0)}), packed({**GOOD, "execute": True}),
    ],
    ids=range(16),
)  # fmt: skip
def test_what_cannot_be_read_stops_the_arm_and_the_next_client_is_served(there, host, robot, message) -> None:
    arm = ready(robot).arms["right"]
    with suppress(RobotError):
        arm._link._main.send(message)
    assert stopped_after(there) < 5
    assert "lost" in wait_for_fault(arm)
    arm.recover()
    assert arm.health().ok


def test_an_arm_refuses_what_came_whole_but_is_no_motion(there, robot) -> None:
    """Only a client that does not check, as ours does, sends it."""
    arm = ready(robot).arms["right"]
    before = there[0].arms["right"].state().pose
    there_now = there[0].clock.now()
    for times, values in (
        ([there_now + 0.1, np.nan], np.stack([before, before])),
        ([there_now + 0.1], np.full((1, 4, 4), np.nan)),
        ([there_now + 0.1], 2 * before[None]),
        ([there_now + 0.1], before[None, :3]),
        ([there_now + 0.1], np.zeros((1, 2, 2, 2))),
    ):
        arm._link.tell(np.array(times), np.array(values))
        assert wait_for_fault(arm)
        np.testing.assert_allclose(there[0].arms["right"].state().pose, before, atol=1e-6)
        arm.recover()


def test_strangers_do_no_harm(there, host, robot) -> None:
    """Bytes from anywhere, before a handshake and instead of one."""
    generator = np.random.default_rng(0)
    ready(robot)
    for size in (0, 1, 3, 70, 5000):
        for start in (b"", b"GET /right/arm HTTP/1.1\r\n", b"\x16\x03\x01"):
            with socket.create_connection(("127.0.0.1", host.port), timeout=5) as stranger, suppress(OSError):
                stranger.sendall(start + generator.bytes(size))
    follow(robot, robot.arms["right"], *path(robot, "right", 0.3))
    assert robot.faults() == []


def test_both_clocks_are_mapped_within_the_bound_that_is_told() -> None:
    generator = np.random.default_rng(1)
    for _ in range(50):
        ahead, slow = generator.uniform(-1e5, 1e5), generator.uniform(0, 0.1)
        found, now = HostClock(), 10.0
        for _ in range(30):
            there_, back = generator.uniform(0, slow, 2)
            sent, held = now, generator.uniform(0, 0.02)
            arrived = sent + there_ + ahead
            now = sent + there_ + held + back
            found.heard(sent, arrived, arrived + held, now)
        offset, bound = found.best(now)
        assert abs(offset - ahead) <= bound + 1e-9
        assert bound < slow / 2 + 1e-3


PATHS = [str(Path(__file__).parents[1] / name) for name in ("devices", "control", "robot")]
CLIENT = """
import sys, time
import numpy as np
sys.path[:0] = {paths!r}
from conformance import path, ready
from remote_robot import fakes, remote_robot, remote_settings
there, settings = fakes(sides=("right",))
robot = ready(remote_robot(remote_settings(settings, {port}), there.cameras))
arm, start, k = robot.arms["right"], robot.arms["right"].state().pose, 0
while True:
    k += 1
    ways = 0.002 * np.minimum(np.arange(k, k + 40), 2500)
    poses = np.repeat(start[None], 40, axis=0)
    poses[:, 2, 3] += ways
    arm.execute(robot.clock.now() + 0.03 + 0.01 * np.arange(40), poses)
    if k == 20:
        print("moving", flush=True)
    time.sleep(0.01)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_the_arm_stops_when_the_machine_of_the_policy_is_killed_or_hangs(
    number, there, host, tmp_path
) -> None:
    script = tmp_path / "client.py"
    script.write_text(CLIENT.format(paths=PATHS, port=host.port))
    client = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        assert client.stdout.readline() == "moving\n"
        arm = there[0].arms["right"]
        assert arm.health().ok
        os.kill(client.pid, number)
        assert stopped_after(there) < 0.1 + SLACK
        wait_until(lambda: np.linalg.norm(arm.state().velocity) < 1e-6)
        assert "heard nothing for 100 ms" in arm.health().fault or number == signal.SIGKILL
    finally:
        client.kill()
        client.wait()
    wait_until(lambda: not host._hosted["/right/arm"].holder)
    assert "lost 127.0.0.1" in host._hosted["/right/arm"].health().fault or number == signal.SIGSTOP


def wait_until(condition, seconds=10.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_host_that_ends_closes_its_devices_and_is_a_fault_here() -> None:
    """Through the command: a simulated robot is served, as a real one is."""
    pytest.importorskip("mujoco")
    words = ["robot", "serve", "--robot", "cell_handheld", "--side", "left", "--port", "0"]
    host = subprocess.Popen(
        [sys.executable, "-m", "rdt2.cli.main", *words], stdout=subprocess.PIPE, text=True
    )
    try:
        found = re.fullmatch(r"ws://127\.0\.0\.1:(\d+)/left/arm\n", host.stdout.readline())
        settings = remote_settings(RobotSettings.read("cell_handheld"), int(found[1]), lead=0.0)
        arm = open_device(settings, "left", "arm")
        arm.connect()
        arm.enable()
        assert arm.health().ok
        now = WallClock().now()
        arm.execute(np.array([now + 0.1, now + 0.2]), np.stack([arm.state().pose] * 2))
        host.send_signal(signal.SIGTERM)
        assert host.wait(20) == 0
        assert "lost" in wait_for_fault(arm)
        arm.close()
    finally:
        host.kill()
        host.wait()


HOST = """
import sys
sys.path[:0] = {paths!r}
from remote_robot import fakes, hosted
robot, settings = fakes(sides=("right",))
with hosted(robot, settings) as host:
    print(host.port, flush=True)
    host.wait()
"""


def test_a_host_that_is_killed_is_a_fault_here(there, tmp_path) -> None:
    script = tmp_path / "host.py"
    script.write_text(HOST.format(paths=PATHS))
    host = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    try:
        settings = remote_settings(there[1], int(host.stdout.readline()), connect_seconds=0.2)
        robot = remote_robot(settings, there[0].cameras)
        arm = moving(robot)
        host.kill()
        assert "lost" in wait_for_fault(arm)
        with pytest.raises(RobotError, match="stops it by itself"):
            arm.stop()
        with pytest.raises(RobotError, match="could not be reached"):
            arm.recover()
        assert set(robot.close()) == {"right arm", "right gripper"}, "nobody may think that they were closed"
    finally:
        host.kill()
        host.wait()


def test_a_host_is_asked_for_sides_and_ports_that_there_are(monkeypatch) -> None:
    from rdt2.cli.robot import RobotServe

    with pytest.raises(ConfigError, match="expected 0 to 65535"):
        RobotServe(robot="cell_fr3", port=70000).run()
    with pytest.raises(ConfigError, match="--api-key-file"):
        RobotServe(robot="cell_fr3", host="0.0.0.0").run()
