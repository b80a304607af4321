"""The operator's page: what the arms do and why, and the buttons that start and stop them.

    from rdt2.dashboard.figure import Figure

    with open_desk(Looking(dashboard=True), goes_on=False) as operator:
        operator.begin(robot, Figure.of_robot(settings), "Pick up the red cube.", title="cubes")
        result = run_episode(
            robot, policy, operator.sentence, settings=settings, recorder=operator, permit=operator.permit
        )
        mark = operator.end(robot, result, judged=False)

The page lives in a process of its own: a browser that is slow, closed or far away costs the servo nothing.
"""

from __future__ import annotations

from rdt2.dashboard.options import Looking, open_desk

__all__ = ["Looking", "open_desk"]
