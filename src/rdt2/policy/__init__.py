"""Policies: observations in, action chunks out."""

from __future__ import annotations

from rdt2.policy.base import Policy
from rdt2.policy.bundle import save_bundle
from rdt2.policy.compiled import CompiledFMPolicy, CompiledVQPolicy
from rdt2.policy.fm import FMPolicy
from rdt2.policy.load import load_policy
from rdt2.policy.vq import VQPolicy

__all__ = [
    "CompiledFMPolicy",
    "CompiledVQPolicy",
    "FMPolicy",
    "Policy",
    "VQPolicy",
    "load_policy",
    "save_bundle",
]
