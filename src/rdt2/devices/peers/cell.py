"""A whole robot on this machine: one simulated cell in real time, and in front of it two arms' controllers (UR's, or
Franka Research 3), two Zhixing grippers and two GigE cameras, each spoken to over its own protocol, and a tracker on
each tool. What the drivers do moves the cell's arms, and what the cameras show is the cell.

    rdt2 device peer cell task=pick seed=3 yaml=peers.yaml      # then rdt2 run --robot peers.yaml, as on a real robot
    rdt2 device peer cell robot=fr3

    with started("cell", seed=3) as devices:
        robot = open_robot(driven(RobotSettings.read("cell_ur5e"), devices))

Arms take trouble as their own peers do. On port `TROUBLE` of the right arm's address the others take a line and answer
`ok`: `left gripper garbage` (short, odd, silence, unplugged, whole), `left camera silent` (late, unplugged, whole); see
`trouble`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Options, Peer
from rdt2.devices.peers import Started, ask_for_trouble, main, started
from rdt2.devices.peers._cell_arm import Mirror
from rdt2.devices.peers._ur_motion import CellMotion
from rdt2.devices.peers.ur import Controller, UROptions, listen, take_lines
from rdt2.devices.peers.zhixing import Fault, ZhixingPeer, ZhixingPeerOptions, fingers_of
from rdt2.errors import RobotError
from rdt2.files import whole_file
from rdt2.observation import IMAGE_SIZE
from rdt2.robot.settings import RobotSettings
from rdt2.threads import prefer

TROUBLE = 30098
ARM_LATENCY = {"ur5e": 0.07, "fr3": 0.03}
"""Seconds after which an arm is where a command wanted it, measured through its driver and its peer."""
GRIPPER_LATENCY = 0.095
"""The same of a gripper."""
FASTEST, STRONGEST = 1.0, 0.12
"""Speed (m/s) and squeeze (m) of a gripper's motor: the fingers behind it are the cell's own, as fast and as strong as
they are."""
FOLLOWED = {"acceleration": 6.0, "jerk": 200.0, "turn_acceleration": 25.0, "turn_jerk": 750.0}
"""Limits (m/s^2, m/s^3, rad/s^2, rad/s^3) with which an FR3 under joint impedance follows. With those of the cell its
second joint, which brakes the whole arm, falls further behind than `tracking_error_m` allows."""
CARRIED = {"payload_centre": [0, 0, 0], "payload_inertia": [0, 0, 0]}
LOADS: dict[str, dict[str, Any]] = {
    "ur5e": {**CARRIED, "payload": 0.5, "speed_slider": 1.0},
    "fr3": {**CARRIED, "payload": 0.0, "realtime": False},
}
"""What is written about each arm beside its address. What the cell's arms carry is nothing that their peers know of."""


class CellOptions(Options):
    """Of the cell and what stands in front of it."""

    robot: Literal["ur5e", "fr3"] = Field(default="ur5e", description="its arms: ur5e or fr3")
    task: str = Field(default="pick", description="what is done in the scene: pick, place, ...")
    seed: int = Field(default=1, ge=0, description="of the scene")
    right: str = Field(default="127.0.0.2", description="address of the right arm's controller, 127.0.0.x")
    left: str = Field(default="127.0.0.3", description="address of the left arm's controller, 127.0.0.x")
    cameras: bool = Field(default=True, description="whether there are GigE cameras, which need aravis")
    rate: float = Field(
        default=30.0, gt=0, le=30, description="pictures a second: to draw fewer spares a small machine"
    )
    yaml: str = Field(
        default="", description="a file to write: the yaml of the robot that all these devices are"
    )


def driven(settings: RobotSettings, devices: Mapping[str, Any]) -> RobotSettings:
    """A simulated robot, spoken to through drivers instead.

    Args:
        settings: of kind cell, with UR5e or FR3.
        devices: what the peer says: `device:` of arm, gripper and camera by side.
    """
    values = settings.model_dump()
    del values["cell"]
    for side, arm in values["arms"].items():
        parts, values["kind"] = devices[side], arm["model"]
        arm["device"], arm["gripper"]["device"] = {**LOADS[arm["model"]], **parts["arm"]}, parts["gripper"]
        arm["latency"] = ARM_LATENCY[arm["model"]]
        arm["bounds"].update(FOLLOWED if arm["model"] == "fr3" else {})
        arm["gripper"]["latency"] = GRIPPER_LATENCY
        arm["camera"]["device"] = parts.get("camera", {})
    return RobotSettings.model_validate(values)


def trouble(address: str, what: str) -> None:
    """Make trouble for a gripper or a camera.

    Args:
        address: of the right arm.
        what: "left gripper garbage".

    Raises:
        RobotError: there is no such trouble, or no such peer.
    """
    ask_for_trouble("cell", address, TROUBLE, what)


