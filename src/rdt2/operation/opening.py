"""From a robot's settings to devices that can be asked and driven, and closed again whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdt2.dashboard.figure import Figure
from rdt2.devices import open_robot
from rdt2.progress import note, working

if TYPE_CHECKING:
    from rdt2.control import Monitor
    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Task


@dataclass(frozen=True)
class Opened:
    """A robot that is connected."""

    robot: Robot
    settings: RobotSettings
    judge: Monitor | None = None
    """Of a simulated robot: says whether the task was done."""

    @property
    def figure(self) -> Figure:
        """How it is drawn."""
        return Figure.of_robot(self.settings)


def at_its_table(settings: RobotSettings, scene: Scene) -> RobotSettings:
    """A simulated robot's settings, with the height of a scene's table: it is measured once, as that of a robot is."""
    return settings.changed({"safety.table_height": scene.table_height})


@contextmanager
def opened_robot(settings: RobotSettings, *, blind: bool = False) -> Iterator[Opened]:
    """Real devices, connected, nothing enabled; stopped and closed at the end. `blind`: without its cameras.

    Raises:
        ConfigError: a driver that is not there, or options that it does not take.
        RobotError: a device does not answer; names it.
    """
    robot = open_robot(settings, blind=blind)
    try:
        with working(f"connecting {settings.name}"):
            robot.connect()
        yield Opened(robot, settings)
    finally:
        for name, why in robot.close().items():
            note(f"the {name} could not be closed: {why}")


@contextmanager
def opened_cell(settings: RobotSettings, scene: Scene, task: Task | None = None) -> Iterator[Opened]:
    """A simulated robot in real time, in a process of its own, as if it were a real one.

    Raises:
        ConfigError: it is no simulated robot. RobotError: its process did not come up.
    """
    from rdt2.sim.realtime import RealtimeCell

    settings = at_its_table(settings, scene)
    with working(f"opening {settings.name}"):
        cell = RealtimeCell.of(settings, scene, task=task)
    with cell:
        yield Opened(cell.robot(), settings, cell.monitor)
