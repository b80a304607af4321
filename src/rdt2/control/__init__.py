"""From chunks to motion: what guards every command, and the loop that observes, infers and acts."""

from __future__ import annotations

from rdt2.control.guard import Commanded, Guard
from rdt2.control.loop import STOPPED, LoopConfig, Mode, Monitor, run_episode
from rdt2.control.recording import Recorder
from rdt2.control.result import Cycle, EpisodeResult, Pause

__all__ = [
    "STOPPED",
    "Commanded",
    "Cycle",
    "EpisodeResult",
    "Guard",
    "LoopConfig",
    "Mode",
    "Monitor",
    "Pause",
    "Recorder",
    "run_episode",
]
