"""Options of every command that drives arms with a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rdt2.control import LoopConfig


@dataclass(frozen=True, kw_only=True)
class Driving:
    """How one chunk follows another."""

    execute_steps: int = 6
    """Steps of each chunk (1 to 24, 30 a second) that are driven before the policy looks again."""
    mode: Literal["chunking", "asynchronous", "synchronous"] | None = None
    """How one chunk follows another. chunking: predicted around the steps driven meanwhile; asynchronous: blended into
    the one before; synchronous: the arms wait. None: chunking with policies that can, else asynchronous."""

    def config(self, latency: float | None) -> LoopConfig:
        """For the loop; `latency`: seconds a prediction takes on a simulated clock, None for what it really takes.

        Raises:
            ConfigError: steps that a chunk does not have.
        """
        from rdt2.evaluation.cell import loop_config

        return loop_config(self.execute_steps, latency=latency, mode=self.mode)
