"""The process that draws the pictures of a real-time cell, from states that the cell's own process keeps.

In that one, drawing would hold Python's lock for milliseconds, again and again: between any two steps of the physics,
and while a device is to answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, NamedTuple

from rdt2.errors import RDT2Error, RobotError
from rdt2.sim.board import Board
from rdt2.threads import end_with_parent, leave_terminal_to_parent, prefer

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.world import CellSettings
    from rdt2.sim.cell import Cell
    from rdt2.sim.scene import Scene


class Exposure(NamedTuple):
    """A picture that is to be drawn."""

    side: str
    number: int
    stamp: float
    """Of the cell's clock, as the camera tells it."""
    state: Float[ndarray, " q"] | None
    """Of the cell at that moment."""


def draw(cell: Cell, board: Board, exposures: Sequence[Exposure]) -> None:
    """Show pictures: those of one moment together, however slowly they are drawn."""
    drawn = [cell.cameras[each.side].see(each.number, each.state) for each in exposures]
    for each, image in zip(exposures, drawn, strict=True):
        board.put_picture(f"{each.side} camera", each.stamp, each.number, image)


def serve(embodiment: str, scene: Scene, settings: CellSettings, board: str, asked: Connection) -> None:
    """Draw what is asked for, a list of `Exposure` at a time, onto the board, and answer each with None, or once with
    the error that keeps it from drawing. Ends when nobody asks any more, or with the process that started it."""
    from rdt2.sim.cell import Cell

    leave_terminal_to_parent()
    end_with_parent()
    prefer()
    shown = Board(board)
    try:
        cell = Cell(embodiment, scene, settings)
        while True:
            draw(cell, shown, asked.recv())
            asked.send(None)
    except (EOFError, OSError):
        return
    except Exception as error:
        asked.send(error if isinstance(error, RDT2Error) else RobotError(f"no pictures: {error!r}"))
