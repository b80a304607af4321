"""The scripted expert: moves the handheld grippers as a person collecting data does, and records what it did.

It is a feedback law, not a replayed path: at every 1/30 s the motion is computed from where the hand and
the object are now. A policy that sees only two pictures can therefore imitate it, and wherever the hand is
pushed the next motion is a correction. Recorded episodes hold much of that: a third begin from odd places, many
are disturbed on the way, and in many the hand first misses: it goes down beside the object, slides over the
table, pushes it away, closes on nothing, drops it beside the bowl. What a policy meets after its own mistakes has
then been seen. Nothing that was done *to* the hand is ever a training target: a frame is written only if the 24
steps that follow it are the demonstrator's own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, FPS
from rdt2.robot import Robot
from rdt2.sim.cell import Cell
from rdt2.sim.gripper import tcp_rotation
from rdt2.sim.manner import Disturbance, Manner
from rdt2.sim.scene import ObjectSpec
from rdt2.sim.tasks import Task

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

STEP = 1.0 / FPS
"""Seconds between two commands."""

# Heights of the TCP above the table, metres. The rubber pads reach 10 mm beyond the TCP.
_LOWEST = 0.016
_HOVER = 0.100
_CARRY = 0.140
_RELEASE = 0.082
_BUTTON_TOP = 0.017
"""Top of a button's cap above the cap's own frame."""
_PAD = 0.010
_PRESS_DEPTH = 0.0085
_RETREAT = 0.10

_SPEED = 0.34
_VERTICAL_SPEED = 0.26
_SLOWEST = 0.035
_GAIN = 5.5
"""1/s: within 6 cm of its goal the hand slows down in proportion to the way left."""
_ACCELERATION = 3.0
_JAW_SPEED = 0.22
"""m/s of the opening: 0.088 m in 0.4 s."""
_SQUEEZE = 0.012
"""Fingers so much further apart than asked for hold something, metres."""
_SLIDE_X, _SLIDE_Y = 0.30, 0.42
"""A hand that slides along the table stays within these of its middle, metres."""


_Motion = tuple[np.ndarray, np.ndarray, float]
"""Of one step: velocity (3,) m/s, rotation (3, 3) in the cell's frame, speed of the opening m/s."""


