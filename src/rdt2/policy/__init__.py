"""Policies: observations in, action chunks out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.policy.base import Policy
    from rdt2.policy.bundle import save_bundle
    from rdt2.policy.client import AsyncClient, Client
    from rdt2.policy.compiled import CompiledFMPolicy, CompiledVQPolicy
    from rdt2.policy.fm import FMPolicy
    from rdt2.policy.load import load_policy
    from rdt2.policy.process import PolicyProcess
    from rdt2.policy.vq import VQPolicy

__all__ = [
    "AsyncClient",
    "Client",
    "CompiledFMPolicy",
    "CompiledVQPolicy",
    "FMPolicy",
    "Policy",
    "PolicyProcess",
    "PolicySpec",
    "VQPolicy",
    "load_policy",
    "save_bundle",
]

_ROOMS = {
    "AsyncClient": "client", "Client": "client",
    "CompiledFMPolicy": "compiled", "CompiledVQPolicy": "compiled", "FMPolicy": "fm", "Policy": "base",
    "PolicyProcess": "process", "VQPolicy": "vq", "load_policy": "load", "save_bundle": "bundle",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Torch is imported with the first policy that is used: the command line knows their options without it."""
    if name not in _ROOMS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
