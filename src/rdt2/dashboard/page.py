"""The operator's page, made with viser: the 3-D view, and a panel that is a bottom sheet on a phone."""

from __future__ import annotations

import html
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.dashboard.door import open_server
from rdt2.dashboard.drawing import MADE, MEASURED, RAW, SENT, Drawing
from rdt2.dashboard.history import History
from rdt2.dashboard.keyboard import says_stop
from rdt2.dashboard.messages import Asked, Chunk, Pictures, Scene, Shot, State
from rdt2.dashboard.words import LANGUAGES, Language, reason, word

if TYPE_CHECKING:
    from numpy import ndarray

PLOTS_EVERY = 0.5
"""Seconds between two updates of plots and of the timeline."""
GAP = 8
"""White pixels between the two pictures."""
EVENTS_SHOWN = 60
_COLOURS = {"good": "#15803d", "busy": "#1d4ed8", "held": "#b45309", "bad": "#b91c1c"}
_SERIES = {"raw": RAW, "made": MADE, "sent": SENT, "measured": MEASURED}
_TIMINGS = {
    "inference": (190, 24, 93), "delay": (124, 58, 237), "period": (14, 130, 200), "picture": (234, 120, 20),
    "age": (21, 128, 61),
}  # fmt: skip


_ON_A_PHONE = """<style>@media (max-width: 575px) {
  [style*="width: 20em"] { width: 100% !important; }
  .mantine-Button-root { height: 2.7em !important; }
}</style>"""
"""viser's sheet takes two thirds of a phone's width, and its buttons are small for a finger."""


