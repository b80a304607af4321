"""A robot made of nothing, on a virtual clock or the wall's, and policies made of nothing: fast tests of the loop."""

from __future__ import annotations

import time as wall

import numpy as np

from rdt2.action import HORIZON, ActionChunk, chunk_from_poses
from rdt2.errors import RobotError, SafetyError
from rdt2.robot import WATCHDOG, ArmState, Frame, GripperState, PoseTrajectory, Robot, WidthTrajectory
from rdt2.robot.braking import Brake
from rdt2.robot.device import BaseDevice
from rdt2.robot.settings import RobotSettings

SIDES = ("right", "left")
PICTURE = np.full((384, 384, 3), 127, np.uint8)


class FakeClock:
    def __init__(self):
        self.time = 100.0
        self.interrupt_at = np.inf

    def now(self):
        return self.time

    def sleep_until(self, time):
        if time > self.interrupt_at:
            self.time, self.interrupt_at = self.interrupt_at, np.inf
            raise KeyboardInterrupt
        self.time = max(self.time, time)


class FakeDevice(BaseDevice):
    """Ready from the start; remembers what it was told, as (now, times, values), and its stops.

    An honest one takes time to stop, and stops by itself when it hears nothing.
    """

    def __init__(self, clock, name, trajectory, honest=False):
        super().__init__(name)
        self.trajectory = trajectory
        self.clock, self.calls, self.holds = clock, [], 0
        self.honest, self.ramp, self._heard = honest, None, clock.now()
        self.connect()
        self.enable()

    def execute(self, times, values):
        self.at(self.clock.now())
        self.require_ready()
        self.trajectory.execute(times, self.check(values), now=self.clock.now())
        self._heard = self.clock.now()
        self.calls.append((self.clock.now(), times, values))

    def check(self, values):
        return values

    def at(self, now):
        """Where it is commanded to be; a watchdog that ran out meanwhile has stopped it then."""
        deaf = self._heard + WATCHDOG
        end = self.trajectory.end[0]
        if self.honest and not self._stopped and deaf < min(now, end):
            self._fault, self._stopped = "heard nothing for 100 ms", True
            self._brake_at(deaf)
        if self.ramp is None:
            return self.trajectory.at(now)
        return self.moved(self.start, self.speed * self.ramp.way(now))

    def health(self):
        self.at(self.clock.now())
        return super().health()

    def stop(self):
        self.holds += 1
        super().stop()

    def _brake(self):
        self._brake_at(self.clock.now())

    def _brake_at(self, now):
        self.start, self._heard = self.trajectory.at(now), now
        self.speed = self.velocity(now) if self.honest else 0.0 * self.velocity(now)
        self.trajectory.stay(self.start, now=now)
        self.ramp = Brake.of(now, (float(np.linalg.norm(self.speed)), 12.0, 400.0))

    def _rest(self):
        self.trajectory.stay(self.at(self.clock.now()), now=self.clock.now())
        self.ramp, self._heard = None, self.clock.now()

    def velocity(self, now):
        before, after = self.trajectory.at(now), self.trajectory.at(now + 1e-4)
        return (self.place(after) - self.place(before)) / 1e-4


class FakeArm(FakeDevice):
    """Is always exactly where it was told to be."""

    base, model = np.eye(4), None

    def __init__(self, clock, side, honest=False):
        pose = np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = 0, -0.25 if side == "right" else 0.25, 0.25
        super().__init__(clock, f"{side} arm", PoseTrajectory(pose, clock.now()), honest)
        self.broken, self.frozen = False, None

    def state(self):
        now = self.clock.now()
        pose = self.at(now).copy()
        earlier = self.at(now - 1e-4) if self.ramp is not None else None
        speed = self.velocity(now) if earlier is None else (pose[:3, 3] - earlier[:3, 3]) / 1e-4
        if self.broken:
            pose[0, 3] = np.nan
        stamp = now if self.frozen is None else self.frozen
        return ArmState(stamp, round(1000 * stamp), pose, np.append(speed, np.zeros(3)), np.zeros(6))

    def place(self, pose):
        return pose[:3, 3]

    def moved(self, pose, way):
        pose = pose.copy()
        pose[:3, 3] += way
        return pose


