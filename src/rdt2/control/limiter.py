"""Motion of one TCP within limits of speed, acceleration and jerk, and how it comes to rest (Ruckig).

Translation and rotation are three axes each. A rotation is the rotation vector from the orientation commanded now,
along the cell's axes; it starts at zero in every period, and the orientations of a path are the product of its steps.

The limits are those of norms, Ruckig's are those of axes: each time the box of axis limits is drawn whose corner lies
on the sphere of the limit, that holds the present state and is longest where the motion has to go. A straight motion
may then use nearly all of the limit, and no motion more.

Far from its wish an arm moves as fast as it may. Near to one that moves it follows like a damped spring: a wish made
of rows 33 ms apart never keeps a speed for long, and the fastest way to it, planned anew in each period, would be to
swing around it with all of the jerk that is allowed.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, sqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.control.geometry import turned
from rdt2.robot.braking import MEAN
from rdt2.robot.kinematics import nearest_rotation, rotation_vector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from numpy import ndarray

    from rdt2.robot.settings import Bounds

SLACK = 0.995
"""Of each limit is used: what is computed from poses afterwards has rounding in it."""
RESERVE = 0.9
"""Of the acceleration limit is used to follow: the rest is for braking along another axis."""
FLOOR = 0.25
"""Share of a limit that an axis without need keeps, against one with all of the need."""
AHEAD = 0.1
"""Seconds after which the difference of two speeds counts as much as the distance it makes."""
STIFFNESS = 25.0
"""1/s: how quickly an arm near its wish loses what is left between them; the same of its speed and acceleration."""
NEAR = 0.008, 0.04
"""Metres, and radians, from a moving wish within which an arm follows so."""
JUMP = 1.5
"""A wish that moves faster than so many times the limit has jumped: its speed means nothing."""
EARLY = 5
"""Periods within which an arm that brakes has lost all acceleration that it began with."""
NEARLY = 0.9
"""Of a speed limit: below this, no peak between two periods exceeds the limit."""
LEAST = 1e-3
"""m/s, rad/s: Ruckig needs speed limits that are not zero."""
WALL_BRAKING = 0.5
"""Of the deceleration of ways to rest that an arm coming to the end of its workspace counts on."""


@dataclass(frozen=True)
class Motion:
    """What is commanded at one moment."""

    position: Float[ndarray, " 3"]
    """TCP, cell frame, metres."""
    rotation: Float[ndarray, "3 3"]
    velocity: Float[ndarray, " 6"]
    """m/s, then rad/s, along the cell's axes."""
    acceleration: Float[ndarray, " 6"]
    """m/s^2, then rad/s^2."""

    @property
    def pose(self) -> Float[ndarray, "4 4"]:
        """Where the TCP is commanded to be, cell frame, metres."""
        pose = np.eye(4)
        pose[:3, :3], pose[:3, 3] = self.rotation, self.position
        return pose

    @classmethod
    def at_rest(cls, pose: Float[ndarray, "4 4"]) -> Motion:
        """Nothing moves: `pose` of the TCP in the cell frame, metres, velocity and acceleration zero."""
        return cls(pose[:3, 3].copy(), pose[:3, :3].copy(), np.zeros(6), np.zeros(6))


class LimitError(Exception):
    """Ruckig found no motion. The guard brakes."""


