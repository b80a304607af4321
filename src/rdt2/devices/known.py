"""Which drivers there are, what their libraries want installed, and which devices answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

from rdt2.devices.drivers import (
    ARM_DRIVERS,
    CAMERA_DRIVERS,
    GRIPPER_DRIVERS,
    TRACKER_DRIVERS,
    Driver,
    Found,
)
from rdt2.errors import RDT2Error

_EXTRA, _NAME = re.compile(r"""extra\s*==\s*['"]([^'"]+)['"]"""), re.compile(r"^[\w.-]+")
"""Of a line such as `ur-rtde>=1.6; extra == 'ur'`."""
PARTS = {"arm": ARM_DRIVERS, "gripper": GRIPPER_DRIVERS, "camera": CAMERA_DRIVERS, "tracker": TRACKER_DRIVERS}


@dataclass(frozen=True)
class Known:
    """A driver, as it is found on this machine."""

    part: str
    name: str
    driver: Driver
    missing: tuple[str, ...]
    """Packages of its extra that are not installed."""

    @property
    def extra(self) -> str:
        """What to install them with."""
        return self.driver.extra


def known_drivers() -> list[Known]:
    """All of them, arms first."""
    return [
        Known(part, name, driver, missing_of(driver.extra))
        for part, registry in PARTS.items()
        for name, driver in registry.items()
    ]


def missing_of(extra: str) -> tuple[str, ...]:
    """Packages that an extra of this package brings and that are not installed here."""
    if not extra:
        return ()
    lines = [line for line in metadata.requires("rdt2") or () if _EXTRA.findall(line) == [extra]]
    if not lines:
        return (f"the extra {extra} of this version",)
    return tuple(name for line in lines if not _installed(name := _NAME.findall(line)[0]))


def _installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def looked_for(driver: Driver) -> tuple[Sequence[Found], str]:
    """Devices that answer a driver's search, and why it could not look where it could not."""
    if driver.find is None:
        return (), "cannot be looked for"
    try:
        return driver.find(), ""
    except (RDT2Error, OSError, ImportError) as error:
        return (), f"{type(error).__name__}: {error}"
