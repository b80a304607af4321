"""Rates and latencies of each device, against a peer that speaks its protocol on this machine.

    python benchmarks/devices.py --json devices.json          # all that is installed, two minutes
    python benchmarks/devices.py --only remote fr3
    python benchmarks/devices.py --only everything --seconds 20
    python benchmarks/devices.py --only gige uvc --seconds 10

For an arm: states a second and their age when they are read; what a command of 40 waypoints takes, sent 125 times a
second as the servo does; and from a command to the motion. For a gripper also how many widths its bus carries, and how
soon a fault of it is known. For cameras: pictures a second, from the middle of an exposure until the picture can be
read, cut and resized, and how far apart two cameras expose. `everything` is two UR5e, two grippers, two cameras and a
tracker at once, driven and recorded by the loop: the periods of its servo. A new device is a function here that gives
its figures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.table import Table

from rdt2.control import DiskRecorder, run_episode
from rdt2.devices import WallClock, open_device, open_tracker
from rdt2.devices.camera_drivers.aravis import AravisOptions, AravisSource
from rdt2.devices.host import DeviceHost, HostSettings
from rdt2.devices.peers import started
from rdt2.devices.peers.zhixing import ZhixingPeer, ZhixingPeerOptions
from rdt2.devices.skew import skew
from rdt2.errors import RDT2Error
from rdt2.robot import Arm
from rdt2.robot.settings import RobotSettings
from rdt2.threads import hurry
from wallclock import SENTENCE, machine

TICK = 0.008
"""Seconds between commands: the servo's."""
SPEED = 0.1
WAYPOINTS = 40


def figures_of_arm(arm: Arm, clock: Any, seconds: float) -> dict[str, float]:
    """Rates a second, and milliseconds, of an arm that is connected and has room above it."""
    hurry()  # as the servo does
    arm.enable()
    ages, numbers, until = [], set(), clock.now() + seconds
    while clock.now() < until:
        state = arm.state()
        if state.sequence not in numbers:
            numbers.add(state.sequence)
            ages.append(clock.now() - state.timestamp)
        time.sleep(0.001)
    said, moved = [], []
    for turn in range(5):
        took, after = _a_way(arm, clock, up=turn % 2 == 0)
        said += took
        moved.append(after)
    return {
        "states_hz": len(numbers) / seconds,
        **_spread("state_age_ms", ages),
        "commands_hz": len(said) / (5 * 0.6),
        **_spread("command_ms", said),
        **_spread("motion_ms", moved),
    }


def _a_way(arm: Arm, clock: Any, *, up: bool) -> tuple[list[float], float]:
    """Up or down for half a second: what each command took, and how long after its time the motion came."""
    start, began, took = arm.state().pose, clock.now() + 0.1, []
    stamps, heights, due = [], [], clock.now()
    while due < began + 0.5:
        times = due + 0.02 + TICK * np.arange(WAYPOINTS)
        poses = np.repeat(start[None], WAYPOINTS, axis=0)
        poses[:, 2, 3] += (SPEED if up else -SPEED) * np.clip(times - began, 0, 0.4)
        called = time.perf_counter()
        arm.execute(times, poses)
        took.append(time.perf_counter() - called)
        state = arm.state()
        stamps.append(state.timestamp)
        heights.append(abs(state.pose[2, 3] - start[2, 3]))
        due += TICK
        clock.sleep_until(due)
    half = int(np.argmax(np.array(heights) > 0.5 * SPEED * 0.4))
    return took, stamps[half] - began - 0.2


def _spread(name: str, seconds: list[float]) -> dict[str, float]:
    milliseconds = 1000 * np.array(seconds)
    return {
        f"{name}_median": float(np.median(milliseconds)),
        f"{name}_p99": float(np.percentile(milliseconds, 99)),
    }


def remote(seconds: float) -> dict[str, float]:
    """The same FR3, served by a host and moved over loopback: what lies between costs the difference."""
    with _fr3() as settings:
        clock = WallClock()
        there = open_device(settings, "right", "arm", clock)
        with DeviceHost.of(settings, {"right arm": there}, clock, HostSettings(port=0)) as host:
            device = {"type": "remote", "address": f"ws://127.0.0.1:{host.port}"}
            with _connected(settings.changed({"arms.right.device": device})) as (arm, clock):
                return figures_of_arm(arm, clock, seconds)


def ur(seconds: float) -> dict[str, float]:
    """A UR5e: ur_rtde against a controller that speaks its protocols."""
    both = RobotSettings.read("bimanual_ur5e").model_dump()
    right = both["arms"]["right"]
    reset = right["device"]["reset_degrees"]
    with started("ur", address="127.42.0.2", joints_degrees=reset) as device:
        right = right | {"device": {**right["device"], "speed_slider": 1.0, **device}}
        right["bounds"] |= {"low": [-1, -2, -0.08], "high": [1, 1, 1.2]}
        settings = RobotSettings.model_validate({**both, "arms": {"right": right}})
        with _connected(settings) as (arm, clock):
            return figures_of_arm(arm, clock, seconds)


