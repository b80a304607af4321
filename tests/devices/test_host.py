"""What a host keeps to when clients go at the wrong moment, devices do not stop, and strangers come in numbers."""

from __future__ import annotations

import logging
import socket
import threading
import time

import pytest

pytest.importorskip("websockets")
pytest.register_assert_rewrite("conformance")

from conformance import ready  # noqa: E402
from lateness import on_time  # noqa: E402
from remote_robot import hosted, remote_robot, remote_settings  # noqa: E402

from rdt2.devices.hosted import Sockets  # noqa: E402
from rdt2.errors import RobotError  # noqa: E402
from rdt2.wire import unpacked  # noqa: E402

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


def instead(there, **methods):
    """Have the arm over there do something else."""
    for name, method in methods.items():
        object.__setattr__(there[0].arms["right"], name, method)


def until(condition, seconds=10.0):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never came"
        time.sleep(0.005)


class Slowly:
    """Has a method of the arm over there wait until a test lets it go on."""

    def __init__(self, there, name):
        self.asked, self.go, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._do = getattr(there[0].arms["right"].device, name)
        instead(there, **{name: self._late})

    def _late(self):
        self.asked.set()
        self.go.wait(10)
        self._do()
        self.ended.set()


def asked(call):
    """Ask in a thread; what was refused is in the list that it gives."""
    refused = []

    def ask():
        try:
            call()
        except RobotError as error:
            refused.append(str(error))

    thread = threading.Thread(target=ask)
    thread.start()
    return thread, refused


@pytest.mark.parametrize("what", ["recover", "enable"])
def test_what_a_client_asked_for_that_is_lost_meanwhile_leaves_the_arm_stopped(
    there, host, network, robot, what
) -> None:
    """Regression: the arm was enabled and unstopped with nobody there, and moved for whoever came next."""
    arm, slowly = robot.arms["right"], Slowly(there, what)
    robot.connect()
    if what == "recover":
        arm.enable()
        arm.stop()
    thread, refused = asked(getattr(arm, what))
    assert slowly.asked.wait(10)
    network.cut()
    until(lambda: not host._hosted["/right/arm"].holder)
    slowly.go.set()
    assert slowly.ended.wait(10)
    until(lambda: there[0].arms["right"].health().stopped)
    assert "lost 127.0.0.1" in host._hosted["/right/arm"].health().fault
    thread.join()
    assert "is lost" in refused[0]


def test_what_waits_for_another_wish_of_a_lost_client_is_not_done(there, host, network, robot) -> None:
    arm = ready(robot).arms["right"]
    slowly, counted = Slowly(there, "recover"), []
    arm.stop()
    threads = [asked(arm.recover)[0]]
    assert slowly.asked.wait(10)
    instead(there, recover=lambda: counted.append(1))
    threads.append(asked(arm.recover)[0])
    time.sleep(0.1)  # it has arrived
    network.cut()
    until(lambda: not host._hosted["/right/arm"].holder)
    slowly.go.set()
    for thread in threads:
        thread.join()
    until(lambda: there[0].arms["right"].health().stopped)
    time.sleep(0.05)
    assert not counted


def test_a_stop_while_the_arm_is_being_recovered_over_there_holds(there, robot) -> None:
    arm = ready(robot).arms["right"]
    slowly = Slowly(there, "recover")
    arm.stop()
    thread, refused = asked(arm.recover)
    assert slowly.asked.wait(10)
    arm.stop()
    slowly.go.set()
    thread.join()
    assert "stopped again while it was being recovered" in refused[0]
    assert there[0].arms["right"].health().stopped
    until(lambda: arm.health().stopped)
    arm.recover()
    assert arm.health().ok


def test_an_arm_that_could_not_be_enabled_again_over_there_is_so_with_the_next_recovery(
    there, network, robot
) -> None:
    """Regression: its host was started again, refused once, and then it was not enabled for good."""
    arm, far = ready(robot).arms["right"], there[0].arms["right"]
    network.cut()
    until(lambda: arm.health().fault)
    far.device.close()

    def refuse():
        raise RobotError("the right arm is switched off.")

    instead(there, enable=refuse)
    with pytest.raises(RobotError, match="switched off"):
        arm.recover()
    instead(there, enable=far.device.enable)
    arm.recover()
    assert arm.health().ok