@dataclass
class Demonstrator:
    """Does one task with one hand through the robot protocols; call `step` every 1/30 s until it returns
    False.

    The true poses of objects come from the cell, as a person's eyes would give them.
    """

    cell: Cell
    robot: Robot
    task: Task
    manner: Manner
    phase: str = "reach"
    disturbed: bool = False
    """Whether what moves the hand in this step is not the demonstrator."""
    width: dict[str, float] = field(default_factory=dict)
    """Commanded opening of both grippers now, metres. It is the recorded width: what a trigger asks for.
    Around a held object it is smaller than the measured one, which is what holds the object."""

    def __post_init__(self) -> None:
        self.side = self.task.hand
        self.item: ObjectSpec = self.cell.scene.object(self.task.target)
        self.table = self.cell.scene.table_height
        self.pose = {arm: self.robot.arms[arm].state().pose for arm in ARMS}
        self.width = {arm: self.robot.grippers[arm].state().width for arm in ARMS}
        self._rest = self.pose[other_hand(self.side)].copy()
        self._velocity, self._jaw = np.zeros(3), 0.0
        self._pending = list(self.manner.disturbances)
        self._active: Iterator[_Motion] | None = None
        self._yaw = self._grasp_yaw()
        self._still = 0
        self._top = 0.0
        self._tick = 0

    # -- goals

    def _grasp_yaw(self) -> float:
        """Jaws across the narrow side where that needs little turning, else as the hand is."""
        now = _yaw(self.pose[self.side][:3, :3], self.side)
        period = {"cube": np.pi / 2, "brick": np.pi, "bar": np.pi}.get(self.item.shape)
        if period is None:
            return now
        x_axis = self.cell.object_pose(self.item.name)[:3, 0]
        turn = (np.arctan2(x_axis[1], x_axis[0]) - now + period / 2) % period - period / 2
        return now + float(np.clip(turn, -np.deg2rad(25), np.deg2rad(25)))

    def _target_rotation(self) -> Float[ndarray, "3 3"]:
        return Rotation.from_euler("xy", self.manner.tilt).as_matrix() @ tcp_rotation(
            self.side, yaw=self._yaw
        )

    def _reach_goal(self) -> Float[ndarray, " 3"]:
        goal = self.cell.object_pose(self.item.name)[:3, 3].copy()
        if self.item.kind == "button":
            goal[2] += _BUTTON_TOP + _PAD + 0.004
        else:
            goal[2] = max(goal[2], self.table + _LOWEST)
        return goal

    # -- one step

    def step(self) -> bool:
        """Command the next 1/30 s of both hands. False when the task is done and the hand has been still."""
        arm, now = self.pose[self.side], self.robot.clock.now()
        velocity, rotate, jaw = self._intend()
        self._jaw = jaw
        suffered = next(self._active, None) if self._active is not None else None
        self.disturbed = suffered is not None
        if suffered is not None:
            velocity, rotate, jaw = suffered
        else:
            self._active = None
        change = velocity - self._velocity
        limit = _ACCELERATION * self.manner.speed * STEP
        if not self.disturbed and np.linalg.norm(change) > limit:
            velocity = self._velocity + change * (limit / np.linalg.norm(change))
        self._velocity = velocity
        pose = arm.copy()
        pose[:3, 3] += velocity * STEP
        pose[2, 3] = max(pose[2, 3], self.table + _LOWEST - 0.003)
        pose[:3, :3] = rotate @ arm[:3, :3]
        self.pose[self.side] = pose
        self.width[self.side] = float(np.clip(self.width[self.side] + jaw * STEP, 0.0, 0.088))
        self._tick += 1
        idle = self._rest.copy()
        idle[:3, 3] += np.array(self.manner.sway) * np.sin(
            2 * np.pi * np.array([0.31, 0.23, 0.27]) * self._tick * STEP
        )
        self.pose[other_hand(self.side)] = idle
        poses = {side: self.pose[side][None] for side in ARMS}
        widths = {side: np.array([self.width[side]]) for side in ARMS}
        self.robot.execute(np.array([now + STEP]), poses, widths)
        return self.phase != "done"

    def _intend(self) -> _Motion:
        """What the demonstrator wants now."""
        position = self.pose[self.side][:3, 3]
        rotate, angle = self._turn_towards(self._target_rotation())
        width, wide = self.width[self.side], self.manner.open_width
        closing, opening = -_JAW_SPEED * self.manner.speed, _JAW_SPEED * self.manner.speed
        stay = np.zeros(3)
        if self.phase == "reach":
            goal = self._reach_goal()
            press = self.item.kind == "button"
            jaw = closing if press and width > 0 else opening if not press and width < wide - 0.003 else 0.0
            hover = goal[2] + 0.022 if press else self.table + _HOVER
            ready = width < 0.005 if press else width > wide - 0.012
            self._begin_disturbance("reach", float(np.linalg.norm(goal - position)))
            near = _arrived(position, goal, 0.003 if press else 0.007)
            if self._active is None and ready and angle < np.deg2rad(3) and near:
                self.phase = "press" if press else "close"
                return stay, rotate, jaw if press else closing
            return self._towards(position, goal, hover, ready=ready), rotate, jaw
        if self.phase == "close":
            # Fingers that are held apart squeeze: that is to be seen, unlike how far they would have closed.
            if width <= 0.0 or self._opening() - width > _SQUEEZE:
                self.phase = "lift"
            return self._straight(position, self._reach_goal(), 1.0), rotate, closing
        if self.phase == "press":
            cap = self.cell.object_pose(self.item.name)[:3, 3]
            goal = np.array([cap[0], cap[1], self._pressed_height()])
            if position[2] - goal[2] < 0.001:
                # The finger stays on it: a button looks the same before and after, and a hand that rose from it
                # again would look like one that has yet to come down.
                self.phase = "still"
            return self._straight(position, goal, 0.45), rotate, 0.0
        if self.phase in ("lift", "carry") and not self._holding():
            # It slipped or was never between the jaws: open and begin again.
            self.phase, self._yaw = "reach", self._grasp_yaw()
            return stay, rotate, opening
        if self.phase == "lift":
            goal = np.array([*position[:2], self.table + self.manner.lift])
            if self.task.kind == "place" and position[2] > self.table + _CARRY - 0.05:
                self.phase = "carry"
            elif abs(goal[2] - position[2]) < 0.002:
                self.phase = "still"
            return self._straight(position, goal, 1.0), rotate, closing
        if self.phase == "carry":
            bowl = self.cell.object_pose("bowl")[:3, 3]
            goal = np.array([bowl[0], bowl[1], self.table + _RELEASE])
            self._begin_disturbance("carry", float(np.linalg.norm(goal - position)))
            if self._active is None and _arrived(position, goal, 0.006):
                self.phase = "release"
                return stay, rotate, opening
            return (
                self._towards(position, goal, self.table + _CARRY, ready=True, climb=False),
                rotate,
                closing,
            )
        if self.phase == "release":
            if width >= wide - 0.002:
                self.phase = "retreat"
                self._top = self.table + _RELEASE + _RETREAT
            return stay, rotate, opening
        if self.phase == "retreat":
            goal = np.array([*position[:2], self._top])
            if abs(goal[2] - position[2]) < 0.002:
                self.phase = "still"
            return self._straight(position, goal, 1.0), rotate, 0.0
        self._still += 1
        if self._still >= (1.0 if self.task.kind == "pick" else 0.7) * FPS:
            self.phase = "done"
        return stay, np.eye(3), closing if self.task.kind == "pick" else 0.0

    def _pressed_height(self) -> float:
        return self.table + 0.018 + _BUTTON_TOP - _PRESS_DEPTH + _PAD

    def _holding(self) -> bool:
        item = self.cell.object_pose(self.item.name)[:3, 3]
        near = np.linalg.norm(item - self.pose[self.side][:3, 3]) < 0.035
        return bool(near and self._opening() > _SQUEEZE)

    def _opening(self) -> float:
        """Measured."""
        return self.robot.grippers[self.side].state().width

    # -- fields of motion

    def _speed(self, distance: float, fastest: float) -> float:
        """m/s: proportional to the way left, with a floor so that the end is reached, never beyond it."""
        return min(max(_SLOWEST, min(fastest, _GAIN * distance)) * self.manner.speed, distance / STEP)

    def _straight(self, position: ndarray, goal: ndarray, share: float) -> Float[ndarray, " 3"]:
        way = goal - position
        distance = float(np.linalg.norm(way))
        return way / max(distance, 1e-9) * self._speed(distance, share * _VERTICAL_SPEED)

    def _towards(
        self, position: ndarray, goal: ndarray, hover: float, *, ready: bool, climb: bool = True
    ) -> Float[ndarray, " 3"]:
        """Along a funnel: high while far from above the goal, down as the horizontal way shrinks.

        Below the funnel's wall the hand rises before it goes sideways, so that it clears what stands around.
        ``ready``: False keeps it at hover height while the jaws move.
        """
        way = goal[:2] - position[:2]
        distance = float(np.linalg.norm(way))
        inside = float(np.clip((distance - 0.008) / 0.042, 0.0, 1.0))
        wall = goal[2] + (hover - goal[2]) * inside**2 * (3 - 2 * inside)
        if climb:
            wall += 0.35 * min(max(distance - 0.05, 0.0), 0.30)
        if not ready:
            wall = max(wall, hover)
        lack = wall - position[2]
        share = float(np.clip(1.0 - (lack - 0.012) / 0.03, 0.0, 1.0))
        along = way / max(distance, 1e-9)
        across = np.array([-along[1], along[0]]) * self.manner.curve * distance / (distance + 0.08)
        horizontal = (along + across) * self._speed(distance, _SPEED) * share
        vertical = np.sign(lack) * self._speed(abs(lack), _VERTICAL_SPEED)
        return np.array([*horizontal, vertical])

    def _turn_towards(self, rotation: ndarray) -> tuple[Float[ndarray, "3 3"], float]:
        """The rotation of this step (in the cell's frame) and the angle left, rad."""
        left = Rotation.from_matrix(rotation @ self.pose[self.side][:3, :3].T).as_rotvec()
        angle = float(np.linalg.norm(left))
        rate = min(max(0.2, min(1.3, 4.0 * angle)) * self.manner.speed, angle / STEP)
        return Rotation.from_rotvec(left / max(angle, 1e-9) * rate * STEP).as_matrix(), angle

    # -- what happens to the hand

    def _begin_disturbance(self, phase: str, distance: float) -> None:
        for number, disturbance in enumerate(self._pending):
            if self._active is None and disturbance.phase == phase and distance < disturbance.distance:
                suffer = {
                    "push": self._be_pushed, "close": self._close_early, "miss": self._miss, "drop": self._drop
                }  # fmt: skip
                self._active = suffer[disturbance.kind](self._pending.pop(number))
                return

    def _be_pushed(self, disturbance: Disturbance) -> Iterator[_Motion]:
        """Moved by half a sine of velocity, the jaws as they were going."""
        steps = max(2, round(disturbance.seconds * FPS))
        for tick in range(steps):
            weight = np.sin(np.pi * (tick + 0.5) / steps) * np.sin(np.pi / (2 * steps))  # sums to one
            shift = np.array(disturbance.shift)
            height = self.pose[self.side][2, 3] - self.table
            if height < 0.09:
                # Low among objects a push goes up rather than sideways through them.
                shift = np.array([0.45 * shift[0], 0.45 * shift[1], abs(shift[2])])
            elif height + shift[2] < 0.09:
                shift[2] = 0.09 - height
            turn = Rotation.from_rotvec(np.array(disturbance.turn) * weight).as_matrix()
            yield shift * weight / STEP, turn, self._jaw

    def _close_early(self, disturbance: Disturbance) -> Iterator[_Motion]:
        for _ in range(max(2, round(disturbance.seconds * FPS))):
            yield np.zeros(3), np.eye(3), -_JAW_SPEED

    def _miss(self, disturbance: Disturbance) -> Iterator[_Motion]:
        yield from self._go_astray(self._reach_goal() + disturbance.shift, disturbance.seconds)
        if any(disturbance.slide):
            yield from self._slide(*disturbance.slide)
        while disturbance.closes and self.width[self.side] > 0:
            yield np.zeros(3), np.eye(3), -_JAW_SPEED
        yield from self._go_astray(
            self.pose[self.side][:3, 3] + (0, 0, disturbance.rise), disturbance.seconds
        )
        if disturbance.closes and self._holding():
            self.phase = "lift"

    def _slide(self, distance: float, beside: float) -> Iterator[_Motion]:
        position = self.pose[self.side][:3, 3]
        way = self._reach_goal() - position
        heading = np.arctan2(way[1], way[0]) + beside
        goal = position + distance * np.array([np.cos(heading), np.sin(heading), 0.0])
        goal[:2] = np.clip(goal[:2], (-_SLIDE_X, -_SLIDE_Y), (_SLIDE_X, _SLIDE_Y))
        yield from self._go_astray(goal, 1.5)

    def _drop(self, disturbance: Disturbance) -> Iterator[_Motion]:
        bowl = self.cell.object_pose("bowl")[:3, 3] + (0, 0, _RELEASE)
        yield from self._go_astray(bowl + disturbance.shift, disturbance.seconds)
        while self.width[self.side] < self.manner.open_width:
            yield np.zeros(3), np.eye(3), _JAW_SPEED

    def _go_astray(self, goal: ndarray, seconds: float) -> Iterator[_Motion]:
        """Straight to where the demonstrator would not go."""
        for _ in range(round(seconds * FPS)):
            position = self.pose[self.side][:3, 3]
            if _arrived(position, goal):
                return
            yield self._straight(position, goal, 1.0), np.eye(3), 0.0


def other_hand(side: str) -> str:
    """The hand that is not this one."""
    return "left" if side == "right" else "right"


def _arrived(position: ndarray, goal: ndarray, tolerance: float = 0.003) -> bool:
    return bool(
        np.linalg.norm(goal[:2] - position[:2]) < tolerance and abs(goal[2] - position[2]) < tolerance
    )


def _yaw(rotation: ndarray, side: str) -> float:
    """Yaw of a hand that points roughly down, by the direction of its camera."""
    reference = tcp_rotation(side)
    angle = np.arctan2(rotation[1, 0], rotation[0, 0]) - np.arctan2(reference[1, 0], reference[0, 0])
    return float((angle + np.pi) % (2 * np.pi) - np.pi)
