"""Choices that grow with the package: a new task, scenery or arm is in the help as soon as its file is there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from rdt2.registry import kind_names

if TYPE_CHECKING:
    TaskName = str
    TaskNameOrAll = str
    SceneryName = str
    RobotName = str
else:
    TaskName = Literal[kind_names("rdt2.sim.tasks")]
    TaskNameOrAll = Literal[(*kind_names("rdt2.sim.tasks"), "all")]
    SceneryName = Literal[kind_names("rdt2.sim.sceneries")]
    RobotName = Literal[(*kind_names("rdt2.robot.models"), "handheld")]
