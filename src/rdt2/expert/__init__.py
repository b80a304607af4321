"""The flow-matching expert: velocity, sampler, loss, one-step distillation."""

from __future__ import annotations

from rdt2.expert.conditioning import Conditioning, KeyValues
from rdt2.expert.config import ExpertConfig
from rdt2.expert.distill import distillation_loss, one_step, several_steps
from rdt2.expert.flow import flow_matching_loss, sample_timesteps, step_times
from rdt2.expert.guidance import Guidance, promise_weights
from rdt2.expert.model import Expert
from rdt2.expert.prefix import Prefix

__all__ = [
    "Conditioning",
    "Expert",
    "ExpertConfig",
    "Guidance",
    "KeyValues",
    "Prefix",
    "distillation_loss",
    "flow_matching_loss",
    "one_step",
    "promise_weights",
    "sample_timesteps",
    "several_steps",
    "step_times",
]
