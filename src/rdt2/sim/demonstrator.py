"""The scripted expert: moves the handheld grippers as a person collecting data does, and records what it did.

It is a feedback law, not a replayed path: at every 1/30 s the motion is computed from where the hand and
the object are now. A policy that sees only two pictures can therefore imitate it, and wherever the hand is
pushed the next motion is a correction. Recorded episodes hold much of that: a third begin from odd places,
many are disturbed on the way. Nothing that was done *to* the hand is ever a training target: a frame is
written only if the 24 steps that follow it are the demonstrator's own.

    record_dataset("data/", episodes=900, seed=0, stride=3, workers=2)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, FPS, HORIZON
from rdt2.errors import ConfigError, TaskError
from rdt2.robot.protocols import Robot
from rdt2.sim.cell import Cell
from rdt2.sim.gripper import tcp_rotation
from rdt2.sim.scene import TASK_KINDS, ObjectSpec, Scene, Start, make_scene
from rdt2.sim.tasks import Monitor, Task, task_for

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.random import Generator

TASK_MIX = {"pick": 0.45, "place": 0.35, "press": 0.20}
FIRST_SCENE_SEED = 1_000_000_000
"""Scenes of recordings have seeds from here on, so that smaller seeds are never trained on."""
EPISODES_PER_SHARD = 40
_ATTEMPTS = 6
_STEP = 1.0 / FPS

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
_LONGEST = 12.0


# ------------------------------------------------------------------------------------------------- one person


@dataclass(frozen=True)
class Manner:
    """How one episode is done: what differs between people and between days."""

    speed: float
    curve: float
    """Sideways part of the motion far from the goal; 0 is straight."""
    tilt: tuple[float, float]
    """Radians by which the grasping hand is not quite vertical."""
    lift: float
    """Height of the TCP above the table where a lifted object is held."""
    open_width: float
    sway: tuple[float, float, float]
    """Amplitude of the idle hand's sway, metres."""
    disturbances: tuple[Disturbance, ...]


@dataclass(frozen=True)
class Disturbance:
    """Something that happens to the hand once the way left is shorter than ``distance``."""

    kind: Literal["push", "close"]
    phase: Literal["reach", "carry"]
    distance: float
    seconds: float
    shift: tuple[float, float, float]
    turn: tuple[float, float, float]


def draw_manner(rng: Generator, *, kind: str, open_width: float) -> Manner:
    """Draw the manner of an episode."""
    return Manner(
        speed=float(np.clip(rng.normal(1.0, 0.12), 0.7, 1.3)),
        curve=float(np.clip(rng.normal(0.0, 0.10), -0.25, 0.25)),
        tilt=tuple(np.deg2rad(rng.normal(0.0, 1.2, 2)).tolist()),  # type: ignore[arg-type]
        lift=float(rng.uniform(0.17, 0.19)),
        open_width=open_width,
        sway=tuple(rng.uniform(0.0, 0.0005, 3).tolist()),  # type: ignore[arg-type]
        disturbances=tuple(_draw_disturbances(rng, kind)),
    )


def _draw_disturbances(rng: Generator, kind: str) -> Iterator[Disturbance]:
    count = int(rng.choice([0, 1, 2], p=[0.40, 0.42, 0.18]))
    for _ in range(count):
        phase: Literal["reach", "carry"] = "carry" if kind == "place" and rng.random() < 0.35 else "reach"
        closes = kind != "press" and phase == "reach" and rng.random() < 0.15
        direction = rng.normal(size=3) * (1.0, 1.0, 0.7)
        shift = direction / np.linalg.norm(direction) * rng.uniform(0.015, 0.09)
        turn = rng.normal(size=3) * np.deg2rad((3.0, 3.0, 5.0))
        # Half of them near the goal, where precision is learnt.
        distance = rng.uniform(0.004, 0.05) if rng.random() < 0.5 else rng.uniform(0.05, 0.30)
        yield Disturbance(
            kind="close" if closes else "push",
            phase=phase,
            distance=float(distance),
            seconds=float(rng.uniform(0.2, 0.45)),
            shift=tuple(shift.tolist()),
            turn=tuple(turn.tolist()),
        )


