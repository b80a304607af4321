"""How the loop thinks, which is nothing about the robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rdt2.action import HORIZON
from rdt2.errors import ConfigError

if TYPE_CHECKING:
    from rdt2.policy import Policy

Mode = Literal["chunking", "asynchronous", "synchronous"]


@dataclass(frozen=True)
class LoopConfig:
    """How the loop thinks; what the robot may do is in its `RobotSettings`. Times in seconds."""

    mode: Mode | None = None
    """How one chunk follows another. chunking: predicted around the steps driven meanwhile (real-time chunking);
    asynchronous: predicted while the last is driven, and blended into it; synchronous: the arms wait for it. None:
    chunking with policies that keep promises, else asynchronous."""
    execute_steps: int = 12
    """Steps of a chunk (1..24) after which the next picture is taken."""
    latency: float | None = None
    """What inference takes on a simulated clock; None for as long as it really takes. On a clock of its own inference
    takes what it takes, and this is None."""
    deadline: float = 2.0
    """A prediction that takes longer is a fault."""
    blend: float = 0.1
    """Seconds in which an asynchronous plan takes over from the one before; longer where they are far apart."""

    def __post_init__(self) -> None:
        if not 1 <= self.execute_steps <= HORIZON:
            raise ConfigError(
                f"execute_steps is {self.execute_steps}, expected 1 to {HORIZON}, the steps of a chunk."
            )
        for name in ("latency", "deadline", "blend"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < float("inf"):
                raise ConfigError(f"{name} is {value}, expected a finite number that is not negative.")


def chosen_mode(config: LoopConfig, policy: Policy) -> Mode:
    """How one chunk follows another with this policy. Raises ConfigError where it cannot do what is asked."""
    keeps = policy.keeps_promises
    mode = config.mode or ("chunking" if keeps else "asynchronous")
    if mode == "chunking" and not keeps:
        raise ConfigError(f"a {type(policy).__name__} keeps no promises: take mode asynchronous.")
    return mode