class Stop:
    """A motion, and how it comes to rest: tick 0 is the motion itself, one tick is one period."""

    def __init__(self, motion: Motion, trajectory: Any, period: float) -> None:
        self.ticks = ceil(trajectory.duration / period - 1e-9)
        """After so many the arm stands still."""
        self.period = period
        # (ticks, position | velocity | acceleration, axis)
        moves = np.array([trajectory.at_time(k * period) for k in range(self.ticks + 1)])
        self.positions: Float[ndarray, "n 3"] = moves[:, 0, :3]
        self.velocities: Float[ndarray, "n 6"] = moves[:, 1]
        self._accelerations = moves[:, 2]
        self._trajectory = trajectory
        self.rotations: Float[ndarray, "n 3 3"] = turned(
            motion.rotation, moves[1:, 0, 3:] - moves[:-1, 0, 3:]
        )
        self.arrays = self.positions, self.rotations, self.velocities, period
        """What `rdt2.control.geometry` computes with."""

    def at(self, tick: int) -> Motion:
        """The motion at a tick; at rest for good after the last."""
        if tick >= self.ticks:
            return Motion(self.positions[-1], nearest_rotation(self.rotations[-1]), np.zeros(6), np.zeros(6))
        return Motion(
            self.positions[tick], nearest_rotation(self.rotations[tick]),
            self.velocities[tick], self._accelerations[tick],
        )  # fmt: skip

    def poses(self, ticks: Int[ndarray, " s"]) -> Float[ndarray, "s 4 4"]:
        """TCP poses in the cell frame at some ticks."""
        ticks = np.minimum(ticks, self.ticks)
        poses = np.zeros((len(ticks), 4, 4))
        poses[:, :3, :3], poses[:, :3, 3], poses[:, 3, 3] = self.rotations[ticks], self.positions[ticks], 1.0
        return poses

    def speeds(self, reach: float) -> Float[ndarray, " n"]:
        """At each tick, m/s; a rad/s counts as `reach` m/s."""
        squares = self.velocities**2
        return np.sqrt(squares[:, :3].sum(axis=1)) + reach * np.sqrt(squares[:, 3:].sum(axis=1))

    def within(self, speed: float, turn_rate: float) -> bool:
        """Whether no norm of its speeds exceeds the limits (m/s, rad/s)."""
        squares, most = self.velocities**2, np.square([speed, turn_rate])
        fastest = np.add.reduceat(squares, (0, 3), axis=1).max(axis=0)
        # What still gains speed does so at the beginning, and may peak between two ticks.
        if (fastest > NEARLY**2 * most).any():
            early = [0.25 * k * self.period for k in range(4 * EARLY)]
            squares = np.square([self._trajectory.at_time(t)[1] for t in early])
            fastest = np.add.reduceat(squares, (0, 3), axis=1).max(axis=0)
        return bool((fastest <= most).all())


