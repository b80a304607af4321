"""A dry run: one observation, the chunk for it, and what the guard would make of that. Nothing is enabled."""

from __future__ import annotations

import time as wall
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.action import ActionChunk
from rdt2.control.guard import Guard
from rdt2.control.held import Held, HeldBack
from rdt2.control.looking import Eyes, observed
from rdt2.control.plan import PERIOD, Plan, place
from rdt2.control.result import Cycle
from rdt2.control.servo import TICK
from rdt2.control.watch import Watch
from rdt2.dashboard.messages import Chunk, Pictures, Shot
from rdt2.errors import RDT2Error, RobotError
from rdt2.robot.kinematics import rotation_vector

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.guard import Commanded
    from rdt2.dashboard.figure import Figure
    from rdt2.observation import Observation
    from rdt2.policy import Policy
    from rdt2.robot import ArmState, Frame, Robot
    from rdt2.robot.settings import RobotSettings

FIRST_PICTURES = 10.0
"""Seconds in which every camera must have given a picture."""


@dataclass(frozen=True, eq=False)
class Row:
    """What a policy asks of one arm at one step, from where the arm is."""

    side: str
    step: int
    """1 is the next."""
    move: Float[ndarray, " 3"]
    """Of the TCP along the cell's axes, metres."""
    turn: float
    """Radians."""
    width: float
    """Opening, metres."""
    made: Float[ndarray, " 3"]
    """What the guard would have made of the move by then."""


@dataclass(frozen=True, eq=False)
class Preview:
    """What would have happened."""

    observation: Observation
    chunk: ActionChunk
    plan: Plan
    states: Mapping[str, ArmState]
    widths: Mapping[str, float]
    """Measured openings, metres."""
    seconds: float
    """The prediction took."""
    doubts: list[str]
    """Why the loop would not have acted upon it."""
    held: list[Held]
    """What the guard would have held back; times in seconds since the chunk began."""
    commands: list[Commanded]
    """What the guard would have made of the chunk, one a tick; empty where it could not begin."""

    def rows(self, steps: tuple[int, ...] = (1, 6, 12, 18, 24)) -> list[Row]:
        """Some steps of the chunk, in numbers."""
        found = []
        for side, poses in self.plan.poses.items():
            here = self.states[side].pose
            for step in steps:
                move = poses[step][:3, 3] - here[:3, 3]
                turn = float(np.linalg.norm(rotation_vector(poses[step][:3, :3] @ here[:3, :3].T)))
                made = np.full(3, np.nan)
                if self.commands:
                    tick = min(round(step * PERIOD / TICK), len(self.commands)) - 1
                    made = self.commands[tick].poses[side][:3, 3] - here[:3, 3]
                found.append(Row(side, step, move, turn, float(self.plan.widths[side][step]), made))
        return found

    def messages(self, figure: Figure) -> list[Pictures | Chunk | Shot]:
        """What shows it on the operator's page and in rerun."""
        now = self.observation.timestamp or 0.0
        measured = {side: state.pose for side, state in self.states.items()}
        cycle = Cycle(0.0, measured, self.plan, self.seconds)
        images = {side: getattr(self.observation, side) for side in self.states}
        places = figure.places(self.states, self.widths)
        shots = [
            Shot(
                now + TICK * k, TICK * k, places, measured, dict(self.widths),
                made=dict(command.poses), made_widths=dict(command.widths), held=command.slowed,
            )
            for k, command in enumerate(self.commands)
        ]  # fmt: skip
        return [
            Shot(now, 0.0, places, measured, dict(self.widths)),
            Pictures(now, images, self.observation.instruction),
            Chunk.of(cycle, self.seconds),
            *shots,
        ]


def preview(
    robot: Robot, settings: RobotSettings, policy: Policy, sentence: str, *, seed: int | None = 0
) -> Preview:
    """Look once, and ask the policy; no device is enabled and none is sent a command.

    Args:
        robot: connected.
        settings: of it.
        policy: what predicts.
        sentence: what is asked for.
        seed: of the policy's noise.

    Raises:
        RobotError: a device gives no state, or a camera no picture. ActionError: the chunk is not valid.
    """
    frames = _pictures(robot)
    states = {side: arm.state() for side, arm in robot.arms.items()}
    widths = {side: gripper.state().width for side, gripper in robot.grippers.items()}
    doubts = _doubts(robot, settings, frames, states)
    poses = {side: np.asarray(state.pose, dtype=np.float64) for side, state in states.items()}
    observation = observed(settings, sentence, frames, poses, widths)
    began = wall.perf_counter()
    (chunk,) = policy.predict([observation], seed=seed)
    seconds = wall.perf_counter() - began
    chunk.require_valid()
    arms = settings.arms
    plan = place(
        chunk,
        poses,
        {side: arm.policy_to_tcp for side, arm in arms.items()},
        observed=0.0,
        begins=0.0,
        gripper_scale={side: arm.gripper.scale for side, arm in arms.items()},
        width=widths,
    )
    held = HeldBack(TICK)
    commands: list[Commanded] = []
    try:
        guard = Guard(settings, settings.kinematics(), period=TICK)
        openings = {side: float(np.clip(widths[side], 0.0, arm.gripper.stroke)) for side, arm in arms.items()}
        guard.start(poses, {side: state.joints for side, state in states.items()}, openings)
        for time in np.arange(TICK, plan.ends, TICK):
            wishes = {side: plan.pose(side, time) for side in poses}
            commands.append(guard.step(wishes, {side: plan.width(side, time) for side in poses}))
            held.note(float(time), commands[-1].slowed)
    except RDT2Error as error:
        doubts.append(str(error))
    return Preview(observation, chunk, plan, states, widths, seconds, doubts, held.found, commands)


def _pictures(robot: Robot) -> dict[str, Frame]:
    """The first pictures of all cameras; a camera may take a while for its first."""
    for side, camera in robot.cameras.items():
        try:
            camera.enable()  # which moves nothing: it has to stream
        except RDT2Error as error:
            raise RobotError(f"the {side} camera cannot be enabled: {error}") from error
    eyes, until = Eyes(robot), wall.monotonic() + FIRST_PICTURES
    try:
        while True:
            try:
                if (frames := eyes.look()) is not None:
                    return frames
            except RDT2Error:
                if wall.monotonic() > until:
                    raise
            wall.sleep(0.05)
    finally:
        eyes.close()


def _doubts(
    robot: Robot, settings: RobotSettings, frames: Mapping[str, Frame], states: Mapping[str, ArmState]
) -> list[str]:
    """Why the loop would not act upon these."""
    found, watch, now = [], Watch(settings), robot.clock.now()
    try:
        watch.states(states, {side: gripper.state() for side, gripper in robot.grippers.items()}, now=now)
        watch.pictures(frames, lambda side, _: states[side].pose, now=now)
    except RDT2Error as error:
        found.append(str(error))
    return found
