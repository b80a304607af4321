"""A UR controller on this machine, as far as ur_rtde asks: RTDE, the port for scripts, the dashboard; and a UR5e.

It has addresses of its own, 127.0.0.x, because the robot's protocols fix the ports. On port `TROUBLE` of that address
it takes a line and answers `ok`: `protective_stop`, `emergency_stop`, `release` (the button), `power on`, `drop` (all
connections of RTDE), `freeze` (it says nothing more, and goes on moving), `thaw`, `push` (a hand, which moves it for a
second in freedrive alone), `slow` and `fast` (the speed slider), `home` (where it was switched on; not an arm of the
cell); see `trouble`. What follows a command is what the script of ur_rtde does; the script itself
is taken and not read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from pydantic import Field

from rdt2.devices.drivers import Options, Peer
from rdt2.devices.peers import ask_for_trouble, main
from rdt2.devices.peers._ur_motion import CellMotion, Motion
from rdt2.errors import ConfigError, SafetyError
from rdt2.pose import matrix_to_pose, pose_to_matrix
from rdt2.threads import prefer

RTDE, SCRIPT, DASHBOARD, TROUBLE = 30004, 30003, 29999, 30099
TROUBLES = (
    "protective_stop", "emergency_stop", "release", "power on", "drop", "freeze", "thaw", "push", "slow", "fast",
    "home",
)  # fmt: skip
TURN = 2e-4
"""Seconds for which it always waits: a busy machine's lock would never be had by those who bring commands."""
PERIOD = 0.004
BEHIND = 0.02
"""Seconds that one step of the motion covers at most: where the machine is busy, the arm's time stands still."""
HOME = (82.89, -65.00, 140.96, -240.11, -50.19, -9.49)
STOPPED, PLAYING = 1, 2
RUNNING, POWER_OFF, IDLE = 7, 3, 5
NORMAL, PROTECTIVE, EMERGENCY = 1, 3, 7
SERVO_JOINTS, SERVO_STOP, TEACH, END_TEACH, SERVO_POSE = 11, 16, 18, 19, 24
SET_TCP, WATCHDOG, GET_TCP, SET_PAYLOAD, END = 29, 35, 40, 65, 255
AT_ONCE = {0, SERVO_JOINTS, SERVO_POSE}
"""Commands that the script takes one after the other, without a word that it is done."""
FORMATS = {"INT32": "i", "UINT32": "I", "DOUBLE": "d", "UINT64": "Q", "UINT8": "B"} | {
    "VECTOR3D": "3d", "VECTOR6D": "6d", "VECTOR6INT32": "6i",
}  # fmt: skip
TYPES = {
    "runtime_state": "UINT32", "robot_status_bits": "UINT32", "safety_status_bits": "UINT32", "robot_mode": "INT32",
    "safety_mode": "INT32", "joint_mode": "VECTOR6INT32", "payload_cog": "VECTOR3D", "payload_inertia": "VECTOR6D",
    "actual_tool_accelerometer": "VECTOR3D", "ft_raw_wrench": "VECTOR6D", "joint_temperatures": "VECTOR6D",
    "joint_control_output": "VECTOR6D", "speed_slider_mask": "UINT32", "external_force_torque": "VECTOR6D",
    "actual_digital_input_bits": "UINT64", "actual_digital_output_bits": "UINT64", "tool_digital_output": "UINT8",
} | dict.fromkeys((
    "target_q", "target_qd", "target_qdd", "target_current", "target_moment", "actual_q", "actual_qd",
    "actual_current", "actual_TCP_pose", "actual_TCP_speed", "actual_TCP_force", "target_TCP_pose",
    "target_TCP_speed", "actual_joint_voltage",
), "VECTOR6D")  # fmt: skip


class UROptions(Options):
    """Of the peer."""

    address: str = Field(
        default="127.0.0.2", description="where it answers: an address of this machine, 127.0.0.x"
    )
    joints_degrees: tuple[float, ...] = Field(
        default=HOME,
        min_length=6,
        max_length=6,
        description="degrees of its six joints when it is switched on",
    )
    unlock_after: float = Field(
        default=5.0, ge=0, description="seconds after a protective stop before it can be unlocked"
    )


def trouble(address: str, what: str) -> None:
    """Make trouble for whoever is connected to a peer.

    Raises:
        RobotError: there is no such trouble, or no such peer.
    """
    ask_for_trouble("UR", address, TROUBLE, what)