class FakeGripper(FakeDevice):
    stroke = 0.2

    def __init__(self, clock, side, honest=False):
        super().__init__(clock, f"{side} gripper", WidthTrajectory(0.08, clock.now()), honest)

    def state(self):
        now = self.clock.now()
        return GripperState(now, round(1000 * now), self.at(now))

    def place(self, width):
        return np.array(width)

    def moved(self, width, way):
        return float(width + way)

    def check(self, widths):
        if not np.all((np.asarray(widths) >= 0) & (np.asarray(widths) <= self.stroke)):
            raise SafetyError(f"widths {widths} are outside of the stroke.")
        return widths


class FakeCamera(FakeDevice):
    def __init__(self, clock, side):
        super().__init__(clock, f"{side} camera", WidthTrajectory(0.0, clock.now()))
        self.delay, self.stuck = 0.0, None

    def read(self):
        if not self._connected:
            raise RobotError(f"the {self.name} is not connected.")
        stamp = self.clock.now() - self.delay if self.stuck is None else self.stuck
        picture = PICTURE.copy()
        picture[0, 0] = round(1000 * stamp) % 251, 0, 0  # no real picture is ever the same again
        return Frame(stamp, round(1000 * stamp), picture)

    def stop(self):
        """Nothing moves."""


class WallClock:
    """Goes on by itself."""

    now = staticmethod(wall.monotonic)

    def sleep_until(self, moment):
        wall.sleep(max(0.0, moment - self.now()))


def fake_robot(policy_to_tcp=None, *, sides=SIDES, honest=False, real=False):
    clock = WallClock() if real else FakeClock()
    change = np.eye(4) if policy_to_tcp is None else policy_to_tcp
    return Robot(
        arms={s: FakeArm(clock, s, honest) for s in sides},
        grippers={s: FakeGripper(clock, s, honest) for s in sides},
        cameras={s: FakeCamera(clock, s) for s in sides},
        clock=clock,
        policy_to_tcp={s: change for s in sides},
        name="fake",
        concurrent=real,
    )


def fake_settings(changes=None, *, sides=SIDES):
    """A wide workspace without a table near it, and limits that hardly show."""
    pose = np.eye(4).tolist()
    arm = {
        "model": None,
        "base": pose,
        "policy_to_tcp": pose,
        "bounds": {
            "low": [-4, -4, -0.9], "high": [4, 4, 4], "speed": 1.5, "acceleration": 40, "jerk": 4000,
            "turn_rate": 8, "turn_acceleration": 200, "turn_jerk": 20000,
        },
        "latency": 0, "clock_error": 0.001,
        "gripper": {
            "model": "cell", "mount": [[1, 0, 0, -0.055], [0, 1, 0, 0], [0, 0, 1, -0.06], [0, 0, 0, 1]],
            "scale": 1, "stroke": 0.2, "latency": 0, "clock_error": 0.001,
        },
        "camera": {"latency": 0, "clock_error": 0.001},
    }  # fmt: skip
    safety = {
        "table_height": -1, "table_clearance": 0, "arm_clearance": 0.01, "slow_within": 0.02, "joint_margin": 0.1,
        "singularity_slow": 0.06, "singularity_stop": 0.02, "tracking_error_m": 0.05, "tracking_error_rad": 0.2,
        "max_age": 0.25, "max_skew": 0.05, "command_timeout": 0.8, "faults_per_minute": 6, "fault_seconds": 1,
    }  # fmt: skip
    robot = {"name": "fake", "kind": "cell", "arms": {s: arm for s in sides}, "safety": safety}
    return RobotSettings(**robot).changed(changes or {})


class ConstantPolicy:
    """Every chunk moves both policy frames by `step` along their x axis each 1/30 s and closes slowly."""

    keeps_promises, longest_promise, patience = False, HORIZON, None

    def __init__(self, step=0.005, *, invalid=()):
        self.step, self.invalid, self.seeds, self.seen, self.promised = step, set(invalid), [], [], []

    def predict(self, observations, *, seed=None, promised=None):
        (observation,) = observations
        call = len(self.seen)
        self.promised.append(None if promised is None else promised[0])
        self.seeds.append(seed)
        self.seen.append(observation)
        if call in self.invalid:
            return [ActionChunk(np.zeros((HORIZON, 20)), valid=False, reason="token 3 is out of range")]
        return [ActionChunk(self.values())]

    def values(self):
        motion = np.repeat(np.eye(4)[None], HORIZON, axis=0)
        motion[:, 0, 3] = self.step * np.arange(1, HORIZON + 1)
        widths = 0.08 - 0.001 * np.arange(1, HORIZON + 1)
        return chunk_from_poses(
            {s: np.eye(4) for s in SIDES}, {s: motion for s in SIDES}, {s: widths for s in SIDES}
        )
