"""A Franka Research 3 on this machine: franky-sim's server, which speaks libfranka's network protocol, with the
troubles that a real one makes.

It has addresses of its own, 127.0.0.x, because the robot's protocol fixes the ports. On port `TROUBLE` of that address
it takes a line: `reflex`, `user_stop`, `release` (the button), `push` (a hand, for a second), and answers `ok`; see
`trouble`.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Options, Peer
from rdt2.devices.peers import ask_for_trouble, main
from rdt2.devices.peers._cell_arm import JOINTS
from rdt2.errors import ConfigError
from rdt2.robot.models.fr3 import FLANGE
from rdt2.threads import prefer

TROUBLE = 1339
BEHIND = 0.05
"""Seconds that the physics may be behind the wall clock before its own clock stands still."""
LOOK = 10
"""Ticks between two looks for somebody who makes trouble."""
MIRRORED = 4
"""Ticks between two looks of an arm that mirrors it."""
DAMPING = (450.0, 450.0, 350.0, 350.0, 60.0, 60.0, 60.0)
"""N m s/rad with which joints are held: with franky-sim's own 200 the last ones chatter at 1 kHz."""
PUSH = (0.0, 25.0, 0.0)
"""N of a hand."""
HOME = (0.0, -0.2, 0.0, -2.2, 0.0, 2.0, 0.785)


class FR3Options(Options):
    """Of the peer."""

    address: str = Field(
        default="127.0.0.2", description="where it answers: an address of this machine, 127.0.0.x"
    )
    joints: tuple[float, ...] = Field(
        default=HOME,
        description="radians of its seven joints when it is switched on",
        min_length=7,
        max_length=7,
    )
    load: float = Field(
        default=0.0, ge=0, le=5, description="kg that hang on its flange beyond its own hand, told or not."
    )
    load_centre: tuple[float, float, float] = Field(
        default=(0.0, 0.0, 0.0), description="metres of their centre in the flange's frame."
    )
    mirror: int = Field(
        default=0,
        ge=0,
        le=65535,
        description="port of this machine that is sent its joints 250 times a second (an arm of the cell); 0: none.",
    )


def trouble(address: str, what: str) -> None:
    """Make trouble for whoever is connected to a peer: "reflex", "user_stop", or "release" of the button; or "push" it.

    Raises:
        RobotError: there is no such trouble, or no such peer.
    """
    ask_for_trouble("FR3", address, TROUBLE, what)