@pytest.mark.parametrize("end", ["cut", "silent"])
def test_a_device_that_cannot_be_stopped_is_said_and_the_next_client_is_let_in(
    there, host, network, robot, end
) -> None:
    """Regression: the session was held for ever by one that had gone, and nobody watched clients any more."""
    ready(robot)
    there_arm = host._hosted["/right/arm"]
    there_arm.until = float("inf")  # it moves, for all that its host knows

    def hang():
        raise RobotError("its driver has been hanging for 0.4 s. Press the emergency stop if it moves.")

    instead(there, stop=hang)
    if end == "cut":
        network.cut()
    else:
        network.silent = True
    until(lambda: not there_arm.holder)
    fault = there_arm.health().fault
    assert fault.count("it could not be stopped: its driver has been hanging for 0.4 s. Press the emer") == 1
    assert ("lost 127.0.0.1" if end == "cut" else "heard nothing for 100 ms") in fault
    network.silent = False
    instead(there, stop=there[0].arms["right"].device.stop)
    robot.arms["right"].recover()
    assert robot.arms["right"].health().ok


@pytest.fixture
def unread():
    """A log that takes nothing: a terminal after Ctrl-S, a pipe that nobody reads."""
    read, logger = threading.Event(), logging.getLogger("rdt2.devices")

    class Unread(logging.Handler):
        def emit(self, record):
            read.wait(20)

    handler = Unread()
    logger.addHandler(handler)
    yield
    read.set()
    logger.removeHandler(handler)


def test_a_log_that_nobody_reads_holds_up_no_stop(there, host, network, robot, unread) -> None:
    """Regression: it was logged first, and then nothing that its client had left behind was stopped."""
    ready(robot)
    devices = {name: device for name, device in there[0].devices() if "camera" not in name}
    for each in host._hosted.values():
        each.until = float("inf")  # it moves, for all that its host knows
    network.silent = True
    until(lambda: all(device.health().stopped for device in devices.values()), seconds=5.0)


def test_a_log_that_nobody_reads_holds_up_no_stop_of_a_command_that_fails(there, host, robot, unread) -> None:
    ready(robot)

    def broken(*_):
        raise ValueError("the driver is wrong")

    instead(there, execute=broken)
    now = robot.clock.now()
    robot.arms["right"].execute([now + 0.1], [robot.arms["right"].state().pose])
    until(lambda: there[0].arms["right"].health().stopped, seconds=5.0)


def closed(stranger):
    """Whether the host has ended a connection."""
    stranger.settimeout(0.02)
    try:
        return stranger.recv(1) == b""
    except TimeoutError:
        return False
    except OSError:
        return True


def test_strangers_that_only_hold_sockets_open_give_way(there, monkeypatch) -> None:
    hurried: list[object] = []
    monkeypatch.setattr("rdt2.devices.host.hurry", lambda thread=None: hurried.append(thread))
    host = hosted(*there)
    host._strangers = Sockets(4)
    with host:
        strangers = [socket.create_connection(("127.0.0.1", host.port), timeout=5) for _ in range(12)]
        until(lambda: sum(map(closed, strangers)) == 8, seconds=3.0)  # well before their time is over
        assert not hurried, "a stranger is served before whoever drives an arm"
        robot = remote_robot(remote_settings(there[1], host.port), there[0].cameras)
        ready(robot)
        until(lambda: len(hurried) == 8)  # two threads each of two sessions and two connections for stopping
        robot.close()
        for stranger in strangers:
            stranger.close()


def test_of_too_many_connections_for_stopping_the_oldest_gives_way_and_a_stop_gets_through(
    there, monkeypatch
) -> None:
    from websockets.exceptions import ConnectionClosed
    from websockets.sync.client import connect

    monkeypatch.setattr("rdt2.devices.hosted.STOPS", 2)
    with hosted(*there) as host:
        arm = there[0].arms["right"]
        arm.connect()
        arm.enable()
        stops = []
        for _ in range(3):
            stops.append(connect(f"ws://127.0.0.1:{host.port}/right/arm/stop"))
            time.sleep(0.05)
        with pytest.raises(ConnectionClosed):
            stops[0].recv(timeout=2)
        stops[2].send(b"")
        assert unpacked(stops[2].recv(timeout=5))["error"] is None
        assert arm.health().stopped
        for stop in stops:
            stop.close()
