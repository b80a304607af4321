"""What works on this machine, and the command that mends the rest.

    for finding in examine(): print(finding.name, finding.state, finding.found, finding.mend)

Each check looks at one thing and never raises: a check that fails is a finding. What could take long or change
something (a picture that is drawn, the hub that is asked) has its own process or a time limit.
"""

from __future__ import annotations

import getpass
import glob
import importlib.metadata
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdt2.threads import AHEAD

if TYPE_CHECKING:
    from rdt2.devices.known import Known

State = Literal["ok", "optional", "broken"]

PYTHON = ((3, 10), (3, 13))
PORTS = {
    8000: ("rdt2 serve", "--port"),
    8060: ("the operator's page", "--dashboard-port"),
    8790: ("rdt2 robot serve", "--port"),
}
"""Who listens there, and the option that names another one."""
DEVICE_FILES = {
    "serial ports": (("/dev/ttyUSB*", "/dev/ttyACM*"), "dialout"),
    "USB cameras": (("/dev/video*",), "video"),
}
"""Where such devices appear, and the group of those who may open them."""
DRAWN_SECONDS, HUB_SECONDS = 60.0, 4.0
DESCRIPTORS = 4096
SHARED_GB = 2.0
"""Of /dev/shm: batches of loader workers go through it."""
MEMORY_GB = 4.0
"""Of main memory, of which the demo takes 0.9 (benchmarks/footprint.py)."""
_DRAW = "from rdt2.sim.render import require_rendering; require_rendering()"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    state: State
    """ok; optional: something that not everybody needs is missing; broken: commands will fail."""
    found: str
    """What there is."""
    mend: str = ""
    """The command, or what to do; empty where nothing is wrong."""

    def as_dict(self) -> dict[str, str]:
        """For JSON: its fields by name."""
        return asdict(self)


def examine(*, hub: bool = True) -> Iterator[Finding]:
    """All findings, one after the other as they are known.

    Args:
        hub: whether to ask the hub if it can be reached.
    """
    checks: list[Callable[[], Finding | list[Finding]]] = [
        _python, _core, _torch, _memory, _compiler, _rendering, _shared_memory, _descriptors, _real_time, _extras,
        _drivers, _device_files, _ports, _cache,
    ]  # fmt: skip
    if hub:
        checks.append(_hub)
    for check in checks:
        try:
            found = check()
        except Exception as error:
            name = check.__name__.strip("_").replace("_", " ")
            found = Finding(
                name, "broken", f"{type(error).__name__}: {error}", "report this with the whole output"
            )
        yield from found if isinstance(found, list) else [found]


# --------------------------------------------------------------------------------------------------------------- checks


def _python() -> Finding:
    version, low, high = sys.version_info[:2], *PYTHON
    told = f"{platform.python_version()}, {sys.executable}"
    if low <= version <= high:
        return Finding("Python", "ok", told)
    state: State = "broken" if version < low else "optional"
    return Finding(
        "Python", state, told, f"use Python {low[0]}.{low[1]} to {high[0]}.{high[1]}, where tests run"
    )


def _core() -> list[Finding]:
    """The packages that every command needs, in versions that go together."""
    from packaging.requirements import Requirement

    findings = []
    for line in importlib.metadata.requires("rdt2") or []:
        need = Requirement(line)
        if need.marker is not None and not need.marker.evaluate({"extra": ""}):
            continue
        version = _version(need.name)
        if version is None or not need.specifier.contains(version, prereleases=True):
            told = "not installed" if version is None else f"{version}, expected {need.specifier}"
            findings.append(Finding(need.name, "broken", told, f"pip install '{need}'"))
    return findings or [Finding("core packages", "ok", f"rdt2 {_version('rdt2')} and what it needs")]


def _torch() -> list[Finding]:
    import torch

    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    if not gpus:
        nvidia = Path("/proc/driver/nvidia/version").exists()
        mend = "pip install --force-reinstall torch (this build of it has no CUDA)" if nvidia else ""
        told = (
            f"torch {torch.__version__}, CPU only: the demo runs; the published models need a GPU "
            "(weights of RDT2-FM 8.9 GB, of RDT2-VQ 18.3 GB)"
        )
        return [Finding("GPU", "optional", told, mend)]
    found = []
    for number, gpu in enumerate(gpus):
        free, total = torch.cuda.mem_get_info(number)
        told = f"{gpu.name}, {free / 1e9:.0f} of {total / 1e9:.0f} GB free, torch {torch.__version__}"
        small = total < 19e9
        mend = "for RDT2-VQ: --quantize int8 or int4 (docs/models.md)" if small else ""
        if not torch.cuda.is_bf16_supported(including_emulation=False):
            small, mend = True, "this GPU has no bfloat16: --dtype float32, or a newer one"
        found.append(Finding(f"GPU {number}", "optional" if small else "ok", told, mend))
    return found