def serve(options: FR3Options, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer until interrupted. Raises ConfigError for an address that cannot be had."""
    prefer()
    from franky_sim import SimulationServer
    from franky_sim.mujoco_simulator import MujocoSimulator

    with MujocoSimulator() as simulator:
        for ground in simulator.worldbody.iter("geom"):
            if ground.get("name") == "ground":  # it stands on a pedestal
                ground.set("pos", "0 0 -1")
        simulator.add_robot(initial_q=options.joints, kv=DAMPING)
        server = SimulationServer(simulator, hostname_candidates=[options.address])
        try:
            server.init()
            line = socket.create_server((options.address, TROUBLE))
        except OSError as error:
            raise ConfigError(
                f"{options.address} cannot be had ({error}): another peer answers there, or it is no address of this "
                "machine. Choose another 127.0.0.x."
            ) from error
        line.setblocking(False)
        robot = server.robot_servers[0]
        if options.load:
            simulator.register_pre_step_callback(_Weight(simulator, options.load, options.load_centre))
        hand = _Push(simulator)
        simulator.register_pre_step_callback(hand)
        troubles = _Troubles(robot, hand)
        mirror = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        ready({"address": options.address})
        began, ticks = time.monotonic(), 0
        while True:
            if ticks % LOOK == 0:
                troubles.hear(line)
            # what SimulationServer.run_once does, without the sleep of 0 s with which it loses its turn
            robot.process_commands()
            simulator.step()
            robot.send_state()
            if options.mirror and ticks % MIRRORED == 0:
                mirror.sendto(JOINTS.pack(*robot.robot.inner_state.q), ("127.0.0.1", options.mirror))
            ticks += 1
            ahead = began + 0.001 * ticks - time.monotonic()
            if ahead > 0:
                time.sleep(ahead)
            elif ahead < -BEHIND:
                began -= ahead


class _Weight:
    """Pulls at the flange as what hangs there does: an arm that was told something else sinks or rises."""

    def __init__(self, simulator: Any, mass: float, centre: Sequence[float]) -> None:
        import mujoco

        self._mujoco, self._force = mujoco, np.array([0.0, 0.0, -9.81 * mass])
        self._link = mujoco.mj_name2id(simulator.model, mujoco.mjtObj.mjOBJ_BODY, "robot0_fr3_link7")
        self._at = np.array([0.0, 0.0, FLANGE]) + centre

    def __call__(self, simulator: Any) -> None:
        data = simulator.data
        away = data.xpos[self._link] + data.xmat[self._link].reshape(3, 3) @ self._at - data.xipos[self._link]
        data.xfrc_applied[self._link] = [*self._force, *np.cross(away, self._force)]


class _Push:
    """A hand at the elbow, for a second: an arm that is held gives way a little and comes back."""

    def __init__(self, simulator: Any) -> None:
        import mujoco

        self._link = mujoco.mj_name2id(simulator.model, mujoco.mjtObj.mjOBJ_BODY, "robot0_fr3_link4")
        self.ticks = 0

    def __call__(self, simulator: Any) -> None:
        self.ticks = max(0, self.ticks - 1)
        simulator.data.xfrc_applied[self._link, :3] = PUSH if self.ticks else 0.0


class _Troubles:
    """What stops a real robot, as its server tells it; and a hand that pushes it."""

    def __init__(self, server: Any, hand: _Push) -> None:
        self._hand = hand
        from franky_sim import franka_robot_protocol as protocol
        from franky_sim.franka_robot_server import FrankaRobotServer

        self.server, self.mode = server, None
        self._protocol = protocol
        troubles, state_of = self, FrankaRobotServer.robot_state.fget
        move, recovery = protocol.MoveCommand.handle, protocol.AutomaticErrorRecoveryCommand.handle

        class Server(type(server)):  # type: ignore[misc]
            @property
            def robot_state(self) -> Any:
                state = state_of(self)
                if troubles.mode is None:
                    return state
                reflex = troubles.mode == protocol.RobotMode.kReflex
                errors = tuple(i == _CARTESIAN_REFLEX and reflex for i in range(41))
                return state.replace(robot_mode=troubles.mode, errors=errors, reflex_reason=errors)

        def handle_move(command: Any, server: Any) -> None:
            if troubles.mode is None:
                move(command, server)
            else:
                command.reply(protocol.MoveStatus.kCommandNotPossibleRejected)

        def handle_recovery(command: Any, server: Any) -> None:
            if troubles.mode == protocol.RobotMode.kUserStopped:
                command.reply(
                    protocol.AutomaticErrorRecoveryStatus.kCommandRejectedDueToActivatedSafetyFunctions
                )
                return
            troubles.mode = None
            recovery(command, server)

        server.__class__ = Server
        protocol.MoveCommand.handle = handle_move
        protocol.AutomaticErrorRecoveryCommand.handle = handle_recovery

    def hear(self, line: socket.socket) -> None:
        """Take a line, where somebody has said one."""
        try:
            there, _ = line.accept()
        except BlockingIOError:
            return
        with there:
            there.settimeout(1.0)
            try:
                what = there.makefile().readline().strip()
                there.sendall(self._make(what).encode() + b"\n")
            except OSError:
                return  # who asked has gone

    def _make(self, what: str) -> str:
        if what == "push":
            self._hand.ticks = 1000
            return "ok"
        modes, status = self._protocol.RobotMode, self._protocol.MoveStatus
        made = {
            "reflex": (modes.kReflex, status.kReflexAborted),
            "user_stop": (modes.kUserStopped, status.kPreemptedDueToActivatedSafetyFunctions),
            "release": (None, None),
        }
        if what not in made:
            return f"known are {', '.join(made)}, push"
        self.mode, ending = made[what]
        moving = self.server.current_motion_id
        if ending is not None and moving:
            from franky_sim.franka_server import BaseCommand

            self.server.stop_motion(send_preemption_signal=False)
            BaseCommand.send_response(
                self.server._tcp_socket, self._protocol.RobotCommand.kMove, moving, ending
            )
            self.server.reset_current_motion_id()
        return "ok"


_CARTESIAN_REFLEX = 7
"""Its number among libfranka's 41 errors."""

PEER = Peer(serve=serve, options=FR3Options, what="a Franka Research 3")

if __name__ == "__main__":
    main(PEER)
