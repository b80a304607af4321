"""A page without a browser: does what a test says, and tells it what it was told."""

from __future__ import annotations

import threading
from multiprocessing.connection import Client, Listener

from rdt2.dashboard import Looking
from rdt2.dashboard.messages import Asked


def serve(pipe, looking):
    """In place of `rdt2.dashboard.process.serve`: the test listens at the path that stands for a host."""
    test = Client(looking.dashboard_host)
    pipe.send("http://nowhere")

    def tell():
        try:
            while True:
                test.send(pipe.recv())
        except (EOFError, OSError):
            test.close()

    threading.Thread(target=tell, daemon=True).start()
    try:
        while True:
            pipe.send(test.recv())
    except (EOFError, OSError):
        pass


class Operator:
    """The test's end: `does` presses buttons, `heard` is what the page was told."""

    def __init__(self, folder):
        self.path = str(folder / "page")
        self._listener = Listener(self.path)
        self.heard = []
        self._met = threading.Event()
        threading.Thread(target=self._meet, daemon=True).start()

    @property
    def looking(self):
        return Looking(dashboard=True, dashboard_host=self.path)

    def _meet(self):
        try:
            self._end = self._listener.accept()
            self._met.set()
            while True:
                self.heard.append(self._end.recv())
        except (EOFError, OSError):
            pass

    def does(self, what, value=""):
        assert self._met.wait(20)
        self._end.send(Asked(what, value))

    def heard_of(self, kind):
        return [message for message in self.heard if isinstance(message, kind)]
