"""Signals that ask a run to end: what clusters send before they end a job, and Ctrl-C.

The step is finished and a checkpoint saved before the run ends; who asks twice means at once.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from types import FrameType

from rdt2.errors import TrainingError
from rdt2.signals import Listening

SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")  # SIGUSR1: slurm's --signal=USR1@seconds
SAME = 1.0  # s; launchers pass on what their processes have got already: within so much it is the same signal


class Stopped(TrainingError):
    """A run that ended because a signal asked it to; ``signal`` is its number. What it had done is saved."""

    def __init__(self, message: str, number: int):
        super().__init__(message)
        self.signal = number

    @property
    def exit_code(self) -> int:
        """As shells give it: 143 for SIGTERM."""
        return 128 + self.signal


class Stopping(Listening):
    """Listens while the block runs; in a thread other than the main one, where Python allows no handlers, it does not.

    Attributes:
        asked: number of the signal that came, 0 for none.
        saved: what to say when nothing is left to save; a signal then raises Stopped with it at once.
    """

    def __init__(self, *, speaks: bool):
        """
        speaks: whether this process says that it heard.
        """
        super().__init__(*SIGNALS)
        self.asked, self.saved = 0, ""
        self._speaks, self._since = speaks, 0.0

    def stopped(self, done: int, steps: int, saved: Path) -> Stopped:
        """What to raise when a checkpoint is saved; the signal may have reached another process only."""
        number = self.asked or signal.SIGTERM
        name = signal.Signals(number).name
        return Stopped(f"stopped by {name} after step {done} of {steps}; all is saved in {saved}.", number)

    def nothing_to_lose(self, steps: int) -> None:
        """From now on a signal ends the run at once. Raises Stopped where one came before."""
        self.saved = f"all {steps} steps are done and saved; the model is still to be evaluated and written."
        if self.asked:
            raise Stopped(f"stopped by {signal.Signals(self.asked).name}: {self.saved}", self.asked)

    def _heard(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if not self.asked:
            self.asked, self._since = number, now
            if self.saved:
                raise Stopped(f"stopped by {signal.Signals(number).name}: {self.saved}", number)
            self._say(number)
        elif now - self._since > SAME:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    def _say(self, number: int) -> None:
        """To the file itself: a handler may interrupt whoever writes to the stream."""
        name = signal.Signals(number).name
        line = f"\n{name}: finishing the step, then saving a checkpoint; a second signal ends at once.\n"
        for stream in (1, 2):
            try:
                os.write(stream, line.encode() if self._speaks and stream == 2 else b"")
            except OSError:  # the terminal is gone, which may be why the signal came: all else goes nowhere
                nowhere = os.open(os.devnull, os.O_WRONLY)
                os.dup2(nowhere, stream)
                os.close(nowhere)
