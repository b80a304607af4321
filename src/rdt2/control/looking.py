"""Both pictures, whatever the drivers of the cameras do."""

from __future__ import annotations

import contextlib
import queue
import threading
import time as wall
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ARMS, FPS, state_vector
from rdt2.errors import RDT2Error, SafetyError
from rdt2.observation import Observation
from rdt2.robot.protocols import Frame

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from jaxtyping import Float, UInt8
    from numpy import ndarray

    from rdt2.control.watch import Watch
    from rdt2.robot import Camera, Robot
    from rdt2.robot.protocols import Clock
    from rdt2.robot.settings import RobotSettings

WANTED = "uint8 (384, 384, 3)"
PATIENCE = 0.1
"""Seconds that reading the newest picture of a camera may take."""
TURN = 4e-3
"""Seconds that whoever looks waits for pictures that are being read; then it goes on, and asks again."""
ASLEEP = 0.04
"""Longer between two looks, seconds, is no doing of a camera: this process got no turn, nor did who reads."""
ON_ITS_WAY = 1 / FPS
"""Seconds that are waited for the picture of one wrist when the next one of the other is there: cameras in step are a
period apart in between, for as long as one of the two takes longer on its way. Cameras whose exposures are really that
far apart are told after that."""


class Eyes:
    """Reads every camera in a thread of its own where devices may be called from several threads: one that hangs
    holds nobody up."""

    def __init__(self, robot: Robot) -> None:
        self._cameras = robot.cameras
        self._answers: queue.Queue[tuple[str, Frame | SafetyError]] = queue.Queue()
        self._questions: dict[str, queue.Queue[bool]] = {}
        self._read_for: dict[str, float] = {}
        self._passed = 0.0
        self._found: dict[str, Frame | SafetyError] = {}
        if robot.concurrent:
            for side in self._cameras:
                self._questions[side] = queue.Queue()
                threading.Thread(target=self._work, args=(side,), name="camera", daemon=True).start()

    def look(self) -> dict[str, Frame] | None:
        """The newest picture of every camera, by side; None while they are being read: look again soon.

        Raises:
            SafetyError: a camera gives none, or does not answer; says which and why.
        """
        if not self._questions:
            return {side: _read(side, camera) for side, camera in self._cameras.items()}
        began = self._pass()
        for side, questions in self._questions.items():
            if side not in self._read_for and side not in self._found:
                self._read_for[side] = 0.0
                questions.put(True)
        with contextlib.suppress(queue.Empty):
            while self._read_for:
                side, answer = self._answers.get(timeout=max(0.0, began + TURN - wall.monotonic()))
                self._found[side] = answer
                del self._read_for[side]
        self._pass()
        for side, seconds in self._read_for.items():
            if seconds > PATIENCE:
                self._found.clear()
                raise SafetyError(
                    f"the {side} camera has not answered for {PATIENCE} s: its driver hangs. Restart its stream."
                )
        if self._read_for:
            return None
        found, self._found = self._found, {}
        frames = {}
        for side in self._cameras:
            answer = found[side]
            if isinstance(answer, SafetyError):
                raise answer
            frames[side] = answer
        return frames

    def _pass(self) -> float:
        """Count the time since it was last counted to the cameras that are being read; returns when it is."""
        now = wall.monotonic()
        passed, self._passed = min(now - self._passed, ASLEEP), now
        for side in self._read_for:
            self._read_for[side] += passed
        return now

    def close(self) -> None:
        """Let the threads end; one whose camera hangs does so when that comes back."""
        for questions in self._questions.values():
            questions.put(False)

    def _work(self, side: str) -> None:
        while self._questions[side].get():
            try:
                self._answers.put((side, _read(side, self._cameras[side])))
            except SafetyError as error:
                self._answers.put((side, error))


