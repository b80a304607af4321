"""What a person types while arms move: a line is a new instruction, a word of `WORDS` does what it says.

What might have been meant as a stop stops: an empty line, whatever begins with "stop" or "停", a short line with such a
word in it, and while the arms move any single word that is none of these. So does a terminal that ends.

A person who takes over with the keyboard drives with single keys; Enter stops then, too.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable
from typing import IO, TYPE_CHECKING, Any, Literal

from rdt2.control.pilots import KEYS_HELP, KeyboardPilot
from rdt2.dashboard.messages import Asked, Stage, State
from rdt2.progress import note_aside

if TYPE_CHECKING:
    from rdt2.control.pilots import AnyPilot

TYPED = "stopped at the keyboard"
ENDED = "stopped: the terminal, or what typed into it, has ended"
LEFT = "stopped: the operator has left"
FAILED = "stopped: what was typed failed"

Word = Literal["go", "pause", "stop", "success", "failure", "next", "keep", "take", "quit", "help"]
WORDS: dict[str, Word] = {
    **dict.fromkeys(("go", "start", "g", "开始", "继续"), "go"),
    **dict.fromkeys(("pause", "p", "暂停"), "pause"),
    **dict.fromkeys(
        ("stop", "halt", "s", "wait", "freeze", "停", "停止", "停下", "快停", "别动", "住手"), "stop"
    ),
    **dict.fromkeys(("不要动", "等一下", "等等"), "stop"),
    **dict.fromkeys(("success", "ok", "成功"), "success"),
    **dict.fromkeys(("failure", "fail", "失败"), "failure"),
    **dict.fromkeys(("next", "n", "下一个"), "next"),
    **dict.fromkeys(("keep", "保留"), "keep"),
    **dict.fromkeys(("take", "接管"), "take"),
    **dict.fromkeys(("quit", "exit", "q", "退出"), "quit"),
    **dict.fromkeys(("help", "h", "?", "帮助"), "help"),
}
MARKS = ".!,:;。、"
"""What stands around a word and says nothing. Full-width "！" and "，", and "…", are read as "!", "," and "..."."""
UNSPACED = tuple(word for word, what in WORDS.items() if what == "stop" and not word.isascii())
"""Words for stopping after which no space is written: a line that begins with one of them stops."""
SHORT = 3, 6
"""Words, and characters of a line without spaces, of which no more than so many are hardly an instruction: "please stop
now", "暂停一下"."""
HELP = """\
Type and press Enter:
  go                 start, or go on after a pause
  pause              the arms come to rest and wait; go lets them go on
  (Enter alone)      stop the arms at once; stop does the same
  success, failure   mark the episode, and end it
  next               end it without a mark; when it is over, prepare the next one
  keep               with --record-last: write the last seconds to a file
  take               with --pilot: you drive
  quit               stop the arms, and leave (Ctrl-C does the same)
  any other line     a new instruction: "Pick up the red cube with the left hand."
"""
READY_AS_SHOWN = "ready: go starts; quit leaves; whatever is typed on the way ends it"
SAID: dict[Stage, str] = {
    "ready": "ready: go starts; another line is another instruction; quit leaves; help tells the rest",
    "running": "the arms move: Enter stops them",
    "over": "next goes on; success or failure marks it; quit leaves",
}


STOPS = ("", "\n", "\r", "\x1b", "\x04")
"""Keys that stop the arms while a person drives with keys: Enter, Escape, and a terminal that ends."""
BLINK = 0.1
"""Seconds between two looks whether a person still drives."""


def meant(line: str, *, running: bool) -> tuple[Word | Literal["say"], str]:
    """What a line asks for, and the sentence or what is to be told about it."""
    words, bare = line.split(), _bare(line)
    if not bare:
        return "stop", ""
    if bare in WORDS:
        return WORDS[bare], ""
    if says_stop(line):
        return "stop", ""
    if len(words) == 1 and (bare.isascii() or bare.rstrip("?") in WORDS):  # "go?" is not go
        unknown = f"{words[0]!r} is no word known here, and an instruction has several"
        return ("stop", f"{unknown}: stopped, to be safe") if running else ("help", unknown)
    return "say", " ".join(words)


def says_stop(line: str) -> bool:
    """Whether a line begins with a word for stopping, whatever follows, or is short and has one in it."""
    bare = _bare(line)
    words = [word for word in re.split(rf"[\s?{MARKS}]+", bare) if word]
    if bare.startswith(UNSPACED) or (words and WORDS.get(words[0]) == "stop"):
        return True
    if len(words) > SHORT[0] or (len(bare) > SHORT[1] and not bare.isascii()):
        return False
    return any(
        (len(word) > 1 and WORDS.get(word) == "stop") or any(each in word for each in UNSPACED)
        for word in words
    )


def _bare(line: str) -> str:
    """A line as words are looked up: small letters of usual width, single spaces, no marks around it."""
    plain = unicodedata.normalize("NFKC", line.replace("～", " ")).casefold()  # else it were "~"
    return " ".join(plain.split()).strip(MARKS)


