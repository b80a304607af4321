"""The robot's end of the process that shows things: what does not get through at once is dropped."""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from rdt2.dashboard.messages import Asked, Scene, State
from rdt2.dashboard.process import serve
from rdt2.errors import ConfigError, RDT2Error
from rdt2.progress import note_aside

if TYPE_CHECKING:
    from rdt2.dashboard.options import Looking

WAITING = 256
"""So many messages may wait for the page; more are dropped."""
PATIENCE = 1.0
"""Seconds that a simulated clock stands still for a page that does not keep up, once."""
START_SECONDS, END_SECONDS = 60.0, 5.0


class Showing:
    """Starts the process of the page, of rerun, or of both. Close it at the end.

    Args:
        looking: what is to be opened, and where.
        hear: is called with what operators do, by a thread.
        gone: is called when the process has ended.

    Raises:
        ConfigError: what it needs is not installed, or the address cannot be had.
    """

    def __init__(self, looking: Looking, *, hear: Callable[[Asked], None], gone: Callable[[], None]) -> None:
        self._hear, self._tell_gone = hear, gone
        self.patient = False
        """Whether messages may wait for a page that does not keep up: where the clock is simulated."""
        self.gone = False
        """The process has ended."""
        self.dropped = 0
        """Messages that the page did not keep up with."""
        self._slow = False
        self._putting = threading.Lock()
        self._sender: threading.Thread | None = None
        self._messages: queue.Queue[Any] = queue.Queue(WAITING)
        self._owed: deque[Scene | State] = deque()
        context = multiprocessing.get_context("spawn")
        self._pipe, its = context.Pipe()
        self._process = context.Process(target=serve, args=(its, looking), name="page", daemon=True)
        self._process.start()
        its.close()
        self.url = self._wait_for_url()
        self._sender = threading.Thread(target=self._send, name="to the page", daemon=True)
        self._sender.start()
        threading.Thread(target=self._listen, name="from the page", daemon=True).start()

    def _wait_for_url(self) -> str:
        """Raises what the page's process raised."""
        said: Any = None
        with contextlib.suppress(EOFError):
            if self._pipe.poll(START_SECONDS):
                said = self._pipe.recv()
        if isinstance(said, str):
            return said
        self.close()
        if isinstance(said, RDT2Error):
            raise said
        raise ConfigError(
            f"the operator's page did not come up: {said or 'its process ended without a word'}."
        )

    def put(self, message: Any) -> None:
        """Hand a message to the process: at once, or not at all; what decides the page's buttons, later."""
        with self._putting:
            wait = PATIENCE if self.patient and not self._slow else 0.0
            try:
                while self._owed:
                    self._messages.put_nowait(self._owed[0])
                    self._owed.popleft()
                self._messages.put(message, block=wait > 0, timeout=wait or None)
                self._slow = False
            except queue.Full:
                self._slow = True
                if isinstance(message, Scene | State):
                    self._owed.append(message)
                else:
                    self.dropped += 1

    def _send(self) -> None:
        with contextlib.suppress(OSError):  # it has ended: `_listen` notices
            while (message := self._messages.get()) is not None:
                self._pipe.send(message)

    def _listen(self) -> None:
        try:
            while True:
                asked = cast(Asked, self._pipe.recv())
                try:
                    self._hear(asked)
                except Exception as error:  # whatever it is, the next may be a stop
                    note_aside(f"the page's {asked.what} failed: {type(error).__name__}: {error}")
        except (OSError, EOFError):
            pass
        finally:
            self.gone = True
            self._tell_gone()

    def close(self) -> None:
        """End the process. Again: nothing happens."""
        with contextlib.suppress(queue.Full):
            self._messages.put(None, timeout=0.0 if self.gone else END_SECONDS)
            if self._sender is not None:
                self._sender.join(END_SECONDS)
        self._pipe.close()
        self._process.join(END_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
