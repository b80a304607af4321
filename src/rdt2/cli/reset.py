"""`rdt2 reset`: a robot's arms are brought to where they begin from."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.cli.choices import PageOptions
from rdt2.dashboard.options import Looking

if TYPE_CHECKING:
    from rdt2.control.way import Way
    from rdt2.operation.opening import Opened


@dataclass(kw_only=True)
class Reset:
    """Bring a robot's arms slowly to where its yaml has them begin.

    The whole way of both arms is checked first: links, grippers and cameras against each other, the table and what
    stands around. It is shown, and begins when you type go or press start on the page; Enter, Ctrl-C or whatever goes
    wrong stops the arms. Where no way is free nothing moves.

    For example:
      rdt2 reset --robot cell_ur5e
      rdt2 reset --robot my_robot.yaml --dashboard        look at the way in 3-D first
      rdt2 reset --robot my_robot.yaml --speed 5 --yes
    """

    robot: str
    """The yaml of a robot, or the name of one in configs/robots."""
    speed: float = 10.0
    """Degrees a second of the fastest joint, 1 to 30; a TCP stays below 0.25 m/s."""
    yes: bool = False
    """Answer what is asked with yes, and begin without waiting for go."""
    seed: int = 0
    """In the cell: which scene, and so from where."""
    json: Path | None = None
    """Write the joints now and at home, and how long the way takes, to this file; - is stdout, alone."""
    looking: PageOptions = field(default_factory=Looking)

    def run(self) -> None:
        from rdt2.operation.checklist import Checklist
        from rdt2.operation.session import confirmed, ending_in_order, episodes
        from rdt2.robot.settings import RobotSettings

        settings = RobotSettings.read(self.robot)
        checklist = Checklist(settings, lambda text: confirmed(text, yes=self.yes))
        instruction = None if settings.kind == "cell" else SENTENCE
        every = episodes(settings, instruction=instruction, task="pick", seed=self.seed, checklist=checklist)
        with ending_in_order(), contextlib.closing(every):
            self._bring_home(next(every).opened)

    def _bring_home(self, opened: Opened) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.dashboard.desk import Desk
        from rdt2.errors import RobotError
        from rdt2.operation.home import follow, shots, way_home
        from rdt2.progress import note

        robot, settings, figure = opened.robot, opened.settings, opened.figure
        states = {side: arm.state() for side, arm in robot.arms.items()}
        way = way_home(settings, robot, speed=self.speed)
        out = console()
        out.print(_table(way, settings.name))
        out.print(f"{way.order}, {way.seconds:.0f} s: free all the way", highlight=False)
        joints = {side: {"now": path[0], "home": path[-1]} for side, path in way.joints.items()}
        save_json(self.json, {"order": way.order, "seconds": way.seconds, "joints": joints})
        with Desk(self.looking, goes_on=False, typed=True, welcomed=self.yes, as_shown=True) as desk:
            shown = shots(way, settings, figure, states, robot)
            desk.begin(robot, figure, SENTENCE, title=f"home: {way.order}", shown=shown)
            if desk.left:  # not 0, which says that all is well
                raise RobotError("not begun: you left before go. The arms are where they were.")
            follow(robot, settings, way, permit=desk.as_shown(), recorder=desk)
        note("the arms are home")


SENTENCE = "Go home."


def _table(way: Way, title: str) -> Any:
    import numpy as np
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in ("arm", "joint", "now (degrees)", "home", "by"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for side, joints in sorted(way.joints.items()):  # left first, as everywhere
        for joint, (now, home) in enumerate(zip(np.degrees(joints[0]), np.degrees(joints[-1]), strict=True)):
            table.add_row(side, str(joint + 1), f"{now:.1f}", f"{home:.1f}", f"{home - now:+.1f}")
    return table
