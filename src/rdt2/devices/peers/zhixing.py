"""A Zhixing CTAG2F120 on a pseudo-terminal: its registers, its pace, its fingers, and what may go wrong on its bus.

    python -m rdt2.devices.peers.zhixing serial=1638440 object=0.04
    device: {"port": "/dev/pts/5", "serial": "1638440"}

In a process of one's own, with fingers of one's own, and faults when one wants them:

    with ZhixingPeer(ZhixingPeerOptions(), follow=fingers_of(cell_gripper, clock)) as peer:
        ...                                 # peer.port
        peer.break_down("silence")
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import tty
from collections import deque
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Options, Peer
from rdt2.devices.gripper_drivers._zhixing_bus import (
    CLOSED,
    FEEDBACK,
    FEEDBACK_CLOSED,
    FORCE,
    POSITION,
    SERIAL,
    TRIGGER,
)
from rdt2.devices.peers import main
from rdt2.errors import LateError, RDT2Error, RobotError, SafetyError
from rdt2.robot.protocols import Clock, Gripper
from rdt2.threads import hurry

TICK = 0.01
STROKE = 0.12
FORCE_REACHED, POSITION_REACHED = 0x0601, 0x0602
READ = 0x03
"""Modbus: read holding registers."""
START_SECONDS = 30.0
Fault = Literal["", "garbage", "short", "odd", "silence", "unplugged"]
"""Bytes that are no answer; half an answer; a position that this gripper does not have; no answer; no port."""


class ZhixingPeerOptions(Options):
    """What gripper it is."""

    serial: int = Field(default=1638440, ge=0, lt=2**32, description="Its serial number.")
    slave: int = Field(default=1, ge=1, le=247, description="Its number on the bus.")
    width: float = Field(default=STROKE, ge=0, le=STROKE, description="How far it is open at first, metres.")
    speed: float = Field(default=0.2, gt=0, le=1, description="Opening speed, m/s.")
    object: float = Field(
        default=0.0, ge=0, le=STROKE, description="Width of what is between its fingers, metres."
    )
    squeeze: float = Field(
        default=0.004,
        gt=0,
        le=STROKE,
        description="Metres that its motor goes on where something stops its fingers.",
    )
    write_seconds: float = Field(
        default=0.015, ge=0, le=1, description="Until a write is confirmed; a move is two of them."
    )
    read_seconds: float = Field(default=0.016, ge=0, le=1, description="Until a question is answered.")
    link: str = Field(
        default="", description="A path that leads to its port, also when it is plugged in again."
    )
    fault: Fault = Field(default="", description="What goes wrong: garbage, short, odd, silence, unplugged.")
    after: float = Field(default=5.0, ge=0, description="Seconds until it does.")
    lasts: float = Field(default=float("inf"), gt=0, description="Seconds until all is well again.")


class ZhixingPeer:
    """The gripper; use it in a `with` statement.

    Args:
        options: which one.
        follow: has the fingers try to be open by so many metres, and says how far they are; left out, they follow at
            once, up to the object that the options put between them.
    """

    def __init__(self, options: ZhixingPeerOptions, follow: Callable[[float], float] | None = None) -> None:
        self.options, self.port = options, ""
        self.moves: deque[tuple[float, float]] = deque(maxlen=10_000)
        """When it was sent somewhere (monotonic seconds), and the opening in metres."""
        self.answers = 0
        """How many questions and commands it answered."""
        self._follow = follow or (lambda width: max(width, options.object))
        self._driven = options.width
        self.width = self._follow(self._driven)
        """How far its fingers are open now, metres."""
        self._target, self._ticked = self._driven, time.monotonic()
        self._fault: Fault = ""
        self._left = float("inf")
        self._outer: tuple[int, int] | None = None
        self._inner: asyncio.StreamWriter | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready, self._ended = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="zhixing peer", daemon=True)

    def __enter__(self) -> ZhixingPeer:
        self._thread.start()
        if not self._ready.wait(START_SECONDS) or self._error is not None:
            raise RobotError(f"the gripper's peer did not come up: {self._error or 'it hangs'}.")
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(START_SECONDS)

    def break_down(self, fault: Fault, *, answers: float = float("inf")) -> None:
        """From now on this is wrong, or nothing is any more (""). Back from "unplugged" its port has another name.

        Args:
            fault: what.
            answers: to so many questions, where it is the answer that is wrong or missing.
        """
        assert self._loop is not None
        done = threading.Event()

        def change() -> None:
            self._set(fault)
            self._left = answers
            done.set()

        self._loop.call_soon_threadsafe(change)
        done.wait(START_SECONDS)

    # ---------------------------------------------------------------------------------------------- fingers

    def _advance(self) -> None:
        now = time.monotonic()
        way = self.options.speed * (now - self._ticked)
        self._ticked = now
        driven = self._driven + min(max(self._target - self._driven, -way), way)
        self._driven = max(driven, self.width - self.options.squeeze) if driven < self._driven else driven
        self.width = self._follow(self._driven)

    async def _act(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[Any] | None,
    ) -> None:
        """Called by the server before it reads or writes registers: takes the time that the gripper takes."""
        if values is None and function != READ:  # the server looks at what it has written, to confirm it
            return
        seconds = self.options.read_seconds if values is None else self.options.write_seconds
        await asyncio.sleep(seconds / 2)
        self._advance()
        if values is None:
            fed_back = (
                4711
                if self._fault == "odd"
                else round((1 - self.width / STROKE) * FEEDBACK_CLOSED) & 0xFFFFFFFF
            )
            registers[FEEDBACK - start : FEEDBACK - start + 2] = [fed_back >> 16, fed_back & 0xFFFF]
            registers[FORCE_REACHED - start] = int(self.width - self._driven >= self.options.squeeze - 1e-6)
            registers[POSITION_REACHED - start] = int(abs(self.width - self._target) < 1e-3)
        elif address == TRIGGER and values[0] == 1:
            high, low = registers[POSITION - start : POSITION - start + 2]
            self._target = STROKE * (1 - min(high << 16 | low, CLOSED) / CLOSED)
            self.moves.append((time.monotonic(), self._target))
        await asyncio.sleep(seconds / 2)
        self.answers += 1

    # -------------------------------------------------------------------------------------------------- bus

    def _run(self) -> None:
        hurry()  # as a gripper's own computer does nothing else
        try:
            if find_spec("pymodbus") is None:
                raise RobotError("pymodbus is not installed: pip install 'rdt2[zhixing]'.")
            asyncio.run(self._serve())
        except Exception as error:  # of what its fingers follow, for one: its port is gone from now on
            self._error = error
            if not isinstance(error, RDT2Error):
                raise
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        from pymodbus import FramerType
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        self._loop = asyncio.get_running_loop()
        device = SimDevice(
            self.options.slave,
            [
                SimData(POSITION, values=0, datatype=DataType.UINT32),
                SimData(FORCE, values=100, datatype=DataType.UINT16),
                SimData(TRIGGER, values=0, datatype=DataType.UINT16),
                SimData(FORCE_REACHED, values=0, datatype=DataType.UINT16, readonly=True),
                SimData(POSITION_REACHED, values=1, datatype=DataType.UINT16, readonly=True),
                SimData(FEEDBACK, values=0, datatype=DataType.UINT32, readonly=True),
                SimData(SERIAL, values=self.options.serial, datatype=DataType.UINT32, readonly=True),
            ],
            action=self._act,
        )
        # what goes over the pseudo-terminal passes through here, on its way to and from the server
        server = ModbusTcpServer(device, framer=FramerType.RTU, address=("127.0.0.1", 0))
        await server.serve_forever(background=True)
        listening: Any = server.transport
        host, port = listening.sockets[0].getsockname()
        answers, self._inner = await asyncio.open_connection(host, port)
        answering = asyncio.create_task(self._pass_on(answers))
        self._plug()
        self._ready.set()
        try:
            while not self._ended.is_set():
                self._advance()
                await asyncio.sleep(TICK)
        finally:
            self._unplug()
            answering.cancel()
            self._inner.close()
            await server.shutdown()

    def _plug(self) -> None:
        assert self._loop is not None
        outer = self._outer = _pty()
        self.port = os.ttyname(outer[1])
        if self.options.link:
            with contextlib.suppress(FileNotFoundError):
                os.remove(self.options.link)
            os.symlink(self.port, self.options.link)
            self.port = self.options.link
        assert self._inner is not None
        questions = self._inner
        self._loop.add_reader(outer[0], lambda: questions.write(os.read(outer[0], 4096)))

    def _unplug(self) -> None:
        assert self._loop is not None
        if self._outer is None:
            return
        self._loop.remove_reader(self._outer[0])
        for end in self._outer:
            os.close(end)
        self._outer = None
        if self.options.link:
            os.remove(self.options.link)

    def _set(self, fault: Fault) -> None:
        self._fault = fault
        if fault == "unplugged":
            self._unplug()
        elif self._outer is None:
            self._plug()

    async def _pass_on(self, answers: asyncio.StreamReader) -> None:
        while said := await answers.read(4096):
            self._answer(said)

    def _answer(self, said: bytes) -> None:
        if self._fault == "garbage":
            said = bytes(byte ^ 0x5A for byte in said)
        elif self._fault == "short":
            said = said[: len(said) // 2]
        if self._outer is not None and self._fault != "silence":
            os.write(self._outer[0], said)
        self._left -= 1
        if self._left <= 0:
            self._fault, self._left = "", float("inf")


def _pty() -> tuple[int, int]:
    master, slave = os.openpty()
    tty.setraw(slave)
    return master, slave


def fingers_of(gripper: Gripper, clock: Clock) -> Callable[[float], float]:
    """Fingers of another gripper, the cell's for one, that is connected and enabled: what stops them is felt here."""

    def follow(width: float) -> float:
        try:
            gripper.execute(np.array([clock.now() + TICK]), np.array([min(width, gripper.stroke)]))
        except LateError:
            pass  # a busy machine: the next word is for a later moment
        except SafetyError:  # it heard nothing for too long; a real motor has nobody to hear
            gripper.recover()
        return gripper.state().width

    return follow


def serve(options: ZhixingPeerOptions, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Until interrupted."""
    with ZhixingPeer(options) as peer:
        ready({"port": peer.port, "serial": str(options.serial)})
        if options.fault:
            time.sleep(options.after)
            peer.break_down(options.fault)
            time.sleep(min(options.lasts, threading.TIMEOUT_MAX))
            peer.break_down("")
        threading.Event().wait()


PEER = Peer(serve=serve, options=ZhixingPeerOptions, what="a Zhixing gripper on its serial bus")

if __name__ == "__main__":
    main(PEER)
