"""How the loop thinks, which is nothing about the robot."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from rdt2.action import FPS, HORIZON
from rdt2.errors import ConfigError
from rdt2.progress import note

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


def require_time(config: LoopConfig, timeout: float) -> None:
    """Raises ConfigError where the arms would rest (`timeout` seconds after a chunk has come) before its steps are
    driven."""
    if config.execute_steps / FPS > timeout + 1e-6:
        raise ConfigError(
            f"execute_steps is {config.execute_steps}, which take {config.execute_steps / FPS:.2f} s, and the robot's "
            f"safety.command_timeout lets the arms rest {timeout:g} s after a chunk has come. Take "
            f"{int(timeout * FPS + 1e-6)} execute_steps or fewer, or mend command_timeout in the robot's file."
        )


def chosen_mode(config: LoopConfig, policy: Policy) -> Mode:
    """How one chunk follows another with this policy. Raises ConfigError where it cannot do what is asked."""
    keeps = policy.keeps_promises
    mode = config.mode or ("chunking" if keeps else "asynchronous")
    if mode == "chunking" and not keeps:
        raise ConfigError(f"a {type(policy).__name__} keeps no promises: take mode asynchronous.")
    return mode


def possible_mode(config: LoopConfig, mode: Mode, policy: Policy, *, late: float, instead: bool) -> Mode:
    """The mode in which arms can be driven when a chunk speaks so late; another one than `mode` is told.

    Args:
        config: how the loop thinks.
        mode: how it would.
        policy: what predicts.
        late: seconds from a picture to the moment at which the arms do what its chunk says.
        instead: whether another mode may be taken where none was asked for. Not where figures are made: they would be
            those of another mode.

    Raises:
        ConfigError: it cannot be that mode, and must not be another.
    """
    delay = math.ceil(late * FPS - 1e-6)
    steps = max(config.execute_steps, delay)
    told = f"from the picture to what its chunk says it takes {late:.2f} s: "
    other: Mode
    if mode != "synchronous" and steps > HORIZON - delay:
        other, so = "synchronous", "the arms rest while it is computed"
        told += (
            f"{min(delay, HORIZON)} of a chunk's {HORIZON} steps are past when it comes, {max(0, HORIZON - delay)} are "
            f"left, and {steps} have to be driven until the next one comes"
        )
        better = f"{'fewer execute_steps, ' * (steps > delay)}a faster model or machine"
    elif mode == "chunking" and delay > policy.longest_promise:
        other, so = "asynchronous", "each plan is blended into the next"
        told += (
            f"{delay} steps are driven meanwhile, and this policy was trained to go on from {policy.longest_promise} "
            "at most"
        )
        better = f"a faster machine, an expert trained with a larger prefix (--set prefix={delay} or more)"
    else:
        return mode
    if config.mode is not None or not instead:
        raise ConfigError(f"{told}. Take {better}, or mode {other}.")
    note(f"{told}. So {so} (mode {other}).")
    return other