class Eye:
    """A GigE camera that may go wrong, in a process of its own.

    Args:
        stack: ends it.
        options: its peer's.
    """

    SIGNALS: ClassVar[dict[str, int]] = {"silent": signal.SIGUSR1, "late": signal.SIGUSR2}

    def __init__(self, stack: contextlib.ExitStack, **options: Any) -> None:
        self._stack, self._options, self._fault = stack, options, ""
        self.device: Started = stack.enter_context(started("gige", **options))

    def break_down(self, fault: str) -> None:
        """From now on this is wrong, or nothing is any more ("")."""
        pid = self.device.process.pid
        if self._fault == "unplugged":
            again = {**self._options, "address": self.device["address"]}
            self.device = self._stack.enter_context(started("gige", **again))
        elif self._fault:
            os.kill(pid, self.SIGNALS[self._fault])
        if fault:
            os.kill(pid, self.SIGNALS.get(fault, signal.SIGKILL))
        self._fault = fault


class Troubles:
    """Answers lines."""

    def __init__(self) -> None:
        self.parts: dict[str, Eye | ZhixingPeer] = {}
        """By name: "left gripper"."""

    def make(self, line: str) -> str:
        """What is asked for."""
        side, _, rest = line.partition(" ")
        part, _, what = rest.partition(" ")
        known = {"gripper": get_args(Fault), "camera": ("", *Eye.SIGNALS, "unplugged")}.get(part, ())
        fault = "" if what == "whole" else what
        if f"{side} {part}" not in self.parts or fault not in known:
            return f"there is {', '.join(self.parts)}, with one of {', '.join(known)}, whole"
        self.parts[f"{side} {part}"].break_down(fault)  # type: ignore[arg-type]
        return "ok"


def serve(options: CellOptions, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer until interrupted."""
    from rdt2.sim import make_scene, task_for
    from rdt2.sim.realtime import RealtimeCell

    scene = make_scene(options.task, options.seed)
    # a motor's own feedback is no measurement from outside, and has no noise; an FR3 has a latency of its own
    changes = {
        "cell.grippers.width_noise": 0.0,
        "cell.cameras.rate": options.rate,
        "safety.table_height": scene.table_height,
        **({"cell.arms.latency": 0.0} if options.robot == "fr3" else {}),
    }
    settings = RobotSettings.read(f"cell_{options.robot}").changed(changes)
    with contextlib.ExitStack() as stack:
        cell = stack.enter_context(RealtimeCell.of(settings, scene, task=task_for(scene)))
        robot = cell.robot()
        robot.connect()
        robot.enable()
        prefer()
        devices: dict[str, Any] = {}
        troubles = Troubles()
        take_lines(options.right, TROUBLE, troubles.make)
        for number, side in enumerate(robot.sides):
            address, arm = getattr(options, side), robot.arms[side]
            if options.robot == "ur5e":
                _controller(address, arm, robot.clock, np.asarray(settings.arms[side].tool))
            else:
                mirror = Mirror(arm, robot.clock)  # type: ignore[arg-type]
                joints = arm.state().joints.tolist()
                stack.enter_context(started("fr3", address=address, joints=joints, mirror=mirror.port))
                threading.Thread(target=mirror.run, daemon=True).start()
            gripper = robot.grippers[side]
            fingers = stack.enter_context(
                ZhixingPeer(
                    ZhixingPeerOptions(
                        serial=number + 1, width=gripper.state().width, speed=FASTEST, squeeze=STRONGEST
                    ),
                    follow=fingers_of(gripper, robot.clock),
                )
            )
            devices[side] = {
                "arm": {"address": address, "reset_radians": arm.state().joints.tolist()},
                "gripper": {"port": fingers.port, "serial": str(number + 1)},
            }
            troubles.parts[f"{side} gripper"] = fingers
            if options.cameras:
                eye = Eye(stack, serial=f"CELL-{side}", cell=cell.memory, side=side)
                troubles.parts[f"{side} camera"] = eye
                devices[side]["camera"] = {**eye.device, "fps": options.rate, "crop": IMAGE_SIZE}
            devices[side]["tracker"] = {"type": "cell", "robot": options.robot, "memory": cell.memory}
        if options.yaml:
            _write(Path(options.yaml), driven(settings, devices))
        ready({**devices, "memory": cell.memory})
        threading.Event().wait()


def _write(path: Path, settings: RobotSettings) -> None:
    """A robot's yaml."""
    import yaml

    values = settings.model_dump(mode="json", exclude_none=True)
    text = yaml.safe_dump(values, sort_keys=False, default_flow_style=None, width=110)
    head = "# A robot of devices that `rdt2 device peer cell` stands in for, as long as that runs.\n"
    with whole_file(path, error=RobotError) as partial:
        partial.write_text(head + text, encoding="utf-8")


def _controller(address: str, arm: Any, clock: Any, tool: Any) -> None:
    """A UR controller that moves an arm of the cell, in threads of this process."""
    controller = Controller(UROptions(address=address), CellMotion(arm, clock, tool))
    listen(controller)
    threading.Thread(target=controller.run, daemon=True).start()


PEER = Peer(
    serve=serve, options=CellOptions, what="a robot of two UR5e, or two FR3, in front of one simulated cell"
)

if __name__ == "__main__":
    main(PEER)
