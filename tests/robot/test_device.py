"""The life of a device: a stop counts whenever it comes."""

from __future__ import annotations

import pytest

from rdt2.errors import RobotError
from rdt2.robot.device import BaseDevice


class Device(BaseDevice):
    """Comes to rest as a test says."""

    meanwhile, brakes, busy = None, 0, False

    def _rest(self):
        if self._stopped and self.meanwhile is not None:
            self.meanwhile()

    def _brake(self):
        self.brakes += 1
        if self.busy:
            raise OSError("the bus is busy")


@pytest.fixture
def device():
    device = Device("left arm")
    device.connect()
    device.enable()
    device.stop()
    return device


def test_a_stop_that_comes_while_it_is_being_recovered_holds(device) -> None:
    device.meanwhile = device.stop
    with pytest.raises(RobotError, match="left arm was stopped again while it was being recovered"):
        device.recover()
    assert device.health().stopped
    device.meanwhile = None
    device.recover()
    assert device.health().ok
    device.stop()
    assert device.health().stopped
    assert device.brakes == 2


def test_a_fault_that_comes_while_it_is_being_recovered_stays_and_is_said(device) -> None:
    device.meanwhile = lambda: device.fail("its loop has ended")
    with pytest.raises(RobotError, match=r"stays stopped: its loop has ended\. When it is safe"):
        device.recover()
    assert device.health().fault == "its loop has ended"


def test_stops_before_a_person_says_that_it_may_move_again_are_over_then(device) -> None:
    device.stop()
    device.fail("an emergency stop")
    device.recover()
    assert device.health().ok


def test_a_brake_that_failed_is_tried_again_until_it_has_come_through(device) -> None:
    """Regression: the second stop did nothing and came back as if all were well."""
    device.recover()
    device.busy, before = True, device.brakes
    for _ in range(2):
        with pytest.raises(OSError, match="the bus is busy"):
            device.stop()
    assert device.health().stopped
    device.busy = False
    device.stop()
    device.stop()
    assert device.brakes == before + 3
    device.recover()
    assert device.health().ok
    device.busy = True
    with pytest.raises(OSError, match="the bus is busy"):
        device.close()
    assert not device.health().connected
