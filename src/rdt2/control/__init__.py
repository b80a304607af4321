"""From chunks to motion: limits, safety, and the loop that observes, infers and acts."""

from __future__ import annotations

from rdt2.control.loop import Cycle, EpisodeResult, Hold, LoopConfig, Recorder, run_episode
from rdt2.control.safety import SafetyLimits

__all__ = ["Cycle", "EpisodeResult", "Hold", "LoopConfig", "Recorder", "SafetyLimits", "run_episode"]