class Keyboard:
    """Listens to a terminal, in a thread of its own.

    Args:
        hear: is called with what is asked.
        gone: is called when there will be no more lines.
        obeyed: whether arms may move when nobody can type any more: where they started without being told to. A
            terminal that ends stops them all the same.
        pilot: a person who may take over.
        as_shown: the arms drive a way that was shown, or none: no instruction is taken.
        lines: what is typed into; None: standard input.
    """

    def __init__(
        self,
        *,
        hear: Callable[[Asked], None],
        gone: Callable[[], None],
        obeyed: bool,
        pilot: AnyPilot | None = None,
        as_shown: bool = False,
        lines: IO[str] | None = None,
    ) -> None:
        self._hear, self._tell_gone, self._obeyed = hear, gone, obeyed
        self._as_shown = as_shown
        self._pilot = pilot
        self._lines = sys.stdin if lines is None else lines
        self._state: State | None = None
        self.gone = False
        """There will be no more lines."""
        with contextlib.suppress(ValueError, AttributeError):  # no main thread, no terminals here
            # A process in the background that reads its terminal would be suspended, and its arms with it.
            signal.signal(signal.SIGTTIN, signal.SIG_IGN)
        self._thread = threading.Thread(target=self._listen, name="keyboard", daemon=True)
        self._thread.start()

    def put(self, message: Any) -> None:
        """As of the page: what is to be told of it is told."""
        if not isinstance(message, State):
            return
        before, self._state = self._state, message
        if self._pilot is not None and message.stage != "running":
            self._pilot.hands.give_back()
        if before is None or message.stage != before.stage:
            if message.stage == "over":
                judged = {True: ", success", False: ", no success", None: ""}[message.success]
                note_aside(f"over: {message.ending.rstrip('.')}{judged}")
            if message.stage == "ready":
                note_aside(f"instruction: {message.sentence}")
            if message.stage == "ready" and self._as_shown:
                note_aside(READY_AS_SHOWN)
            elif message.stage in SAID:
                note_aside(SAID[message.stage])
        elif message.sentence != before.sentence:
            note_aside(f"instruction: {message.sentence}")
        elif message.mark != before.mark and message.mark is not None:
            note_aside(f"marked: {message.mark}")
        elif message.paused != before.paused and message.stage == "running":
            note_aside("paused: go lets the arms go on" if message.paused else "going on")
        if message.problem and (before is None or message.problem != before.problem):
            note_aside(message.problem)

    def close(self) -> None:
        """Nothing more is told; what is typed from now on is nobody's."""
        self._state, self.gone = None, True
        if isinstance(self._pilot, KeyboardPilot) and self._pilot.hands.taken:
            self._thread.join(10 * BLINK)  # it gives the terminal back its manners

    def _listen(self) -> None:
        try:
            terminal = os.isatty(self._lines.fileno())
        except (OSError, ValueError, AttributeError):
            terminal = False
        try:
            while line := self._line():
                if self.gone:
                    return
                try:
                    self._obey(line, terminal)
                except Exception as error:  # whatever it is, the next may be a stop, and this one, too
                    note_aside(f"{line.strip()!r} failed: {type(error).__name__}: {error}")
                    self._hear(Asked("stop", FAILED))
        finally:
            ended, self.gone = not self.gone, True
            try:
                if ended and (terminal or not self._obeyed):
                    self._hear(Asked("stop", ENDED))
            finally:
                self._tell_gone()

    def _line(self) -> str:
        with contextlib.suppress(OSError, ValueError):  # closed, or of a process in the background
            return self._lines.readline()
        return ""

    def _obey(self, line: str, terminal: bool) -> None:
        running = self._state is not None and self._state.stage == "running"
        what, text = meant(line, running=running)
        if what == "say" and self._as_shown and not running:
            note_aside(f"no instruction is taken here. {READY_AS_SHOWN}")
            return
        if what == "say":
            self._hear(Asked("say", text))
            return
        if text:
            note_aside(text)
        if what == "help":
            note_aside(HELP)
        elif what == "keep":
            self._hear(Asked("keep"))
        elif what == "take":
            self._take(running, terminal)
        elif what == "go":
            self._hear(Asked("start"))
        elif what == "pause":
            self._hear(Asked("pause"))
        elif what == "stop":
            self._hear(Asked("stop", TYPED))
        elif what == "quit":
            self._hear(Asked("leave", LEFT))
        else:
            self._hear(Asked("finish", "" if what == "next" else what))

    def _take(self, running: bool, terminal: bool) -> None:
        """Let a person drive."""
        pilot = self._pilot
        if pilot is None:
            note_aside("nobody can take over: start with --pilot keyboard, or --pilot space-mouse")
        elif not running:
            note_aside("there is nothing to take over before the arms move")
        elif not isinstance(pilot, KeyboardPilot):
            pilot.hands.give_back() if pilot.hands.taken else pilot.take()
            note_aside(
                "you drive; take once more gives back" if pilot.hands.taken else "the policy drives again"
            )
        elif not terminal:
            note_aside("single keys can be read from a terminal only")
        else:
            pilot.take()
            self._drive_by_keys(pilot)

    def _drive_by_keys(self, pilot: KeyboardPilot) -> None:
        """Every key counts at once, until the person gives back or stops."""
        import termios
        import tty

        note_aside(KEYS_HELP)
        terminal = self._lines.fileno()
        manners = termios.tcgetattr(terminal)
        tty.setcbreak(terminal)
        try:
            while pilot.hands.taken and not self.gone:
                if not select.select([terminal], [], [], BLINK)[0]:
                    continue
                key = os.read(terminal, 1).decode("ascii", "replace")
                if key in STOPS:
                    self._hear(Asked("stop", TYPED))
                    pilot.hands.give_back()
                else:
                    pilot.press(key)
        finally:
            termios.tcsetattr(terminal, termios.TCSAFLUSH, manners)
        if self._state is not None and self._state.stage == "running":
            note_aside("Enter stops the arms")
