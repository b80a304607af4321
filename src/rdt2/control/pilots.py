"""What a person holds to drive the arms: keys, or a 3-D mouse. Another device is another class with `steer`."""

from __future__ import annotations

import threading
import time as wall
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.action import ARMS
from rdt2.control.piloting import Steer
from rdt2.errors import ConfigError
from rdt2.progress import note, note_aside
from rdt2.robot.protocols import GuidedArm

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings

PRESSED = 0.4
"""Seconds that a key counts as held: terminals tell of a held key by repeating it, and of none that is let go."""
SLOWEST, SPEED, FASTEST = 0.02, 0.08, 0.3
"""m/s; a radian counts as a fifth of a metre."""
RADIAN = 0.2
FASTER = 1.5
DEAD = 0.1
"""Share of a 3-D mouse's way that counts as nothing."""
POLL = 0.01
"""Seconds between two looks at a 3-D mouse."""
SILENT = 0.2
"""Seconds after which a push that was not said again is none. A 3-D mouse that is pushed reports that some 60 times a
second, also where it is held perfectly still; only at rest it says nothing."""
AXES = {
    **dict(zip("wsadrf", [(0, 1), (0, -1), (1, 1), (1, -1), (2, 1), (2, -1)], strict=True)),
    **dict(zip("uoikjl", [(3, -1), (3, 1), (4, 1), (4, -1), (5, 1), (5, -1)], strict=True)),
}
"""Which part of a twist a key moves, and which way."""
KEYS_HELP = """\
You drive, one arm at a time:
  w s  a d  r f      forward and back, left and right, up and down
  u o  i k  j l      turn about the forward, the left and the upward axis
  Tab                the other arm
  g                  close the gripper, or open it
  + -                faster, slower
  space              stand still
  b                  give back to the policy
  Enter              stop the arms
"""


class Hands:
    """One arm at a time, its gripper, and whether a person drives at all.

    Args:
        settings: of the robot.
    """

    def __init__(self, settings: RobotSettings) -> None:
        self._sides = [side for side in ARMS if side in settings.arms]
        self._strokes = {side: settings.arms[side].gripper.stroke for side in self._sides}
        self._widths: dict[str, float] = {}
        self.side = self._sides[0]
        """The arm that is driven."""
        self.taken = False
        """A person drives."""

    def take(self) -> None:
        """The person takes over, standing still."""
        self._widths = {}
        self.taken = True

    def give_back(self) -> None:
        """The policy is to drive again."""
        self.taken = False

    def other_arm(self) -> None:
        """Drive the other arm from now on."""
        self.side = self._sides[(self._sides.index(self.side) + 1) % len(self._sides)]
        note_aside(f"the {self.side} arm")

    def grip(self) -> None:
        """Close the gripper; or open it, where it was closed by this."""
        closed = self._widths.get(self.side) == 0.0
        self._widths = {**self._widths, self.side: self._strokes[self.side] if closed else 0.0}

    def said(self, twist: Float[ndarray, " 6"]) -> Steer:
        """This twist for the arm that is driven, and the grippers as they were told last."""
        return Steer({self.side: twist}, self._widths)


class KeyboardPilot:
    """A person who presses keys, one arm at a time.

    Args:
        settings: of the robot.
    """

    def __init__(self, settings: RobotSettings) -> None:
        self.hands = Hands(settings)
        self._speed = SPEED
        self._pressed: dict[int, tuple[int, float]] = {}

    def take(self) -> None:
        """The person takes over."""
        self._pressed = {}
        self.hands.take()

    def press(self, key: str) -> None:
        """A key was pressed, or repeats."""
        if key == "b":
            self.hands.give_back()
        elif key == "\t":
            self._pressed = {}
            self.hands.other_arm()
        elif key == "g":
            self.hands.grip()
        elif key in "+-":
            speed = self._speed * (FASTER if key == "+" else 1 / FASTER)
            self._speed = min(max(speed, SLOWEST), FASTEST)
            note_aside(f"{100 * self._speed:.0f} cm/s")
        elif key in AXES:
            axis, way = AXES[key]
            self._pressed = {**self._pressed, axis: (way, wall.monotonic())}
        else:  # space, and whatever a hand that misses hits
            self._pressed = {}

    def steer(self) -> Steer | None:
        """As of a pilot."""
        if not self.hands.taken:
            return None
        twist, now = np.zeros(6), wall.monotonic()
        for axis, (way, since) in self._pressed.items():
            if now - since < PRESSED:
                twist[axis] = way * self._speed / (1.0 if axis < 3 else RADIAN)
        return self.hands.said(twist)