class Limiter:
    """Steps of one period towards a moving wish, within the bounds of one arm.

    Args:
        bounds: limits of speed (m/s), acceleration, jerk, and of turning (rad/s, ...), norms.
        period: seconds.
    """

    def __init__(self, bounds: Bounds, *, period: float) -> None:
        from ruckig import ControlInterface, InputParameter, OutputParameter, Ruckig, Synchronization

        self.period = period
        self._limits = (
            (SLACK * bounds.speed, SLACK * bounds.acceleration, SLACK * bounds.jerk),
            (SLACK * bounds.turn_rate, SLACK * bounds.turn_acceleration, SLACK * bounds.turn_jerk),
        )
        self._tracker, self._output = Ruckig(3, period), OutputParameter(3)
        self._input = InputParameter(3)
        self._input.synchronization = Synchronization.No
        self._input.target_position = self._input.target_velocity = [0.0] * 3
        self._stopper = Ruckig(6)
        self._stop = InputParameter(6)
        self._stop.synchronization = Synchronization.Time
        self._stop.control_interface = ControlInterface.Velocity
        self._stop.target_velocity = [0.0] * 6

    def towards(
        self,
        motion: Motion,
        position: Float[ndarray, " 3"],
        rotation: Float[ndarray, "3 3"],
        velocity: Float[ndarray, " 6"],
        *,
        scale: float = 1.0,
        low: Float[ndarray, " 3"],
        high: Float[ndarray, " 3"],
    ) -> Motion:
        """The motion one period later, on the fastest way to where the wish is and as fast as the wish moves.

        Args:
            motion: now.
            position, rotation: of the wish one period from now, cell frame, metres.
            velocity: of the wish, m/s then rad/s.
            scale: share of the speed limits that may be used.
            low, high: corners of the workspace (metres): an arm slows down so that it can stop before them.

        Raises:
            LimitError: Ruckig found no way.
        """
        here, there = motion.position.tolist(), position.tolist()
        walls = low.tolist(), high.tolist()
        moved, speed, change = self._step(
            [t - h for t, h in zip(there, here, strict=True)],
            motion.velocity[:3], motion.acceleration[:3], velocity[:3], self._limits[0], scale, NEAR[0],
            [(h - a, b - h) for h, a, b in zip(here, *walls, strict=True)],
        )  # fmt: skip
        turn, rate, turn_change = self._step(
            rotation_vector(rotation @ motion.rotation.T).tolist(),
            motion.velocity[3:],
            motion.acceleration[3:],
            velocity[3:],
            self._limits[1],
            scale,
            NEAR[1],
        )
        return Motion(
            motion.position + moved,
            nearest_rotation(turned(motion.rotation, np.array([turn]))[1]),
            np.array(speed + rate),
            np.array(change + turn_change),
        )

    def stop(self, motion: Motion) -> Stop:
        """How `motion` comes to rest: all of it at the same time, and no sooner than a device that stops by itself.

        Raises:
            LimitError: Ruckig found no way.
        """
        stop, velocity, acceleration = self._stop, motion.velocity.tolist(), motion.acceleration.tolist()
        accelerations: list[float] = []
        jerks: list[float] = []
        for part, (_, strongest, hardest) in zip((slice(0, 3), slice(3, 6)), self._limits, strict=True):
            v, a = velocity[part], acceleration[part]
            need = _need([x + AHEAD * y for x, y in zip(v, a, strict=True)])
            accelerations += [MEAN * most for most in _box(strongest, a, need)]
            jerks += _box(hardest, [0.0] * 3, [abs(x) / strongest + n for x, n in zip(a, need, strict=True)])
        stop.current_position = [*motion.position.tolist(), 0.0, 0.0, 0.0]
        stop.current_velocity, stop.current_acceleration = velocity, acceleration
        stop.max_acceleration, stop.max_jerk = accelerations, jerks
        return Stop(motion, self._calculate(stop), self.period)

    def _step(
        self,
        way: list[float],
        velocity: ndarray,
        acceleration: ndarray,
        wanted: ndarray,
        limits: tuple[float, float, float],
        scale: float,
        near: float,
        walls: Sequence[tuple[float, float]] | None = None,
    ) -> tuple[list[float], list[float], list[float]]:
        """One period along three axes: the way made, and the new velocity and acceleration.

        It is planned as the wish sees it, which moves at a constant speed: what is to be reached then stands still.
        """
        most, strongest, hardest = limits
        most, strongest = scale * most, RESERVE * strongest
        v, a, w = velocity.tolist(), acceleration.tolist(), wanted.tolist()
        norm = _norm(w)
        if norm > JUMP * most:
            w = [0.0] * 3
        elif norm > most:
            w = [x * most / norm for x in w]
        dt, rounds = self.period, range(3)
        away = [w[i] * dt - way[i] for i in rounds]
        direction = [away[i] + AHEAD * (v[i] - w[i]) for i in rounds]
        lows, highs = [-most] * 3, [most] * 3
        if walls:
            fast = _norm(v)
            for i, (below, above) in enumerate(walls):
                lows[i] = -min(most, _stoppable(below, fast, strongest, hardest, dt))
                highs[i] = min(most, _stoppable(above, fast, strongest, hardest, dt))
                if not lows[i] <= v[i] <= highs[i]:
                    direction[i] = max(direction[i], 2 * AHEAD * abs(v[i]), key=abs)
        need = _need(direction)
        accelerations = _box(strongest, a, need)
        jerks = _box(hardest, [0.0] * 3, [abs(a[i]) / strongest + need[i] for i in rounds])
        speeds = _box(most, [max(abs(v[i]), abs(w[i])) for i in rounds], need)
        lows = [max(x, -y) for x, y in zip(lows, speeds, strict=True)]
        highs = [min(x, y) for x, y in zip(highs, speeds, strict=True)]
        w = [min(max(w[i], lows[i]), highs[i]) for i in rounds]
        away = [w[i] * dt - way[i] for i in rounds]
        # What stands still is reached for good, in the shortest time.
        if any(w) and _norm(away) < near:
            moved, speed, change, hard = self._damped(away, v, a, w)
            within = _norm(speed) <= most and _norm(change) <= strongest and hard <= hardest
            if within and all(x <= y <= z for x, y, z in zip(lows, speed, highs, strict=True)):
                return moved, speed, change
        given = self._input
        given.current_position = away
        given.current_velocity = [v[i] - w[i] for i in rounds]
        given.current_acceleration = a
        given.max_velocity = [max(highs[i] - w[i], LEAST) for i in rounds]
        given.min_velocity = [min(lows[i] - w[i], -LEAST) for i in rounds]
        given.max_acceleration, given.max_jerk = accelerations, jerks
        self._tracker.reset()
        try:
            result = self._tracker.update(given, self._output)
        except Exception as error:  # ruckig.RuckigError: invalid input
            raise LimitError(str(error)) from error
        if int(result) < 0:
            raise LimitError(str(result))
        out = self._output
        return (
            [x - y + z * dt for x, y, z in zip(out.new_position, away, w, strict=True)],
            [x + y for x, y in zip(out.new_velocity, w, strict=True)],
            list(out.new_acceleration),
        )

    def _damped(
        self, away: list[float], v: list[float], a: list[float], w: list[float]
    ) -> tuple[list[float], list[float], list[float], float]:
        """One period of a critically damped motion to a wish that moves at `w`: the way made, the new velocity and
        acceleration, and the jerk, of which nothing has been compared with limits."""
        dt, k = self.period, STIFFNESS
        jerk = [-k * (3 * z + k * (3 * (y - u) + k * x)) for x, y, z, u in zip(away, v, a, w, strict=True)]
        moved = [dt * (y + dt * (z / 2 + dt * j / 6)) for y, z, j in zip(v, a, jerk, strict=True)]
        speed = [y + dt * (z + dt * j / 2) for y, z, j in zip(v, a, jerk, strict=True)]
        return moved, speed, [z + dt * j for z, j in zip(a, jerk, strict=True)], _norm(jerk)

    def _calculate(self, stop: Any) -> Any:
        from ruckig import Trajectory

        trajectory = Trajectory(6)
        try:
            result = self._stopper.calculate(stop, trajectory)
        except Exception as error:
            raise LimitError(str(error)) from error
        if int(result) < 0:
            raise LimitError(str(result))
        return trajectory


