"""A robot whose arms and grippers are served by a host and reached over the network, for tests."""

from __future__ import annotations

import socket
import threading
import time
from collections import deque

from fake_robot import fake_robot, fake_settings

import rdt2.robot.kinematics  # noqa: F401  what paths import when they are first followed, which takes long
from rdt2.devices import open_device
from rdt2.devices.clock import WallClock
from rdt2.devices.host import DeviceHost, HostSettings
from rdt2.robot import Robot

ANY = HostSettings(port=0)


class Locked:
    """A device made for one thread, for the many of a host."""

    def __init__(self, device):
        object.__setattr__(self, "device", device)
        object.__setattr__(self, "lock", threading.RLock())

    def __getattr__(self, name):
        value = getattr(self.device, name)
        if not callable(value):
            return value

        def locked(*values):
            with self.lock:
                return value(*values)

        return locked


def fakes(**options):
    """Fake devices on the wall's clock, and the settings of such a robot; they are not connected yet."""
    robot = fake_robot(real=True, honest=True, **options)
    for parts in (robot.arms, robot.grippers):
        for side in parts:
            parts[side].close()
            parts[side] = Locked(parts[side])
    settings = fake_settings(sides=robot.sides)
    changes = {f"arms.{side}.{key}": 0.02 for side in robot.sides for key in ("latency", "gripper.latency")}
    return robot, settings.changed(changes)


def remote_settings(settings, port, **options):
    """The same robot, its arms and grippers somewhere else."""
    device = {"type": "remote", "address": f"ws://127.0.0.1:{port}", **options}
    keys = [f"arms.{side}.{key}" for side in settings.sides for key in ("device", "gripper.device")]
    return settings.changed({key: device for key in keys})


def remote_robot(settings, cameras, clock=None) -> Robot:
    """Its arms and grippers as their drivers open them."""
    clock = clock or WallClock()
    return Robot(
        arms={side: open_device(settings, side, "arm", clock) for side in settings.sides},
        grippers={side: open_device(settings, side, "gripper", clock) for side in settings.sides},
        cameras=dict(cameras),
        clock=clock,
        policy_to_tcp={side: settings.arms[side].policy_to_tcp for side in settings.sides},
        name="remote",
    )


def hosted(robot, settings, where=ANY) -> DeviceHost:
    devices = {name: device for name, device in robot.devices() if "camera" not in name}
    return DeviceHost.of(settings, devices, robot.clock, where)


class Network:
    """A way to a host that takes its time, can be cut, or swallows everything without a word."""

    def __init__(self, port, delay=0.0):
        self.delay, self.silent, self.to = delay, False, port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port, self._ends = self._listening.getsockname()[1], []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.to))
            self._ends += [near, far]
            for ends in ((near, far), (far, near)):
                for end in ends:
                    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                waiting, arrived = deque(), threading.Semaphore(0)
                threading.Thread(target=self._take, args=(ends[0], waiting, arrived), daemon=True).start()
                threading.Thread(target=self._give, args=(ends[1], waiting, arrived), daemon=True).start()

    def _take(self, end, waiting, arrived):
        while True:
            try:
                data = end.recv(65536)
            except OSError:
                data = b""
            waiting.append((time.monotonic() + self.delay, data))
            arrived.release()
            if not data:
                return

    def _give(self, end, waiting, arrived):
        while True:
            arrived.acquire()
            due, data = waiting.popleft()
            time.sleep(max(0.0, due - time.monotonic()))
            try:
                if not data:
                    end.shutdown(socket.SHUT_RDWR)
                    return
                if not self.silent:
                    end.sendall(data)
            except OSError:
                return

    def cut(self):
        for end in self._ends:
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def close(self):
        self._listening.close()
        self.cut()
