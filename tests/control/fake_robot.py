"""A robot made of nothing, on a virtual clock, and policies made of nothing: for fast tests of the loop."""

from __future__ import annotations

import numpy as np

from rdt2.action import HORIZON, ActionChunk, chunk_from_poses
from rdt2.robot import ArmState, Frame, GripperState, PoseTrajectory, Robot, WidthTrajectory

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


class FakeArm:
    """Is always exactly where it was told to be."""

    def __init__(self, clock, side):
        self.clock = clock
        pose = np.diag([1.0, -1.0, -1.0, 1.0])
        pose[:3, 3] = 0, -0.25 if side == "right" else 0.25, 0.25
        self.trajectory = PoseTrajectory(pose, clock.now())
        self.scheduled, self.holds, self.broken, self.frozen = [], 0, False, None

    def state(self):
        now = self.clock.now()
        pose = self.trajectory.at(now).copy()
        if self.broken:
            pose[0, 3] = np.nan
        return ArmState(now if self.frozen is None else self.frozen, pose, np.zeros(6))

    def schedule(self, pose, time):
        self.scheduled.append((self.clock.now(), time, pose))
        return self.trajectory.schedule(pose, time, now=self.clock.now())

    def hold(self):
        self.holds += 1
        self.trajectory.hold(now=self.clock.now())


class FakeGripper:
    def __init__(self, clock):
        self.clock, self.trajectory, self.scheduled, self.holds = (
            clock,
            WidthTrajectory(0.08, clock.now()),
            [],
            0,
        )

    def state(self):
        return GripperState(self.clock.now(), self.trajectory.at(self.clock.now()))

    def schedule(self, width, time):
        self.scheduled.append((self.clock.now(), time, width))
        return self.trajectory.schedule(width, time, now=self.clock.now())

    def hold(self):
        self.holds += 1
        self.trajectory.hold(now=self.clock.now())


class FakeCamera:
    def __init__(self, clock):
        self.clock, self.delay, self.stuck = clock, 0.0, None

    def read(self):
        return Frame(self.clock.now() - self.delay if self.stuck is None else self.stuck, PICTURE)


def fake_robot(policy_to_tcp=None):
    clock = FakeClock()
    change = np.eye(4) if policy_to_tcp is None else policy_to_tcp
    return Robot(
        arms={s: FakeArm(clock, s) for s in SIDES},
        grippers={s: FakeGripper(clock) for s in SIDES},
        cameras={s: FakeCamera(clock) for s in SIDES},
        clock=clock,
        policy_to_tcp={s: change for s in SIDES},
        name="fake",
    )


class ConstantPolicy:
    """Every chunk moves both policy frames by `step` along their x axis each 1/30 s and closes slowly."""

    def __init__(self, step=0.005, *, invalid=()):
        self.step, self.invalid, self.seeds, self.seen = step, set(invalid), [], []

    def predict(self, observations, *, seed=None):
        (observation,) = observations
        call = len(self.seen)
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