def perturbed_start(rng: Generator, scene: Scene, side: str) -> Start:
    """A place for the working hand that is not where hands wait: around, above, or beside the target,
    sometimes low.

    At places lower than the objects' tops the hand is clear of all of them.
    """
    target = scene.object(scene.target)
    inward = 1.0 if side == "right" else -1.0
    low = rng.random() < 0.35
    close = rng.random() < 0.4
    for _ in range(500):
        spread = 0.06 if close else 0.125
        offset = rng.uniform(-spread, spread, 2)
        z = rng.uniform(0.025, 0.09) if low else rng.uniform(0.09, 0.28)
        x, y = np.add(target.position, offset)
        clear = min(float(np.hypot(x - o.position[0], y - o.position[1])) - o.radius for o in scene.objects)
        if (z > 0.105 or clear > 0.060) and inward * y < 0.14:
            break
    else:
        z = 0.15
    closed = scene.task_kind == "press" or rng.random() < 0.12
    width = 0.0 if closed else float(rng.uniform(0.075, 0.088))
    yaw, lean, pitch = np.deg2rad(rng.normal(0.0, (8.0, 6.0, 3.0)))
    return Start(
        (float(x), float(y), float(z + scene.table_height)),
        float(np.clip(yaw, -0.3, 0.3)), float(np.clip(lean, -0.2, 0.28)), float(pitch), width,
    )  # fmt: skip


# ---------------------------------------------------------------------------------------- the feedback law


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
        self._rest = self.pose[_other(self.side)].copy()
        self._velocity = np.zeros(3)
        self._pending = list(self.manner.disturbances)
        self._active: tuple[Disturbance, int] | None = None
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
        self.disturbed = False
        velocity, rotate, jaw = self._intend()
        if self._active is not None:
            velocity, rotate, jaw = self._suffer(velocity, rotate, jaw)
        change = velocity - self._velocity
        limit = _ACCELERATION * self.manner.speed * _STEP
        if not self.disturbed and np.linalg.norm(change) > limit:
            velocity = self._velocity + change * (limit / np.linalg.norm(change))
        self._velocity = velocity
        pose = arm.copy()
        pose[:3, 3] += velocity * _STEP
        pose[2, 3] = max(pose[2, 3], self.table + _LOWEST - 0.003)
        pose[:3, :3] = rotate @ arm[:3, :3]
        self.pose[self.side] = pose
        self.width[self.side] = float(np.clip(self.width[self.side] + jaw * _STEP, 0.0, 0.088))
        self._tick += 1
        idle = self._rest.copy()
        idle[:3, 3] += np.array(self.manner.sway) * np.sin(
            2 * np.pi * np.array([0.31, 0.23, 0.27]) * self._tick * _STEP
        )
        self.pose[_other(self.side)] = idle
        for side in ARMS:
            self.robot.arms[side].schedule(self.pose[side], now + _STEP)
            self.robot.grippers[side].schedule(self.width[side], now + _STEP)
        return self.phase != "done"

    def _intend(self) -> tuple[ndarray, ndarray, float]:
        """Velocity (3,), rotation of this step (3, 3) and jaw speed that the demonstrator wants now."""
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
            if self._active is None and ready and angle < np.deg2rad(3) and _arrived(position, goal):
                self.phase = "press" if press else "close"
                return stay, rotate, jaw if press else closing
            return self._towards(position, goal, hover, ready=ready), rotate, jaw
        if self.phase == "close":
            if width <= 0.0:
                self.phase = "lift"
            return stay, rotate, closing
        if self.phase == "press":
            cap = self.cell.object_pose(self.item.name)[:3, 3]
            goal = np.array([cap[0], cap[1], self._pressed_height()])
            if position[2] - goal[2] < 0.001:
                self.phase = "retreat"
                self._top = self.table + 0.035 + _PAD + _RETREAT
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
            # A pressed button looks as before. Opening the jaws shows that it is done.
            return self._straight(position, goal, 1.0), rotate, opening if width < wide - 0.002 else 0.0
        self._still += 1
        if self._still >= (1.2 if self.task.kind == "pick" else 0.7) * FPS:
            self.phase = "done"
        jaw = closing if self.task.kind == "pick" else opening if width < wide - 0.002 else 0.0
        return stay, np.eye(3), jaw

    def _pressed_height(self) -> float:
        return self.table + 0.018 + _BUTTON_TOP - _PRESS_DEPTH + _PAD

    def _holding(self) -> bool:
        item = self.cell.object_pose(self.item.name)[:3, 3]
        return bool(np.linalg.norm(item - self.pose[self.side][:3, 3]) < 0.035)

    # -- fields of motion

    def _speed(self, distance: float, fastest: float) -> float:
        """m/s: proportional to the way left, with a floor so that the end is reached, never beyond it."""
        return min(max(_SLOWEST, min(fastest, _GAIN * distance)) * self.manner.speed, distance / _STEP)

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
        rate = min(max(0.2, min(1.3, 4.0 * angle)) * self.manner.speed, angle / _STEP)
        return Rotation.from_rotvec(left / max(angle, 1e-9) * rate * _STEP).as_matrix(), angle

    # -- what happens to the hand

    def _begin_disturbance(self, phase: str, distance: float) -> None:
        for number, disturbance in enumerate(self._pending):
            if self._active is None and disturbance.phase == phase and distance < disturbance.distance:
                self._active = (self._pending.pop(number), 0)
                return

    def _suffer(self, velocity: ndarray, rotate: ndarray, jaw: float) -> tuple[ndarray, ndarray, float]:
        """One step of the disturbance that is going on. A push moves by half a sine of velocity."""
        assert self._active is not None
        disturbance, tick = self._active
        steps = max(2, round(disturbance.seconds * FPS))
        self._active = (disturbance, tick + 1) if tick + 1 < steps else None
        self.disturbed = True
        if disturbance.kind == "close":
            return np.zeros(3), np.eye(3), -_JAW_SPEED
        weight = np.sin(np.pi * (tick + 0.5) / steps) * np.sin(np.pi / (2 * steps))  # sums to one
        shift = np.array(disturbance.shift)
        height = self.pose[self.side][2, 3] - self.table
        if height < 0.09:
            # Low among objects a push goes up rather than sideways through them.
            shift = np.array([0.45 * shift[0], 0.45 * shift[1], abs(shift[2])])
        elif height + shift[2] < 0.09:
            shift[2] = 0.09 - height
        turn = Rotation.from_rotvec(np.array(disturbance.turn) * weight).as_matrix()
        return shift * weight / _STEP, turn, jaw


