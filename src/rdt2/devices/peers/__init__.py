"""Peers: programs that speak a device's real protocol on this machine, driven by the simulated cell or by a file.

A peer is one file here that ends with

    PEER = Peer(serve=serve, options=MyOptions, what="a UR controller")

    if __name__ == "__main__":
        main(PEER)

and `rdt2 device peer NAME key=value ...` or `python -m rdt2.devices.peers.NAME key=value ...` starts it. Its first line
says how a robot's yaml reaches it: `device: {"address": "127.0.0.1"}`. Tests and benchmarks start one with

    with started("ur", side="left") as device:        # a process of its own, which ends with this one
        ...                                           # {"address": "127.0.0.1"}
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rdt2.devices.drivers import PEERS, Peer, checked_options, options_of
from rdt2.errors import RDT2Error, RobotError

READY = "device: "
START_SECONDS = 60.0
END_SECONDS = 5.0
_PARENT = "RDT2_PEER_OF"


def run(peer: Peer, words: Sequence[str]) -> None:
    """Serve until interrupted.

    Args:
        peer: which.
        words: its options, each key=value; a value is read as in yaml.

    Raises:
        ConfigError: what is no option, or has another form.
    """
    checked = checked_options(peer.options, options_of(words), f"{peer.what} cannot be stood in for")
    if parent := os.environ.get(_PARENT):
        threading.Thread(target=_end_with, args=(int(parent),), daemon=True).start()
    with contextlib.suppress(KeyboardInterrupt):
        peer.serve(checked, lambda device: print(f"{READY}{json.dumps(dict(device))}", flush=True))


def main(peer: Peer) -> None:
    """Of `python -m rdt2.devices.peers.NAME key=value ...`."""
    try:
        run(peer, sys.argv[1:])
    except RDT2Error as error:
        sys.exit(f"error: {error}")


class Started(dict[str, Any]):
    """What to write under `device:` to reach a peer that runs."""

    def __init__(self, device: Mapping[str, Any], process: subprocess.Popen[str]) -> None:
        super().__init__(device)
        self.process = process


@contextlib.contextmanager
def started(name: str, **options: Any) -> Iterator[Started]:
    """A peer in a process of its own; gives what to write under `device:` to reach it. Killed at the end, and ends by
    itself when this process does, however that ends.

    Raises:
        ConfigError: there is no such peer. RobotError: it did not come up, and what it said.
    """
    PEERS[name]
    words = [f"{key}={json.dumps(value)}" for key, value in options.items()]
    process = subprocess.Popen(
        [sys.executable, "-m", f"rdt2.devices.peers.{name}", *words],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, _PARENT: str(os.getpid())},
    )
    try:
        yield Started(_ready(name, process), process)
    finally:
        process.kill()
        process.wait(END_SECONDS)


def ask_for_trouble(peer: str, address: str, port: int, what: str) -> None:
    """Say a line to the port of a peer on which it is asked to misbehave; it answers `ok`.

    Args:
        peer: what it is called in messages: "UR".

    Raises:
        RobotError: there is no such trouble, or no such peer.
    """
    try:
        with socket.create_connection((address, port), timeout=10) as line:
            line.sendall(what.encode() + b"\n")
            answer = line.makefile().readline().strip()
    except OSError as error:
        raise RobotError(f"no {peer} peer at {address} takes {what!r}: {error}.") from error
    if answer != "ok":
        raise RobotError(f"the {peer} peer at {address} makes no {what!r}: {answer}.")


def _ready(name: str, process: subprocess.Popen[str]) -> Mapping[str, Any]:
    lines: queue.Queue[str | None] = queue.Queue()

    def read() -> None:  # to the end, so that it never waits for somebody to read what it says
        assert process.stdout is not None
        for line in process.stdout:
            lines.put(line)
        lines.put(None)

    threading.Thread(target=read, daemon=True).start()
    said = []
    with contextlib.suppress(queue.Empty):
        while (line := lines.get(timeout=START_SECONDS)) is not None:
            if line.startswith(READY):
                return dict(json.loads(line[len(READY) :]))
            said.append(line)
    raise RobotError(f"the peer {name!r} did not come up: {''.join(said).strip() or 'it said nothing'}")


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.1)
    os._exit(1)
