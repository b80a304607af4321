"""The cell on a wall clock, in processes of its own: for everything that must be tried in real time, as on a robot.

    with RealtimeCell.of(RobotSettings.read("cell_ur5e"), make_scene("pick", seed=3)) as cell:
        robot = cell.robot()
        robot.arms["left"].state()                    # from shared memory, within microseconds

One process steps the physics as time passes, and answers commands of each device on a pipe of its own; waypoints are
not waited for, what a device refuses of them becomes its fault. Another draws what both wrist cameras see. Devices may
be called from any thread. When the process that started them dies, however it dies, the arms stop and the cell ends:
each device stops by itself when it hears nothing for 100 ms.

Where a machine cannot keep up, the cell's clock stands still for a moment rather than its arms jump;
`real_time_factor` tells.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import threading
import time as wall
from collections.abc import Sequence
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS
from rdt2.errors import RobotError, SafetyError
from rdt2.robot.device import require_ready, require_widths
from rdt2.robot.models import arm_model
from rdt2.robot.protocols import ArmState, Frame, GripperState, Health, Timing
from rdt2.robot.robot import Robot
from rdt2.robot.waypoints import JointTrajectory, PoseTrajectory, WidthTrajectory
from rdt2.sim.board import DEVICES, Board
from rdt2.sim.cell import embodiment_of
from rdt2.sim.realtime_drawing import serve as draw
from rdt2.sim.realtime_process import BEHIND, serve

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot.description import ArmModel
    from rdt2.robot.settings import RobotSettings
    from rdt2.robot.world import CellSettings
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Task

FRAMES = 30.0
"""Pictures a second of a camera of which nothing else is said."""
ANSWER_SECONDS = 0.5
"""A device that does not answer within so long counts as lost."""
START_SECONDS = 120.0
END_SECONDS = 5.0


class RealtimeCell:
    """A cell in real time. Close it, or use it in a `with` statement.

    Args:
        embodiment: "ur5e", "fr3" or "handheld".
        scene: what stands on the table.
        settings: what is true of the cell's devices; None: nothing is wrong with them.
        task: what `monitor` judges.
        frames: pictures a second of each camera.

    Raises:
        RobotError: the process did not come up; the message says why.
    """

    def __init__(
        self,
        embodiment: str,
        scene: Scene,
        settings: CellSettings | None = None,
        *,
        task: Task | None = None,
        frames: float = FRAMES,
    ) -> None:
        from rdt2.robot.world import CellSettings

        settings = settings or CellSettings()
        if not settings.cameras.rate:
            cameras = settings.cameras.model_copy(update={"rate": frames})
            settings = settings.model_copy(update={"cameras": cameras})
        context = multiprocessing.get_context("spawn")
        self.embodiment, self.scene, self.sides = embodiment, scene, tuple(ARMS)
        self._board = Board()
        ends = {name: context.Pipe() for name in DEVICES}
        (mine, its), (asks, asked) = context.Pipe(), context.Pipe()
        self.process = context.Process(
            target=serve,
            args=(embodiment, scene, settings, task, self._board.name, its, os.getpid()),
            kwargs={"pipes": {name: end for name, (_, end) in ends.items()}, "drawer": asks},
            name=f"cell {embodiment}",
            daemon=True,
        )
        self._drawing = context.Process(
            target=draw,
            args=(embodiment, scene, settings, self._board.name, asked),
            name="cell's pictures",
            daemon=True,
        )
        try:
            for process, own in ((self.process, (its, asks)), (self._drawing, (asked,))):
                process.start()
                for end in own:
                    end.close()
            for _, end in ends.values():
                end.close()
            self._facts = self._wait_for_facts(mine)
        except BaseException:
            self._end(patience=0.0)
            raise
        self._life = mine  # its end tells the process that nobody needs it any more
        self._clock = RealtimeClock(self._board)
        self._pipes = {name: Pipe(name, own, self.process) for name, (own, _) in ends.items()}
        self.monitor = RealtimeMonitor(self._board) if task is not None else None

    @classmethod
    def of(
        cls, settings: RobotSettings, scene: Scene, *, task: Task | None = None, frames: float = FRAMES
    ) -> RealtimeCell:
        """The cell of a robot of kind cell, in real time: its arms, and what its section `cell:` says of its devices.

        Raises:
            ConfigError: it is no simulated robot, or its two arms are of different kinds.
            RobotError: the process did not come up.
        """
        cell = cls(embodiment_of(settings), scene, settings.cell, task=task, frames=frames)
        cell.sides = settings.sides
        return cell

    def _wait_for_facts(self, pipe: Connection) -> dict[str, Any]:
        until = wall.monotonic() + START_SECONDS
        while not pipe.poll(0.05):
            if not self.process.is_alive():
                raise RobotError(
                    f"the cell's process ended with {self.process.exitcode} before it was ready."
                )
            if wall.monotonic() > until:
                raise RobotError(f"the cell's process was not ready within {START_SECONDS:.0f} s.")
        try:
            facts = pipe.recv()
        except EOFError as error:
            raise RobotError("the cell's process ended before it was ready.") from error
        if isinstance(facts, Exception):
            raise facts
        return facts

    def robot(self, sides: Sequence[str] | None = None) -> Robot:
        """The devices of its sides, or of some; connected and enabled; any thread may call them."""
        board, facts, sides = self._board, self._facts, sides or self.sides

        def parts(kind: str, device: type) -> dict[str, Any]:
            names = {side: f"{side} {kind}" for side in sides}
            return {s: device(self._pipes[n], board, self._clock, facts[n]) for s, n in names.items()}

        return Robot(
            arms=parts("arm", RealtimeArm),
            grippers=parts("gripper", RealtimeGripper),
            cameras=parts("camera", RealtimeCamera),
            clock=self._clock,
            policy_to_tcp={side: facts["policy_to_tcp"][side] for side in sides},
            name=self.embodiment,
        )

    @property
    def memory(self) -> str:
        """The name of its shared memory, by which other processes see its pictures (`rdt2.sim.board.Board`)."""
        return self._board.name

    @property
    def real_time_factor(self) -> float:
        """Seconds of the cell's clock a second of the wall's, since it began: 1 where the machine keeps up."""
        record = self._board.cell()
        return float(record["time"] / max(record["elapsed"], 1e-9))

    def close(self) -> None:
        """End the process; its arms stop first. Again: nothing happens."""
        self._life.close()
        for pipe in self._pipes.values():
            pipe.close()
        self._end(patience=END_SECONDS)

    def _end(self, *, patience: float) -> None:
        try:
            if self.process.pid is not None:
                self.process.join(patience)
        finally:  # also where an operator's second Ctrl-C ends the patience
            for process in (self.process, self._drawing):
                if process.pid is not None and process.is_alive():
                    process.kill()
                    process.join()
            self._board.close()

    def __enter__(self) -> RealtimeCell:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class RealtimeClock:
    """The cell's time: that of the wall, less what the machine could not keep up with.

    While the cell's process gets no turn its time stands still, and nothing grows old; what gets none for
    `ANSWER_SECONDS` hangs, and grows old at once.
    """

    def __init__(self, board: Board) -> None:
        self._board, self._began, self._last = board, 0.0, 0.0

    def now(self) -> float:
        """Seconds since the cell began."""
        now = wall.monotonic() - self._began
        with contextlib.suppress(RobotError):  # of a cell that is closed: it goes on as it went
            record = self._board.cell()
            self._began, computed = float(record["began"]), float(record["time"])
            now = wall.monotonic() - self._began
            if BEHIND < now - computed < ANSWER_SECONDS:
                now = computed + BEHIND
        self._last = max(self._last, now)
        return self._last

    def sleep_until(self, time: float) -> None:
        """Wait until then, seconds of its time."""
        while (left := time - self.now()) > 0:
            wall.sleep(left)


class RealtimeMonitor:
    """What the judge in the cell's process says of the task."""

    def __init__(self, board: Board) -> None:
        self._board = board

    @property
    def success(self) -> bool:
        """Whether the task is done, as the sentence asks."""
        return bool(self._board.cell()["success"])

    @property
    def followed(self) -> bool:
        """Whether the arms went for what the sentence names."""
        return bool(self._board.cell()["followed"])

    @property
    def done(self) -> bool:
        """Whether the episode may end."""
        return bool(self._board.cell()["done"])


