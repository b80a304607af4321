"""A robot: one or two arms with grippers and wrist cameras, spoken to as one."""

from __future__ import annotations

import threading
import time as wall
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rdt2.action import ARMS
from rdt2.errors import ConfigError, LateError, RobotError, SafetyError
from rdt2.robot.protocols import Arm, Camera, Clock, Device, Gripper, Health

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

STOP_SECONDS = 0.5
"""How long `Robot.stop` waits for devices that do not come back from their own `stop`."""


@dataclass(frozen=True)
class Robot:
    """Arms, grippers and cameras keyed by "right" and "left", or one of them, and the clock they share. Without any
    camera it is blind: it can be moved and measured, but no policy drives it.

    Raises:
        ConfigError: no arm, an unknown side, or a side that lacks one of its parts.
    """

    arms: dict[str, Arm]
    grippers: dict[str, Gripper]
    cameras: dict[str, Camera]
    clock: Clock
    policy_to_tcp: dict[str, Float[ndarray, "4 4"]]
    """C of each arm: a motion T_rel of the policy's frame is the motion C @ T_rel @ inv(C) of the TCP."""
    name: str
    concurrent: bool = True
    """Whether devices may be called from several threads. False: a simulation that lives in its caller's thread."""

    def __post_init__(self) -> None:
        parts: dict[str, Mapping[str, object]] = {
            "arm": self.arms, "gripper": self.grippers, "camera": self.cameras, "policy_to_tcp": self.policy_to_tcp,
        }  # fmt: skip
        sides = {side for part in parts.values() for side in part}
        if not sides or not sides <= set(ARMS):
            raise ConfigError(f"robot {self.name!r} has the sides {sorted(sides)}, expected some of {ARMS}.")
        for name, part in parts.items():
            if name == "camera" and not part:
                continue
            if missing := sides - set(part):
                raise ConfigError(
                    f"robot {self.name!r} has no {name} on the {missing.pop()} side, expected one for each of "
                    f"{sorted(sides)}. Leave a side out altogether if the robot has one arm."
                )

    @property
    def sides(self) -> tuple[str, ...]:
        """The sides that exist, right first."""
        return tuple(side for side in ARMS if side in self.arms)

    def devices(self) -> Iterator[tuple[str, Device]]:
        """All devices with their names, arms first: ("right arm", ...), ("left arm", ...), ("right gripper", ...)."""
        parts: tuple[tuple[str, Mapping[str, Device]], ...] = (
            ("arm", self.arms), ("gripper", self.grippers), ("camera", self.cameras),
        )  # fmt: skip
        for kind, part in parts:
            for side in self.sides if part else ():
                yield f"{side} {kind}", part[side]

    def connect(self) -> None:
        """Connect all devices, in order.

        Raises:
            RobotError: names the first that does not answer; those connected before are closed again.
        """
        for name, device in self.devices():
            try:
                device.connect()
            except BaseException as error:
                self.close()
                if not isinstance(error, Exception):
                    raise
                raise RobotError(f"the {name} cannot be connected: {_words(error)}") from error

    def enable(self) -> None:
        """Enable all devices, in order.

        Raises:
            RobotError: names the first that refuses; all are stopped then.
        """
        for name, device in self.devices():
            try:
                device.enable()
            except Exception as error:
                self.stop()
                raise RobotError(f"the {name} cannot be enabled: {_words(error)}") from error

    def execute(
        self,
        times: Float[ndarray, " n"],
        poses: Mapping[str, Float[ndarray, "n 4 4"]],
        widths: Mapping[str, Float[ndarray, " n"]],
    ) -> None:
        """Give waypoints to all arms and grippers. They are of one mind: what one refuses stops all; but
        for one that the waypoints reached too late: nothing is wrong with the robot, and the next may be in time.

        Args:
            times: seconds of the robot's clock at which each device gets there in its own time; the motion follows
                `timing.latency` later.
            poses: TCPs in the cell frame, metres, by side.
            widths: openings in metres, by side.

        Raises:
            SafetyError: names the device that refused and why; all are stopped, or the message says which is not.
            LateError: names the devices that the waypoints reached too late; the others follow them.
        """
        commands: list[tuple[str, Arm | Gripper, ndarray]] = [
            (f"{side} arm", self.arms[side], poses[side]) for side in poses
        ]
        commands += [(f"{side} gripper", self.grippers[side], widths[side]) for side in widths]
        late = []
        for name, device, values in commands:
            try:
                device.execute(times, values)
            except LateError as error:
                late.append(f"the {name} did not take a command: {_words(error)}")
            except Exception as error:
                failed = self.stop()
                ending = f"It could NOT be stopped: {failed}." if failed else "Everything was stopped."
                raise SafetyError(f"the {name} did not take a command: {_words(error)} {ending}") from error
        if late:
            raise LateError(" ".join(late))

    def stop(self) -> dict[str, str]:
        """Stop all arms and grippers at once. One that raises or hangs does not keep the others from stopping.

        Returns:
            What could not be stopped and why, by name: empty when all is well.
        """
        stops = {name: device.stop for name, device in self.devices()}
        return (_at_once if self.concurrent else _in_turn)(stops)

    def recover(self) -> None:
        """A person's word that all may move again.

        Raises:
            RobotError: names what is still wrong; then everything stays stopped.
        """
        for name, device in self.devices():
            try:
                device.recover()
            except Exception as error:
                self.stop()
                raise RobotError(f"the {name} cannot go on: {_words(error)}") from error
        # One after the other takes seconds: a stop meanwhile holds only those that had been recovered before it.
        try:
            held = [name for name, device in self.devices() if device.health().stopped]
        except Exception as error:  # of any driver
            self.stop()
            raise RobotError(
                f"a device does not say how it is: {_words(error)}. Look at its driver."
            ) from error
        if held:
            self.stop()
            raise RobotError(
                f"{', '.join(held)}: stopped again while the robot was being recovered. Everything stays stopped; when "
                "it is safe to move, recover it once more."
            )

    def faults(self, *, stops: bool = True) -> list[str]:
        """What is wrong with any device, a line each: "left arm: stopped: heard nothing for 100 ms". Without `stops`
        nothing of those that were only stopped: they wait for `recover`, and nothing is wrong with them."""
        found = []
        only_stopped = Health(connected=True, enabled=True, stopped=True)
        for name, device in self.devices():
            try:
                health = device.health()
            except Exception as error:
                found.append(f"{name}: does not say how it is ({_words(error)})")
            else:
                if not isinstance(health, Health):
                    found.append(
                        f"{name}: its health() gave {health!r}, expected a Health. Look at its driver."
                    )
                elif not health.ok and (stops or health != only_stopped):
                    found.append(f"{name}: {health}")
        return found

    def close(self) -> dict[str, str]:
        """Stop everything, then close all devices. Never raises.

        Returns:
            What could not be closed and why, by name.
        """
        failed = self.stop()
        closes = {name: device.close for name, device in self.devices()}
        return failed | (_at_once if self.concurrent else _in_turn)(closes)


