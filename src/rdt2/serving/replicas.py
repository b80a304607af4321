"""Several policies behind one address, on all machines of a Ray cluster: `rdt2 serve --engine ray --replicas 2`.

The server in front stays what it is: it speaks the protocol, guards the door and keeps the line. Batches go to the
replicas of a Ray Serve deployment, each of which is a policy in a process of its own, as without Ray. A replica ends
with its policy, and what it was computing is computed once more, by another one: a chunk depends on nothing but the
request and its seed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

from rdt2.errors import ConfigError, RDT2Error, ServingError
from rdt2.policy.process import Opener
from rdt2.policy.spec import PolicySpec
from rdt2.serving.engine import HANG_SECONDS, Outcome, ProcessEngine
from rdt2.serving.requests import Request

log = logging.getLogger(__name__)

STARTING_SECONDS = 1800.0
"""Loading and warming up takes no longer: large weights from a slow disk, compiled for every batch size."""
ATTEMPTS = 2
"""Replicas that may die of a batch. One that kills whatever computes it must not kill them all."""


class RayEngine:
    """Replicas of one policy in a Ray cluster: that of RAY_ADDRESS, else one of this machine.

    Args:
        spec: which policy; on a GPU each replica gets one of its own.
        replicas: policies, and batches at a time.
        max_batch, hang_seconds, open: as for `ProcessEngine`.

    Raises:
        ConfigError: there is no Ray, or fewer than one replica.
    """

    def __init__(
        self,
        spec: PolicySpec,
        *,
        replicas: int,
        max_batch: int = 8,
        hang_seconds: float = HANG_SECONDS,
        open: Opener | None = None,
    ) -> None:
        if replicas < 1:
            raise ConfigError(f"{replicas} replicas, expected 1 or more.")
        if "RAY_ADDRESS" not in os.environ:
            # Ray reads it when it is imported; a cluster of this machine then listens to this machine alone.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        try:
            import ray  # noqa: F401
            from ray import serve  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"Ray Serve is not installed ({error}). Install the extra: pip install 'rdt2[ray]'."
            ) from None
        self.spec, self.slots, self.hang_seconds = spec, replicas, hang_seconds
        self.restarts = 0
        self.measured: dict[int, float] = {}
        self.about: dict[str, Any] = {}
        self._made: dict[str, Any] = {"max_batch": max_batch, "hang_seconds": hang_seconds, "open": open}
        self._name = f"rdt2-{secrets.token_hex(4)}"
        self._handle: Any = None
        self._joined = self._own_cluster = False

    @property
    def ready_in(self) -> float:
        """Seconds until it will probably answer; 0 when it does."""
        return 0.0 if self._handle is not None else 1.0

    async def start(self) -> None:
        """Start the replicas, and wait until one answers."""
        began = time.monotonic()
        handle = await asyncio.to_thread(self._deploy)
        self.about, self.measured = await handle.described.remote()
        self._handle = handle
        log.info(
            "replicas ready", extra={"replicas": self.slots, "seconds": round(time.monotonic() - began, 3)}
        )

    async def compute(self, requests: Sequence[Request], seeds: Sequence[int]) -> list[Outcome]:
        """Predict a batch on some replica, one outcome a request; one that dies is replaced, and another one asked."""
        from ray.exceptions import RayError, RayTaskError

        # A replica that hangs answers so itself; meanwhile another one may have to be started.
        longest = self.hang_seconds + STARTING_SECONDS
        for attempt in range(1, ATTEMPTS + 1):
            try:
                response = self._handle.compute.remote(list(requests), list(seeds))
                return list(await asyncio.wait_for(response, longest))
            except RayTaskError as error:  # it lives, and its code went wrong
                log.exception("a replica failed")
                return [ServingError(f"a replica failed: {error.cause}")] * len(requests)
            except RayError as error:  # it or its policy died, or cannot be reached; Ray starts another one
                self.restarts += 1
                told = {"attempt": attempt, "requests": len(requests), "error": type(error).__name__}
                log.error("a replica died", extra=told)
            except (asyncio.TimeoutError, TimeoutError):
                return [ServingError(f"no replica has answered for {longest:.0f} s.")] * len(requests)
        words = f"{ATTEMPTS} replicas died of it. Others are started; ask again."
        return [ServingError(words, reason="failed")] * len(requests)

    async def close(self) -> None:
        """End the replicas, and the cluster where it was made for them."""
        await asyncio.to_thread(self._end)

    # ---------------------------------------------------------------------------------------------- in threads

    def _deploy(self) -> Any:
        """Start the cluster if need be, and the replicas; returns when all can be asked."""
        import ray
        from ray import serve
        from ray.exceptions import RayError

        if not ray.is_initialized():
            self._join()
        gpus = 1 if self.spec.device.startswith("cuda") else 0
        self._require(ray.available_resources(), {"CPU": 1, "GPU": gpus})
        deployment: Any = serve.deployment(
            Replica,
            name="policy",
            num_replicas=self.slots,
            max_ongoing_requests=1,
            max_constructor_retry_count=1,
            ray_actor_options={"num_cpus": 1, "num_gpus": gpus},
            health_check_period_s=2.0,
            health_check_timeout_s=10.0,
        )
        try:
            serve.start(proxy_location="Disabled")  # the door is the server's
            return serve.run(deployment.bind(self.spec, self._made), name=self._name, route_prefix=None)
        except (RayError, RuntimeError) as error:
            why = self._why() or str(error)
            raise ServingError(f"the replicas could not be started: {why}") from error

    def _join(self) -> None:
        """Enter the cluster that RAY_ADDRESS names, or start one here, with a CPU for each replica."""
        import ray

        named = os.environ.get("RAY_ADDRESS")
        cpus = max(self.slots, os.cpu_count() or 1)
        local: dict[str, Any] = {"address": "local", "num_cpus": cpus, "include_dashboard": False}
        for name in ("ray", "ray.serve"):  # the server's log has one object a line
            logging.getLogger(name).setLevel(logging.WARNING)
        try:
            ray.init(log_to_driver=False, logging_level=logging.WARNING, **({} if named else local))
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = f"the cluster RAY_ADDRESS={named} cannot be reached" if named else "Ray cannot start here"
            raise ServingError(f"{where}: {error}") from error
        self._joined, self._own_cluster = True, not named

    def _require(self, free: Mapping[str, float], each: Mapping[str, int]) -> None:
        """Raises ServingError where the replicas have no room; a cluster of others may grow, or become free."""
        for name, count in each.items():
            here, needed = free.get(name, 0), count * self.slots
            if here < needed:
                told = f"{self.slots} replicas need {needed} {name}, the cluster has {here:g} free"
                if self._own_cluster:
                    raise ServingError(f"{told}. Start no more replicas than this machine has room for.")
                log.warning("%s: waiting for more", told)

    def _why(self) -> str:
        """What a replica died of while it loaded its policy."""
        from ray import serve

        found = serve.status().applications.get(self._name)
        told = "\n".join(each.message for each in found.deployments.values()) if found is not None else ""
        errors = [
            line.strip() for line in told.splitlines() if re.match(r"\s*[\w.]*(Error|Exception): ", line)
        ]
        return errors[-1].removeprefix("rdt2.errors.") if errors else ""

    def _end(self) -> None:
        import ray
        from ray import serve

        if not ray.is_initialized():
            return
        self._handle = None
        with contextlib.suppress(Exception):  # a cluster that is gone has nothing left to be ended
            serve.delete(self._name)
        if self._own_cluster:  # in that of others, what others serve goes on
            with contextlib.suppress(Exception):
                serve.shutdown()
        if self._joined:
            ray.shutdown()


class Replica:
    """One policy in the cluster."""

    async def __init__(self, spec: PolicySpec, made: dict[str, Any]) -> None:  # type: ignore[misc]
        # Nobody is sent here before the policy is loaded and warm.
        self._engine = ProcessEngine(spec, **made)
        await self._engine.start()

    async def check_health(self) -> None:
        """Asked by Ray every few seconds: ends the replica where its policy died while nobody asked."""
        self._end_with_policy()

    async def described(self) -> tuple[dict[str, Any], dict[int, float]]:
        """What clients are told of the policy, and seconds of a batch by its size."""
        return self._engine.about, self._engine.measured

    async def compute(self, requests: Sequence[Request], seeds: Sequence[int]) -> list[Outcome]:
        """As `Engine.compute`, while its policy lives."""
        outcomes = await self._engine.compute(requests, seeds)
        self._end_with_policy()
        return [_sendable(each) for each in outcomes]

    def _end_with_policy(self) -> None:
        """A policy that hung was killed, too. Who waits for an answer is served by another replica."""
        if self._engine.restarts:
            os._exit(1)  # what Ray notices at once; an exception would be an answer


def _sendable(outcome: Outcome) -> Outcome:
    """Errors that no one foresaw may be of classes that only the policy's process has."""
    if isinstance(outcome, Exception) and not isinstance(outcome, RDT2Error):
        return ServingError(f"the policy failed: {type(outcome).__name__}: {outcome}")
    return outcome
