"""Drivers of devices that are made of nothing, and a robot's yaml that names them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import yaml
from fake_robot import FakeArm, FakeCamera, FakeGripper
from pydantic import Field

from rdt2.devices import Driver, Options
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import Check
from rdt2.robot.reading import CONFIGS


class FakeOptions(Options):
    payload: float | None = Field(default=None, description="kg")
    says: float | None = Field(default=None, description="kg that it says it carries; None: it cannot tell")
    broken: bool = Field(default=False, description="it does not answer")
    reset_degrees: tuple[float, ...] = Field(default=(), description="where it stands")


def _made(kind):
    def open_fake(opening):
        device = kind(opening.clock, opening.side)
        device._connected = device._enabled = False
        if kind is FakeArm:
            _stand(device, opening)
        if opening.options.says is not None:
            want, says = opening.options.payload, opening.options.says
            device.checks = lambda: [Check("payload", f"{want:g} kg", f"{says:g} kg", want == says)]
        if opening.options.broken:
            device.connect = lambda: (_ for _ in ()).throw(OSError("no route to host"))
        made.append(device)
        return device

    return Driver(open=open_fake, options=FakeOptions, extra="")


def _stand(device, opening):
    """Where its reset joints put it; it has joints that never change."""
    joints = np.radians(opening.options.reset_degrees)
    device.model, device.base = arm_model(opening.arm.model), opening.arm.base
    pose = opening.robot.kinematics()[opening.side].forward(joints)
    device.trajectory.stay(pose, now=opening.clock.now())
    state = device.state
    device.state = lambda: replace(state(), joints=joints)


made = []
"""Devices that were opened, in order."""


ARM, GRIPPER, CAMERA = map(_made, (FakeArm, FakeGripper, FakeCamera))


def robot_yaml(tmp_path, change=lambda values: None):
    """The published UR5e rig, of fake devices."""
    values = yaml.safe_load((CONFIGS / "bimanual_ur5e.yaml").read_text())
    for arm in values["arms"].values():
        reset = arm["device"]["reset_degrees"]
        arm["device"] = {"type": "fake_devices:ARM", "payload": 0.82, "reset_degrees": reset}
        arm["gripper"]["device"] = {"type": "fake_devices:GRIPPER"}
        arm["camera"]["device"] = {"type": "fake_devices:CAMERA"}
        arm["latency"] = arm["camera"]["latency"] = 0.0
    # a busy machine that runs tests makes pictures late, and nothing else is wrong with them
    values["safety"].update(max_skew=0.5, max_age=1.0, faults_per_minute=600, fault_seconds=60)
    change(values)
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump(values))
    return path