class Pipe:
    """Questions to one device in the cell's process, one at a time."""

    def __init__(self, name: str, connection: Connection, process: Any) -> None:
        self.name, self._connection, self._process = name, connection, process
        self._asking, self._sending, self._asked = threading.Lock(), threading.Lock(), 0

    @property
    def alive(self) -> bool:
        """Whether the cell's process runs."""
        return bool(self._process.is_alive())

    def ask(self, method: str, *values: Any) -> None:
        """Have the device do something.

        Raises:
            what the device raised. RobotError: its process is gone, or does not answer.
        """
        with self._asking:
            self._asked += 1
            try:
                with self._sending:
                    self._connection.send((self._asked, method, values))
                until = wall.monotonic() + ANSWER_SECONDS
                while self._connection.poll(max(0.0, until - wall.monotonic())):
                    number, error = self._connection.recv()
                    if number == self._asked:  # not the late answer to an earlier question
                        if error is not None:
                            raise error
                        return
            except (OSError, EOFError) as error:
                raise RobotError(f"the {self.name} is lost: the cell's process has ended.") from error
        raise RobotError(f"the {self.name} has not answered within {ANSWER_SECONDS} s.")

    def tell(self, method: str, *values: Any) -> None:
        """Have the device do something, without waiting: what it refuses becomes its fault.

        Raises:
            RobotError: its process is gone.
        """
        try:
            with self._sending:
                self._connection.send((0, method, values))
        except OSError as error:
            raise RobotError(f"the {self.name} is lost: the cell's process has ended.") from error

    def close(self) -> None:
        """Close this end."""
        self._connection.close()


