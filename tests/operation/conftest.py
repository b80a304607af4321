"""Devices and a policy made of nothing for whole commands."""

from __future__ import annotations

from dataclasses import replace

import fake_devices
import pytest
from fake_robot import FakeClock
from running import NoProcess, policies

from rdt2.devices import open_robot
from rdt2.sim.pace import Paced


@pytest.fixture
def fakes(monkeypatch):
    """No devices were opened, and no process is started for a policy."""
    fake_devices.made.clear()
    monkeypatch.setattr("rdt2.policy.process.PolicyProcess", NoProcess)
    monkeypatch.setattr("rdt2.dashboard.desk.SETTLING", 0.0)  # nobody here says a word twice by mistake
    policies.clear()


@pytest.fixture
def clock(monkeypatch):
    """Of devices in simulated time, so that a busy machine makes nothing late."""
    time_ = FakeClock()

    def simulated(settings, **options):
        return replace(open_robot(settings, time_, **options), clock=Paced(time_), concurrent=False)

    monkeypatch.setattr("rdt2.operation.opening.open_robot", simulated)
    return time_
