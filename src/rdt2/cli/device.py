"""`rdt2 device`: which drivers there are, whether a device answers, and peers that stand in for devices."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tyro.conf import Positional


@dataclass(kw_only=True)
class DeviceList:
    """List drivers: what a yaml calls them, what they need installed.

    For example:
      rdt2 device list
      rdt2 device list --find           look for devices that answer on this machine
    """

    find: bool = False
    """Look for devices on this machine's ports and networks, which may take some seconds."""
    json: Path | None = None
    """Write the same to this file. - is stdout, alone."""

    def run(self) -> None:
        from rich.markup import escape
        from rich.table import Table

        from rdt2.cli.output import console, save_json
        from rdt2.devices.known import known_drivers, looked_for
        from rdt2.progress import working
        from rdt2.robot.sense import RESETS

        rows = known_drivers()
        table = Table(title="drivers, and what to write: device: {type: ...}", title_justify="left")
        for name in ("part", "type", "extra", "installed", "options"):
            table.add_column(name, overflow="fold")
        for row in rows:
            missing = ", ".join(row.missing)
            options = dict.fromkeys(
                (*row.driver.options.model_fields, *(RESETS if row.part == "arm" else ()))
            )
            table.add_row(
                row.part,
                row.name,
                row.extra or "-",
                "yes" if not missing else escape(f"no: {missing}. pip install 'rdt2[{row.extra}]'"),
                " ".join(options),
            )
        out = console()
        out.print(table)
        found: list[dict[str, Any]] = []
        for row in rows if self.find else ():
            if row.driver.find is None or row.missing:
                continue
            with working(f"looking for {row.name}"):
                devices, why = looked_for(row.driver)
            for each in devices:
                found.append({"part": row.part, "type": row.name, "device": each.device, "note": each.note})
                said = ", ".join(f"{key}: {value}" for key, value in each.device.items())
                out.print(
                    f"{row.part}: device: {{type: {row.name}, {said}}}  {each.note}",
                    highlight=False,
                    markup=False,
                )
            if why or not devices:
                out.print(f"{row.part} {row.name}: {why or 'none answers'}", highlight=False, markup=False)
        drivers = [
            {"part": row.part, "type": row.name, "extra": row.extra, "missing": list(row.missing)}
            for row in rows
        ]
        save_json(self.json, {"drivers": drivers, **({"found": found} if self.find else {})})


@dataclass(kw_only=True)
class DeviceTest:
    """Try one device of a robot: rates, delays, how it is set up.

    It is connected and enabled. Nothing moves but with --move: then an arm goes 2 cm up and down, a gripper opens or
    closes by 1 cm, and the time from command to motion is measured; write it into the yaml as the device's latency.

    For example:
      rdt2 device test arm --robot my_robot.yaml --side left
      rdt2 device test zhixing --robot my_robot.yaml --side right --move --json gripper.json
      rdt2 device test camera --robot cell_ur5e --side left
    """

    name: Positional[str]
    """arm, gripper or camera; or the name of the driver, which has to be the yaml's; or that of a tracker's driver."""
    options: Positional[tuple[str, ...]] = ()
    """Of a tracker, which no robot's yaml describes: its options, each key=value."""
    robot: str
    """The yaml of the robot, or the name of one in configs/robots."""
    side: Literal["right", "left"]
    """Which arm, or whose gripper or camera."""
    seconds: float = 3.0
    """For so long rates are counted."""
    move: bool = False
    """Move it a little."""
    yes: bool = False
    """Do not ask before it is enabled and before it moves."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rich.table import Table

        from rdt2.cli.output import console, save_json
        from rdt2.devices.drivers import options_of
        from rdt2.errors import ConfigError
        from rdt2.operation.session import ending_in_order
        from rdt2.operation.tried import part_named, tried
        from rdt2.robot.settings import RobotSettings

        if not 0.2 <= self.seconds <= 600:
            raise ConfigError(f"--seconds is {self.seconds}, expected 0.2 to 600.")
        settings = RobotSettings.read(self.robot)
        part = part_named(settings, self.side, self.name)
        options = options_of(self.options)
        if options and part != "tracker":
            raise ConfigError(
                f"{', '.join(self.options)}: what a {part} needs stands in the robot's yaml, under device:."
            )
        with ending_in_order():
            figures = tried(
                settings,
                self.side,
                part,
                seconds=self.seconds,
                move=self.move,
                yes=self.yes,
                tracker={"type": self.name, **options},
            )
        table = Table(title=f"{settings.name}: {self.side} {part}", title_justify="left")
        table.add_column("what")
        table.add_column("measured", justify="right")
        for key, value in figures.items():
            if key != "checks":
                table.add_row(
                    key.replace("_", " "), f"{value:.4g}" if isinstance(value, float) else str(value)
                )
        for check in figures["checks"]:
            table.add_row(
                check["name"], f"{check['got']} ({'as' if check['ok'] else 'NOT'} {check['expected']})"
            )
        console().print(table)
        save_json(self.json, {"robot": settings.name, "side": self.side, "part": part, **figures})
        if not all(check["ok"] for check in figures["checks"]):
            sys.exit(1)


@dataclass(kw_only=True)
class DevicePeer:
    """Start a peer, a program that stands in for a device.

    It speaks the device's real protocol, for trials without it. Its first line says what a robot's yaml writes under
    device: to reach it. Ctrl-C ends it.

    For example:
      rdt2 device peer ur
      rdt2 device peer ur help                   which options it has
      rdt2 device peer gige picture=wrist.png
    """

    name: Positional[str]
    """Which one: rdt2 device peer help lists them."""
    options: Positional[tuple[str, ...]] = ()
    """Its options, each key=value."""

    def run(self) -> None:
        from rdt2.cli.output import console
        from rdt2.devices.drivers import PEERS
        from rdt2.devices.peers import run

        out = console()
        if self.name == "help":
            for name, peer in PEERS.items():
                out.print(f"{name}: {peer.what}", highlight=False, markup=False)
            return
        peer = PEERS[self.name]
        if self.options == ("help",):
            for name, field in peer.options.model_fields.items():
                usual = "" if field.is_required() else f" (else {field.default!r})"
                out.print(f"{name}={usual}: {field.description}", highlight=False, markup=False)
            return
        run(peer, self.options)
