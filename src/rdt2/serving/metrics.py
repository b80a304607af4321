"""What Prometheus reads at /metrics."""

from __future__ import annotations

from collections.abc import Callable

_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


class Metrics:
    """Of one server, in a registry of its own."""

    def __init__(
        self,
        *,
        queue: Callable[[], float],
        connections: Callable[[], float],
        ready: Callable[[], float],
        restarts: Callable[[], float],
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = here = CollectorRegistry()
        self.requests = Counter(
            "rdt2_requests", "Requests by what became of them", ["outcome"], registry=here
        )
        self.handshakes = Counter(
            "rdt2_handshakes_refused", "Connections refused, by reason", ["reason"], registry=here
        )
        self.seconds = Histogram(
            "rdt2_request_seconds",
            "Seconds of each stage of a request",
            ["stage"],
            buckets=_SECONDS,
            registry=here,
        )
        self.batch = Histogram(
            "rdt2_batch_size", "Requests computed together", buckets=(1, 2, 4, 8, 16, 32), registry=here
        )
        for name, about, value in (
            ("rdt2_queue_length", "Requests that wait", queue),
            ("rdt2_connections", "Clients connected", connections),
            ("rdt2_policy_restarts", "Times the policy was started again", restarts),
            ("rdt2_ready", "1 when the policy can be asked", ready),
        ):
            Gauge(name, about, registry=here).set_function(value)

    def text(self) -> tuple[bytes, str]:
        """The page and its content type."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self.registry), CONTENT_TYPE_LATEST
