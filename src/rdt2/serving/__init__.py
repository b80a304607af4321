"""A policy as a service: one machine computes, robots elsewhere ask, in openpi's protocol.

rdt2 serve --policy demo-fm --port 8000

from rdt2.serving import Client
with Client("ws://localhost:8000") as policy:      # the same as load_policy("ws://localhost:8000")
    (chunk,) = policy.predict([observation])
"""

from __future__ import annotations

from rdt2.policy.client import AsyncClient, Client
from rdt2.serving.background import served
from rdt2.serving.engine import Engine, ProcessEngine
from rdt2.serving.replicas import RayEngine
from rdt2.serving.security import Bounds
from rdt2.serving.server import PolicyServer, ServerSettings

__all__ = [
    "AsyncClient",
    "Bounds",
    "Client",
    "Engine",
    "PolicyServer",
    "ProcessEngine",
    "RayEngine",
    "ServerSettings",
    "served",
]
