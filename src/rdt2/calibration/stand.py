"""A robot that stands ready to be calibrated: a real one, or the cell in simulated time with trackers on its tools."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rdt2.devices import open_tracker
from rdt2.errors import ConfigError
from rdt2.operation.checklist import Checklist
from rdt2.operation.opening import Opened, at_its_table, opened_robot

if TYPE_CHECKING:
    from rdt2.robot.protocols import Tracker
    from rdt2.robot.settings import RobotSettings
    from rdt2.sim.cell import Cell


@dataclass(frozen=True)
class Stand:
    """Connected and enabled."""

    opened: Opened
    cell: Cell | None
    """Where it is simulated."""

    @contextmanager
    def tracker(self, side: str, device: Mapping[str, Any]) -> Iterator[Tracker]:
        """The tracker on one tool, connected; closed at the end.

        Raises:
            ConfigError, RobotError: there is none, or it does not answer.
        """
        if self.cell is not None:
            from rdt2.sim.tracker import CellTracker

            tracker: Tracker = CellTracker(self.cell, side)
        else:
            tracker = open_tracker(device, self.opened.settings, side, self.opened.robot.clock)
        tracker.connect()
        try:
            yield tracker
        finally:
            tracker.close()


@contextmanager
def standing(
    settings: RobotSettings,
    *,
    seed: int,
    confirm: Callable[[str], bool],
    enable: bool = True,
    blind: bool = False,
) -> Iterator[Stand]:
    """Open a robot: looked up and asked for as before every motion; stopped and closed at the end.

    Args:
        settings: of the robot.
        seed: of the cell: which scene.
        confirm: asks a person.
        enable: False where a person leads the arms by hand: they are only read, and nothing is asked.
        blind: leave real cameras alone: they may not be there yet, or be used elsewhere.

    Raises:
        RobotError: a device does not answer, is not set up as the yaml says, or was not confirmed.
    """
    if settings.kind == "cell":
        from rdt2.sim.cell import Cell
        from rdt2.sim.drawing import make_scene

        scene = make_scene("pick", seed=seed)
        settings = at_its_table(settings, scene)
        with Cell.of(settings, scene) as cell:
            yield Stand(Opened(cell.robot(settings.sides), settings), cell)
        return
    checklist = Checklist(settings, confirm, blind=blind)
    with opened_robot(settings, blind=blind) as opened:
        checklist.look(opened.robot)
        if enable:
            checklist.ask()
            opened.robot.enable()
            checklist.look(opened.robot)
        yield Stand(opened, None)


def side_of(settings: RobotSettings, side: str | None) -> str:
    """The side that is meant: where none is said, the first there is.

    Raises:
        ConfigError: the robot has none such.
    """
    if side is None:
        return settings.sides[0]
    if side not in settings.sides:
        raise ConfigError(f"robot {settings.name!r} has no {side} arm, only {' and '.join(settings.sides)}.")
    return side
