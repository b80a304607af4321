"""Options of commands that record what arms do, and let a person take over."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rdt2.control import DiskRecorder
    from rdt2.control.pilots import AnyPilot
    from rdt2.data.recordings import Mark
    from rdt2.operation.driving import Driven
    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings

EXPECTED = ("done", "time is up")
"""Endings after which the cell's judge knows whether the task was done; after any other only a person does."""


@dataclass(frozen=True, kw_only=True)
class Recording:
    """What is recorded, and who may take over."""

    record: Path | None = None
    """Record every episode into this folder: pictures, states, commands, chunks, holds, faults and marks, as MCAP files
    that Foxglove and rerun open and 'rdt2 data convert --from recording' makes training data of."""
    record_last: float | None = None
    """Keep only the last so many seconds, in memory: they become a file in --record when you type keep."""
    pilot: Literal["keyboard", "space-mouse", "hand"] | None = None
    """A person may take over. keyboard: type take, then single keys move one arm; space-mouse: a 3-D mouse, whose left
    button takes over and gives back; hand: type take, move the arms themselves, where their driver offers it
    (freedrive), and type take once more. What the person does is recorded as a correction."""

    def recorder(self, policy: Mapping[str, Any]) -> DiskRecorder | None:
        """What records, if anything does.

        Args:
            policy: which one drives, as plain values.

        Raises:
            ConfigError: mcap is not installed, or --record-last without --record. RecordingError: the folder cannot be
                written to.
        """
        if self.record is None:
            if self.record_last is not None:
                raise ConfigError(
                    "--record-last keeps the last seconds in a folder: say which, --record FOLDER."
                )
            return None
        from rdt2.control import DiskRecorder

        return DiskRecorder(self.record, policy=policy, last=self.record_last)

    def check(self, robot: Robot) -> None:
        """See that a robot lets a person take over as asked. Raises ConfigError: its arms cannot be moved by hand."""
        if self.pilot == "hand":
            from rdt2.control.pilots import require_guided

            require_guided(robot)

    @contextmanager
    def opened_pilot(self, settings: RobotSettings) -> Iterator[AnyPilot | None]:
        """What the person holds, if anything; listened to within the block. Raises ConfigError: it is not there."""
        if self.pilot is None:
            yield None
            return
        from rdt2.control.pilots import SpaceMousePilot, open_pilot

        pilot = open_pilot(self.pilot, settings)
        try:
            yield pilot
        finally:
            if isinstance(pilot, SpaceMousePilot):
                pilot.close()


def marked(driven: Driven[Any], said: Mark | None) -> tuple[Mark | None, str]:
    """Whether an episode shows what it should, and who says so: a person, or else the cell's judge."""
    if mark := driven.mark or said:
        return mark, "a person"
    if driven.judge.judged and driven.result.ending in EXPECTED:
        return "success" if driven.result.success else "failure", "the judge of the cell"
    return None, ""