class Controller:
    """What the robot is and does, behind its ports; one lock holds for all of it.

    Args:
        options: which one.
        motion: how its arm moves; left out, it has one of its own.
    """

    def __init__(self, options: UROptions, motion: Motion | CellMotion | None = None) -> None:
        self.options, self.lock = options, threading.RLock()
        self.motion = motion or Motion(np.radians(options.joints_degrees).tolist())
        self.robot_mode, self.safety_mode, self.runtime = RUNNING, NORMAL, STOPPED
        self.payload, self.cog, self.inertia, self.slider = 0.0, [0.0] * 3, [0.0] * 6, 1.0
        self.registers: dict[str, float] = {}
        self.clients: list[Client] = []
        self.frozen, self.since = False, 0.0
        self._executing = False
        self._watch: float | None = None
        self._heard = time.monotonic()

    # ------------------------------------------------------------------------------------------------- what it does

    def run(self) -> None:
        """Advance the arm in real time and tell every client, for ever."""
        last = time.monotonic()
        due = last
        while True:
            now = time.monotonic()
            with self.lock:
                if self._watch is not None and now - self._heard > self._watch:
                    self.end_program()
                self.motion.advance(min(now - last, BEHIND))
                listening = [client for client in self.clients if client.due(now) and not self.frozen]
                states = self.states(now) if listening else {}
            last = now
            for client in listening:
                client.tell(states, now)
            due = max(due + PERIOD, now)
            time.sleep(max(TURN, due - time.monotonic()))

    def states(self, now: float) -> dict[str, Any]:
        """All outputs of RTDE by name: radians, metres, N, at `now` of the monotonic clock."""
        motion = self.motion
        pose, speed = matrix_to_pose(motion.pose()), motion.velocity()
        emergency, protective = self.safety_mode == EMERGENCY, self.safety_mode == PROTECTIVE
        powered = self.robot_mode in (RUNNING, IDLE)
        return {
            "timestamp": now, "actual_q": motion.joints, "actual_qd": motion.speeds, "actual_TCP_pose": pose,
            "actual_TCP_speed": speed, "actual_TCP_force": motion.wrench(), "target_q": motion.joints,
            "target_qd": motion.speeds, "target_TCP_pose": pose, "target_TCP_speed": speed,
            "robot_mode": self.robot_mode, "safety_mode": self.safety_mode, "runtime_state": self.runtime,
            "speed_scaling": 1.0, "target_speed_fraction": self.slider, "payload": self.payload,
            "payload_cog": self.cog, "payload_inertia": self.inertia,
            "robot_status_bits": powered + 2 * (self.runtime == PLAYING),
            "safety_status_bits": (not (emergency or protective)) + 4 * protective + 0xC0 * emergency,
            **self.registers,
        }  # fmt: skip

    def begin_program(self) -> None:
        """A script was received: it runs, if the arm has power and no stop holds it."""
        with self.lock:
            if self.robot_mode == RUNNING and self.safety_mode == NORMAL:
                self.runtime, self._executing, self._watch = PLAYING, False, None
                self.registers["output_int_register_0"] = 1

    def end_program(self) -> None:
        """The script is over: nothing is commanded any more."""
        with self.lock:
            self.runtime, self._watch = STOPPED, None
            self.registers["output_int_register_0"] = 0
            self.motion.guide(False)
            self.motion.let_go()

    def take(self, values: Mapping[str, float]) -> None:
        """Inputs of a client."""
        with self.lock:
            if "speed_slider_mask" in values:
                if values["speed_slider_mask"]:
                    self.slider = values["speed_slider_fraction"]
                return
            if "input_int_register_0" not in values or self.runtime != PLAYING:
                return
            self._heard = time.monotonic()
            command = int(values["input_int_register_0"])
            numbers = [values.get(f"input_double_register_{i}", 0.0) for i in range(18)]
            if command in AT_ONCE:
                self._executing = False
            elif self._executing:
                return
            try:
                self.do(command, numbers)
            except SafetyError:
                self.protective_stop()
                return
            if self.runtime == PLAYING:
                self._executing = command not in AT_ONCE
                self.registers["output_int_register_0"] = 2 if self._executing else 1

    def do(self, command: int, numbers: list[float]) -> None:
        """Carry out one command of the control script, with its numbers as ur_rtde packs them."""
        motion = self.motion
        if command == SERVO_POSE:
            motion.servo(pose_to_matrix(np.array(numbers[:6])), numbers[9])
        elif command == SERVO_JOINTS:
            motion.servo_joints(np.array(numbers[:6]), numbers[9])
        elif command == SERVO_STOP:
            motion.let_go()
        elif command in (TEACH, END_TEACH):
            motion.let_go()
            motion.guide(command == TEACH)
        elif command == SET_TCP:
            motion.set_tcp(pose_to_matrix(np.array(numbers[:6])))
        elif command == GET_TCP:
            for i, value in enumerate(matrix_to_pose(motion.tcp)):
                self.registers[f"output_double_register_{i}"] = float(value)
        elif command == SET_PAYLOAD:
            self.payload, self.inertia = numbers[0], numbers[4:10]
            self.cog = numbers[1:4] if any(numbers[1:4]) else self.cog
        elif command == WATCHDOG:
            self._watch = 1 / numbers[0]
        elif command == END:
            self.end_program()

    # --------------------------------------------------------------------------------------------- trouble, and after

    def protective_stop(self) -> None:
        """Stop as after a collision: the program ends, and none begins until it is unlocked."""
        with self.lock:
            self.safety_mode, self.since = PROTECTIVE, time.monotonic()
            self.end_program()

    def make(self, trouble: str) -> str:
        """Bring about what a test asks for by name; returns what was done."""
        with self.lock:
            if trouble == "protective_stop":
                self.protective_stop()
            elif trouble == "emergency_stop":
                self.safety_mode, self.robot_mode = EMERGENCY, POWER_OFF
                self.end_program()
            elif trouble == "release":
                self.safety_mode = NORMAL
            elif trouble == "power on":
                self.robot_mode = RUNNING
            elif trouble == "drop":
                for client in self.clients:
                    client.drop()
            elif trouble in ("freeze", "thaw"):
                self.frozen = trouble == "freeze"
            elif trouble == "push":
                self.motion.push()
            elif trouble in ("slow", "fast"):  # somebody at the speed slider
                self.slider = 0.1 if trouble == "slow" else 1.0
            elif trouble == "home" and isinstance(self.motion, Motion):
                self.motion.go_home()
            else:
                return f"try {', '.join(TROUBLES)}"
        return "ok"

    def ask(self, words: str) -> str:
        """A line on the dashboard."""
        with self.lock:
            if words == "unlock protective stop":
                if self.safety_mode != PROTECTIVE:
                    return "Protective stop releasing"
                if time.monotonic() - self.since < self.options.unlock_after:
                    return (
                        f"Cannot unlock protective stop until {self.options.unlock_after:g}s after occurrence. Always "
                        "inspect cause of protective stop before unlocking"
                    )
                self.safety_mode = NORMAL
                return "Protective stop releasing"
            if words == "power on":
                self.robot_mode = IDLE
                return "Powering on"
            if words == "brake release":
                self.robot_mode = RUNNING
                return "Brake releasing"
            if words == "stop":
                self.end_program()
                return "Stopped"
        said = {
            "polyscopeversion": "URSoftware 5.12.0.1101319 (Feb 01 2022)",
            "get serial number": "20195500000",
            "is in remote control": "true",
            "close safety popup": "closing safety popup",
        }
        return said.get(words, f'could not understand: "{words}"')