def _words(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _in_turn(calls: Mapping[str, Callable[[], None]]) -> dict[str, str]:
    """Call one after the other whatever happens, an operator's Ctrl-C included; what failed, by name."""
    failed = {}
    for name, call in calls.items():
        try:
            try:
                call()
            except KeyboardInterrupt:  # an impatient operator: the device may have missed its call
                call()
        except BaseException as error:
            failed[name] = _words(error)
    return failed


def _at_once(calls: Mapping[str, Callable[[], None]]) -> dict[str, str]:
    """Call each in a thread of its own and wait `STOP_SECONDS` at most; what failed or is not back, by name."""
    failed = {name: f"it has not answered within {STOP_SECONDS} s." for name in calls}
    back = threading.Semaphore(0)

    def guarded(name: str, call: Callable[[], None]) -> None:
        try:
            call()
        except BaseException as error:
            failed[name] = _words(error)
        else:
            del failed[name]
        back.release()

    def start_all() -> None:
        for item in calls.items():
            try:
                threading.Thread(target=guarded, args=item, daemon=True).start()
            except RuntimeError:  # no more threads on this machine
                guarded(*item)

    # signals reach the main thread only: nothing interrupts the one that starts the others
    try:
        threading.Thread(target=start_all, daemon=True).start()
    except RuntimeError:
        start_all()
    until = wall.monotonic() + STOP_SECONDS
    waiting = len(calls)
    while waiting and wall.monotonic() < until:
        try:
            waiting -= back.acquire(timeout=max(0.0, until - wall.monotonic()))
        except KeyboardInterrupt:
            continue  # the devices are being called already; they are waited for
    return dict(failed)
