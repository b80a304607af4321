"""From chunks to motion: what guards every command, and the loop that observes, infers and acts."""

from __future__ import annotations

from rdt2.control.config import LoopConfig, Mode
from rdt2.control.disk_recorder import DiskRecorder
from rdt2.control.guard import Commanded, Guard
from rdt2.control.loop import STOPPED, run_episode
from rdt2.control.piloting import Pilot, Steer
from rdt2.control.recording import Moment, Recorder, Together
from rdt2.control.result import Cycle, EpisodeResult, Monitor, Pause

__all__ = [
    "STOPPED",
    "Commanded",
    "Cycle",
    "DiskRecorder",
    "EpisodeResult",
    "Guard",
    "LoopConfig",
    "Mode",
    "Moment",
    "Monitor",
    "Pause",
    "Pilot",
    "Recorder",
    "Steer",
    "Together",
    "run_episode",
]
