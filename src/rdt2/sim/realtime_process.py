"""The process of a real-time cell: physics as time passes, answers, and an end of its own.

One thread does all of it, and gets more than what else the machine does, where the system permits that: of several, one
that lost its turn while it had Python's lock would hold up the physics. Pictures are drawn by a process of their own
(`rdt2.sim.realtime_drawing`). When the process that started it is gone, everything is stopped and this one ends once
the arms are at rest.
"""

from __future__ import annotations

import os
import time as wall
from collections.abc import Mapping
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import RDT2Error, RobotError
from rdt2.sim.board import Board
from rdt2.sim.realtime_drawing import Exposure
from rdt2.threads import leave_terminal_to_parent, prefer

if TYPE_CHECKING:
    from rdt2.robot.world import CellSettings
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Task

PERIOD = 0.008
"""Seconds between two looks at the wall clock: states are at most that old, and a step's computing."""
AT_ONCE = 0.016
"""Seconds of physics that are computed before others get their turn."""
BEHIND = 0.05
"""Seconds that the physics may be behind the wall clock before the cell's own clock stands still."""
TURN = 5e-4
"""Seconds that others get after each step, also where physics takes all there is."""
FIRST_SECONDS = 60.0
"""In which the first pictures must be there."""
LAST_SECONDS = 3.0
"""In which arms come to rest when nobody is there any more, also on a busy machine."""
METHODS = ("connect", "enable", "execute", "execute_joints", "stop", "recover", "close")


def serve(
    embodiment: str,
    scene: Scene,
    settings: CellSettings,
    task: Task | None,
    board: str,
    life: Connection,
    parent: int,
    *,
    pipes: Mapping[str, Connection],
    drawer: Connection,
) -> None:
    """Run a cell until `life` is closed at its other end, or the process `parent` is gone.

    `life` is sent what the devices are, or the error that kept the cell from coming up; `pipes` are what each device is
    asked through, by name; `drawer` is the end of `rdt2.sim.realtime_drawing.serve`.
    """
    leave_terminal_to_parent()
    try:
        running = _Running(embodiment, scene, settings, task, Board(board), parent, life, pipes, drawer)
    except Exception as error:
        life.send(error if isinstance(error, RDT2Error) else RobotError(f"{type(error).__name__}: {error}"))
        return
    running.start()
    running.run()
    if os.getppid() != parent:  # nobody else is left to free it
        running.board.free()
    os._exit(0)  # nothing is left to be saved


