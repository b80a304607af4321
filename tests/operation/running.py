"""`rdt2 run` in a thread, on devices made of nothing and with a policy made of nothing, and who types meanwhile."""

from __future__ import annotations

import contextlib
import io
import threading
import time

import fake_devices
from fake_robot import ConstantPolicy

import rdt2.control  # noqa: F401 - which knows the real PolicyProcess
from rdt2.cli.main import main


class NoProcess(ConstantPolicy):
    """In place of `PolicyProcess`: in this process, and at once."""

    def __init__(self, spec, *, open):
        super().__init__(0.0005)
        policies.append(self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


policies = []


class Typist:
    """Standard input into which a test types."""

    def __init__(self, monkeypatch):
        self._lines, self._more = [], threading.Condition()
        monkeypatch.setattr("sys.stdin", self)

    def types(self, *lines):
        with self._more:
            self._lines += [f"{line}\n" for line in lines]
            self._more.notify_all()

    def ends(self):
        with self._more:
            self._lines.append("")
            self._more.notify_all()

    def fileno(self):
        raise io.UnsupportedOperation

    def readline(self):
        with self._more:
            # Nobody types any more: the thread that reads, which a session leaves behind, ends.
            return self._lines.pop(0) if self._more.wait_for(lambda: self._lines, 60) else ""

    def __iter__(self):
        return iter(self.readline, "")


def arms():
    return [device for device in fake_devices.made if device.name.endswith("arm")]


def moved():
    return [len(arm.calls) for arm in arms()]


failed = []


def soon(condition, seconds=60.0):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen"
        assert not failed, failed
        time.sleep(0.01)


@contextlib.contextmanager
def running(*words):
    """The command in a thread; at the end it has to come back by itself, and everything is closed."""
    failed.clear()

    def run():
        try:
            main(["run", *map(str, words)])
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    yield
    thread.join(60)
    assert not thread.is_alive()
    for device in fake_devices.made:
        assert not device.health().connected


ANSWERS = ["y"] * 11  # to enable; payload, inertia, speed, tool of two arms; exposure of two cameras
ASKED = ("--policy", "demo-fm", "--instruction", "Pick up the apple.", "--max-seconds", "30")