def _other(side: str) -> str:
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


# --------------------------------------------------------------------------------------------- one episode


@dataclass
class Demonstration:
    """What one episode left behind: everything but the pictures, which are drawn afterwards from ``states``.

    poses: {"right", "left"} -> (n, 4, 4) policy frame in the cell frame, metres. widths: {"right", "left"}
    -> (n,) commanded openings, metres. disturbed: (n,) bool, whether the motion that follows a frame is not
    the demonstrator's.
    """

    scene: Scene
    task: Task
    manner: Manner
    times: Float[ndarray, " n"]
    poses: dict[str, Float[ndarray, "n 4 4"]]
    widths: dict[str, Float[ndarray, " n"]]
    disturbed: ndarray
    phases: list[str]
    states: Float[ndarray, "n q"]
    success: bool

    def __len__(self) -> int:
        return len(self.times)

    def usable(self, stride: int = 1) -> list[int]:
        """Frames whose 24 following steps are the demonstrator's own; after the end the hands stay still."""
        bad = np.convolve(self.disturbed, np.ones(HORIZON))[HORIZON - 1 :]
        return [frame for frame in range(0, len(self), stride) if not bad[frame]]

    def chunks(self, frames: Sequence[int]) -> Iterator[tuple[int, Float[ndarray, "24 20"]]]:
        """(frame, chunk (24, 20) float32 in metres) of the given frames."""
        from rdt2.data.episode import cut_chunks

        yield from cut_chunks(self.poses, self.widths, self.times, frames, tail="pad")


def demonstrate(cell: Cell, task: Task, manner: Manner) -> Demonstration:
    """Do the task from the cell's present state, without drawing anything."""
    robot = cell.robot()
    monitor = Monitor(cell, task)
    demonstrator = Demonstrator(cell, robot, task, manner)
    before = cell.object_pose(task.target)[2, 3]
    start = robot.clock.now()
    times, states, disturbed, phases = [], [], [], []
    poses: dict[str, list[ndarray]] = {side: [] for side in ARMS}
    widths: dict[str, list[float]] = {side: [] for side in ARMS}
    running, tick = True, 0
    while running and robot.clock.now() - start < _LONGEST:
        times.append(robot.clock.now())
        states.append(cell.data.qpos.copy())
        for side in ARMS:
            poses[side].append(robot.arms[side].state().pose @ robot.policy_to_tcp[side])
            widths[side].append(demonstrator.width[side])
        phases.append(demonstrator.phase)
        running = demonstrator.step()
        disturbed.append(demonstrator.disturbed)
        tick += 1
        robot.clock.sleep_until(start + tick * _STEP)
    monitor.close()
    success = not running and bool(monitor.success)
    if task.kind == "pick":
        # The task asks for 3 s in the air. A shorter hold teaches as much.
        success = not running and cell.object_pose(task.target)[2, 3] - before > 0.10
    return Demonstration(
        scene=cell.scene,
        task=task,
        manner=manner,
        times=np.array(times),
        poses={side: np.array(values) for side, values in poses.items()},
        widths={side: np.array(values) for side, values in widths.items()},
        disturbed=np.array(disturbed, dtype=np.float64),
        phases=phases,
        states=np.array(states),
        success=success,
    )


