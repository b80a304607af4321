"""From chunks to motion: trajectories, safety checks, and the loop that observes, infers and acts."""

from __future__ import annotations

from rdt2.control.loop import Cycle, EpisodeResult, Hold, LoopConfig, Recorder, run_episode
from rdt2.control.safety import SafetyLimits
from rdt2.control.trajectory import Path

__all__ = ["Cycle", "EpisodeResult", "Hold", "LoopConfig", "Path", "Recorder", "SafetyLimits", "run_episode"]