def fr3(seconds: float) -> dict[str, float]:
    """A Franka Research 3: franky against franky-sim's server."""
    with _fr3() as settings, _connected(settings) as (arm, clock):
        return figures_of_arm(arm, clock, seconds)


@contextlib.contextmanager
def _fr3() -> Iterator[RobotSettings]:
    both = RobotSettings.read("bimanual_fr3").model_dump()
    with started("fr3", address="127.42.0.1") as device:
        right = both["arms"]["right"]
        right = right | {"device": {**right["device"], "payload": 0.0, "realtime": False, **device}}
        right["bounds"] |= {"low": [-1, -2, -0.08], "high": [1, 1, 1.2]}
        yield RobotSettings.model_validate({**both, "arms": {"right": right}})


def figures_of_gripper(gripper: Any, peer: ZhixingPeer, seconds: float) -> dict[str, float]:
    """Rates a second, and milliseconds, of a gripper that is connected to a peer of this process."""
    gripper.enable()
    said, ages, numbers, lags = [], [], set(), []
    sent, turns = len(peer.moves), max(2, round(seconds))
    for turn in range(turns):
        wide, narrow = (0.11, 0.05) if turn % 2 == 0 else (0.05, 0.11)
        began, seen = time.monotonic() + 0.05, []
        while (now := time.monotonic()) < began + 1.0:
            width = wide + (narrow - wide) * min(max(now + TICK - began, 0.0) / 0.6, 1.0)
            called = time.perf_counter()
            gripper.execute(now + np.array([TICK, 0.09]), np.array([width, width]))
            said.append(time.perf_counter() - called)
            state = gripper.state()
            if state.sequence not in numbers:
                numbers.add(state.sequence)
                ages.append(time.monotonic() - state.timestamp)
                seen.append((state.timestamp, abs(state.width - wide)))
            time.sleep(TICK)
        stamps, ways = np.array(seen).T
        lags.append(float(np.interp(0.5 * abs(narrow - wide), ways, stamps)) - began - 0.3)
    spent = turns * 1.05
    return {
        "states_hz": len(numbers) / spent,
        **_spread("state_age_ms", ages),
        "commands_hz": len(said) / spent,
        "widths_sent_hz": (len(peer.moves) - sent) / (turns * 0.6),
        **_spread("command_ms", said),
        **_spread("motion_ms", lags),
    }


def zhixing(seconds: float) -> dict[str, float]:
    """A Zhixing gripper at the pace of the real bus: 30 ms a width, 16 ms a reading."""
    settings = RobotSettings.read("bimanual_ur5e")
    with tempfile.TemporaryDirectory() as folder:
        options = ZhixingPeerOptions(speed=0.3, link=str(Path(folder, "gripper")))
        with ZhixingPeer(options) as peer:
            figures = {}
            for patient in (
                True,
                False,
            ):  # rates whatever the machine does; faults as they are found on a robot
                device = {"type": "zhixing", "port": peer.port, **({"answer": 0.5} if patient else {})}
                told = settings.changed({"arms.left.gripper.device": device})
                gripper = open_device(told, "left", "gripper")
                gripper.connect()
                if patient:
                    figures |= figures_of_gripper(gripper, peer, seconds)
                else:
                    for fault in ("silence", "garbage", "odd", "unplugged"):
                        took = [_fault(gripper, peer, fault) for _ in range(10)]
                        figures |= _spread(f"{fault}_ms", took)
                gripper.close()
    return figures


def _fault(gripper: Any, peer: ZhixingPeer, fault: Any) -> float:
    """Seconds until a broken bus is known of; it is mended again then."""
    peer.break_down(fault)
    began = time.monotonic()
    while not gripper.health().fault:
        time.sleep(0.0005)
    took = time.monotonic() - began
    peer.break_down("")
    while gripper.health().fault:
        with contextlib.suppress(RDT2Error):
            gripper.recover()
        time.sleep(0.05)
    time.sleep(0.1)
    return took


def tracker(seconds: float) -> dict[str, float]:
    """A tracker of 120 poses a second, recorded."""
    times = np.arange(0, seconds + 5, 1 / 120)
    poses = np.repeat(np.eye(4)[None], len(times), axis=0)
    poses[:, 0, 3] = 0.1 * np.sin(times)
    with tempfile.TemporaryDirectory() as folder:
        np.savez(Path(folder, "track.npz"), times=times, poses=poses)
        device = {"type": "recorded", "file": str(Path(folder, "track.npz"))}
        played = open_tracker(device, RobotSettings.read("bimanual_ur5e"), "left")
        played.connect()
    ages, numbers, until = [], set(), time.monotonic() + seconds
    while (now := time.monotonic()) < until:
        state = played.state()
        if state.sequence not in numbers:
            numbers.add(state.sequence)
            ages.append(now - state.timestamp)
        time.sleep(0.001)
    played.close()
    return {"states_hz": len(numbers) / seconds, **_spread("state_age_ms", ages)}