def draw_frame(cell: Cell, state: Float[ndarray, " q"]) -> ndarray:
    """Picture left | right, uint8 RGB (384, 768, 3), of a recorded state. The cell's own state is lost."""
    import mujoco

    cell.data.qpos[:] = state
    mujoco.mj_forward(cell.model, cell.data)
    return np.concatenate([cell.render("left"), cell.render("right")], axis=1)


def _seen(cell: Cell) -> dict[str, dict[str, list[float]]]:
    """Where each wrist camera sees each object: x, y, depth as in `Cell.seen_from`."""
    return {
        item.name: {side: [round(value, 4) for value in cell.seen_from(side, item.name)] for side in ARMS}
        for item in cell.scene.objects
    }


# ----------------------------------------------------------------------------------------------- data sets


@dataclass
class RecordingReport:
    """What record_dataset did. attempts and successes are by task; frames are samples written."""

    episodes: int = 0
    samples: int = 0
    attempts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASK_KINDS, 0))
    successes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASK_KINDS, 0))
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def record_dataset(
    out_dir: str | Path,
    episodes: int,
    *,
    seed: int = 0,
    tasks: Mapping[str, float] = TASK_MIX,
    stride: int = 1,
    workers: int = 1,
    episodes_per_shard: int = EPISODES_PER_SHARD,
    perturbed: float = 1 / 3,
    progress: Callable[[int, int], None] | None = None,
) -> RecordingReport:
    """Record so many successful episodes as shards, with instructions, normalizer and ``dataset.yaml``.

    The data are a function of the other arguments, whatever the number of ``workers``. A shard holds
    ``episodes_per_shard`` episodes and is skipped when it is there already, so an interrupted run is gone
    on with by the same call. Motion is 30 Hz; every ``stride``-th step becomes a sample. ``progress(done,
    episodes)`` is called after every shard.

    Raises:
        ConfigError: numbers that make no sense. RecordingError: the disk is full; earlier shards are whole.
        TaskError: an episode that fails again and again.
    """
    import time

    from rdt2.data.shards import INSTRUCTION_FILES, write_atomic, write_dataset_yaml
    from rdt2.data.stats import fit_normalizer

    if episodes < 1 or stride < 1 or workers < 1 or episodes_per_shard < 1:
        raise ConfigError("episodes, stride, workers and episodes_per_shard must be at least 1.")
    if not tasks or set(tasks) - set(TASK_KINDS) or sum(tasks.values()) <= 0:
        raise ConfigError(f"tasks is {dict(tasks)}, expected positive weights for some of {TASK_KINDS}.")
    began, folder = time.monotonic(), Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _remember_settings(
        folder,
        episodes,
        seed=seed,
        tasks=dict(tasks),
        stride=stride,
        per_shard=episodes_per_shard,
        perturbed=perturbed,
    )
    jobs = [
        _Job(
            str(folder),
            shard,
            first,
            min(first + episodes_per_shard, episodes),
            seed,
            dict(tasks),
            stride,
            perturbed,
        )
        for shard, first in enumerate(range(0, episodes, episodes_per_shard))
    ]
    missing = [job for job in jobs if not job.path.is_file()]
    report = RecordingReport(episodes=episodes)
    done = sum(job.last - job.first for job in jobs) - sum(job.last - job.first for job in missing)
    for job, (attempts, successes) in _run(missing, workers):
        done += job.last - job.first
        for kind in TASK_KINDS:
            report.attempts[kind] += attempts[kind]
            report.successes[kind] += successes[kind]
        if progress is not None:
            progress(done, episodes)
    table, report.samples = _instruction_table(folder)
    write_atomic(folder / INSTRUCTION_FILES[0], json.dumps(table, indent=1, sort_keys=True) + "\n")
    fit_normalizer(folder).save_pretrained(folder)
    write_dataset_yaml(folder, name=folder.resolve().name)
    report.seconds = time.monotonic() - began
    return report


@dataclass(frozen=True)
class _Job:
    """One shard: the episodes first .. last - 1."""

    folder: str
    shard: int
    first: int
    last: int
    seed: int
    tasks: dict[str, float]
    stride: int
    perturbed: float

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"shard-{self.shard:06d}.tar"


