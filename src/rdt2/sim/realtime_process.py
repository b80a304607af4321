"""The process of a real-time cell: physics as time passes, pictures, answers, and an end of its own.

The main thread steps the physics; one thread draws; one a device answers. All of them run before what else the machine
does, where the system permits it: one that loses its turn while it has Python's lock holds up the physics. Those that
OpenGL computes in stand back. All that touches the cell holds `lock`, but for drawing, which works on kept states. When
the process that started it is gone, everything is stopped and this one ends once the arms are at rest.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time as wall
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import RDT2Error, RobotError
from rdt2.sim.board import Board
from rdt2.threads import prefer

if TYPE_CHECKING:
    from rdt2.robot.world import CellSettings
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Task

PERIOD = 0.004
"""Seconds between two looks at the wall clock: states are at most that old, and a step's computing."""
AT_ONCE = 0.008
"""Seconds of physics that are computed before others get their turn."""
BEHIND = 0.05
"""Seconds that the physics may be behind the wall clock before the cell's own clock stands still."""
TURN = 5e-4
"""Seconds that others get after each step, also where physics takes all there is."""
FRAMES = 30.0
NICE = 5
"""How far drawing stands back behind all else, where the cores do not suffice."""
LAST_SECONDS = 3.0
"""In which arms come to rest when nobody is there any more, also on a busy machine."""
METHODS = ("connect", "enable", "execute", "execute_joints", "stop", "recover", "close")


def serve(
    embodiment: str,
    scene: Scene,
    settings: CellSettings | None,
    task: Task | None,
    frames: float,
    board: str,
    life: Connection,
    parent: int,
    *,
    pipes: Mapping[str, Connection],
) -> None:
    """Run a cell until `life` is closed at its other end, or the process `parent` is gone.

    `life` is sent what the devices are, or the error that kept the cell from coming up.
    """
    for name in ("SIGINT", "SIGHUP"):  # of the terminal: meant for the process that must stop the arms
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)
    sys.setswitchinterval(5e-4)
    try:
        running = _Running(embodiment, scene, settings, task, frames, Board(board), parent, pipes)
    except Exception as error:
        life.send(error if isinstance(error, RDT2Error) else RobotError(f"{type(error).__name__}: {error}"))
        return
    running.start(life)
    running.run()
    if os.getppid() != parent:  # nobody else is left to free it
        running.board.free()
    os._exit(0)  # threads may wait for OpenGL or pipes; nothing is left to be saved