def gige(seconds: float) -> dict[str, float]:
    """Two GigE Vision cameras: aravis against its own fake ones, 30 raw pictures of 480 x 480 a second each."""
    settings = RobotSettings.read("bimanual_ur5e")
    with started("gige", serial="RIGHT") as right, started("gige", serial="LEFT") as left:
        source = AravisSource(AravisOptions(**right))
        try:  # the peer's clock is this machine's: what it says of an exposure is true here
            ages, until = [], time.monotonic() + seconds
            while time.monotonic() < until:
                if (grabbed := source.grab()) is not None and grabbed.moment is not None:
                    ages.append(time.time() - grabbed.moment)
        finally:
            source.close()
        settings = settings.changed(
            {"arms.right.camera.device": dict(right), "arms.left.camera.device": dict(left)}
        )
        with _camera(settings, "right") as one, _camera(settings, "left") as other:
            found = skew(one, other, WallClock(), seconds)
    return {
        "pictures_hz": len(ages) / seconds,
        **_spread("picture_age_ms", ages),
        "skew_median_ms": 1e3 * found.median,
        "skew_worst_ms": 1e3 * found.worst,
    }


def uvc(seconds: float) -> dict[str, float]:
    """A USB camera's driver, on a video file of 640 x 480 that is played in real time."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "wrist.avi"
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 30, (640, 480))
        y, x = np.mgrid[0:480, 0:640]
        for k in range(60):
            writer.write(np.stack([x // 3, y // 2, 128 + 100 * np.sin((x + k) / 9)], -1).astype(np.uint8))
        writer.release()
        device = {"type": "uvc", "path": str(path), "loop": True}
        settings = RobotSettings.read("bimanual_ur5e").changed({"arms.right.camera.device": device})
        with _camera(settings, "right") as camera:
            ages, last, until = [], camera.read().sequence, time.monotonic() + seconds
            while time.monotonic() < until:
                if (frame := camera.read()).sequence != last:
                    last = frame.sequence
                    ages.append(time.monotonic() - frame.timestamp)
                time.sleep(0.0005)
    return {"pictures_hz": len(ages) / seconds, **_spread("picture_age_ms", ages)}


def everything(seconds: float) -> dict[str, float]:
    """Two UR5e, two grippers, two cameras at 15 pictures a second and a tracker, driven and recorded by the loop: the
    periods of its servo, which is to send a command every 8 ms.

    Raises:
        RDT2Error: no episode lasted so long.
    """
    from device_faults import (
        CONFIG,
        TRIES,
        TWO_CORES,
        connected,
        opened_place,
        swings,
    )  # needs the simulation

    for number in range(1, TRIES + 1):
        with opened_place(TWO_CORES) as place, swings() as policy, tempfile.TemporaryDirectory() as folder:
            robot, settings = connected(place.devices, TWO_CORES)
            tracker = open_tracker(place.devices["right"]["tracker"], settings, "right")
            recorder = DiskRecorder(folder, policy={})
            recorder.begin(robot.clock, settings)
            try:
                tracker.connect()
                tracker.enable()
                result = run_episode(
                    robot, policy, SENTENCE, settings=settings, config=CONFIG, recorder=recorder,
                    max_seconds=seconds,
                )  # fmt: skip
                recorder.end(result)
            finally:
                tracker.close()
                robot.close()
        if result.ending == "time is up":
            return {"servo_hz": len(result.lateness) / result.seconds, **_spread("servo_ms", result.lateness)}
        print(f"everything: episode {number} of {TRIES} ended early: {result.ending}")
    raise RDT2Error(f"none of {TRIES} episodes lasted for {seconds:g} s")


DEVICES: dict[str, Callable[[float], dict[str, float]]] = {
    "remote": remote, "ur": ur, "fr3": fr3, "zhixing": zhixing, "tracker": tracker, "gige": gige, "uvc": uvc,
    "everything": everything,
}  # fmt: skip


@contextlib.contextmanager
def _camera(settings: RobotSettings, side: str) -> Iterator[Any]:
    camera = open_device(settings, side, "camera")
    camera.connect()
    try:
        yield camera
    finally:
        camera.close()


@contextlib.contextmanager
def _connected(settings: RobotSettings) -> Iterator[tuple[Any, WallClock]]:
    clock = WallClock()
    arm = open_device(settings, "right", "arm", clock)
    arm.connect()
    try:
        yield arm, clock
    finally:
        arm.close()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="*", choices=DEVICES, default=list(DEVICES), help="which devices")
    parser.add_argument("--seconds", type=float, default=3.0, help="for which the states of each are read")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    arguments = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for name in arguments.only:
        try:
            found[name] = DEVICES[name](arguments.seconds)
        except (ImportError, RDT2Error) as error:
            print(f"{name}: left out: {error}")
    table = Table(title="devices against their peers", title_justify="left")
    table.add_column("")
    for name in found:
        table.add_column(name, justify="right")
    for key in dict.fromkeys(key for figures in found.values() for key in figures):
        table.add_row(key.replace("_", " "), *(f"{found[name].get(key, float('nan')):.2f}" for name in found))
    Console().print(table)
    if arguments.json:
        arguments.json.write_text(json.dumps({"machine": machine(), "devices": found}, indent=1) + "\n")


if __name__ == "__main__":
    main()