class SpaceMousePilot:
    """A person with a 3-D mouse, one arm at a time. Its left button takes over and gives back, its right one closes and
    opens the gripper, both together take the other arm. One that falls silent while it is pushed (its battery, its
    cable) lets the arm stand.

    Args:
        settings: of the robot.
        mouse: what `read()` gives x, y, z, roll, pitch, yaw (each -1 to 1) and buttons of, and t, another one whenever
            the device has said something; without t each answer counts as new. None opens the first one.

    Raises:
        ConfigError: pyspacemouse is not installed, or there is no 3-D mouse.
    """

    def __init__(self, settings: RobotSettings, mouse: Any = None) -> None:
        self.hands = Hands(settings)
        self._mouse = _first_mouse() if mouse is None else mouse
        self._twist: Float[ndarray, " 6"] = np.zeros(6)
        self._buttons = (False, False)
        self._stamp: float | None = None
        self._heard = -np.inf
        self._over = threading.Event()
        threading.Thread(target=self._listen, name="3-D mouse", daemon=True).start()

    def take(self) -> None:
        """The person takes over."""
        self.hands.take()

    def steer(self) -> Steer | None:
        """As of a pilot."""
        if not self.hands.taken:
            return None
        silent = wall.monotonic() - self._heard > SILENT
        return self.hands.said(np.zeros(6) if silent else self._twist)

    def close(self) -> None:
        """Listen no more."""
        self._over.set()

    def _listen(self) -> None:
        wait = 0.0
        while not self._over.wait(wait):
            # Taken before: an answer that was long in coming is as old as its question.
            asked = wall.monotonic()
            try:
                said = self._mouse.read()
                stamp = getattr(said, "t", None)
                if new := stamp is None or stamp != self._stamp:
                    self._hear(said)
                    self._stamp, self._heard = stamp, asked
                # Reports wait in a queue: what was pushed a while ago is passed over as fast as it can be read.
                wait = 0.0 if new and stamp is not None else POLL
            except Exception as error:  # of any driver: it was unplugged, most likely
                self._twist = np.zeros(6)
                note_aside(
                    f"the 3-D mouse says nothing more ({type(error).__name__}: {error}); the arm stands still"
                )
                return

    def _hear(self, said: Any) -> None:
        # Its y is forward and its x is right; the cell's x is forward and its y is left.
        pushed = np.array([said.y, -said.x, said.z, said.roll, said.pitch, -said.yaw], dtype=np.float64)
        pushed = np.sign(pushed) * np.maximum(np.abs(pushed) - DEAD, 0.0) / (1 - DEAD)
        self._twist = FASTEST * pushed / np.array([1, 1, 1, RADIAN, RADIAN, RADIAN])
        left, right = (bool(button) for button in [*said.buttons, 0, 0][:2])
        before, self._buttons = self._buttons, (left, right)
        if left and right and before != (True, True):
            self.hands.other_arm()
        elif before[0] and not left and not right and not before[1]:
            self.hands.give_back() if self.hands.taken else self.hands.take()
        elif before[1] and not right and not left and not before[0]:
            self.hands.grip()


class HandPilot:
    """A person who moves the arms themselves, where their drivers offer it (`rdt2.robot.GuidedArm`).

    Args:
        settings: of the robot.
    """

    def __init__(self, settings: RobotSettings) -> None:
        self.hands = Hands(settings)

    def take(self) -> None:
        """The person takes over."""
        self.hands.take()

    def steer(self) -> Steer | None:
        """As of a pilot."""
        return Steer(by_hand=True) if self.hands.taken else None


def require_guided(robot: Robot) -> None:
    """See that a person can move the arms of a robot by hand; arms that cannot be moved, beside one that can, are told.

    Raises:
        ConfigError: none can.
    """
    stiff = [f"{side} arm" for side, arm in robot.arms.items() if not isinstance(arm, GuidedArm)]
    if len(stiff) == len(robot.arms):
        raise ConfigError(
            f"--pilot hand: no arm of robot {robot.name!r} can be moved by hand ({', '.join(stiff)}), since no driver "
            "of theirs offers it. Take over with --pilot keyboard or --pilot space-mouse."
        )
    if stiff:
        note(f"the {stiff[0]} cannot be moved by hand: it stands still while you move the other one")


AnyPilot = KeyboardPilot | SpaceMousePilot | HandPilot


def open_pilot(kind: str, settings: RobotSettings) -> AnyPilot:
    """The pilot of this name: keyboard, space-mouse or hand. Raises ConfigError: unknown, or not there."""
    pilots: Mapping[str, Any] = {"keyboard": KeyboardPilot, "space-mouse": SpaceMousePilot, "hand": HandPilot}
    if kind not in pilots:
        raise ConfigError(f"a person steers with {kind!r}, expected one of {', '.join(pilots)}.")
    return pilots[kind](settings)


def _first_mouse() -> Any:
    try:
        import pyspacemouse
    except ImportError:
        raise ConfigError(
            "pyspacemouse is not installed. Install it with the system's hidapi: pip install pyspacemouse; "
            "or steer with the keyboard."
        ) from None
    try:
        mouse = pyspacemouse.open()
    except Exception as error:  # of the library below it: no device, or no permission
        raise ConfigError(
            f"no 3-D mouse can be opened ({type(error).__name__}: {error}). Plug one in, and let your user read "
            "/dev/hidraw*; or steer with the keyboard."
        ) from error
    if not mouse:
        raise ConfigError("no 3-D mouse is plugged in, or your user may not read /dev/hidraw*.")
    return mouse if hasattr(mouse, "read") else pyspacemouse
