"""`rdt2 robot`: the robot of this machine."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal

from rdt2.errors import ConfigError
from rdt2.signals import Listening

if TYPE_CHECKING:
    from rdt2.devices.host import DeviceHost
    from rdt2.robot.protocols import Arm, Clock, Gripper
    from rdt2.robot.settings import RobotSettings


@dataclass(kw_only=True)
class RobotServe:
    """Let another machine move arms and grippers of this one.

    A real-time host runs this beside its arm. The machine with the policy then needs neither a real-time kernel nor
    the arm's library: its robot yaml says 'device: {type: remote, address: "ws://HOST:8790", ...}' for the arm (and the
    gripper), and all else as the yaml here does, reset_radians among it; where the two differ in base, tool, stroke,
    limits of braking, or in where an arm of seven joints begins from, it is told so and nothing moves.

    An arm stops where its client is silent for 100 ms while it moves, and where the connection ends, however it ends.
    It stays stopped until a person says over there that it may go on. One client at a time moves a device. Ctrl-C stops
    and closes everything.

    For example:
      rdt2 robot serve --robot my_fr3.yaml --side right
      rdt2 robot serve --robot my_fr3.yaml --host 192.168.0.5 --api-key-file key
      rdt2 robot serve --robot cell_fr3                    a simulated robot, to try the network with
    """

    robot: str
    """The robot whose devices stand at this machine: a yaml, or the name of one that comes with the package."""
    side: Literal["right", "left", "both"] = "both"
    """Which arm and gripper to serve; both: all sides that the robot has."""
    host: str = "127.0.0.1"
    """Of this machine, the address to listen at: 127.0.0.1 for programs of this machine alone. Choose the address in
    the robots' own network, not 0.0.0.0."""
    port: int = 8790
    """Where to listen; 0 takes any that is free, and the first line says which."""
    api_key_file: Path | None = None
    """File with a key that clients must have (api_key_file of their driver); needed where other machines can come."""
    without_key: bool = False
    """Let machines elsewhere in without --api-key-file. Anybody there can MOVE the arms."""
    tls_cert: Path | None = None
    """PEM file with the certificate (chain), for wss://; with --tls-key."""
    tls_key: Path | None = None
    """PEM file with the certificate's private key."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """info has a line for each client that comes or goes, warning only what stopped something."""

    def run(self) -> None:
        from rdt2.devices.host import DeviceHost, HostSettings
        from rdt2.robot.settings import RobotSettings
        from rdt2.serving.logs import log_to_stderr
        from rdt2.serving.security import required_key, tls_context

        if not 0 <= self.port < 65536:
            raise ConfigError(f"--port {self.port}: expected 0 to 65535.")
        robot = RobotSettings.read(self.robot)
        if self.side != "both" and self.side not in robot.sides:
            raise ConfigError(f"--side {self.side}: robot {robot.name!r} has {', '.join(robot.sides)} only.")
        settings = HostSettings(
            host=self.host,
            port=self.port,
            api_key=required_key(self.host, self.api_key_file, open_to_all=self.without_key),
            tls=tls_context(self.tls_cert, self.tls_key),
        )
        log_to_stderr(self.log_level, "rdt2.devices")
        with contextlib.ExitStack() as open_:
            devices, clock = self._devices(robot, open_)
            host = open_.enter_context(DeviceHost.of(robot, devices, clock, settings))
            for name in host.paths:
                print(f"{'wss' if settings.tls else 'ws'}://{self.host}:{host.port}{name}", flush=True)
            with _Ending(host):
                host.wait()

    def _devices(
        self, robot: RobotSettings, open_: contextlib.ExitStack
    ) -> tuple[dict[str, Arm | Gripper], Clock]:
        """Arms and grippers that stand at this machine, by name, and their clock."""
        sides = robot.sides if self.side == "both" else (self.side,)
        if robot.kind == "cell":
            from rdt2.sim import make_scene
            from rdt2.sim.realtime import RealtimeCell

            cell = open_.enter_context(RealtimeCell.of(robot, make_scene("pick", 1))).robot(sides)
            parts = {f"{side} arm": cell.arms[side] for side in sides}
            return {**parts, **{f"{side} gripper": cell.grippers[side] for side in sides}}, cell.clock
        from rdt2.devices import WallClock, open_device

        clock, found = WallClock(), {}
        for side in sides:
            for part, device in (
                ("arm", robot.arms[side].device),
                ("gripper", robot.arms[side].gripper.device),
            ):
                if device.get("type") != "remote":
                    found[f"{side} {part}"] = open_device(robot, side, part, clock)
        if not found:
            raise ConfigError(
                f"robot {robot.name!r}: all its arms and grippers are remote (device.type), so none stands at this "
                "machine. Here the yaml names the drivers of the devices themselves."
            )
        return found, clock


class _Ending(Listening):
    """Ctrl-C and what ends a service: devices are stopped and closed first."""

    def __init__(self, host: DeviceHost) -> None:
        super().__init__("SIGINT", "SIGTERM", "SIGHUP")
        self._host = host

    def _heard(self, number: int, frame: FrameType | None) -> None:
        self._host.leave()
