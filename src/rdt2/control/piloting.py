"""A person takes over and gives back: smoothly, and through the same guard as the policy.

A `Pilot` is asked 30 times a second whether a person wants to drive, and how. From the first yes on the arms come to
rest along the checked way, and from there, from what is commanded, they follow the person: a twist and an opening for
each arm. What the person wants may run ahead of what the guard allows by a few centimetres at most, so that turning
round takes effect at once. Whoever falls silent lets the arms stop. When the person gives back they come to rest once
more, and the policy looks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.control.plan import PERIOD, Plan
from rdt2.control.servo import STANDS
from rdt2.errors import RobotError, SafetyError
from rdt2.robot.kinematics import rotation_vector
from rdt2.robot.protocols import GuidedArm

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.servo import Servo, Told
    from rdt2.robot.settings import RobotSettings

HELD = 0.1, 0.1
"""Seconds that a twist is held after it was asked for, and those in which it fades away then, unless it is renewed."""
LEASH = 0.03, 0.2
"""Metres and radians by which a wish may run ahead of the command, beside what the arm's latency makes of its speed."""
GIVES = 1.0
"""Seconds within which arms that a person gives back must let themselves be held: drivers, who see joints, may see one
move whose TCP stands."""
REMEMBERED = 0.3
"""Seconds of a wish that are kept: arms of different latency are told different moments of it."""


@dataclass(frozen=True, eq=False)
class Steer:
    """What a person wants of the arms now; what is not said of an arm or a gripper stays as it is."""

    twists: Mapping[str, Float[ndarray, " 6"]] = field(default_factory=dict)
    """Of the TCPs along the cell's axes, by side: m/s, then rad/s."""
    widths: Mapping[str, float] = field(default_factory=dict)
    """Real openings, metres."""
    by_hand: bool = False
    """The person moves the arms themselves (freedrive); nothing else counts then."""


class Pilot(Protocol):
    """A person with something in the hand."""

    def steer(self) -> Steer | None:
        """What the person wants; None while the policy is to drive. Answers at once; called 30 times a second."""
        ...