class Page:
    """Serves the page until the process ends.

    Args:
        host: address to listen on.
        port: or the next free one.
        key_file: holds the page's key; see `rdt2.dashboard.door`.
        ask: is called with what operators do, by several threads.

    Raises:
        ConfigError: viser is not installed, the address cannot be had, or the file holds no key.
    """

    def __init__(self, host: str, port: int, key_file: Path | None, ask: Callable[[Asked], None]) -> None:
        self._send, self._asking = ask, threading.Lock()
        server, self.url = open_server(host, port, key_file)
        self._history, self._drawing = History(), Drawing(server)
        self._state = State("loading", "", False, None, False, False)
        self._language: Language = "zh" if os.environ.get("LANG", "").startswith("zh") else "en"
        self._wanted = self._language
        self._live, self._cursor = True, 0.0
        self._drawn: Shot | None = None
        self._pictured: Pictures | None = None
        self._plots_due = 0.0
        self._server = server
        server.gui.configure_theme(show_logo=False, show_share_button=False, control_width="large")
        self._build()
        self._say()

    # ------------------------------------------------------------------------------------------------ the panel

    def _build(self) -> None:
        """The panel, in the language of the page."""
        gui = self._server.gui
        gui.reset()
        gui.add_html(_ON_A_PHONE)
        self._banner = gui.add_html("")
        self._emergency = self._button("estop", "red", "emergency")
        self._release = self._button("release", "yellow", "release")
        # Two buttons: who presses one that was shown a moment ago does not press the other.
        self._start = self._button("start", "green", "start", "start")
        self._next = self._button("next", "green", "start", "next")
        self._hold = gui.add_button(self._word("hold"), color="green")
        self._hold.on_hold(lambda _: self._ask("holding"), callback_hz=10.0)
        self._pause = self._button("pause", "yellow", "pause")
        self._stop = self._button("stop", "orange", "stop")
        self._take_over = self._button("take", "violet", "take")
        self._keep = self._button("keep", "gray", "keep")
        self._text = gui.add_text(self._word("instruction"), self._state.sentence)
        gui.add_button(self._word("say"), color="blue").on_click(lambda _: self._tell())
        self._captions = gui.add_html("")
        nothing = np.full((96, 192, 3), 235, np.uint8)
        self._images = gui.add_image(nothing, format="jpeg", jpeg_quality=80)
        self._success = self._button("success", "teal", "mark", "success")
        self._failure = self._button("failure", "gray", "mark", "failure")
        self._slider = gui.add_slider(self._word("time"), 0.0, 1.0, 0.01, 0.0)
        self._slider.on_update(self._dragged)
        self._follow = gui.add_checkbox(self._word("live"), self._live)
        self._follow.on_update(self._followed)
        self._build_plots()
        with gui.add_folder(self._word("events")):
            self._events = gui.add_html("")
        with gui.add_folder(self._word("more")):
            self._build_more()
        self._drawn = self._pictured = None

    def _build_plots(self) -> None:
        """One plot at a time: of an arm's coordinate, or of timing."""
        gui = self._server.gui
        sides = [side for side in ("left", "right") if self._has(side)]
        self._lines = {
            f"{self._word(f'{side} arm')}: {self._word(axis)}": (side, axis)
            for side in sides
            for axis in ("z", "x", "y", "width")
        }
        choice = gui.add_dropdown(self._word("plot"), (*self._lines, self._word("timing")))
        choice.on_update(self._chosen)
        self._plot_choice = choice
        # A plot takes its width when it appears: not before the panel has its own, and there is something to see.
        looks: Any = {"scales": {"x": {"time": False}}, "height": 250, "visible": False}
        self._paths = gui.add_uplot((np.zeros(1),) * 5, self._series(_SERIES), **looks)
        self._timing = gui.add_uplot((np.zeros(1),) * 6, self._series(_TIMINGS), **looks)
        self._plots_due = time.monotonic() + PLOTS_EVERY

    def _build_more(self) -> None:
        gui = self._server.gui
        self._goes_on = gui.add_checkbox(self._word("goes on"), self._state.goes_on)
        self._goes_on.on_update(self._ticked("goes_on"))
        self._dead_man = gui.add_checkbox(self._word("dead man"), self._state.dead_man)
        self._dead_man.on_update(self._ticked("dead_man"))
        mine = next(name for name, code in LANGUAGES.items() if code == self._language)
        languages = gui.add_dropdown(self._word("language"), tuple(LANGUAGES), initial_value=mine)
        languages.on_update(self._spoken)

    def _button(self, key: str, colour: str, what: Any, value: str = "") -> Any:
        button = self._server.gui.add_button(self._word(key), color=colour)
        button.on_click(lambda _: self._pressed(what, value))
        return button

    # ------------------------------------------------------------------------------------------ what people do

    def _ask(self, what: Any, value: str = "") -> None:
        with self._asking:
            self._send(Asked(what, value))

    def _pressed(self, what: Any, value: str) -> None:
        unsent = self._state.stage == "ready" and self._text.value != self._state.sentence
        if value == "start" and unsent and not self._tell():  # typed and not sent: start means it
            return
        self._ask(what, value)

    def _tell(self) -> bool:
        """Send what is typed; a stop stops the arms, as at the keyboard. Whether it was an instruction."""
        typed = self._text.value
        if not says_stop(typed):
            self._ask("say", typed)
            return True
        self._ask("stop")
        self._text.value = self._state.sentence  # or the next start would mean it
        return False

    def _ticked(self, what: Any) -> Callable[[Any], None]:
        def update(event: Any) -> None:
            if event.client is not None:
                self._ask(what, "yes" if event.target.value else "no")

        return update

    def _dragged(self, event: Any) -> None:
        if event.client is not None:
            self._live, self._cursor, self._drawn = False, float(event.target.value), None

    def _followed(self, event: Any) -> None:
        if event.client is not None:
            self._live, self._drawn = bool(event.target.value), None

    def _chosen(self, _: Any) -> None:
        self._plots_due = 0.0

    def _spoken(self, event: Any) -> None:
        self._wanted = LANGUAGES[event.target.value]

    # ------------------------------------------------------------------------------------- what is told and shown

    def take(self, message: Any) -> None:
        """One message of the robot's process."""
        if isinstance(message, State):
            if message.sentence != self._state.sentence:
                self._text.value = message.sentence
            self._state = message
            self._say()
            return
        before = self._history.scene
        self._history.take(message)
        if isinstance(message, Scene):
            self._live, self._drawn, self._pictured = True, None, None
            with self._server.atomic():
                self._drawing.begin(message)
                if before is None or before.sides != message.sides:
                    self._build()
            self._say()

    def draw(self) -> None:
        """Show the newest moment, or that of the timeline's cursor."""
        if self._wanted != self._language:
            self._language = self._wanted
            self._build()
            self._say()
        history = self._history
        shot = history.newest if self._live else history.at(self._cursor)
        if shot is not None and shot is not self._drawn:
            self._drawn = shot
            chunk: Chunk | None = None if shot.since is None else history.chunk_at(shot.since)
            with self._server.atomic():
                self._drawing.show(shot, chunk, history)
                self._show_pictures(history.pictures_at(shot.time))
            self._say_banner()
        if time.monotonic() >= self._plots_due:
            self._plots_due = time.monotonic() + PLOTS_EVERY
            self._plot()

    def close(self) -> None:
        """The robot's process has ended."""
        self._server.stop()

    def _show_pictures(self, pictures: Pictures | None) -> None:
        if pictures is None or pictures is self._pictured or self._history.scene is None:
            return
        self._pictured = pictures
        parts: list[ndarray] = []
        for side in ("left", "right"):
            if side in self._history.scene.sides and side in pictures.images:
                parts += [np.full((384, GAP, 3), 255, np.uint8)] if parts else []
                parts.append(pictures.images[side])
        if parts:
            self._images.image = np.concatenate(parts, axis=1)

    def _plot(self) -> None:
        history = self._history
        if not history.shots:
            self._paths.visible = self._timing.visible = False
            return
        end = round(max(history.end, 0.01), 2)
        if abs(self._slider.max - end) > 1e-6:
            self._slider.max = end
        if self._live:
            self._slider.value = end
        if self._follow.value != self._live:
            self._follow.value = self._live
        line = self._lines.get(self._plot_choice.value)
        for handle, visible in ((self._paths, line is not None), (self._timing, line is None)):
            if handle.visible != visible:
                handle.visible = visible
        if line is not None:
            self._paths.data = tuple(history.lines(*line))
        else:
            self._timing.data = tuple(history.timings())
        self._say_events()

    # ------------------------------------------------------------------------------------------------- words

    def _word(self, key: str) -> str:
        return word(key, self._language)

    def _series(self, colours: dict[str, tuple[int, int, int]]) -> tuple[dict[str, Any], ...]:
        lines: list[dict[str, Any]] = [{"label": self._word("time")}]
        for key, (red, green, blue) in colours.items():
            line = {"label": self._word(key), "stroke": f"rgb({red},{green},{blue})", "width": 2}
            lines.append(line | ({"dash": (6, 6)} if key == "sent" else {}))
        return tuple(lines)

    def _say(self) -> None:
        """Everything that has words, in the language of the page and as things stand."""
        state = self._state
        with self._server.atomic():
            running = state.stage == "running"
            self._release.visible = state.emergency and not running
            holds = state.dead_man and state.stage in ("ready", "running")
            self._start.visible = state.stage == "ready" and not holds
            self._next.visible = state.stage == "over" or state.paused
            self._pause.visible = running and not state.paused
            self._hold.visible = holds
            self._stop.visible = running
            self._take_over.visible = running and state.pilot
            self._take_over.label = self._word("give back" if state.taken else "take")
            self._keep.visible = state.keeps and state.stage in ("running", "over")
            for handle, what in ((self._success, "success"), (self._failure, "failure")):
                handle.disabled = state.stage not in ("running", "over")
                handle.label = self._word(f"marked {what}" if state.mark == what else what)
            for handle, value in ((self._goes_on, state.goes_on), (self._dead_man, state.dead_man)):
                if handle.value != value:
                    handle.value = value
            self._captions.content = _columns(
                *(self._word(side) for side in ("left", "right") if self._has(side))
            )
        self._say_banner()
        self._say_events()

    def _has(self, side: str) -> bool:
        return self._history.scene is None or side in self._history.scene.sides

    def _say_banner(self) -> None:
        state, shot = self._state, self._drawn
        colour, title, more = "good", self._word(state.stage), []
        if state.stage == "ready" and state.dead_man:
            title = self._word("ready, dead man")
        if state.stage == "running":
            colour = "busy"
            if state.taken:
                title = self._word("taken")
            if shot is not None and shot.fault:
                colour, title = "held", self._word("pauses")
                more.append(reason(shot.fault, self._language))
            elif shot is not None and shot.held:
                colour, title = "held", self._word("slowed")
                more.append(reason(shot.held, self._language))
        if state.stage == "over":
            done = {True: self._word("done"), False: self._word("not done"), None: ""}[state.success]
            title = f"{title}: {done}" if done else title
            colour = "good" if state.success else "held"
            more.append("" if state.ending == "done" else reason(state.ending, self._language))
        if state.emergency:
            colour, title = "bad", self._word("emergency")
            more.insert(0, self._word("emergency, why"))
        if state.problem:
            more.append(reason(state.problem, self._language))
        if state.sentence:
            more.append(f"{self._word('instruction')}: {state.sentence}")
        if self._history.scene is not None:
            more.append(self._history.scene.title)
        content = _banner(_COLOURS[colour], title, more)
        if self._banner.content != content:
            self._banner.content = content

    def _say_events(self) -> None:
        events = self._history.events[-EVENTS_SHOWN:][::-1]
        lines = [
            f"<li style='color:{_COLOURS['bad' if event.fault else 'held']}'>{event.began:.1f} s"
            f" ({event.ended - event.began:.1f} s): {html.escape(reason(event.what, self._language))}</li>"
            for event in events
        ]
        style = "margin:0;padding-left:1.2em;max-height:12em;overflow-y:auto"
        content = _small(f"<ul style='{style}'>{''.join(lines)}</ul>")
        if not events:
            content = _small(html.escape(self._word("nothing")))
        if self._events.content != content:
            self._events.content = content


def _banner(colour: str, title: str, more: list[str]) -> str:
    lines = "".join(f"<div>{html.escape(line)}</div>" for line in more if line)
    style = (
        f"background:{colour};color:white;padding:8px 12px;border-radius:6px;margin:6px 8px;font-size:13px;"
        "line-height:1.35;overflow-wrap:anywhere"
    )
    heading = f"<b style='font-size:15px'>{html.escape(title)}</b>"
    return f"<div id='state' role='status' style='{style}'>{heading}{lines}</div>"


def _columns(*words: str) -> str:
    cells = "".join(f"<div style='flex:1;text-align:center'>{html.escape(text)}</div>" for text in words)
    return f"<div style='display:flex;font-size:12px;margin:4px 8px 0'>{cells}</div>"


def _small(content: str) -> str:
    return f"<div style='font-size:13px;line-height:1.4;margin:6px 10px'>{content}</div>"
