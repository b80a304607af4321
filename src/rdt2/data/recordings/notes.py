"""What is said about a recording, in a JSON file beside its MCAP file: the robot, the policy, how it ended, its mark.

The MCAP file says the same as far as it was known when the recording began. A mark may come later, from a person who
looks at the recording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rdt2.errors import RecordingError
from rdt2.files import write_whole

FORMAT = "rdt2-recording-1"
Mark = Literal["success", "failure"]
RUNNING = "it was cut off"
"""How a recording ended that nobody ended."""


@dataclass(frozen=True)
class Notes:
    """About one recording."""

    robot: Mapping[str, Any]
    """The robot's yaml as plain values, as it was while recording."""
    policy: Mapping[str, Any] = field(default_factory=dict)
    """Which policy drove, as plain values."""
    began: str = ""
    """Wall clock, ISO 8601."""
    title: str = ""
    mark: Mark | None = None
    marked_by: str = ""
    """A person, or the judge of the simulated cell."""
    ending: str = RUNNING
    seconds: float = 0.0
    """Of the robot's clock."""
    instructions: tuple[str, ...] = ()
    """In the order in which they were given."""
    frames: int = 0
    """Pictures of the first arm's camera."""
    corrections: int = 0
    """How often a person took over."""
    unrecorded: str = ""
    """What is missing, and why."""
    clip: bool = False
    """Only the last seconds before somebody asked for them."""
    format: str = FORMAT

    def text(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def parse(cls, text: str, *, where: str) -> Notes:
        """The other way. Raises RecordingError where it is none."""
        try:
            values = json.loads(text)
            notes = cls(**{**values, "instructions": tuple(values.get("instructions", ()))})
        except (ValueError, TypeError, AttributeError) as error:
            raise RecordingError(
                f"{where}: no notes of a recording ({error}). Delete it: the .mcap file remains."
            ) from None
        if not isinstance(notes.robot, dict) or not isinstance(notes.robot.get("arms"), dict):
            raise RecordingError(
                f"{where}: does not say of what robot it is. Delete it: the .mcap file remains."
            )
        if notes.format != FORMAT:
            raise RecordingError(f"{where}: is of format {notes.format!r}, expected {FORMAT!r}. Update rdt2.")
        return notes


def notes_path(recording: Path) -> Path:
    """Where the notes of an MCAP file lie."""
    return recording.with_suffix(".json")


def write_notes(recording: Path, notes: Notes) -> None:
    """Write the notes of an MCAP file, whole. Raises RecordingError: the system refuses."""
    write_whole(notes_path(recording), notes.text(), advice="The recording itself is as it was.")