class Helm:
    """Who drives, and along what.

    Args:
        settings: of the robot.
        servo: what drives the arms.
        lead: seconds from now to the moment that a plan made now can still change, latencies included.
    """

    def __init__(self, settings: RobotSettings, servo: Servo, *, lead: float) -> None:
        self._servo, self._lead = servo, lead
        self._guided: dict[str, GuidedArm] = {}
        self._told: Told | None = None
        self._strokes = {side: arm.gripper.stroke for side, arm in settings.arms.items()}
        self._knots: deque[tuple[float, dict[str, ndarray], dict[str, float]]] = deque()
        self._at, self._given = -np.inf, np.inf
        self.holds = False
        """The person drives."""
        self.hands_over = False
        """The arms come to rest because somebody else is to drive."""

    def let_go(self) -> None:
        """Nobody drives: the arms come to rest for a reason of their own, and a person who goes on begins anew."""
        try:
            if self._guided and not self._taken():
                return  # in a person's hands, who decides when that ends
        except (RobotError, SafetyError):
            return  # `turn` asks again, and says so
        self._hold()
        self.holds = self.hands_over = False

    def turn(self, pilot: Pilot, now: float) -> bool:
        """Whether a person drives, or is about to, or has just stopped; the policy does not drive then.

        Raises:
            SafetyError: the pilot wants something that is no number, or to move by hand what cannot be.
            RobotError: an arm does not let itself be moved by hand, or be held.
        """
        if now < self._at:
            return self.holds or self.hands_over
        self._at = now + PERIOD - 2e-3
        steer = pilot.steer()
        given = self._servo.by_hand and not (steer is not None and steer.by_hand)
        if given and not self._taken():
            return True
        if steer is None:
            if self.holds:
                self.holds, self.hands_over = False, True
                self._servo.pause()
            elif self.hands_over:
                self.hands_over = not self._servo.guard.at_rest
        elif self.holds and steer.by_hand:
            self._free()
        elif self.holds:
            self._drive(steer, now)
        elif not self.hands_over:
            self.hands_over = True
            self._servo.pause()
        elif self._servo.guard.at_rest:
            self.holds, self.hands_over = True, False
            self._knots.clear()
        return self.holds or self.hands_over

    def _free(self) -> None:
        """Let the person move every arm that can be moved by hand, once the servo tells them nothing any more.

        Raises:
            SafetyError: there is none. RobotError: one refuses.
        """
        if self._guided:
            return
        arms = {side: arm for side, arm in self._servo.robot.arms.items() if isinstance(arm, GuidedArm)}
        if not arms:
            raise SafetyError("no arm of this robot can be moved by hand. Steer with keys or a 3-D mouse.")
        servo = self._servo
        if not servo.by_hand:
            servo.pause()
            self._told, servo.by_hand = servo.told, True
            return
        # A tick that was under way then may still tell the arms something; the one after it does not.
        if (told := servo.told) is None or told is self._told or told.command.velocity:
            return
        for side, arm in arms.items():
            self._guided[side] = arm
            arm.guide(True)

    def _still(self) -> bool:
        return all(np.abs(self._servo.states[side].velocity).max() < STANDS[0] for side in self._guided)

    def _taken(self) -> bool:
        """Whether the arms stand, and have been taken from the person's hands.

        Raises:
            RobotError, SafetyError: one does not let itself be held.
        """
        if not self._still():
            self._given = np.inf
            return False
        now = self._servo.robot.clock.now()
        self._given = min(self._given, now)
        try:
            self._hold()
        except (RobotError, SafetyError):
            if now - self._given > GIVES:
                raise
            return False
        self._given = np.inf
        return True

    def _hold(self) -> None:
        """Take the arms from the person's hands, at rest where they are."""
        if not self._guided:  # none was let go yet, so none has moved
            self._servo.by_hand = False
        else:
            for arm in self._guided.values():
                arm.guide(False)
            self._servo.let_go()
            self._guided = {}
            self._knots.clear()

    def _drive(self, steer: Steer, now: float) -> None:
        """One period of what the person wants."""
        if not self._knots:  # the arms were moved by hand before
            if (told := self._servo.told) is None or not told.command.velocity:
                return
            self._knots.append((now + self._lead, dict(told.command.poses), dict(told.command.widths)))
        time, poses, widths = self._knots[-1]
        begins = max(now + self._lead, time)
        twists = {side: _six(steer.twists.get(side, np.zeros(6)), side) for side in poses}
        told = self._servo.told
        assert told is not None
        goals = {}
        for side, pose in poses.items():
            moved = _moved(pose, twists[side], min(begins - time, HELD[0]))
            leash = (
                LEASH[0] + self._lead * _norm(twists[side][:3]),
                LEASH[1] + self._lead * _norm(twists[side][3:]),
            )
            goals[side] = _near(moved, told.command.poses[side], leash)
            if (width := steer.widths.get(side)) is not None:
                if not np.isfinite(width):
                    raise SafetyError(
                        f"the pilot wants the {side} gripper {width} m open. Look at its driver."
                    )
                widths = {**widths, side: float(np.clip(width, 0.0, self._strokes[side]))}
        if begins > time:
            self._knots.append((begins, goals, widths))
        while len(self._knots) > 2 and self._knots[1][0] < now - REMEMBERED:
            self._knots.popleft()
        held, fades = HELD
        ahead = [(begins + held, held), (begins + held + fades, held + 0.5 * fades)]
        times = [knot[0] for knot in self._knots] + [each[0] for each in ahead]
        self._servo.drive(
            Plan(
                now,
                np.array(times),
                {
                    side: np.stack(
                        [knot[1][side] for knot in self._knots]
                        + [_moved(goals[side], twists[side], seconds) for _, seconds in ahead]
                    )
                    for side in goals
                },
                {
                    side: np.array([knot[2][side] for knot in self._knots] + [widths[side]] * len(ahead))
                    for side in goals
                },
            ),
            now,
        )


def _six(twist: Float[ndarray, " 6"], side: str) -> Float[ndarray, " 6"]:
    values = np.asarray(twist, dtype=np.float64)
    if values.shape != (6,) or not np.isfinite(values).all():
        raise SafetyError(
            f"the pilot wants the {side} arm to move with {values!r:.80}, expected six numbers."
        )
    return values


def _moved(pose: Float[ndarray, "4 4"], twist: Float[ndarray, " 6"], seconds: float) -> Float[ndarray, "4 4"]:
    """Where a twist along the cell's axes brings a pose."""
    moved = pose.copy()
    moved[:3, 3] += seconds * twist[:3]
    moved[:3, :3] = Rotation.from_rotvec(seconds * twist[3:]).as_matrix() @ pose[:3, :3]
    return moved


def _near(
    wish: Float[ndarray, "4 4"], command: Float[ndarray, "4 4"], leash: tuple[float, float]
) -> Float[ndarray, "4 4"]:
    """The wish, no further from the command than a leash (metres, radians) allows."""
    near = wish.copy()
    way = wish[:3, 3] - command[:3, 3]
    if (far := _norm(way)) > leash[0]:
        near[:3, 3] = command[:3, 3] + leash[0] / far * way
    turn = rotation_vector(wish[:3, :3] @ command[:3, :3].T)
    if (far := _norm(turn)) > leash[1]:
        near[:3, :3] = Rotation.from_rotvec(leash[1] / far * turn).as_matrix() @ command[:3, :3]
    return near


def _norm(values: ndarray) -> float:
    return float(np.linalg.norm(values))