class Client:
    """One connection of RTDE, version 2 of its protocol."""

    def __init__(self, controller: Controller, connection: socket.socket) -> None:
        self._controller, self._connection = controller, connection
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(None)
        self._outputs: list[tuple[str, str]] = []
        self._inputs: list[list[tuple[str, str]]] = []
        self._every, self._due = 0.008, float("inf")
        self._sending = threading.Lock()

    def drop(self) -> None:
        """Cut the connection, as a pulled cable does."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)

    def serve(self) -> None:
        """Answer until the other side goes away."""
        controller, waiting = self._controller, b""
        with controller.lock:
            controller.clients.append(self)
        try:
            while data := self._connection.recv(65536):
                waiting += data
                while len(waiting) >= 3 and len(waiting) >= (size := struct.unpack(">H", waiting[:2])[0]):
                    self._answer(chr(waiting[2]), waiting[3:size])
                    waiting = waiting[size:]
        except OSError:
            return  # the other side is gone, or `drop`
        finally:
            with controller.lock:
                controller.clients.remove(self)
            self._connection.close()

    def _answer(self, kind: str, payload: bytes) -> None:
        if kind == "V":
            self._send(kind, bytes([struct.unpack(">H", payload)[0] == 2]))
        elif kind == "v":
            self._send(kind, struct.pack(">IIII", 5, 12, 0, 0))
        elif kind == "O":
            self._every = 1 / struct.unpack(">d", payload[:8])[0]
            self._outputs = _recipe(payload[8:])
            self._send(kind, b"\1" + ",".join(of for _, of in self._outputs).encode())
        elif kind == "I":
            self._inputs.append(_recipe(payload))
            types = ",".join(of for _, of in self._inputs[-1]).encode()
            self._send(kind, bytes([len(self._inputs)]) + types)
        elif kind == "S":
            self._send(kind, b"\1")
            self._due = time.monotonic()
        elif kind == "P":
            self._due = float("inf")
            self._send(kind, b"\1")
        elif kind == "U":
            recipe = self._inputs[payload[0] - 1]
            values = struct.unpack(">" + "".join(FORMATS[of] for _, of in recipe), payload[1:])
            self._controller.take(dict(zip((name for name, _ in recipe), values, strict=False)))

    def due(self, now: float) -> bool:
        """Whether it is to be told at `now` of the monotonic clock, as often as it asked for."""
        return now >= self._due - 0.5 * PERIOD

    def tell(self, states: Mapping[str, Any], now: float) -> None:
        """Send the outputs it asked for; `now` of the monotonic clock."""
        self._due = max(self._due + self._every, now - self._every)
        values: list[float] = []
        for name, of in self._outputs:
            count = int(FORMATS[of][0]) if len(FORMATS[of]) > 1 else 1
            value = states.get(name, 0)
            values += list(value) if np.ndim(value) else [value] * count
        packed = struct.pack(">" + "".join(FORMATS[of] for _, of in self._outputs), *values)
        with contextlib.suppress(OSError):  # `serve` sees that it is gone
            self._send("U", b"\1" + packed)

    def _send(self, kind: str, payload: bytes) -> None:
        with self._sending:
            self._connection.sendall(struct.pack(">HB", 3 + len(payload), ord(kind)) + payload)


def _recipe(names: bytes) -> list[tuple[str, str]]:
    """Names and types of what a client asks for."""
    return [(name, _type(name)) for name in names.decode().split(",") if name]


def _type(name: str) -> str:
    if "_int_register_" in name:
        return "INT32"
    if name.endswith(("_mask", "_type", "digital_output")) and name not in TYPES:
        return "UINT8"
    return TYPES.get(name, "DOUBLE")


def _take_script(controller: Controller, connection: socket.socket) -> None:
    """ur_rtde sends one that begins with def and ends with end, and keeps the connection."""
    text = b""
    while data := connection.recv(65536):
        text += data
        if text.rstrip().endswith(b"end"):
            controller.begin_program()
            text = b""


def _talk(answer: Callable[[str], str], greeting: str, connection: socket.socket) -> None:
    connection.sendall(greeting.encode())
    for line in connection.makefile():
        connection.sendall(answer(line.strip()).encode() + b"\n")


def serve(options: UROptions, ready: Callable[[Mapping[str, Any]], None]) -> None:
    """Answer until interrupted."""
    prefer()  # as a controller's own computer does nothing else
    controller = Controller(options)
    listen(controller)
    ready({"address": options.address})
    controller.run()


def listen(controller: Controller) -> None:
    """Answer at all ports, in threads.

    Raises:
        ConfigError: a port of its address cannot be had.
    """
    options = controller.options
    greeting = "Connected: Universal Robots Dashboard Server\n"
    ports: dict[int, Callable[[socket.socket], None]] = {
        RTDE: lambda connection: Client(controller, connection).serve(),
        SCRIPT: lambda connection: _take_script(controller, connection),
        DASHBOARD: lambda connection: _talk(lambda line: controller.ask(line.lower()), greeting, connection),
        TROUBLE: lambda connection: _talk(controller.make, "", connection),
    }
    for port, answer in ports.items():
        _open(options.address, port, answer)


def take_lines(address: str, port: int, answer: Callable[[str], str]) -> None:
    """Answer each line at a port, in threads. Raises ConfigError as `listen`."""
    _open(address, port, lambda connection: _talk(answer, "", connection))


def _open(address: str, port: int, answer: Callable[[socket.socket], None]) -> None:
    try:
        listening = socket.create_server((address, port))
    except OSError as error:
        raise ConfigError(
            f"port {port} of {address} cannot be had ({error}): another peer answers there, or it is no address of "
            "this machine. Choose another 127.0.0.x."
        ) from error
    threading.Thread(target=_accept, args=(listening, answer), daemon=True).start()


def _accept(listening: socket.socket, answer: Callable[[socket.socket], None]) -> None:
    def answered(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            answer(connection)

    while True:
        connection, _ = listening.accept()
        threading.Thread(target=answered, args=(connection,), daemon=True).start()


PEER = Peer(serve=serve, options=UROptions, what="a UR controller")

if __name__ == "__main__":
    main(PEER)
