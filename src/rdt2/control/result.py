"""How an episode went."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from rdt2.control.held import Held

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.plan import Plan


class Monitor(Protocol):
    """What knows whether the task is done: the cell's judge, or a person with a button."""

    @property
    def success(self) -> bool:
        """Whether the task is done, as the sentence asks."""
        ...

    @property
    def followed(self) -> bool:
        """Whether the arms went for what the sentence names, done or not."""
        ...

    @property
    def done(self) -> bool:
        """Whether the episode may end."""
        ...


@dataclass(frozen=True)
class Pause:
    """The arms came to rest for a reason, and waited for a better chunk or picture."""

    time: float
    """Since the episode began."""
    reason: str


@dataclass(frozen=True)
class Cycle:
    """What one chunk became."""

    time: float
    """Of the picture, seconds since the episode began."""
    tcp: dict[str, Float[ndarray, "4 4"]]
    """Measured TCP poses at the picture, cell frame, metres."""
    plan: Plan
    """What the chunk asks for, before the hand-over from the plan before it."""
    delay: float
    """Seconds from the picture to the moment at which the chunk was there."""


@dataclass
class EpisodeResult:
    """How an episode went."""

    success: bool = False
    followed: bool = False
    ending: str = ""
    """Why it ended: "done", "time is up", "stopped by the operator", or a fault."""
    signal: int = 0
    """Number of the signal that ended it; 0 for none. Who asked the process to end still waits for that."""
    seconds: float = 0.0
    """On the robot's clock."""
    cycles: list[Cycle] = field(default_factory=list)
    inference: list[float] = field(default_factory=list)
    """Wall-clock seconds of every prediction."""
    pauses: list[Pause] = field(default_factory=list)
    slowed: list[Held] = field(default_factory=list)
    """What the guard held back; times in seconds since the episode began."""
    lateness: list[float] = field(default_factory=list)
    """Seconds between two commands, where the servo has a thread of its own."""
    unrecorded: str = ""
    """What the recorder missed, and why."""