def _memory() -> Finding:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    told = f"{total:.0f} GB, {os.cpu_count()} cores"
    few = total < MEMORY_GB
    return Finding(
        "memory",
        "optional" if few else "ok",
        told,
        f"{MEMORY_GB:.0f} GB: the demo takes 0.9 beside the system" if few else "",
    )


def _compiler() -> Finding:
    path = shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")
    if path:
        return Finding("C++ compiler", "ok", path)
    return Finding("C++ compiler", "optional", "none: compile=true does not work", "apt-get install g++")


def _rendering() -> Finding:
    """Draw a picture, in a process of its own: a broken OpenGL may take its process down."""
    if _version("mujoco") is None:
        return Finding("rendering", "optional", "no simulated cell", "pip install 'rdt2[sim]'")
    try:
        done = subprocess.run(
            [sys.executable, "-c", _DRAW], capture_output=True, text=True, timeout=DRAWN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return Finding(
            "rendering", "broken", f"hangs for {DRAWN_SECONDS:.0f} s", "MUJOCO_GL=osmesa rdt2 doctor"
        )
    if done.returncode == 0:
        return Finding("rendering", "ok", f"MUJOCO_GL={os.environ.get('MUJOCO_GL') or 'chosen by rdt2'}")
    said = done.stderr.strip().splitlines()
    told = re.sub(r"^[\w.]+Error: ", "", said[-1]) if said else f"ended with {done.returncode}"
    return Finding("rendering", "broken", told, "apt-get install libosmesa6")


def _shared_memory() -> Finding:
    where = Path("/dev/shm")
    if not where.is_dir():
        return Finding("shared memory", "ok", "no /dev/shm on this system")
    size = shutil.disk_usage(where).total / 1e9
    if size >= SHARED_GB:
        return Finding("shared memory", "ok", f"/dev/shm has {size:.1f} GB")
    return Finding(
        "shared memory", "optional", f"/dev/shm has {size:.2f} GB: loaders of training may fail",
        "docker run --shm-size 8g, or --set loader_workers=0",
    )  # fmt: skip


def _descriptors() -> Finding:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= DESCRIPTORS or soft == resource.RLIM_INFINITY:
        return Finding("open files", "ok", f"{soft} at once")
    return Finding("open files", "optional", f"{soft} at once", f"ulimit -n {min(hard, 65536)}")


def _real_time() -> Finding:
    """Whether the servo may ask for a real-time priority, and its process go ahead of others: only robots need it."""
    import resource

    if not hasattr(resource, "RLIMIT_RTPRIO"):
        return Finding("real-time priority", "ok", "not on this system")
    (rtprio, _), (nice, _) = map(resource.getrlimit, (resource.RLIMIT_RTPRIO, resource.RLIMIT_NICE))
    lacking = []
    if rtprio == 0:
        lacking.append("rtprio 50")
    if 0 <= nice < 20 - AHEAD:  # below 0: as one likes
        lacking.append(f"nice {AHEAD}")
    if os.geteuid() == 0 or not lacking:
        return Finding("real-time priority", "ok", "the servo of a robot gets one")
    lines = " ".join(f"'{getpass.getuser()} - {each}'" for each in lacking)
    return Finding(
        "real-time priority", "optional",
        f"no {' and no '.join(lacking)}: on a busy machine the servo of a robot is later",
        f"printf '%s\\n' {lines} | sudo tee -a /etc/security/limits.conf, then log in again",
    )  # fmt: skip


def _extras() -> list[Finding]:
    """What of the extras is installed."""
    from packaging.requirements import Requirement

    needs = [Requirement(line) for line in importlib.metadata.requires("rdt2") or []]
    findings = []
    for extra in importlib.metadata.metadata("rdt2").get_all("Provides-Extra") or []:
        if extra == "all":  # of those that are told one by one
            continue
        missing = [
            need.name
            for need in needs
            if need.marker is not None
            and need.marker.evaluate({"extra": extra})
            and not need.marker.evaluate({"extra": ""})
            and _version(need.name) is None
        ]
        if missing:
            told = f"not installed: {', '.join(missing)}"
            findings.append(Finding(f"extra {extra}", "optional", told, f"pip install 'rdt2[{extra}]'"))
        else:
            findings.append(Finding(f"extra {extra}", "ok", "installed"))
    return findings


def _drivers() -> list[Finding]:
    """Those that can be used as they are, in one finding; one for each that lacks something."""
    from rdt2.devices.known import known_drivers

    ready: dict[str, None] = {}
    lacking: dict[str, Finding] = {}
    for each in known_drivers():
        told, mend = _lacked_by(each)
        if told:
            name = f"driver {each.name}"
            lacking[name] = Finding(name, "optional", told, mend)
        else:
            ready[each.name] = None
    told = f"{', '.join(ready) or 'none'}: 'rdt2 device list --find' looks for devices"
    return [Finding("device drivers", "ok", told), *lacking.values()]


def _lacked_by(driver: Known) -> tuple[str, str]:
    """What a driver cannot be used without, and how to get it; empty where nothing is missing."""
    from packaging.requirements import Requirement

    from rdt2.devices import libaravis
    from rdt2.errors import RobotError

    if driver.missing:
        told = f"not installed: {', '.join(driver.missing)}"
        for need in map(Requirement, importlib.metadata.requires("rdt2") or []):
            where, _, extra = str(need.marker or "").rpartition(" and ")
            here = need.marker is None or need.marker.evaluate({"extra": driver.extra})
            if need.name in driver.missing and f'"{driver.extra}"' in extra and not here:
                return told, f"another Python or system: {need.name} is only where {where.strip('()')}"
        return told, f"pip install 'rdt2[{driver.extra}]'"
    if driver.name == "aravis":
        try:
            libaravis.library()
        except RobotError as error:
            return str(error).rpartition(" Install it:")[0], libaravis.INSTALL
    return "", ""


def _device_files() -> list[Finding]:
    """Whether this user may open the devices that are plugged in."""
    findings = []
    for name, (patterns, group) in DEVICE_FILES.items():
        there = sorted(path for pattern in patterns for path in glob.glob(pattern))
        closed = [path for path in there if not os.access(path, os.R_OK | os.W_OK)]
        if closed:
            told = f"{', '.join(closed)} may not be opened by {getpass.getuser()}"
            mend = f"sudo usermod -aG {group} {getpass.getuser()}, then log in again"
            findings.append(Finding(name, "optional", told, mend))
        else:
            findings.append(Finding(name, "ok", ", ".join(there) or "none plugged in"))
    return findings


def _ports() -> list[Finding]:
    findings = []
    for port, (user, option) in PORTS.items():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError as error:
                told = f"taken ({error.strerror})"
                findings.append(Finding(f"port {port}", "optional", told, f"another {option} for {user}"))
            else:
                findings.append(Finding(f"port {port}", "ok", f"free for {user}"))
    return findings


def _cache() -> Finding:
    from huggingface_hub import constants

    where = Path(constants.HF_HUB_CACHE)
    there = next(parent for parent in (where, *where.parents) if parent.exists())
    free = shutil.disk_usage(there).free / 1e9
    if not os.access(there, os.W_OK):
        return Finding(
            "hub cache", "optional", f"{where} cannot be written to", "export HF_HOME=/a/folder/of/yours"
        )
    few = free < 40
    mend = "export HF_HOME=/a/larger/disk (RDT2-VQ takes 17 GB, RDT2-FM 1 GB beside it)" if few else ""
    return Finding("hub cache", "optional" if few else "ok", f"{where}, {free:.0f} GB free", mend)


def _hub() -> Finding:
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return Finding(
            "hub", "optional", "HF_HUB_OFFLINE is set: only what is in the cache", "unset HF_HUB_OFFLINE"
        )
    place = constants.ENDPOINT
    try:
        # as the hub's own client asks: through HTTPS_PROXY, and at HF_ENDPOINT
        urllib.request.urlopen(urllib.request.Request(place, method="HEAD"), timeout=HUB_SECONDS).close()
        return Finding("hub", "ok", f"{place} answers")
    except urllib.error.HTTPError as error:
        return Finding("hub", "ok", f"{place} answers ({error.code})")
    except (OSError, ValueError) as error:
        return Finding(
            "hub", "optional", f"{place} cannot be reached ({getattr(error, 'reason', None) or error})",
            "export HTTPS_PROXY=..., or HF_ENDPOINT=https://hf-mirror.com, or copy a model's folder here",
        )  # fmt: skip


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def summary(findings: list[Finding]) -> dict[str, Any]:
    """Figures of an examination: whether nothing is broken, and all findings."""
    return {
        "works": all(finding.state != "broken" for finding in findings),
        "findings": [finding.as_dict() for finding in findings],
    }