class _Running:
    def __init__(
        self,
        embodiment: str,
        scene: Scene,
        settings: CellSettings,
        task: Task | None,
        board: Board,
        parent: int,
        life: Connection,
        pipes: Mapping[str, Connection],
        drawer: Connection,
    ) -> None:
        from rdt2.sim.cell import Cell
        from rdt2.sim.tasks import Monitor

        self.cell = Cell(embodiment, scene, settings)
        self.monitor = Monitor(self.cell, task) if task is not None else None
        self.robot = self.cell.robot()
        self.devices: dict[str, Any] = dict(self.robot.devices())
        self.board, self.parent, self.life, self.drawer = board, parent, life, drawer
        self.names = {pipe: name for name, pipe in pipes.items()}
        self.ended = self.drawing = False
        self.shown: dict[str, int] = {}
        self.broken: RDT2Error | None = None

    def facts(self) -> dict[str, Any]:
        """What devices and policies' frames are, for the proxies."""
        facts: dict[str, Any] = {name: {"timing": device.timing} for name, device in self.devices.items()}
        for side, arm in self.robot.arms.items():
            facts[f"{side} arm"] |= {
                "base": arm.base,
                "model": None if arm.model is None else self.cell.embodiment,
            }
            facts[f"{side} gripper"]["stroke"] = self.robot.grippers[side].stroke
        return {**facts, "policy_to_tcp": self.robot.policy_to_tcp}

    def start(self) -> None:
        """Say that all is ready when the first pictures are there."""
        self.began = self.started = wall.monotonic() - self.cell.time
        self.publish()
        self.show()
        self.drawer.poll(FIRST_SECONDS)
        self.show()
        self.began = self.started = wall.monotonic() - self.cell.time  # drawing for the first time takes long
        self.publish()
        self.life.send(self.broken or self.facts())

    def run(self) -> None:
        """Step the physics as time passes, until the end."""
        prefer()
        last = float("inf")
        while wall.monotonic() < last:
            if self.ended or os.getppid() != self.parent:
                if last == float("inf"):
                    last = wall.monotonic() + LAST_SECONDS
                    self.robot.stop()
                if self.rests():
                    break
            try:
                self.step()
            except RDT2Error as error:
                self.fail(error)
            self.show()
            self.listen(max(wall.monotonic() + TURN, self.began + self.cell.time + PERIOD))

    def step(self) -> None:
        behind = wall.monotonic() - self.began - self.cell.time
        self.began += max(0.0, behind - BEHIND)
        # the cell advances to within half a step of what it is told, and must not be ahead of its own clock
        now = wall.monotonic() - self.began - 0.5 * self.cell.model.opt.timestep
        self.cell.advance_to(min(now, self.cell.time + AT_ONCE))
        self.publish()

    def rests(self) -> bool:
        return all(np.linalg.norm(arm.state().velocity) < 0.02 for arm in self.robot.arms.values())

    def fail(self, error: RDT2Error) -> None:
        """The physics broke down: whatever the devices would say from now on means nothing."""
        for device in self.devices.values():
            device.fail(str(error))
        self.cell.reset()
        for device in self.devices.values():
            device.fail(str(error))
        self.publish()

    def publish(self) -> None:
        for name, device in self.devices.items():
            self.publish_device(name, device)
        monitor = self.monitor
        self.board.write_cell(
            began=self.began,
            time=self.cell.time,
            elapsed=wall.monotonic() - self.started,
            success=monitor is not None and monitor.success,
            followed=monitor is not None and monitor.followed,
            done=monitor is not None and monitor.done,
        )

    def publish_device(self, name: str, device: Any) -> None:
        health = device.health()
        text = health.fault.encode()[:256]
        values: dict[str, Any] = {
            "connected": health.connected,
            "enabled": health.enabled,
            "stopped": health.stopped,
            "fault": np.frombuffer(text.ljust(256, b"\0"), np.uint8),
        }
        if name.endswith("arm"):
            state = device.state()
            joints = np.zeros(8)
            joints[: len(state.joints)] = state.joints
            values |= {"pose": state.pose, "velocity": state.velocity, "joints": joints}
            values["wrench"] = np.full(6, np.nan) if state.wrench is None else state.wrench
            values |= {"timestamp": state.timestamp, "sequence": state.sequence}
        elif name.endswith("gripper"):
            state = device.state()
            values |= {"timestamp": state.timestamp, "sequence": state.sequence, "width": state.width}
        self.board.write_device(name, **values)

    def listen(self, until: float) -> None:
        """Do what devices are asked to, until then."""
        while (left := until - wall.monotonic()) > 0:
            if self.ended:
                wall.sleep(left)
                return
            try:
                for pipe in wait([self.life, *self.names], left):
                    assert isinstance(pipe, Connection)
                    self.answer(pipe, *pipe.recv())
            except (EOFError, OSError):
                self.ended = True

    def answer(self, pipe: Connection, number: int, method: str, values: Any) -> None:
        """Do what one device is asked to; what nobody waits for an answer to has the number 0."""
        name = self.names[pipe]
        device = self.devices[name]
        if number == 0 and (values[0][-1] <= self.cell.time or not device.health().ok):
            return  # it was right when it was sent: the next one is on its way, or its sender is told
        error: Exception | None = None
        try:
            if method not in METHODS:
                raise RobotError(f"the {name} knows no {method}, expected one of {METHODS}.")
            getattr(device, method)(*values)
        except RDT2Error as refused:
            error = refused
        except Exception as bad:
            error = RobotError(f"the {name} could not {method}: {type(bad).__name__}: {bad}")
        if number:
            self.publish_device(name, device)
            pipe.send((number, error))
        elif error is not None:
            device.fail(str(error))

    def show(self) -> None:
        """Have the cameras' pictures drawn as they arrive, those of one moment together, one moment at a time."""
        if self.broken is not None:
            return
        try:
            if self.drawing:
                if not self.drawer.poll():
                    return
                self.drawing = False
                if (broken := self.drawer.recv()) is not None:
                    raise broken
            taken = {side: camera.exposure() for side, camera in self.cell.cameras.items()}
            new = [Exposure(side, *told) for side, told in taken.items() if self.shown.get(side) != told[0]]
            if new:
                self.drawer.send(new)
                self.drawing = True
                self.shown |= {each.side: each.number for each in new}
        except (RDT2Error, EOFError, OSError) as error:
            lost = RobotError("no pictures: the process that draws them has ended.")
            self.broken = error if isinstance(error, RDT2Error) else lost
            for side in self.cell.cameras:
                self.devices[f"{side} camera"].fail(str(self.broken))