_Counts = tuple[dict[str, int], dict[str, int]]


def _run(jobs: list[_Job], workers: int) -> Iterator[tuple[_Job, _Counts]]:
    if workers == 1 or len(jobs) < 2:
        for job in jobs:
            yield job, _record_shard(job)
        return
    import multiprocessing

    # Spawned, not forked: an OpenGL context does not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        futures = {pool.submit(_record_shard, job): job for job in jobs}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _record_shard(job: _Job) -> _Counts:
    from rdt2.data.shards import ShardWriter

    attempts, successes = dict.fromkeys(TASK_KINDS, 0), dict.fromkeys(TASK_KINDS, 0)
    with ShardWriter(
        job.folder, samples_per_shard=1 << 30, first_shard=job.shard, write_instructions=False
    ) as writer:
        for episode in range(job.first, job.last):
            for attempt in range(_ATTEMPTS):
                rng = np.random.default_rng([job.seed, episode, attempt])
                kinds = sorted(job.tasks)
                weights = np.array([job.tasks[kind] for kind in kinds])
                # The task of an episode does not change between attempts, so failures do not bend the mix.
                draw = np.random.default_rng([job.seed, episode]).choice(
                    len(kinds), p=weights / weights.sum()
                )
                kind = kinds[int(draw)]
                scene_seed = FIRST_SCENE_SEED + int(rng.integers(1 << 40))
                attempts[kind] += 1
                with open_episode(kind, scene_seed, rng, perturbed=job.perturbed) as (cell, task, manner):
                    demonstration = demonstrate(cell, task, manner)
                    if not demonstration.success:
                        continue
                    successes[kind] += 1
                    for frame, chunk in demonstration.chunks(demonstration.usable(job.stride)):
                        picture = draw_frame(cell, demonstration.states[frame])
                        writer.write(
                            picture=picture,
                            action=chunk,
                            instruction=task.instruction,
                            meta={
                                "instruction": task.instruction,
                                "episode": episode,
                                "frame": frame,
                                "seed": scene_seed,
                                "task": kind,
                                "hand": task.hand,
                                "phase": demonstration.phases[frame],
                                "objects": _seen(cell),
                            },
                            key=episode * 1000 + frame,
                        )
                break
            else:
                raise TaskError(
                    f"episode {episode} ({kind}) failed {_ATTEMPTS} times. "
                    f"Look at the scene with seed {scene_seed}."
                )
    return attempts, successes


@contextmanager
def open_episode(
    kind: str, scene_seed: int, rng: Generator, *, perturbed: float = 1 / 3
) -> Iterator[tuple[Cell, Task, Manner]]:
    """A handheld cell with the hand at its start, the task, and a manner of doing it; closed at the end."""
    scene = make_scene(kind, scene_seed)
    task = task_for(scene)
    open_width = scene.starts[task.hand].width
    if rng.random() < perturbed:
        starts = {**scene.starts, task.hand: perturbed_start(rng, scene, task.hand)}
        scene = dataclasses.replace(scene, starts=starts)
    manner = draw_manner(rng, kind=kind, open_width=open_width)
    with Cell("handheld", scene) as cell:
        yield cell, task, manner


def _remember_settings(folder: Path, episodes: int, **settings: Any) -> None:
    """Refuse to go on with a recording that was begun with other settings: its shards would not fit."""
    from rdt2.data.shards import write_atomic

    path = folder / "recording.json"
    settings = json.loads(json.dumps(settings))
    before = 0
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        before = found.pop("episodes", 0)
        if {**settings, **found} != settings:
            raise ConfigError(
                f"{path}: this folder was recorded with {found}, not {settings}. Choose another folder."
            )
    last, rest = divmod(before, settings["per_shard"])
    if rest and episodes > before:
        # The last shard was cut short by the number of episodes then. It is recorded again, longer.
        (folder / f"shard-{last:06d}.tar").unlink(missing_ok=True)
    write_atomic(path, json.dumps({**settings, "episodes": max(before, episodes)}) + "\n")


def _instruction_table(folder: Path) -> tuple[dict[str, str], int]:
    """Key -> sentence as the samples themselves say, and the number of samples."""
    from rdt2.data.dataset import ShardIndex
    from rdt2.data.shards import INSTRUCTION_KEY

    index = ShardIndex(folder, instructions="ignore")
    _, firsts = np.unique(index.sentence_keys, return_index=True)
    metas = [index.meta(int(number)) for number in firsts]
    return {meta[INSTRUCTION_KEY]: meta["instruction"] for meta in metas}, len(index)