class _RealtimeDevice:
    """What the devices have in common."""

    def __init__(self, pipe: Pipe, board: Board, clock: RealtimeClock, facts: dict[str, Any]) -> None:
        self.name = pipe.name
        self.timing: Timing = facts["timing"]
        self._pipe, self._board, self._clock = pipe, board, clock

    def connect(self) -> None:
        self._pipe.ask("connect")

    def enable(self) -> None:
        self._pipe.ask("enable")

    def stop(self) -> None:
        self._pipe.ask("stop")

    def recover(self) -> None:
        self._pipe.ask("recover")

    def close(self) -> None:
        if self._pipe.alive:
            self._pipe.ask("close")

    def health(self) -> Health:
        if not self._pipe.alive:
            return Health(False, False, False, "the cell's process has ended")
        record = self._record()
        fault = bytes(record["fault"]).rstrip(b"\0").decode(errors="replace")
        return Health(bool(record["connected"]), bool(record["enabled"]), bool(record["stopped"]), fault)

    def _require_ready(self) -> None:
        """Raises SafetyError unless it takes commands, and somebody is there to take them."""
        require_ready(self.name, self.health())
        late = self._clock.now() - float(self._board.device(self.name)["timestamp"])
        if late > ANSWER_SECONDS:
            raise SafetyError(
                f"the {self.name} has shown no new state for {late:.1f} s: the cell's process hangs."
            )

    def _record(self) -> Any:
        return self._board.device(self.name)

    def _measured(self) -> Any:
        if not self._pipe.alive:
            raise RobotError(f"the {self.name} is lost: the cell's process has ended.")
        return self._record()


class RealtimeArm(_RealtimeDevice):
    """An arm of a real-time cell."""

    def __init__(self, pipe: Pipe, board: Board, clock: RealtimeClock, facts: dict[str, Any]) -> None:
        super().__init__(pipe, board, clock, facts)
        self._path = PoseTrajectory(np.eye(4))
        self.base: Float[ndarray, "4 4"] = facts["base"]
        self.model: ArmModel | None = None if facts["model"] is None else arm_model(facts["model"])
        self._joints = 0 if self.model is None else len(self.model.links)

    def state(self) -> ArmState:
        """What the cell measured last.

        Raises:
            RobotError: it is not connected, or the cell is gone.
        """
        record = self._measured()
        return ArmState(
            timestamp=float(record["timestamp"]),
            sequence=int(record["sequence"]),
            pose=record["pose"],
            velocity=record["velocity"],
            joints=record["joints"][: self._joints],
            wrench=None if np.isnan(record["wrench"][0]) else record["wrench"],
        )

    def execute(self, times: Float[ndarray, " n"], poses: Float[ndarray, "n 4 4"]) -> None:
        """Follow poses of the TCP, cell frame, metres, at times of the cell's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        self._require_ready()
        ahead, checked = self._path.checked(times, poses, now=self._clock.now())
        self._pipe.tell("execute", ahead, checked)

    def execute_joints(self, times: Float[ndarray, " n"], joints: Float[ndarray, "n j"]) -> None:
        """Follow joint angles in radians, at times of the cell's clock.

        Raises:
            SafetyError: it takes no command, or the waypoints are no path.
        """
        self._require_ready()
        led = JointTrajectory(np.zeros(self._joints))
        self._pipe.tell("execute_joints", *led.checked(times, joints, now=self._clock.now()))


class RealtimeGripper(_RealtimeDevice):
    """A gripper of a real-time cell."""

    def __init__(self, pipe: Pipe, board: Board, clock: RealtimeClock, facts: dict[str, Any]) -> None:
        super().__init__(pipe, board, clock, facts)
        self._path = WidthTrajectory(0.0)
        self.stroke = float(facts["stroke"])

    def state(self) -> GripperState:
        """What the cell measured last; the opening in metres.

        Raises:
            RobotError: it is not connected, or the cell is gone.
        """
        record = self._measured()
        return GripperState(float(record["timestamp"]), int(record["sequence"]), float(record["width"]))

    def execute(self, times: Float[ndarray, " n"], widths: Float[ndarray, " n"]) -> None:
        """Follow widths in metres, at times of the cell's clock.

        Raises:
            SafetyError: it takes no command, the waypoints are no path, or it has no such width.
        """
        self._require_ready()
        ahead, checked = self._path.checked(times, widths, now=self._clock.now())
        require_widths(self.name, checked, self.stroke)
        self._pipe.tell("execute", ahead, checked)


class RealtimeCamera(_RealtimeDevice):
    """A wrist camera of a real-time cell."""

    def read(self) -> Frame:
        """The newest picture, RGB uint8 (384, 384, 3).

        Raises:
            RobotError: it is not connected, or has given none yet.
        """
        if not self.health().connected:
            raise RobotError(f"the {self.name} is not connected. Call connect() first.")
        picture = self._board.picture(self.name)
        if picture is None:
            raise RobotError(f"the {self.name} has given no picture yet.")
        return Frame(float(picture["timestamp"]), int(picture["sequence"]), np.array(picture["image"]))
