"""Types of options that several commands have.

Choices grow with the package: a new task, scenery or arm is in the help as soon as its file is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rdt2.dashboard.options import Looking
from rdt2.policy.spec import PolicySpec
from rdt2.registry import kind_names

Data = Annotated[Positional[str], arg(metavar="DATA")]
"""Where samples are: the first word, or --data."""
DataPath = Annotated[Positional[Path], arg(metavar="DATA")]
Out = Annotated[Positional[Path], arg(metavar="OUT")]
"""What is written: the last word, or --out."""
PolicyOptions = Annotated[PolicySpec, arg(name="policy")]
PageOptions = Annotated[Looking, arg(name="page")]
"""Several options at once; the name is that of their part of the help."""

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
