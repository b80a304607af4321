"""Both pictures, whatever the drivers of the cameras do."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

from rdt2.errors import RDT2Error, SafetyError

if TYPE_CHECKING:
    from rdt2.robot import Camera, Frame, Robot

PATIENCE = 0.2
"""Seconds that reading the newest pictures may take."""


def look(robot: Robot) -> dict[str, Frame]:
    """The newest picture of every camera, by side.

    Raises:
        SafetyError: a camera gives none; says which and why. Where devices may be called from several threads, also
            one that does not answer: nobody waits for it.
    """
    if not robot.concurrent:
        return {side: _read(side, camera) for side, camera in robot.cameras.items()}
    answers: queue.Queue[tuple[str, Frame | SafetyError]] = queue.Queue()

    def read(side: str, camera: Camera) -> None:
        try:
            answers.put((side, _read(side, camera)))
        except SafetyError as error:
            answers.put((side, error))

    for item in robot.cameras.items():
        threading.Thread(target=read, args=item, name="camera", daemon=True).start()
    frames: dict[str, Frame] = {}
    while missing := [side for side in robot.cameras if side not in frames]:
        try:
            side, answer = answers.get(timeout=PATIENCE)
        except queue.Empty:
            raise SafetyError(
                f"the {missing[0]} camera has not answered for {PATIENCE} s: its driver hangs. Restart its stream."
            ) from None
        if isinstance(answer, SafetyError):
            raise answer
        frames[side] = answer
    return {side: frames[side] for side in robot.cameras}


def _read(side: str, camera: Camera) -> Frame:
    try:
        return camera.read()
    except RDT2Error as error:
        raise SafetyError(str(error)) from error
    except Exception as error:  # of any driver
        raise SafetyError(
            f"the {side} camera gives no picture: {type(error).__name__}: {error}. Check its stream."
        ) from error
