"""Whatever a policy answers, and however late: what a robot is told stays within all limits and in the workspace.

The way of a chunk through the whole loop on a virtual clock: placed, blended or promised, driven by the servo, held by
the leash. `test_guard_fuzz.py` asks the guard alone, and looks at much more.
"""

from __future__ import annotations

import dataclasses
import math
import os

import numpy as np
import pytest
from fake_robot import SIDES, fake_robot, fake_settings
from guarded import CALM, PERIOD, norms
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rdt2.action import FPS, HORIZON, ActionChunk, chunk_from_poses
from rdt2.control import LoopConfig, run_episode

EXAMPLES = 1 + int(os.environ.get("RDT2_SAFETY_EXAMPLES", "1000")) // 30
SECONDS = 1.6
"""Of each episode: in 0.5 s the first chunk may come, and drives the arms for 0.8 s at most."""
ROBOT = fake_settings({
    **{f"arms.{side}.bounds": CALM.model_copy(update={"low": (-0.25, -0.6, 0.1)}).model_dump() for side in SIDES},
    "safety.faults_per_minute": 600, "safety.fault_seconds": 60,
})  # fmt: skip

unit = st.integers(-2, 2)
answers = st.fixed_dictionaries({
    "kind": st.sampled_from(
        ["line", "line", "line", "jump", "to and fro", "leap", "NaN", "no rotation", "invalid"]
    ),
    "ways": st.tuples(*[st.tuples(unit, unit, unit)] * 2),
    "turns": st.tuples(*[st.tuples(unit, unit, unit)] * 2),
    "speed": st.sampled_from([0.2, 1.0, 4.0]),
    "widths": st.sampled_from([0.0, 0.05, 0.088, -0.3, 5.0]),
    "column": st.integers(0, 19),
    "delay": st.sampled_from([0.0, 0.0, 0.03, 0.2]),
})  # fmt: skip


@st.composite
def configs(draw):
    """A latency, and a mode and steps that are possible with it: with d steps meanwhile, d <= H - d and s <= H - d."""
    latency = draw(st.floats(0.0, 0.5))
    delay = 1 + math.ceil((latency + 2 * PERIOD) * FPS)  # a look and an answer may be a step and a tick late
    modes = ["synchronous", "asynchronous", "chunking"] if 2 * delay <= HORIZON else ["synchronous"]
    mode = draw(st.sampled_from(modes))
    steps = draw(st.integers(1, HORIZON if mode == "synchronous" else HORIZON - delay))
    return LoopConfig(
        mode=mode, execute_steps=steps, latency=latency, blend=draw(st.sampled_from([0.0, 0.1]))
    )


def chunk(answer):
    """24 rows of both arms, of a policy that has gone wrong in one way or another."""
    rows, kind = np.arange(1, HORIZON + 1), answer["kind"]
    share = {
        "jump": np.full(HORIZON, HORIZON),
        "to and fro": (-1.0) ** rows,
        "leap": 10.0 * (rows == 12),
    }.get(kind, rows)
    steps = {}
    for side, way, turn in zip(SIDES, answer["ways"], answer["turns"], strict=True):
        steps[side] = np.repeat(np.eye(4)[None], HORIZON, axis=0)
        steps[side][:, :3, 3] = answer["speed"] / FPS * share[:, None] * np.array(way)
        turned = answer["speed"] / FPS * share[:, None] * np.array(turn)
        steps[side][:, :3, :3] = Rotation.from_rotvec(turned).as_matrix()
    begins, widths = {s: np.eye(4) for s in SIDES}, {s: np.full(HORIZON, answer["widths"]) for s in SIDES}
    values = chunk_from_poses(begins, steps, widths)
    if kind == "invalid":
        return ActionChunk(np.full_like(values, np.nan), valid=False, reason="a test")
    if kind == "no rotation":
        values[7, 3:9] = 0.0
    made = ActionChunk(values)
    if kind == "NaN":  # no chunk can be made with it: of a policy that changes what it has made
        values = made.values.copy()
        values[12, answer["column"]] = np.nan
        object.__setattr__(made, "values", values)
    return made


class Wild:
    """Answers one thing after the other, and keeps no promise; pictures come late as well."""

    keeps_promises, longest_promise, patience = True, HORIZON, None

    def __init__(self, robot, answers):
        self.robot, self.answers, self.asked = robot, answers, 0

    def predict(self, observations, *, seed=None, promised=None):
        answer = self.answers[self.asked % len(self.answers)]
        self.asked += 1
        for camera in self.robot.cameras.values():
            camera.delay = answer["delay"]
        return [chunk(answer)]


def hold(arm, play):
    """Let something hold an arm: along x it moves by no more than this, metres, to and fro, whatever it is told."""
    state = arm.state

    def held():
        seen = state()
        pose = seen.pose.copy()
        pose[0, 3] = np.clip(pose[0, 3], -play, play)
        return dataclasses.replace(seen, pose=pose)

    arm.state = held


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize="RDT2_SAFETY_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    config=configs(), answers=st.lists(answers, min_size=2, max_size=6),
    play=st.sampled_from([np.inf, 0.02]),
)  # fmt: skip
@pytest.mark.timeout(6 * 3600)
def test_no_chunk_leads_a_robot_past_its_limits(config, answers, play):
    robot = fake_robot(honest=True)
    began = {side: arm.state().pose for side, arm in robot.arms.items()}
    hold(robot.arms["left"], play)
    result = run_episode(
        robot, Wild(robot, answers), "Pick up the red cube with the left hand.", settings=ROBOT, config=config,
        max_seconds=SECONDS,
    )  # fmt: skip
    assert "Error: " not in result.ending, "what was raised was foreseen"
    assert "heard nothing" not in result.ending
    assert "outside of the stroke" not in result.ending
    assert result.ending == "time is up" or (play < np.inf and "left arm" in result.ending), result.ending
    for side, arm in robot.arms.items():
        bounds = ROBOT.arms[side].bounds
        most = [
            bounds.speed, bounds.acceleration, bounds.jerk,
            bounds.turn_rate, bounds.turn_acceleration, bounds.turn_jerk,
        ]  # fmt: skip
        due = np.array([times[0] for _, times, _ in arm.calls])
        told = [poses[0] for *_, poses in arm.calls]
        np.testing.assert_allclose(np.diff(due), PERIOD, atol=1e-6)
        # what stands still before the first command counts
        assert np.divide(norms([began[side]] * 3 + told), most).max() <= 1.0 + 1e-6
        places = np.stack(told)[:, :3, 3]
        assert np.maximum(bounds.low - places, places - bounds.high).max() <= 1e-6
        assert all(len(times) == 1 for _, times, _ in arm.calls), "nothing was told that was not looked at"
    assert all(device.health().stopped for name, device in robot.devices() if "camera" not in name)
    robot.clock.time += 1.0
    rest = {side: arm.state().pose for side, arm in robot.arms.items()}
    robot.clock.time += 1.0
    for side, arm in robot.arms.items():
        np.testing.assert_array_equal(arm.state().pose, rest[side])
