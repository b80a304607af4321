"""What a real-time cell shows: whole records at once, whatever becomes of their writer."""

from __future__ import annotations

import multiprocessing
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.errors import RobotError
from rdt2.sim.board import Board
from rdt2.sim.realtime_drawing import draw
from rdt2.sim.realtime_process import _Running

ARM = "left arm"


@pytest.fixture
def board():
    board = Board()
    yield board
    board.close()


def test_nothing_before_the_first_record(board):
    assert board.cell() is None
    assert board.device(ARM) is None
    assert board.picture("left camera") is None


def test_the_newest_of_each(board):
    for number in range(7):
        board.write_cell(began=float(number), time=0.0)
        board.write_device(ARM, timestamp=10.0 + number, velocity=np.full(6, number))
        board.put_picture("left camera", 20.0 + number, number, np.full((384, 384, 3), number, np.uint8))
        assert board.cell()["began"] == number
        assert board.device(ARM)["timestamp"] == 10 + number
        assert (board.device(ARM)["velocity"] == number).all()
        picture = board.picture("left camera")
        assert (picture["timestamp"], picture["sequence"]) == (20 + number, number)
        assert (picture["image"] == number).all()
    assert board.device("right arm") is None


class Preempted:
    """A value whose writer loses its turn, or dies, while it writes it."""

    def __array__(self, *_, **__):
        raise InterruptedError


def test_who_reads_waits_for_no_writer_that_lost_its_turn_or_died(board):
    """Regression: a record that was being written made its readers wait, and say that the cell's process had died."""
    board.write_device(ARM, timestamp=1.0, velocity=np.ones(6))
    for _ in range(5):
        with pytest.raises(InterruptedError):
            board.write_device(ARM, timestamp=2.0, velocity=Preempted())
        record = board.device(ARM)
        assert record["timestamp"] == 1.0
        assert (record["velocity"] == 1).all()
    board.write_device(ARM, timestamp=3.0, velocity=np.full(6, 3.0))
    assert board.device(ARM)["timestamp"] == 3.0


def test_records_are_whole_while_they_are_written_over_and_over(board):
    board.write_device(ARM, timestamp=0.0, velocity=np.zeros(6), pose=np.zeros((4, 4)))
    over, torn, seen = threading.Event(), [], set()

    def look() -> None:
        while not over.is_set():
            record = board.device(ARM)
            seen.add(float(record["timestamp"]))
            if np.ptp([record["timestamp"], *record["velocity"], *record["pose"].ravel()]):
                torn.append(record)

    reader = threading.Thread(target=look)
    reader.start()
    number, until = 0, time.monotonic() + 10
    while len(seen) < 20 and time.monotonic() < until:
        number += 1
        board.write_device(ARM, timestamp=number, velocity=np.full(6, number), pose=np.full((4, 4), number))
    over.set()
    reader.join()
    assert not torn
    assert len(seen) >= 20


def test_closed_under_those_who_read(board):
    """Regression: the memory was unmapped under a reader, which crashed the process."""
    board.put_picture("left camera", 1.0, 1, np.zeros((384, 384, 3), np.uint8))
    told, reading = [], threading.Semaphore(0)

    def look() -> None:
        try:
            while True:
                board.picture("left camera")
                reading.release()
        except RobotError as error:
            told.append(str(error))

    readers = [threading.Thread(target=look) for _ in range(4)]
    for reader in readers:
        reader.start()
    for _ in range(20):
        reading.acquire()
    board.close()
    board.close()
    for reader in readers:
        reader.join(10)
    assert told == ["the cell is closed. Start another one."] * 4


def test_a_board_that_nobody_closes_ends_without_a_word():
    code = "from rdt2.sim.board import Board\nboard = Board()\nboard.write_cell(began=1.0)\nboard.free()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_pictures_of_one_moment_are_shown_together_however_slowly_they_are_drawn():
    """Regression: the first was shown while the second was drawn: on a busy machine they were 60 ms apart, a fault."""
    shown, moment = [], 0.0

    class Camera:
        def exposure(self):
            return int(moment), moment, None

        def see(self, number, state):
            assert len(shown) % 2 == 0
            return number

    cell = SimpleNamespace(cameras={"right": Camera(), "left": Camera()})
    board = SimpleNamespace(put_picture=lambda name, stamp, number, image: shown.append((name, stamp, image)))
    asks, asked = multiprocessing.Pipe()
    running = SimpleNamespace(cell=cell, drawer=asks, drawing=False, shown={}, broken=None)
    for _ in range(3):
        _Running.show(running)
        moment += 1.0  # the cell goes on while they are drawn
        _Running.show(running)
        draw(cell, board, asked.recv())
        asked.send(None)
    assert [name for name, _, _ in shown] == ["right camera", "left camera"] * 3
    assert [stamp for _, stamp, _ in shown] == [0.0, 0.0, 1.0, 1.0, 2.0, 2.0]


def test_without_the_process_that_draws_both_cameras_have_a_fault():
    told, (asks, asked) = [], multiprocessing.Pipe()
    cameras = dict.fromkeys(("right", "left"), SimpleNamespace(exposure=lambda: (0, 0.0, None)))
    devices = {f"{side} camera": SimpleNamespace(fail=told.append) for side in cameras}
    running = SimpleNamespace(
        cell=SimpleNamespace(cameras=cameras), devices=devices, drawer=asks, drawing=False, shown={}, broken=None
    )  # fmt: skip
    asked.close()
    _Running.show(running)
    assert told == ["no pictures: the process that draws them has ended."] * 2
