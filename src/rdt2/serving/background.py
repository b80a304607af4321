"""A server within a program, in a thread of its own: for notebooks, tests and measurements."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator

from rdt2.serving.engine import Engine
from rdt2.serving.server import PolicyServer, ServerSettings


@contextlib.contextmanager
def served(engine: Callable[[], Engine], settings: ServerSettings | None = None) -> Iterator[str]:
    """The address of a server that listens while the block runs.

        with served(lambda: ProcessEngine(PolicySpec(policy="demo-fm"))) as url, Client(url) as policy: ...

    Args:
        engine: makes what computes, in the server's thread.
        settings: on any free port of this machine, unless they say otherwise.

    Raises:
        What loading the policy raises. ConfigError: the port cannot be had.
    """
    settings = settings or ServerSettings(port=0)
    loop = asyncio.new_event_loop()
    ready = threading.Event()
    failure: list[BaseException] = []
    servers: list[PolicyServer] = []

    async def run() -> None:
        server = PolicyServer(engine(), settings)
        servers.append(server)
        await server.run(on_ready=lambda _: ready.set())

    def work() -> None:
        asyncio.set_event_loop(loop)
        try:
            loop.run_until_complete(run())
        except BaseException as error:  # whatever it is, it is raised where the server was asked for
            failure.append(error)
        finally:
            loop.close()
            ready.set()

    thread = threading.Thread(target=work, name="policy server", daemon=True)
    thread.start()
    ready.wait()
    if failure:
        raise failure[0]
    (server,) = servers
    try:
        scheme = "ws" if settings.tls is None else "wss"
        yield f"{scheme}://{settings.host}:{server.port}"
    finally:
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(server.stop)
        thread.join()
