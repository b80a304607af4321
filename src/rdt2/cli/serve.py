"""`rdt2 serve` and `rdt2 client`: a policy on one machine, robots elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdt2.cli.choices import PolicyOptions
from rdt2.errors import ConfigError
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.observation import Observation


@dataclass(kw_only=True)
class Serve:
    """Let robots elsewhere ask a policy of this machine.

    It speaks openpi's protocol, so that openpi-client works unchanged; here load_policy("ws://host:8000") and --policy
    ws://host:8000 take it for the policy itself. GET /healthz says whether it can be asked, /metrics is for Prometheus.
    The log on stderr has one JSON object a line. SIGTERM lets it answer what it is computing, and end.

    For example:
      rdt2 serve --policy demo-fm
      rdt2 serve --policy own-policy/fm.json --device cuda --compile --host 0.0.0.0 --api-key-file key
      rdt2 serve --policy demo-fm --engine ray --replicas 2
      rdt2 evaluate cell --policy ws://localhost:8000 --episodes 20        in another terminal
    """

    spec: PolicyOptions = field(default_factory=PolicySpec)
    host: str = "127.0.0.1"
    """Of this machine, the address to listen at: 127.0.0.1 for programs of this machine alone, 0.0.0.0 for all."""
    port: int = 8000
    """Where to listen; 0 takes any that is free, and the log says which."""
    adapter: Literal["auto", "ours", "aloha", "droid"] = "auto"
    """Form of the observations: ours, or those of openpi's ALOHA and DROID examples. auto knows each by its entries."""
    without_key: bool = False
    """Let machines elsewhere in without --api-key-file. Anybody there can ask the policy and fill its line."""
    tls_cert: Path | None = None
    """PEM file with the certificate (chain), for wss://; with --tls-key."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key."""
    engine: Literal["process", "ray"] = "process"
    """Where the policy computes: in one process of this machine, or in the replicas of a Ray cluster (extra ray): that
    of RAY_ADDRESS, else one that is started here. That one listens to this machine alone, but for a port of each
    replica that Ray opens to all: docs/integrations.md."""
    replicas: int = 1
    """Policies of --engine ray; each has a CPU core and, with --device cuda, a GPU of its own. What one was computing
    when it died is computed once more by another."""
    max_batch: int = 8
    """Requests of different robots that are computed together, when so many wait."""
    max_queue: int = 64
    """Requests that may wait; more are refused at once."""
    max_message_mb: float = 8.0
    """Who sends a larger message is disconnected; two raw pictures have 0.9."""
    max_connections: int = 64
    """Clients at a time."""
    max_rate: float = 200.0
    """Requests a second of one connection; more are refused."""
    hang_seconds: float = 60.0
    """A policy that takes longer for a batch is killed and started again."""
    drain_seconds: float = 10.0
    """After SIGTERM, the time in which requests that came before are still answered."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """info has a line a request."""

    def run(self) -> None:
        import asyncio
        import contextlib
        import logging
        import sys

        from rdt2.evaluation.policies import open_policy
        from rdt2.policy.client import is_address
        from rdt2.progress import working
        from rdt2.serving import Engine, PolicyServer, ProcessEngine, RayEngine
        from rdt2.serving.logs import log_to_stderr

        if is_address(self.spec.policy) or self.spec.jpeg:
            raise ConfigError(
                "--policy ws://... and --jpeg are for clients; a server loads a policy of its own."
            )
        settings = self._settings()
        spec = replace(self.spec, api_key_file=None)  # here it is the key that clients need
        log_to_stderr(self.log_level)

        async def run() -> None:
            made: Any = {
                "max_batch": self.max_batch,
                "hang_seconds": self.hang_seconds,
                "open": open_policy,
            }
            engine: Engine = (
                RayEngine(spec, replicas=self.replicas, **made)
                if self.engine == "ray"
                else ProcessEngine(spec, **made)
            )
            with contextlib.ExitStack() as loading:
                if sys.stderr.isatty():
                    loading.enter_context(working(f"loading {spec.policy}"))
                else:  # whoever reads the log expects JSON
                    logging.getLogger("rdt2.serving").info("loading", extra={"policy": spec.policy})
                await PolicyServer(engine, settings).run(on_ready=lambda _: loading.close(), signals=True)

        asyncio.run(run())

    def _settings(self) -> Any:
        """What the options say. Raises ConfigError: values that cannot be."""
        from rdt2.serving import Bounds, ServerSettings
        from rdt2.serving.security import required_key, tls_context

        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port {self.port}: expected 0 to 65535.")
        for name in ("replicas", "max_batch", "max_queue", "max_connections"):
            if getattr(self, name) < 1:
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected 1 or more.")
        if self.replicas != 1 and self.engine != "ray":
            raise ConfigError(f"--replicas {self.replicas} needs --engine ray.")
        for name in ("max_message_mb", "max_rate", "hang_seconds", "drain_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: expected more than 0.")
        return ServerSettings(
            host=self.host,
            port=self.port,
            form=self.adapter,
            api_key=required_key(self.host, self.spec.api_key_file, open_to_all=self.without_key),
            tls=tls_context(self.tls_cert, self.tls_key),
            max_batch=self.max_batch,
            max_queue=self.max_queue,
            drain_seconds=self.drain_seconds,
            bounds=Bounds(
                message_bytes=round(self.max_message_mb * 2**20),
                connections=self.max_connections,
                per_address=self.max_connections,
                requests_per_second=self.max_rate,
            ),
        )


@dataclass(kw_only=True)
class Client:
    """Ask a policy server with noise: how long does each stage take?

    For example:
      rdt2 client
      rdt2 client --policy ws://gpu-machine:8000 --jpeg --number 100 --json times.json
    """

    spec: PolicyOptions = field(default_factory=lambda: PolicySpec(policy="ws://127.0.0.1:8000"))
    number: int = 20
    """Requests, one after the other."""
    instruction: str = "Pick up the red cube with the left hand."
    """What is asked for."""
    deadline: float | None = None
    """Seconds in which an answer is worth something; what cannot be answered by then the server refuses at once."""
    seed: int = 0
    """Of the pictures, and of the policy's noise."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.errors import ServingError
        from rdt2.policy.client import is_address, open_client

        if not is_address(self.spec.policy):
            raise ConfigError(
                f"--policy {self.spec.policy}: expected the address of a server, ws://host:8000."
            )
        if self.number < 1:
            raise ConfigError(f"--number {self.number}: expected 1 or more.")
        chunks: list[ActionChunk] = []
        late = 0
        with open_client(self.spec, deadline=self.deadline) as policy:
            for number in range(self.number):
                try:
                    chunks += policy.predict(
                        [random_observation(self.instruction, self.seed + number)], seed=self.seed + number
                    )
                except ServingError as error:
                    if error.reason != "late":
                        raise
                    late += 1
            metadata = policy.metadata
        out = console()
        model = ", ".join(
            f"{name} {value}"
            for name, value in metadata["model"].items()
            if isinstance(value, (str, int, float))
        )
        out.print(f"{self.spec.policy}: {model}", highlight=False, markup=False, soft_wrap=True)
        stages = _stages(chunks)
        if stages:
            out.print(_table(stages, len(chunks)))
        if late:
            out.print(f"{late} of {self.number} requests could not be answered in {self.deadline:g} s.")
        save_json(
            self.json,
            {
                "server": self.spec.policy,
                "metadata": metadata,
                "requests": self.number,
                "answered": len(chunks),
                "late": late,
                "valid": sum(chunk.valid for chunk in chunks),
                "ms": stages,
            },
        )


