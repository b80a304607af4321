"""The simulated cell as a gymnasium environment, `rdt2/Cell-v0`.

    import gymnasium
    import rdt2.sim.gym                      # or gymnasium.make("rdt2.sim.gym:rdt2/Cell-v0", ...)

    env = gymnasium.make("rdt2/Cell-v0", robot="ur5e", task="pick")
    observation, info = env.reset(seed=7)    # info["instruction"]: "Pick up the red cube with the left hand."
    observation, reward, terminated, truncated, info = env.step(chunk)

An action is a chunk as the models predict it: float32 (24, 20), 30 rows a second, row 0 the next step; right arm first,
each arm position (m), rotation (first two columns) and opening (m), relative to the pose of the policy's frame in the
pictures of the observation. `execute_steps` rows are driven, then the next observation is taken: the same servo, guard
and settings as in evaluations stand between a chunk and the arms. The reward is 1 when the task is done, else 0.

`rdt2/CellTargets-v0` is the same cell for tools that know no chunks: an action is one row of 20, absolute, as `state`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gymnasium
import numpy as np
from gymnasium import spaces

from rdt2.action import ACTION_DIM, ARMS, FPS, HORIZON, ActionChunk, arm_slice, state_vector
from rdt2.control.guard import Guard
from rdt2.control.plan import PERIOD, Plan, blend, catch_up, place
from rdt2.control.servo import TICK, Servo
from rdt2.control.watch import Watch
from rdt2.errors import ActionError, ConfigError, RDT2Error, SimulationError
from rdt2.pose import pose9_to_matrix
from rdt2.robot.settings import RobotSettings
from rdt2.sim.cell import FRONT_SIZE, Cell, cell_settings
from rdt2.sim.drawing import make_scene
from rdt2.sim.recording import FIRST_SCENE_SEED
from rdt2.sim.tasks import Monitor, task_for

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.sim.scene import Scene

BLEND = 0.1
"""Seconds in which a chunk takes over from the one before it."""
REACH = 2.0
"""Metres: no position in an observation or an action is further from its origin."""


class CellEnv(gymnasium.Env[dict[str, Any], "ndarray"]):
    """One task in the simulated cell; every reset draws another scene.

    Observations: `left` and `right`, pictures uint8 (384, 384, 3) RGB; `state`, float32 (20,), poses of the policy's
    frame in the cell and openings in the columns of an action. `reset(options={"scene_seed": 12})` takes a
    certain scene.
    `info` tells the instruction, the seed of the scene, `success`, `followed` (the named hand acted first, on the
    named object), how often parts of the arms collided, and in `fault` why a chunk was not driven or the arms stopped.

    Args:
        robot: "ur5e", "fr3", "handheld", or the yaml of a robot of kind cell; both its arms are driven.
        task: a name of `rdt2.sim.tasks.TASKS`.
        scenery: a name of `rdt2.sim.sceneries.SCENERIES`.
        unseen_shapes: objects of shapes that training never had.
        execute_steps: rows of a chunk (1 to 24) that are driven before the next observation.
        max_seconds: simulated length of an episode, then it is truncated.
        render_mode: "rgb_array" for pictures (480, 640, 3) of the camera in front of the table.

    Raises:
        ConfigError: numbers that make no sense, or a robot that is no cell. TaskError: unknown task or scenery.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 5}  # noqa: RUF012

    def __init__(
        self,
        robot: str = "ur5e",
        task: str = "pick",
        *,
        scenery: str = "seen",
        unseen_shapes: bool = False,
        execute_steps: int = 6,
        max_seconds: float = 20.0,
        render_mode: str | None = None,
    ) -> None:
        if not 1 <= execute_steps <= HORIZON:
            raise ConfigError(
                f"execute_steps is {execute_steps}, expected 1 to {HORIZON}, the steps of a chunk."
            )
        if not 0 < max_seconds < float("inf"):
            raise ConfigError(f"max_seconds is {max_seconds}, expected more than 0.")
        if render_mode not in (None, "rgb_array"):
            raise ConfigError(f"render_mode is {render_mode!r}, expected None or 'rgb_array'.")
        self._robot_settings = cell_settings(robot)
        if set(self._robot_settings.sides) != set(ARMS):
            raise ConfigError(f"robot {robot!r} has one arm, this environment drives two.")
        self._scene: dict[str, Any] = {"task": task, "scenery": scenery, "unseen_shapes": unseen_shapes}
        make_scene(seed=0, **self._scene)  # says what is wrong with a name now
        self.execute_steps, self.max_seconds, self.render_mode = execute_steps, max_seconds, render_mode
        self.metadata = {**self.metadata, "render_fps": round(FPS / execute_steps)}
        picture = spaces.Box(0, 255, (384, 384, 3), np.uint8)
        self.observation_space = spaces.Dict({"left": picture, "right": picture, "state": _space((), REACH)})
        self.action_space = _space((HORIZON,), 0.5)
        self.cell: Cell | None = None

    # ------------------------------------------------------------------------------------------------- the interface

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Draw a scene and put the hands where they wait."""
        super().reset(seed=seed)
        number = (options or {}).get("scene_seed")
        if number is None:
            number = FIRST_SCENE_SEED + int(self.np_random.integers(1 << 31))  # never those of an evaluation
        self._open(make_scene(seed=number, **self._scene))
        return self._observe(), self._info("")

    def step(
        self, action: Float[ndarray, "24 20"]
    ) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        """Drive the first rows of a chunk; a chunk that cannot be driven lets the arms rest for as long."""
        cell, servo = self._opened(), self._servo
        now, fault = cell.time, ""
        until = now + self.execute_steps * PERIOD
        try:
            until = self._take(np.asarray(action, np.float32), now)
        except RDT2Error as error:
            fault = str(error)
            servo.pause()
        # The servo ticks at its own rate, wherever steps end: a tick too early would be one more command, for later.
        broken = ""
        try:
            while cell.time < until - TICK / 8 and not (self._monitor.done or servo.stopped):
                if cell.time >= self._next_tick - TICK / 8:
                    servo.tick(cell.time)
                    self._next_tick += TICK
                cell.advance_to(min(self._next_tick, until))
        except SimulationError as error:
            broken = str(error)
        fault = fault or servo.stopped or broken
        terminated = self._monitor.success or bool(servo.stopped or broken)
        truncated = not terminated and cell.time >= self.max_seconds
        return self._observe(), float(self._monitor.success), terminated, truncated, self._info(fault)

    def render(self) -> ndarray | None:
        """What the camera in front of the table sees, uint8 (480, 640, 3) RGB."""
        return self._opened().render("front", FRONT_SIZE) if self.render_mode else None

    def close(self) -> None:
        """Free the renderer."""
        if self.cell is not None:
            self.cell.close()
            self.cell = None

    # -------------------------------------------------------------------------------------------------- one episode

    def _open(self, scene: Scene) -> None:
        self.close()
        settings = self._robot_settings.changed({"safety.table_height": scene.table_height})
        self.cell = Cell.of(settings, scene)
        self._task = task_for(scene)
        self._monitor = Monitor(self.cell, self._task)
        self._settings: RobotSettings = settings
        guard = Guard(settings, settings.kinematics(), period=TICK)
        self._servo = Servo(self.cell.robot(), settings, guard, Watch(settings), None)
        self._servo.start(self.cell.time)
        self._servo.tick(self.cell.time)
        self._next_tick = self.cell.time + TICK
        self._rests = self.cell.time

    def _opened(self) -> Cell:
        if self.cell is None:
            raise ConfigError("the environment has no episode yet. Call reset() first.")
        return self.cell

    def _observe(self) -> dict[str, Any]:
        """Both pictures, and where the arms were when they were taken; the caller may keep and change them."""
        servo, arms = self._servo, self._settings.arms
        frames = {side: camera.read() for side, camera in servo.robot.cameras.items()}
        self._observed = min(frame.timestamp for frame in frames.values())
        self._tcp = {side: servo.was(side, frame.timestamp) for side, frame in frames.items()}
        poses: dict[str, ndarray] = {side: self._tcp[side] @ arms[side].policy_to_tcp for side in arms}
        widths: dict[str, ndarray] = {
            side: np.array(servo.widths[side] / arms[side].gripper.scale) for side in arms
        }
        state = state_vector(poses, widths).astype(np.float32)
        space = self.observation_space["state"]  # type: ignore[index]
        return {
            "left": frames["left"].image.copy(),
            "right": frames["right"].image.copy(),
            "state": np.clip(state, space.low, space.high),
        }

    def _take(self, action: ndarray, now: float) -> float:
        """Hand an action to the servo; returns when the next observation is due."""
        servo, arms = self._servo, self._settings.arms
        chunk = ActionChunk(action)
        # As in the loop: what the arms are told in the next tick they do so much later, and arms that have stood
        # still since the picture begin with the chunk's first row.
        speaks = now + TICK + max(arm.latency for arm in arms.values())
        begins = self._observed + max(0.0, speaks - max(self._rests, self._observed))
        plan = place(
            chunk,
            self._tcp,
            {side: arm.policy_to_tcp for side, arm in arms.items()},
            observed=self._observed,
            begins=begins,
            gripper_scale={side: arm.gripper.scale for side, arm in arms.items()},
            width=servo.widths,
        )
        if servo.plan is not None and self._rests > speaks:
            most = {side: catch_up(arm.bounds) for side, arm in arms.items()}
            plan = blend(servo.plan, plan, now=speaks, seconds=BLEND, catch_up=most)
        servo.drive(plan, now)
        self._rests = plan.ends
        return max(begins + self.execute_steps * PERIOD, now + PERIOD)

    def _info(self, fault: str) -> dict[str, Any]:
        cell = self._opened()
        return {
            "instruction": self._task.instruction,
            "scene_seed": cell.scene.seed,
            "success": self._monitor.success,
            "followed": self._monitor.followed,
            "collisions": len(cell.collisions),
            "fault": fault,
        }


def _space(rows: tuple[int, ...], reach: float) -> spaces.Box:
    """Rows of an action: positions, rotation columns, openings of both arms."""
    high = np.tile([reach] * 3 + [1.01] * 6 + [0.1], 2)
    low = np.tile([-reach] * 3 + [-1.01] * 6 + [0.0], 2)
    shape = (*rows, len(high))
    return spaces.Box(
        np.broadcast_to(low, shape).astype(np.float32), np.broadcast_to(high, shape).astype(np.float32)
    )


class CellTargetsEnv(CellEnv):
    """The cell, driven by one target every 1/30 s: float32 (20,), where both arms are to be, in the frame of `state`
    (`rdt2.action.absolute_rows` makes such rows of a chunk).

    The arms are there later by their latency, as real ones are that are told a goal: rows that are meant for the time
    of the picture are over when they can be acted on, about `late_rows` of them.

    Args: those of `CellEnv` but `execute_steps`.
    """

    def __init__(self, robot: str = "ur5e", task: str = "pick", **options: Any) -> None:
        super().__init__(robot, task, execute_steps=1, **options)
        self.action_space = _space((), REACH)
        arms = self._robot_settings.arms.values()
        self._latency = max(arm.latency for arm in arms)
        self.late_rows = round((self._latency + max(arm.camera.latency for arm in arms)) * FPS)
        """Rows of a chunk that lie between its picture and what the arms can still be told, standing arms aside."""

    def _open(self, scene: Scene) -> None:
        super()._open(scene)
        self._due = self._opened().time

    def _take(self, action: Float[ndarray, " 20"], now: float) -> float:
        servo, arms = self._servo, self._settings.arms
        if action.shape != self.action_space.shape or not np.isfinite(action).all():
            raise ActionError(f"a target is {action.shape}, expected ({ACTION_DIM},) finite numbers.")
        speaks = now + TICK + self._latency
        poses, widths = {}, {}
        for side, arm in arms.items():
            target = action[arm_slice(side)].astype(np.float64)
            tcp = pose9_to_matrix(target[:9]) @ np.linalg.inv(arm.policy_to_tcp)
            old = servo.plan
            here = servo.robot.arms[side].state().pose if old is None else old.pose(side, speaks)
            width = servo.widths[side] if old is None else old.width(side, speaks)
            poses[side] = np.stack([here, tcp])
            widths[side] = np.array([width, max(target[9], 0.0) * arm.gripper.scale])
        servo.drive(Plan(self._observed, np.array([speaks, speaks + PERIOD]), poses, widths), now)
        # Steps end between two ticks of the servo: counted from the one before they would become shorter ones.
        self._due = (self._due if abs(now - self._due) < PERIOD / 2 else now) + PERIOD
        return self._due


for _id, _kind in (("rdt2/Cell-v0", "CellEnv"), ("rdt2/CellTargets-v0", "CellTargetsEnv")):
    if _id not in gymnasium.registry:
        gymnasium.register(_id, entry_point=f"rdt2.sim.gym:{_kind}")
