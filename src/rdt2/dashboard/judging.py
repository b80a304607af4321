"""Who says when the task is done where an operator looks on."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rdt2.control import Monitor
    from rdt2.dashboard.desk import Desk


class OperatorsJudge:
    """A `rdt2.control.Monitor`: a person's word counts before that of a judge."""

    def __init__(self, desk: Desk, judge: Monitor | None, sentence: str, say: Callable[[], str]) -> None:
        self._desk, self._judge, self._sentence, self._say = desk, judge, sentence, say

    @property
    def judged(self) -> bool:
        """Whether anybody says something of success."""
        return self._desk.mark is not None or self._heard() is not None

    @property
    def success(self) -> bool:
        """The person's mark; without one, what the judge says."""
        if (mark := self._desk.mark) is not None:
            return mark == "success"
        return (judge := self._heard()) is not None and judge.success

    @property
    def followed(self) -> bool:
        """What was done was followed; otherwise what the judge says."""
        return self.success or ((judge := self._heard()) is not None and judge.followed)

    @property
    def done(self) -> bool:
        """A mark, the end of the session, or the judge ends the episode."""
        desk = self._desk
        return desk.finished or desk.mark is not None or ((judge := self._heard()) is not None and judge.done)

    def _heard(self) -> Monitor | None:
        return self._judge if self._say() == self._sentence else None
