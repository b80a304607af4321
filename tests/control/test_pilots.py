"""Keys and a 3-D mouse as pilots."""

from __future__ import annotations

import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from fake_robot import fake_settings

from rdt2.control.pilots import PRESSED, SILENT, KeyboardPilot, SpaceMousePilot, open_pilot
from rdt2.errors import ConfigError


def until(true):
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_keys_move_one_arm_and_b_gives_back(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("rdt2.control.pilots.wall", SimpleNamespace(monotonic=lambda: now[0]))
    pilot = KeyboardPilot(fake_settings())
    assert pilot.steer() is None
    pilot.take()
    assert not pilot.steer().twists["right"].any()
    for key in "wj":
        pilot.press(key)
    np.testing.assert_allclose(pilot.steer().twists["right"], [0.08, 0, 0, 0, 0, 0.4])
    now[0] += PRESSED + 0.01
    assert not pilot.steer().twists["right"].any()
    for key in "w+s":  # the other way, and faster
        pilot.press(key)
    np.testing.assert_allclose(pilot.steer().twists["right"], [-0.12, 0, 0, 0, 0, 0])
    pilot.press(" ")
    assert not pilot.steer().twists["right"].any()
    pilot.press("\t")
    pilot.press("r")
    pilot.press("g")
    steer = pilot.steer()
    assert list(steer.twists) == ["left"]
    assert steer.widths == {"left": 0.0}
    pilot.press("g")
    assert pilot.steer().widths == {"left": 0.2}
    for key in "x?":  # whatever a hand that misses hits
        pilot.press(key)
    assert not pilot.steer().twists["left"].any()
    pilot.press("b")
    assert pilot.steer() is None


def test_a_mouse_moves_turns_grips_takes_and_gives_back():
    said = SimpleNamespace(x=0.0, y=0.0, z=0.0, roll=0.0, pitch=0.0, yaw=0.0, buttons=[0, 0])
    pilot = SpaceMousePilot(fake_settings(), SimpleNamespace(read=lambda: said))

    def click(*buttons):
        said.buttons = [int(number in buttons) for number in range(2)]
        until(lambda: pilot._buttons == tuple(map(bool, said.buttons)))
        said.buttons = [0, 0]
        until(lambda: pilot._buttons == (False, False))

    assert pilot.steer() is None
    click(0)
    said.y, said.x, said.z = 1.0, 0.05, -0.55
    until(lambda: pilot.steer().twists["right"][2] < -0.1)
    np.testing.assert_allclose(pilot.steer().twists["right"], [0.3, 0, -0.15, 0, 0, 0])
    click(1)
    assert pilot.steer().widths == {"right": 0.0}
    said.buttons = [1, 1]
    until(lambda: "left" in pilot.steer().twists)
    said.buttons = [0, 0]
    until(lambda: pilot._buttons == (False, False))
    assert pilot.hands.taken
    click(0)
    assert pilot.steer() is None
    pilot.close()


def test_a_mouse_that_is_unplugged_lets_the_arm_stand(capsys):
    def gone():
        raise OSError("device was removed")

    mouse = SimpleNamespace(read=lambda: SimpleNamespace(x=0, y=1, z=0, roll=0, pitch=0, yaw=0, buttons=[]))
    pilot = SpaceMousePilot(fake_settings(), mouse)
    pilot.take()
    until(lambda: pilot.steer().twists["right"].any())
    mouse.read = gone
    until(lambda: not pilot.steer().twists["right"].any())
    assert pilot.hands.taken
    until(lambda: "device was removed" in capsys.readouterr().err)


class Pushed:
    """A mouse that is pushed forward: it says so anew, says nothing new, or does not come back."""

    def __init__(self):
        self.way, self.now, self.goes_on = "new", 0.0, threading.Event()

    def read(self):
        time.sleep(0.002)
        if self.way == "new":
            self.now += 0.01
        if self.way == "hangs":
            self.goes_on.wait(20)
        return SimpleNamespace(t=self.now, x=0, y=1, z=0, roll=0, pitch=0, yaw=0, buttons=[])


@pytest.mark.parametrize("way", ["repeats", "hangs"])
def test_a_mouse_that_falls_silent_while_it_is_pushed_lets_the_arm_stand(way):
    """Regression: a battery that ran empty left the arm at 0.3 m/s."""
    mouse = Pushed()
    pilot = SpaceMousePilot(fake_settings(), mouse)
    pilot.take()
    until(lambda: pilot.steer().twists["right"].any())
    held = time.monotonic() + 2 * SILENT
    until(lambda: time.monotonic() > held)
    assert pilot.steer().twists["right"].any()  # said again and again it goes on
    mouse.way = way
    until(lambda: not pilot.steer().twists["right"].any())
    assert pilot.hands.taken
    mouse.way = "new"
    mouse.goes_on.set()
    until(lambda: pilot.steer().twists["right"].any())
    pilot.close()


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (None, "pip install pyspacemouse"),
        (SimpleNamespace(open=lambda: None), "plugged in"),
        (SimpleNamespace(open=lambda: 1 / 0), "no 3-D mouse can be opened"),
    ],
)
def test_no_mouse_is_said_before_anything_moves(monkeypatch, module, says):
    monkeypatch.setitem(sys.modules, "pyspacemouse", module)
    with pytest.raises(ConfigError, match=says):
        open_pilot("space-mouse", fake_settings())
    with pytest.raises(ConfigError, match="keyboard, space-mouse, hand"):
        open_pilot("glove", fake_settings())
