"""What the page keeps of an episode, so that one can go back in it."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.control.held import kind_of
from rdt2.dashboard.messages import Chunk, Pictures, Scene, Shot

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

MOST_SHOTS, MOST_PICTURES = 30 * 600, 1200
"""Ten minutes of moments, and of the pictures that come with five chunks a second four: what is older is forgotten."""
POINTS = 600
"""Of a line in a plot at most."""
TOGETHER = 0.5
"""Seconds that a reason may be away before it counts as another event."""


@dataclass
class Event:
    """Something that went on for a while: an arm that was held back, a pause, a stop."""

    began: float
    """Seconds since the episode began."""
    ended: float
    what: str
    fault: bool


class History:
    """One episode: moments, chunks and pictures in order of time."""

    def __init__(self) -> None:
        self.scene: Scene | None = None
        self._clear()

    def _clear(self) -> None:
        self.idle: Shot | None = None
        """The newest look at a robot that waits."""
        self.shots: deque[Shot] = deque(maxlen=MOST_SHOTS)
        self.chunks: deque[Chunk] = deque(maxlen=MOST_SHOTS)
        self.pictures: deque[Pictures] = deque(maxlen=MOST_PICTURES)
        self.events: list[Event] = []
        self._kinds: dict[str, Event] = {}

    def take(self, message: Any) -> None:
        """Keep one message; a new scene forgets what was."""
        if isinstance(message, Scene):
            self._clear()
            self.scene = message
        elif isinstance(message, Pictures):
            self.pictures.append(message)
        elif isinstance(message, Chunk):
            self.chunks.append(message)
        elif isinstance(message, Shot):
            self._take_shot(message)

    def _take_shot(self, shot: Shot) -> None:
        if shot.since is None:
            self.idle = shot
            return
        self.idle = None
        if not self.shots:
            self.pictures.clear()  # of the robot that waited
        self.shots.append(shot)
        for what in shot.held.split("; ") if shot.held else ():
            self._note(what, shot.since, fault=False)
        if shot.fault:
            self._note(shot.fault, shot.since, fault=True)

    def _note(self, what: str, since: float, *, fault: bool) -> None:
        kind = kind_of(what)
        event = self._kinds.get(kind)
        if event is None or since - event.ended > TOGETHER:
            event = self._kinds[kind] = Event(since, since, what, fault)
            self.events.append(event)
        event.ended = since

    @property
    def newest(self) -> Shot | None:
        """How things are now."""
        return self.idle or (self.shots[-1] if self.shots else None)

    @property
    def end(self) -> float:
        """Of the episode so far, seconds since it began."""
        return self.shots[-1].since or 0.0 if self.shots else 0.0

    def at(self, since: float) -> Shot | None:
        """The moment at a time of the episode (seconds since it began)."""
        return _before(self.shots, since, lambda shot: shot.since)

    def chunk_at(self, since: float) -> Chunk | None:
        """The chunk that was being driven, or about to be."""
        return _before(self.chunks, since, lambda chunk: chunk.since + chunk.delay)

    def pictures_at(self, time: float) -> Pictures | None:
        """What the policy saw last; `time` in seconds of the robot's clock."""
        return _before(self.pictures, time, lambda pictures: pictures.time)

    def trail(self, name: str, side: str, since: float, seconds: float) -> Float[ndarray, "n 3"]:
        """The way of an arm's TCP up to `since`, metres: `name` is measured, made or wish."""
        points = [
            getattr(shot, name)[side][:3, 3]
            for shot in self.shots
            if since - seconds <= (shot.since or 0.0) <= since and side in getattr(shot, name)
        ]
        return np.array(points).reshape(-1, 3)

    def lines(self, side: str, what: str) -> list[Float[ndarray, " n"]]:
        """For a plot of one arm: times (s), then what the chunk asked for, what safety made of it, what the devices
        took and what was measured, in millimetres. `what` is x, y, z of the TCP, or width of the opening."""
        shots = _thinned(list(self.shots))

        def line(poses: str, widths: str) -> list[float | None]:
            if what == "width":
                return [getattr(shot, widths).get(side) for shot in shots]
            found = [getattr(shot, poses).get(side) for shot in shots]
            return [None if pose is None else float(pose["xyz".index(what), 3]) for pose in found]

        made, measured = line("made", "made_widths"), line("measured", "widths")
        sent = [value if shot.taken else None for value, shot in zip(made, shots, strict=True)]
        wish = line("wish", "wish_widths")  # of arms that brake: to come to rest as safety has them
        asked = [made[k] if value is None else value for k, value in enumerate(wish)]
        return [np.array([shot.since or 0.0 for shot in shots]), *map(_mm, (asked, made, sent, measured))]

    def timings(self) -> list[Float[ndarray, " n"]]:
        """For a plot: times (s), then inference, picture to chunk, servo period, age of the pictures behind the chunk
        that is driven, age of the states, in milliseconds."""
        shots = _thinned(list(self.shots))
        times = np.array([shot.since or 0.0 for shot in shots])
        chunks = [self.chunk_at(time) for time in times]
        return [
            times,
            _mm([None if chunk is None else chunk.inference for chunk in chunks]),
            _mm([None if chunk is None else chunk.delay for chunk in chunks]),
            _mm([shot.period for shot in shots]),
            _mm([None if chunk is None else now - chunk.since for now, chunk in zip(times, chunks, strict=True)]),
            _mm([shot.age for shot in shots]),
        ]  # fmt: skip


def _before(kept: deque, value: float, key: Any) -> Any:
    """The last of what is kept whose key is not beyond the value; else the first; None of nothing."""
    if not kept:
        return None
    return kept[max(0, bisect_right(kept, value, key=key) - 1)]


def _thinned(shots: list[Shot]) -> list[Shot]:
    return shots[:: max(1, -(-len(shots) // POINTS))]


def _mm(values: list[float | None]) -> Float[ndarray, " n"]:
    """Thousandths. The plots know no gaps: where nothing is known stands the value before, or the first."""
    found = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    known = np.flatnonzero(np.isfinite(found))
    if not len(known):
        return np.zeros(len(found))
    last = np.maximum.accumulate(np.where(np.isfinite(found), np.arange(len(found)), known[0]))
    return 1e3 * found[last]