class _Running:
    def __init__(
        self,
        embodiment: str,
        scene: Scene,
        settings: CellSettings | None,
        task: Task | None,
        frames: float,
        board: Board,
        parent: int,
        pipes: Mapping[str, Connection],
    ) -> None:
        from rdt2.robot.world import CellSettings
        from rdt2.sim.cell import Cell
        from rdt2.sim.tasks import Monitor

        settings = settings or CellSettings()
        if not settings.cameras.rate:
            cameras = settings.cameras.model_copy(update={"rate": frames})
            settings = settings.model_copy(update={"cameras": cameras})
        self.cell = Cell(embodiment, scene, settings)
        self.monitor = Monitor(self.cell, task) if task is not None else None
        self.robot = self.cell.robot()
        self.devices: dict[str, Any] = dict(self.robot.devices())
        self.board, self.parent, self.pipes = board, parent, pipes
        self.lock, self.ended, self.seen = threading.Lock(), threading.Event(), threading.Event()
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

    def start(self, life: Connection) -> None:
        """Start the other threads; say that all is ready when the first pictures are there."""
        self.began = self.started = wall.monotonic() - self.cell.time
        self.publish()
        threading.Thread(target=self.draw, daemon=True).start()
        threading.Thread(target=self.wait_for_end, args=(life,), daemon=True).start()
        for item in self.pipes.items():
            threading.Thread(target=self.answer, args=item, daemon=True).start()
        self.seen.wait(60)
        self.began = self.started = wall.monotonic() - self.cell.time  # drawing for the first time takes long
        self.publish()
        life.send(self.broken or self.facts())

    def run(self) -> None:
        """Step the physics as time passes, until the end."""
        prefer()
        last = float("inf")
        while wall.monotonic() < last:
            if self.ended.is_set() or os.getppid() != self.parent:
                if last == float("inf"):
                    last = wall.monotonic() + LAST_SECONDS
                    with self.lock:
                        self.robot.stop()
                if self.rests():
                    break
            try:
                self.step()
            except RDT2Error as error:
                self.fail(error)
            wall.sleep(max(TURN, self.began + self.cell.time + PERIOD - wall.monotonic()))

    def step(self) -> None:
        behind = wall.monotonic() - self.began - self.cell.time
        self.began += max(0.0, behind - BEHIND)
        # the cell advances to within half a step of what it is told, and must not be ahead of its own clock
        now = wall.monotonic() - self.began - 0.5 * self.cell.model.opt.timestep
        with self.lock:
            self.cell.advance_to(min(now, self.cell.time + AT_ONCE))
            self.publish()

    def rests(self) -> bool:
        return all(np.linalg.norm(arm.state().velocity) < 0.02 for arm in self.robot.arms.values())

    def fail(self, error: RDT2Error) -> None:
        """The physics broke down: whatever the devices would say from now on means nothing."""
        with self.lock:
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
            values |= {"timestamp": state.timestamp, "sequence": state.sequence}
        elif name.endswith("gripper"):
            state = device.state()
            values |= {"timestamp": state.timestamp, "sequence": state.sequence, "width": state.width}
        self.board.write_device(name, **values)

    def answer(self, name: str, pipe: Connection) -> None:
        """Do what one device is asked to, until the other end is gone."""
        prefer()
        device = self.devices[name]
        while True:
            try:
                number, method, values = pipe.recv()
            except (EOFError, OSError):
                self.ended.set()
                return
            error: Exception | None = None
            with self.lock:
                if number == 0 and (values[0][-1] <= self.cell.time or not device.health().ok):
                    continue  # it was right when it was sent: the next one is on its way, or its sender is told
                try:
                    if method not in METHODS:
                        raise RobotError(f"the {name} knows no {method}, expected one of {METHODS}.")
                    getattr(device, method)(*values)
                except RDT2Error as refused:
                    error = refused
                except Exception as bad:
                    error = RobotError(f"the {name} could not {method}: {type(bad).__name__}: {bad}")
                if error is not None and number == 0:  # nobody waits for the answer
                    device.fail(str(error))
                self.publish_device(name, device)
            if number == 0:
                continue
            try:
                pipe.send((number, error))
            except OSError:
                self.ended.set()
                return

    def wait_for_end(self, life: Connection) -> None:
        try:
            life.recv()
        except (EOFError, OSError):
            self.ended.set()

    def draw(self) -> None:
        """Show the cameras' pictures as they arrive: those of one moment together, however slowly they are drawn."""
        shown: dict[str, int] = {}
        if (
            sys.platform == "linux"
        ):  # there a thread has a niceness of its own, and those it starts have it too
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            while not self.ended.is_set():
                began = wall.monotonic()
                cameras = self.cell.cameras
                with self.lock:
                    taken = {side: camera.exposure() for side, camera in cameras.items()}
                new = {
                    side: cameras[side].see(number, state)
                    for side, (number, _, state) in taken.items()
                    if shown.get(side) != number
                }
                for side, image in new.items():
                    number, stamp, _ = taken[side]
                    self.board.put_picture(f"{side} camera", stamp, number, image)
                    shown[side] = number
                self.seen.set()
                wall.sleep(max(0.001, PERIOD - (wall.monotonic() - began)))
        except Exception as error:
            self.broken = error if isinstance(error, RDT2Error) else RobotError(f"no pictures: {error!r}")
            with self.lock:
                for side in self.cell.cameras:
                    self.devices[f"{side} camera"].fail(str(self.broken))
            self.seen.set()
