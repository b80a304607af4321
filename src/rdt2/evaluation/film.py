"""Looks on while an episode runs in the cell, and turns it into what a report shows."""

from __future__ import annotations

import time as wall
from collections import defaultdict
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS, SIDES
from rdt2.evaluation.report import ChunkView, EpisodeView
from rdt2.evaluation.video import ClipWriter

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.control import EpisodeResult, Moment
    from rdt2.evaluation.results import EpisodeRecord
    from rdt2.observation import Observation
    from rdt2.sim.cell import Cell

WRIST = 240
FRONT = (480, 360)
"""Pixels: both wrist pictures side by side are as wide as the front one below them."""
EVERY = 3
"""One picture for so many ticks of 1/30 s."""


class EpisodeFilm:
    """A recorder for `rdt2.control.run_episode`: video, measured paths and the time of each stage.

    The video shows the left and the right wrist, and the front below them, at 10 pictures a second. The front camera
    faces the arms: the left one is on its right.
    """

    def __init__(self, cell: Cell) -> None:
        self._cell = cell
        self._robot = cell.robot()  # an arm that the driven robot has not is looked at, too
        self._began: float | None = None
        self._writer = ClipWriter(FRONT[0], WRIST + FRONT[1], fps=30 // EVERY)
        self._times: list[float] = []
        self._positions: dict[str, list[np.ndarray]] = {arm: [] for arm in ARMS}
        self._widths: dict[str, list[float]] = {arm: [] for arm in ARMS}
        self._left_predict = 0.0
        self.seconds: dict[str, list[float]] = defaultdict(list)
        """Wall-clock seconds of every stage of every cycle."""
        self._look(cell.time)

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """Note how long each stage of a prediction took, and what lay between two predictions."""
        now = wall.perf_counter()
        stages = {name: value for name, value in chunk.timing.items() if name != "total"}
        for name, value in stages.items():
            self.seconds[name].append(value)
        if self._left_predict:
            self.seconds["simulation and pictures"].append(now - self._left_predict - sum(stages.values()))
        self._left_predict = now

    def on_frame(self, moment: Moment) -> None:
        """Note where both arms are; take a picture at every third call."""
        if self._began is None:  # before it the loop may have rehearsed, while the cell's time went on
            self._began = moment.time - moment.since
        self._look(moment.time)

    def view(self, record: EpisodeRecord, result: EpisodeResult, *, title: str) -> EpisodeView:
        """The finished episode for a report. The video ends here."""
        chunks = [
            ChunkView(
                time=cycle.time,
                positions={arm: poses[:, :3, 3] for arm, poses in cycle.plan.poses.items()},
                widths=cycle.plan.widths,
            )
            for cycle in result.cycles
        ]
        return EpisodeView(
            title=title,
            instruction=record.instruction,
            seed=record.seed,
            success=record.success if record.judged else None,
            followed=record.followed if record.judged else None,
            seconds=record.seconds,
            reason=record.reason,
            times=np.array(self._times) - (self._times[0] if self._began is None else self._began),
            positions={arm: np.array(path) for arm, path in self._positions.items()},
            widths={arm: np.array(widths) for arm, widths in self._widths.items()},
            chunks=chunks,
            clip=self._writer.close(),
            events=record.events,
        )

    def _look(self, time: float) -> None:
        if len(self._times) % EVERY == 0:
            cell = self._cell
            wrists = [cell.render(arm, size=(WRIST, WRIST)) for arm in SIDES]
            self._writer.add(
                np.concatenate([np.concatenate(wrists, axis=1), cell.render("front", size=FRONT)])
            )
        self._times.append(time)
        for arm in ARMS:
            self._positions[arm].append(self._robot.arms[arm].state().pose[:3, 3].copy())
            self._widths[arm].append(self._robot.grippers[arm].state().width)