STAGES = {
    "round_trip": "round trip: sent until answered",
    "total": "policy, all stages",
    "server_decode": "server: reading the message",
    "server_queue": "server: waiting its turn",
    "server_infer": "server: policy, asked until answered",
    "server_total": "server: arrived until answered",
    "server_prev_total": "server: the request before, sent too",
}
"""What a table calls the stages whose names do not tell."""


def random_observation(instruction: str, seed: int) -> Observation:
    """Soft coloured noise, which JPEG compresses about as it does a camera's pictures."""
    import cv2
    import numpy as np

    from rdt2.observation import IMAGE_SIZE, Observation

    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (2, 24, 24, 3), dtype=np.uint8)
    left, right = (
        cv2.resize(each, (IMAGE_SIZE, IMAGE_SIZE), interpolation=cv2.INTER_CUBIC) for each in coarse
    )
    return Observation(left=left, right=right, instruction=instruction)


def _stages(chunks: list[ActionChunk]) -> dict[str, dict[str, float]]:
    """Median, 99th percentile and largest milliseconds of each stage."""
    import numpy as np

    names = list(dict.fromkeys(name for chunk in chunks for name in chunk.timing))
    found = {}
    for name in names:
        values = 1000 * np.array([chunk.timing[name] for chunk in chunks if name in chunk.timing])
        found[name] = {
            "median": float(np.median(values)),
            "p99": float(np.percentile(values, 99)),
            "max": float(values.max()),
        }
    return found


def _table(stages: dict[str, dict[str, float]], count: int) -> Any:
    from rich.table import Table

    table = Table(title=f"milliseconds of {count} requests", title_justify="left")
    table.add_column("stage")
    for name in ("median", "p99", "max"):
        table.add_column(name, justify="right")
    for stage, values in stages.items():
        table.add_row(
            STAGES.get(stage, stage.replace("_", " ")),
            *(f"{values[name]:.2f}" for name in ("median", "p99", "max")),
        )
    return table
