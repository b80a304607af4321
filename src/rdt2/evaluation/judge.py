"""Who says whether the task is done, when an operator may ask for something else meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from rdt2.evaluation.results import Event
from rdt2.evaluation.scenes import task_named

if TYPE_CHECKING:
    from rdt2.sim.cell import Cell
    from rdt2.sim.tasks import Task


class Judge:
    """Judges what is asked for now: a `rdt2.control.Monitor`.

    Args:
        cell: what happens.
        task: what the first sentence asks for; None where it names nothing of the scene.
        say: the sentence that the arms are told now.
    """

    def __init__(self, cell: Cell, task: Task | None, say: Callable[[], str]) -> None:
        self._cell, self._say = cell, say
        self._began = cell.time
        self.sentence = say()
        self.told: list[Event] = []
        """Other sentences that came later."""
        self._ask(task)

    def _ask(self, task: Task | None) -> None:
        from rdt2.sim.tasks import Monitor

        self.task = task
        self._monitor = Monitor(self._cell, task) if task is not None else None

    def _listen(self) -> None:
        sentence = self._say()
        if sentence == self.sentence:
            return
        self.sentence = sentence
        self.told.append(Event(round(self._cell.time - self._began, 3), "told", sentence))
        if self._monitor is not None:
            self._monitor.close()
        self._ask(task_named(self._cell.scene, sentence))

    @property
    def judged(self) -> bool:
        """Whether what is asked for names a task of the scene."""
        return self.task is not None

    @property
    def success(self) -> bool:
        """Whether what is asked for now is done."""
        return self._monitor is not None and self._monitor.success

    @property
    def followed(self) -> bool:
        """Whether the arms went for what is asked for now."""
        return self._monitor is not None and self._monitor.followed

    @property
    def done(self) -> bool:
        """Nothing is left to watch for."""
        self._listen()
        return self._monitor is not None and self._monitor.done