class Pairs:
    """Pictures of both wrists that show the same moment and may be believed.

    Args:
        eyes: what looks.
        watch: what doubts pictures.
        was: where an arm's TCP (4, 4) was measured to be at a time, metres.
        clock: the robot's.
    """

    def __init__(
        self, eyes: Eyes, watch: Watch, was: Callable[[str, float], Float[ndarray, "4 4"]], clock: Clock
    ) -> None:
        self._eyes, self._watch, self._was, self._clock = eyes, watch, was, clock
        self._waits_since = np.inf

    def look(self, now: float) -> dict[str, Frame] | None:
        """The newest pictures; None while they are being read, or one of them is on its way: look again soon.

        Raises:
            SafetyError: there are none, or none that must be acted upon; says why.
        """
        if (frames := self._eyes.look()) is None:
            return None
        if not self._watch.awaits(frames):
            self._waits_since = np.inf
        else:
            self._waits_since = min(self._waits_since, now)
            if now - self._waits_since < ON_ITS_WAY:
                return None
        # a picture may have been taken while it was read
        self._watch.pictures(frames, self._was, now=max(now, self._clock.now()))
        return frames


def dark() -> UInt8[ndarray, "384 384 3"]:
    """The picture of an arm that is not there."""
    return np.zeros((384, 384, 3), np.uint8)


def observed(
    settings: RobotSettings,
    sentence: str,
    frames: Mapping[str, Frame],
    tcp: Mapping[str, Float[ndarray, "4 4"]],
    widths: Mapping[str, float],
) -> Observation:
    """What a policy is shown of a robot.

    Args:
        settings: its own.
        sentence: what is asked for.
        frames: a picture of every wrist camera.
        tcp: where the TCPs were when it was taken, cell frame, metres.
        widths: measured openings, metres.
    """
    arms = settings.arms
    images = {side: frames[side].image if side in frames else dark() for side in ARMS}
    poses = {side: tcp[side] @ arms[side].policy_to_tcp if side in tcp else np.eye(4) for side in ARMS}
    openings = {
        side: np.array(widths[side] / arms[side].gripper.scale if side in tcp else 0.0) for side in ARMS
    }
    return Observation(
        left=images["left"],
        right=images["right"],
        instruction=sentence,
        timestamp=min(frame.timestamp for frame in frames.values()),
        state=state_vector(poses, openings).astype(np.float32),
    )


class Film:
    """Every picture of the cameras, once, for who records them; what is wrong with one is said by who acts upon it.

    Args:
        eyes: what looks.
        every: seconds of the robot's clock between two looks at least: less than from picture to picture.
    """

    def __init__(self, eyes: Eyes, *, every: float) -> None:
        self._eyes, self._every, self._at = eyes, every, -np.inf
        self._last: dict[str, int] = {}
        self._kept: dict[str, list[Frame]] = {}

    def look(self, now: float) -> None:
        """Take what is new."""
        if now < self._at:
            return
        self._at = now + self._every
        with contextlib.suppress(SafetyError):
            for side, frame in (self._eyes.look() or {}).items():
                if self._last.get(side) != frame.sequence:
                    self._last[side] = frame.sequence
                    self._kept.setdefault(side, []).append(frame)

    def taken(self) -> dict[str, list[Frame]]:
        """What has come since this was asked last, by side."""
        kept, self._kept = self._kept, {}
        return kept


def _read(side: str, camera: Camera) -> Frame:
    try:
        frame = camera.read()
    except RDT2Error as error:
        raise SafetyError(str(error)) from error
    except Exception as error:  # of any driver
        raise SafetyError(
            f"the {side} camera gives no picture: {type(error).__name__}: {error}. Check its stream."
        ) from error
    image = getattr(frame, "image", None)
    got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else f"{frame!r:.80}"
    if not isinstance(frame, Frame) or got != WANTED:
        raise SafetyError(
            f"the {side} camera's read() gave {got}, expected a Frame with an RGB image, {WANTED}. Look at its driver."
        )
    if not all(isinstance(value, int | float | np.number) for value in (frame.timestamp, frame.sequence)):
        raise SafetyError(
            f"the {side} camera's picture is stamped {frame.timestamp!r} and numbered {frame.sequence!r}, expected "
            "numbers. Look at its driver."
        )
    return frame
