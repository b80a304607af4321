"""An arm of the simulated cell goes where the joints of an FR3 peer are, which is another process: datagrams of seven
angles in, waypoints out."""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import LateError, RobotError, SafetyError
from rdt2.robot.models import arm_model
from rdt2.threads import prefer

if TYPE_CHECKING:
    from rdt2.robot.protocols import Clock
    from rdt2.sim.realtime import RealtimeArm

JOINTS = struct.Struct("<7d")
"""Of a datagram, radians."""
LEAD = 0.012
"""Seconds in which the cell's arm is sent to each target: longer than from one datagram to the next."""
SHARE = 0.9
"""Of the joints' top speed that is asked for at most, so that a peer that was held up does not make a jump."""


class Mirror:
    """One arm of the cell, connected and enabled, that follows what comes to a port.

    Args:
        arm: which, of seven joints.
        clock: the cell's.
    """

    def __init__(self, arm: RealtimeArm, clock: Clock) -> None:
        self._arm, self._clock = arm, clock
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        assert arm.model is not None, "it is an fr3"
        self._most = SHARE * LEAD * np.array([link.speed for link in arm_model(arm.model.name).links])

    @property
    def port(self) -> int:
        """Of this machine, to which the peer sends its joints."""
        return int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Follow, for ever."""
        prefer()
        told = self._arm.state().joints
        while True:
            joints = np.array(JOINTS.unpack(self._newest()))
            health = self._arm.health()
            if health.stopped or health.fault:  # the FR3 does not know of it, and goes on
                with contextlib.suppress(RobotError):  # it still brakes
                    self._arm.recover()
                    told = self._arm.state().joints
                continue
            told = told + np.clip(joints - told, -self._most, self._most)
            with contextlib.suppress(
                LateError, SafetyError
            ):  # a busy machine: the next word is for a later moment
                self._arm.execute_joints(np.array([self._clock.now() + LEAD]), told[None])

    def _newest(self) -> bytes:
        newest = self._socket.recv(JOINTS.size)
        with contextlib.suppress(BlockingIOError):
            while True:
                newest = self._socket.recv(JOINTS.size, socket.MSG_DONTWAIT)
        return newest
