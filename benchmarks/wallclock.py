"""What the benchmarks of the loop in real time share: policies that move to and fro, and who looks on."""

from __future__ import annotations

import platform
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, HORIZON, ActionChunk, chunk_from_poses
from rdt2.control.servo import TICK
from rdt2.data.recordings import find_recordings, read_recording, topics
from rdt2.errors import RDT2Error
from rdt2.policy import PolicySpec
from rdt2.robot import Robot
from rdt2.robot.settings import Bounds

SPEED = 0.3
"""m/s at which a policy moves both arms, to and fro."""
SWING_SECONDS = 2.0
"""Of one swing to and fro."""
SEEN = 0.1
"""Seconds before a prediction begins that its pictures were taken, about."""
SENTENCE = "Pick up the red cube with the left hand."


class Turns:
    """Moves both arms along x and turns round with every chunk, which no hand-over likes. It keeps no promises: a chunk
    that went on from what the arms do would turn round within itself, and nothing be handed over.

    Args:
        delay: seconds of each prediction.
        speed: m/s.
        fault: what goes wrong from prediction `first` on: "", "hangs", "NaN".
    """

    keeps_promises, patience = False, None

    def __init__(self, delay: float, speed: float = SPEED, fault: str = "", first: int = 5) -> None:
        self.delay, self.speed, self.fault, self.first, self.asked = delay, speed, fault, first, 0

    def way(self) -> np.ndarray:
        """Metres along x of each step of a chunk."""
        return (-1) ** self.asked * self.speed / 30 * np.arange(1, HORIZON + 1)

    def predict(self, observations: Any, *, seed: Any = None, promised: Any = None) -> list[ActionChunk]:
        self.asked += 1
        time.sleep(self.delay)
        steps = np.repeat(np.eye(4)[None], HORIZON, axis=0)
        steps[:, 0, 3] = self.way()
        if self.asked >= self.first and self.fault == "hangs":
            time.sleep(5.0)
        if self.asked >= self.first and self.fault == "NaN":
            steps[:, 0, 3] = np.nan
        still = {side: np.eye(4) for side in ARMS}
        widths = {side: np.full(HORIZON, 0.05) for side in ARMS}
        return [ActionChunk(chunk_from_poses(still, {side: steps for side in ARMS}, widths))]


class Swings(Turns):
    """Swings both arms along x, at most so fast: real policies move smoothly, and this one keeps no hand-over busy."""

    def way(self) -> np.ndarray:
        """Metres along x of each step of a chunk."""
        rate, began = 2 * np.pi / SWING_SECONDS, time.monotonic() - self.delay - SEEN
        way = self.speed / rate * np.sin(rate * (began + np.arange(HORIZON + 1) / 30))
        return way[1:] - way[0]


MOVES = {"turns": Turns, "swings": Swings}


def moves(kind: str, delay: float, speed: float = SPEED, fault: str = "") -> PolicySpec:
    """For `PolicyProcess(moves("turns", 0.1), open=open_moves)`."""
    return PolicySpec(policy=f"{kind} {delay} {speed} {fault}")


def open_moves(spec: PolicySpec) -> Turns:
    kind, delay, speed, fault = spec.policy.split(" ")
    return MOVES[kind](float(delay), float(speed), fault)


class Commands:
    """Notes every pose that the arms of a robot are told, and when it is due; of the way to rest that is sent behind
    each, what the next did not replace."""

    def __init__(self, robot: Robot) -> None:
        self.told: dict[str, list[tuple[float, np.ndarray]]] = {side: [] for side in robot.sides}
        for side, arm in robot.arms.items():
            arm.execute = self._noting(side, arm.execute)  # type: ignore[method-assign]

    def _noting(self, side: str, execute: Any) -> Any:
        def noting(times: np.ndarray, poses: np.ndarray) -> None:
            told = self.told[side]
            while told and told[-1][0] > times[0] - 1e-6:
                told.pop()
            told.extend(zip(map(float, times), poses, strict=True))
            execute(times, poses)

        return noting

    def shares(self, bounds: Bounds) -> dict[str, float]:
        """Largest share of each limit that was commanded, by finite differences; steps are one period apart."""
        limits = {
            "speed": bounds.speed, "acceleration": bounds.acceleration, "jerk": bounds.jerk,
            "turn_rate": bounds.turn_rate, "turn_acceleration": bounds.turn_acceleration, "turn_jerk": bounds.turn_jerk,
        }  # fmt: skip
        found = dict.fromkeys(limits, 0.0)
        for told in self.told.values():
            poses = np.stack([pose for _, pose in told])
            moved = np.diff(poses[:, :3, 3], axis=0) / TICK
            steps = poses[1:, :3, :3] @ poses[:-1, :3, :3].transpose(0, 2, 1)
            turned = Rotation.from_matrix(steps).as_rotvec() / TICK
            values = [np.diff(v, n, axis=0) / TICK**n for v in (moved, turned) for n in (0, 1, 2)]
            for (name, limit), value in zip(limits.items(), values, strict=True):
                found[name] = max(found[name], float(np.linalg.norm(value, axis=1).max(initial=0.0)) / limit)
        return found

    def soonest(self) -> float:
        """The shortest time between two poses, seconds: less than a period would be a faster motion."""
        return min(float(np.diff([due for due, _ in told]).min()) for told in self.told.values())


class Speeds:
    """Looks every 4 ms at how fast the arms are, in a thread, within a `with` statement."""

    def __init__(self, robot: Robot) -> None:
        self._robot, self._over = robot, threading.Event()
        self._thread = threading.Thread(target=self._look, name="onlooker", daemon=True)
        self._lost: RDT2Error | None = None
        self.seen: list[tuple[float, float]] = []
        """When, seconds of the robot's clock, and the speed of the faster arm, m/s."""

    def __enter__(self) -> Speeds:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Raises RobotError: the arms were lost from sight."""
        self._over.set()
        self._thread.join()
        if self._lost is not None and kind is None:
            raise self._lost

    def _look(self) -> None:
        try:
            while not self._over.wait(0.004):
                speed = max(float(np.linalg.norm(a.state().velocity[:3])) for a in self._robot.arms.values())
                self.seen.append((self._robot.clock.now(), speed))
        except RDT2Error as error:
            self._lost = error

    def still_after(self, moment: float, below: float) -> float:
        """When the arms came to rest for good, or `moment` if they were at rest."""
        moving = [time for time, speed in self.seen if speed > below and time > moment]
        return max(moving, default=moment)


def recorded(folder: Path) -> dict[str, int]:
    """What can be read back of the one recording in a folder: moments of the loop, which are 30 a second, and pictures
    of the camera that has fewer."""
    (path,) = find_recordings(folder)
    recording = read_recording(path)
    cameras = [len(recording.times(topics.CAMERA.format(side=side))) for side in recording.sides]
    return {"moments": len(recording.times(topics.PERIOD)), "pictures": min(cameras)}


def machine() -> dict[str, Any]:
    """The processor, how many, and how busy it was: of the last minute, so many threads wanted to run. And at what
    part of their rate its clocks went, where they did (slow_motion.py)."""
    import os

    name = platform.processor()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if "model name" in line]
        name = names[0] if names else name
    slow = {"slow_motion": float(os.environ["SLOW_MOTION"])} if "SLOW_MOTION" in os.environ else {}
    return {"processor": name, "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 1), **slow}