def _norm(vector: list[float]) -> float:
    return sqrt(sum(x * x for x in vector))


def _need(direction: list[float]) -> list[float]:
    """How much of a limit each axis should get for a motion in a direction."""
    length = _norm(direction)
    return [abs(x) / length + FLOOR for x in direction] if length > 1e-12 else [1.0] * 3


def _box(limit: float, held: list[float], need: list[float]) -> list[float]:
    """Limits of three axes whose corner has the norm `limit`: at least what is held, the rest by need."""
    shares = [(x / limit) ** 2 for x in held]
    # Every axis keeps a little: nothing moves without.
    rest = max(1.0 - sum(shares), 1e-4)
    total = sum(x * x for x in need)
    shares = [s + rest * n * n / total for s, n in zip(shares, need, strict=True)]
    whole = max(sum(shares), 1.0)
    return [limit * sqrt(s / whole) for s in shares]


def _stoppable(distance: float, fast: float, acceleration: float, jerk: float, period: float) -> float:
    """Speed towards a wall from which an arm that is `fast` altogether stops within `distance`."""
    if distance <= 0:
        return 0.0
    strongest = MEAN * acceleration
    braking = WALL_BRAKING * strongest
    ramp = strongest / jerk + period
    delay = braking * ramp
    alone = sqrt(delay * delay + 2 * braking * distance) - delay
    return min(alone, distance / (0.5 * fast / braking + ramp))
