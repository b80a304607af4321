"""Where the tool is in the tracker: the whole transform, the delay between the two clocks, and how sure that is.

    result = solve(tracker, arm)
    result.offset                 # (4, 4): the TCP in the tracker's frame, `tx_tracker_to_tcp`
    result.uncertainty            # what the motion has determined, and what not

A tracker fixed to a tool and an arm that reports its TCP move together: M(t + delay) X = Y B(t), where M is the tracker
in its base stations' frame, B the TCP in the arm's base, X the offset and Y the arm's base in the stations' frame
("AX = YB", Zhuang, Roth and Sudhakar 1994, solved as "AX = XB" for a start). X, Y and the delay are solved together by
least squares on SE(3), on what the tracker measured: its noise is what there is. Samples that jump are left out, and
what the rest scatters gives the covariance.
"""

from __future__ import annotations

import itertools
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation

from rdt2.calibration.track import SHORTEST, Track, congruent
from rdt2.errors import CalibrationError

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from numpy import ndarray

LONGEST_DELAY = 0.5
"""Seconds that the clocks of tracker and arm may lie apart."""
GRID, SPAN = 0.01, 0.25
"""Seconds between the turn rates that are compared for a first delay, and over which each is taken."""
STARTS = 60
"""Poses that the linear start is made from."""
CUT = 4.0
"""Standard deviations beyond which a sample counts as a jump."""
ROUNDS = 4
UNSURE_MM, UNSURE_DEG = 1.0, 0.2
"""Standard deviations from which a direction counts as undetermined."""
AXES = "xyz"


@dataclass(frozen=True)
class Uncertainty:
    """What is known of the offset, as a covariance of small changes in the TCP's own axes."""

    covariance: Float[ndarray, "6 6"]
    """m^2 and rad^2: of the change xi = (metres along x, y, z, radians about x, y, z) with true = offset @ exp(xi)."""

    @cached_property
    def position_mm(self) -> Float[ndarray, " 3"]:
        """Standard deviations along the TCP's x, y, z, millimetres."""
        return 1e3 * np.sqrt(np.diag(self.covariance)[:3])

    @cached_property
    def rotation_deg(self) -> Float[ndarray, " 3"]:
        """Standard deviations about the TCP's x, y, z, degrees."""
        return np.degrees(np.sqrt(np.diag(self.covariance)[3:]))

    def undetermined(self) -> list[str]:
        """A sentence for each direction that the motion left open, the worst first; empty where all is known."""
        said = []
        for part, unit, limit, word in (
            (slice(0, 3), 1e3, UNSURE_MM, "mm"),
            (slice(3, 6), 180 / np.pi, UNSURE_DEG, "degrees"),
        ):
            values, vectors = np.linalg.eigh(self.covariance[part, part])
            for value, vector in sorted(zip(values, vectors.T, strict=True), key=lambda pair: -pair[0]):
                spread = unit * np.sqrt(max(value, 0.0))
                if spread <= limit:
                    continue
                kind = "where the TCP is along" if word == "mm" else "how the TCP is turned about"
                much = "not at all" if spread > 1000 * limit else f"to {spread:.1f} {word}"
                said.append(
                    f"the motion determines {kind} {direction(vector)} {much}: turn it about other axes, and further"
                )
        return said


@dataclass(frozen=True)
class HandEye:
    """A solved calibration."""

    offset: Float[ndarray, "4 4"]
    """The TCP in the tracker's frame (`tx_tracker_to_tcp`), metres."""
    base: Float[ndarray, "4 4"]
    """The arm's base in the tracker's frame of reference, metres."""
    delay: float
    """Seconds by which the tracker's stamps are later than the arm's for the same moment."""
    delay_error: float
    """Standard deviation of the delay, seconds."""
    uncertainty: Uncertainty
    base_uncertainty: Uncertainty
    """The same of `base`, in the base's own axes."""
    scale: float
    """Metres that the tracker says where the arm moves by one."""
    scale_error: float
    """Standard deviation of it."""
    noise_mm: float
    """What a single tracker position scatters by along an axis, millimetres."""
    noise_deg: float
    """The same of its turn, degrees."""
    kept: Bool[ndarray, " n"]
    """Which tracker samples were used; the others jumped, or lie where the arm was not recorded."""
    residuals: Float[ndarray, "n 6"] = field(repr=False)
    """Of all samples: metres along the axes of the stations' frame, radians about the tracker's axes."""


def direction(vector: Float[ndarray, " 3"]) -> str:
    """A direction in words: "x", or "(0.7, 0.7, 0)"."""
    vector = vector * np.sign(vector[np.argmax(np.abs(vector))])
    axis = int(np.argmax(vector))
    if vector[axis] > 0.95:
        return f"its {AXES[axis]}"
    return "its (" + ", ".join(f"{value:.2g}" if abs(value) > 0.05 else "0" for value in vector) + ")"


def solve(tracker: Track, arm: Track, *, delay: float | None = None) -> HandEye:
    """Offset, base and delay from a motion.

    Args:
        tracker: the tracker in its stations' frame, with the gripper's axes, as drivers and
            `read_published` give it (`rdt2.devices.tracker_drivers.TURN` is applied there, and nowhere else).
        arm: the TCP in the arm's base; it may be sampled at other times.
        delay: seconds that the tracker's stamps are late, where it is known; None: solve for it, too.

    Raises:
        CalibrationError: too short, hardly any motion, or two tracks that were never one rigid body.
    """
    start_delay = _delay(tracker, arm) if delay is None else delay
    inside = (tracker.times - start_delay > arm.times[0]) & (tracker.times - start_delay < arm.times[-1])
    if inside.sum() < SHORTEST:
        raise CalibrationError(
            f"only {inside.sum()} of {len(tracker)} tracker poses lie within the arm's recording. Record both at once."
        )
    problem = _Problem(tracker.cut(inside), arm, fixed_delay=delay)
    start, seen = problem.start(start_delay)
    theta, sigma = start, np.array([1e-3, np.radians(0.2)])
    kept = seen
    for _ in range(ROUNDS):
        fitted = least_squares(
            lambda t, kept=kept, sigma=sigma: problem.whitened(t, kept, sigma),
            theta,
            jac=lambda t, kept=kept, sigma=sigma: problem.slopes(t, kept, sigma),
            loss="soft_l1",
            x_scale="jac",
        )
        theta = fitted.x
        residuals = problem.residuals(theta)
        # of a normal scatter the median is 0.6745 standard deviations
        sigma = np.maximum(
            [np.median(np.abs(residuals[kept][:, part])) / 0.6745 for part in _PARTS], [1e-7, 1e-7]
        )
        kept = problem.within(residuals, sigma)
        if kept.sum() < SHORTEST:
            raise CalibrationError(
                f"{kept.sum()} of {len(kept)} poses of the {tracker.name} fit one another, expected {SHORTEST} or "
                "more: it slipped, or its stations were moved. Screw it tight and record again."
            )
    theta = problem.anchored(theta)
    fitted = least_squares(
        lambda t: problem.whitened(t, kept, sigma), theta, jac=lambda t: problem.slopes(t, kept, sigma),
        x_scale="jac",
    )  # fmt: skip
    theta, residuals = fitted.x, problem.residuals(fitted.x)
    sigma = np.array([residuals[kept][:, part].std() for part in _PARTS])
    jacobian = fitted.jac
    covariance = _inverse(jacobian.T @ jacobian) * _correlation(
        problem.whitened(theta, kept, sigma).reshape(-1, 6)
    )
    mask = np.zeros(len(tracker), bool)
    mask[np.flatnonzero(inside)[kept]] = True
    everywhere = np.full((len(tracker), 6), np.nan)
    everywhere[inside] = residuals
    offset, base, late = problem.unpack(theta)
    scale, scale_error = problem.scale(theta, kept, sigma)
    return HandEye(
        offset=offset, base=base, delay=late,
        delay_error=float(np.sqrt(covariance[12, 12])) if delay is None else 0.0,
        uncertainty=Uncertainty(covariance[:6, :6]), base_uncertainty=Uncertainty(covariance[6:12, 6:12]),
        scale=scale, scale_error=scale_error,
        noise_mm=1e3 * float(sigma[0]), noise_deg=float(np.degrees(sigma[1])), kept=mask, residuals=everywhere,
    )  # fmt: skip


def errors(result: HandEye, tracker: Track, arm: Track) -> tuple[Float[ndarray, " n"], Float[ndarray, " n"]]:
    """How far the TCP that tracker and offset tell is from the arm's: millimetres and degrees, for each sample."""
    position, rotation = arm.at(tracker.times - result.delay)
    said = result.base[:3, :3].T @ ((tracker.poses @ result.offset)[:, :3, 3] - result.base[:3, 3]).T
    turned = Rotation.from_matrix(result.base[:3, :3].T @ (tracker.poses @ result.offset)[:, :3, :3])
    return 1e3 * np.linalg.norm(said.T - position, axis=1), np.degrees((rotation.inv() * turned).magnitude())


def held_out(tracker: Track, arm: Track, *, parts: int = 5) -> tuple[float, float]:
    """Median error (mm, degrees) of moments that were left out, a fifth of the time after the other.

    Raises:
        CalibrationError: too few samples to hold some out.
    """
    far, turned = [], []
    edges = np.linspace(tracker.times[0], tracker.times[-1] + 1e-9, parts + 1)
    for low, high in itertools.pairwise(edges):
        out = (tracker.times >= low) & (tracker.times < high)
        if min(out.sum(), (~out).sum()) < SHORTEST:
            continue
        found = solve(tracker.cut(~out), arm)
        mm, degrees = errors(found, tracker.cut(out), arm)
        far.append(mm)
        turned.append(degrees)
    if not far:
        raise CalibrationError(f"{len(tracker)} samples are too few to hold some out. Record for longer.")
    return float(np.median(np.concatenate(far))), float(np.median(np.concatenate(turned)))


# ---------------------------------------------------------------------------------------------------------- the problem

_PARTS = (slice(0, 3), slice(3, 6))


class _Problem:
    """Unknowns: a change of a reference offset (6), of a reference base (6), and the delay (1)."""

    def __init__(self, tracker: Track, arm: Track, *, fixed_delay: float | None) -> None:
        self.tracker, self.arm, self.fixed = tracker, arm, fixed_delay

    def start(self, delay: float) -> tuple[Float[ndarray, " 13"], Bool[ndarray, " n"]]:
        """A linear solution, and which samples agree."""
        position, rotation = self.arm.at(self.tracker.times - delay)
        arm = Track(self.tracker.times, _poses(rotation, position), self.arm.name)
        seen = congruent(self.tracker, arm)
        if seen.sum() < SHORTEST:
            raise CalibrationError(
                f"{seen.sum()} of {len(seen)} moments agree between {self.tracker.name} and {self.arm.name}: they did "
                "not move as one body. Is this the tracker of this arm, and is it screwed tight?"
            )
        some = np.flatnonzero(seen)[np.linspace(0, seen.sum() - 1, STARTS).astype(int)]
        self.offset = _linear(self.tracker.poses[some], arm.poses[some])
        bases = self.tracker.poses[some] @ self.offset @ np.linalg.inv(arm.poses[some])
        self.base = np.eye(4)
        self.base[:3, :3] = Rotation.from_matrix(bases[:, :3, :3]).mean().as_matrix()
        self.base[:3, 3] = np.median(bases[:, :3, 3], axis=0)
        self.delay = delay
        return np.zeros(12 if self.fixed is not None else 13), seen

    def anchored(self, theta: Float[ndarray, " 13"]) -> Float[ndarray, " 13"]:
        """The same point, with the references there: a covariance is then in the axes of the result."""
        self.offset, self.base, self.delay = self.unpack(theta)
        return np.zeros(len(theta))

    def unpack(self, theta: Float[ndarray, " 13"]) -> tuple[ndarray, ndarray, float]:
        delay = self.delay + (float(theta[12]) if len(theta) > 12 else 0.0)
        return self.offset @ _change(theta[:6]), self.base @ _change(theta[6:12]), delay

    def residuals(self, theta: Float[ndarray, " 13"]) -> Float[ndarray, "n 6"]:
        """What the tracker measured against what it should have: metres, radians."""
        offset, base, delay = self.unpack(theta)
        position, rotation = self.arm.at(self.tracker.times - delay)
        back = np.linalg.inv(offset)
        place = base[:3, 3] + (position + rotation.as_matrix() @ back[:3, 3]) @ base[:3, :3].T
        expected = base[:3, :3] @ rotation.as_matrix() @ back[:3, :3]
        off = expected.transpose(0, 2, 1) @ self.tracker.poses[:, :3, :3]
        return np.hstack([self.tracker.poses[:, :3, 3] - place, Rotation.from_matrix(off).as_rotvec()])

    def slopes(self, theta: ndarray, kept: ndarray, sigma: ndarray) -> Float[ndarray, "6k p"]:
        """What `whitened` changes by with each unknown: of rotations by how they are turned about their own axes, of
        the delay from a tenth of a millisecond's difference."""
        offset, base, delay = self.unpack(theta)
        position, rotation = self.arm.at(self.tracker.times[kept] - delay)
        arm, back = rotation.as_matrix(), np.linalg.inv(offset)[:3, 3]
        left = self.residuals(theta)[kept]
        expected = base[:3, :3] @ arm @ offset[:3, :3].T
        found = np.zeros((len(left), 6, len(theta)))
        found[:, :3, :3] = expected @ self.offset[:3, :3]
        found[:, :3, 3:6] = -base[:3, :3] @ arm @ _cross(back) @ _bent(theta[3:6])
        found[:, :3, 6:9] = -self.base[:3, :3]
        found[:, :3, 9:12] = base[:3, :3] @ _cross(position + arm @ back) @ _bent(theta[9:12])
        cross = _cross(left[:, 3:])
        unbent = np.eye(3) - cross / 2 + cross @ cross / 12
        found[:, 3:, 3:6] = unbent @ offset[:3, :3] @ _bent(theta[3:6])
        found[:, 3:, 9:12] = -unbent @ offset[:3, :3] @ arm.transpose(0, 2, 1) @ _bent(theta[9:12])
        if len(theta) > 12:
            later = theta + np.eye(13)[12] * 1e-4
            found[:, :, 12] = (self.residuals(later)[kept] - left) / 1e-4
        whitened: ndarray = (found / np.repeat(sigma, 3)[:, None]).reshape(-1, len(theta))
        return whitened

    def scale(self, theta: ndarray, kept: ndarray, sigma: ndarray) -> tuple[float, float]:
        """The tracker's metre and its standard deviation: one more unknown, by a step from a solution without it."""
        _, base, delay = self.unpack(theta)
        position, _ = self.arm.at(self.tracker.times[kept] - delay)
        longer = np.zeros((len(position), 6))
        longer[:, :3] = -(position - position.mean(axis=0)) @ base[:3, :3].T / sigma[0]
        slopes = np.column_stack([self.slopes(theta, kept, sigma), longer.ravel()])
        inverse, left = _inverse(slopes.T @ slopes), self.whitened(theta, kept, sigma)
        step = -inverse @ (slopes.T @ left)
        left = left + slopes @ step
        variance = inverse[-1, -1] * np.mean(left**2) * _correlation(left.reshape(-1, 6))
        return 1.0 + float(step[-1]), float(np.sqrt(variance))

    def whitened(self, theta: ndarray, kept: ndarray, sigma: ndarray) -> Float[ndarray, " 6k"]:
        return (self.residuals(theta)[kept] / np.repeat(sigma, 3)).ravel()

    def within(self, residuals: ndarray, sigma: ndarray) -> Bool[ndarray, " n"]:
        """Samples that are no jumps."""
        return np.all(
            [
                np.linalg.norm(residuals[:, part], axis=1) < CUT * s
                for part, s in zip(_PARTS, sigma, strict=True)
            ],
            axis=0,
        )


def _change(xi: Float[ndarray, " 6"]) -> Float[ndarray, "4 4"]:
    """A small change: first moved, in the old axes, then turned."""
    matrix = np.eye(4)
    matrix[:3, :3], matrix[:3, 3] = Rotation.from_rotvec(xi[3:]).as_matrix(), xi[:3]
    return matrix


def _cross(vectors: Float[ndarray, "*n 3"]) -> Float[ndarray, "*n 3 3"]:
    """Matrices that multiply as the vectors' cross products do."""
    x, y, z = np.moveaxis(np.asarray(vectors), -1, 0)
    zero = np.zeros_like(x)
    return np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(*np.shape(vectors), 3)


def _bent(vector: Float[ndarray, " 3"]) -> Float[ndarray, "3 3"]:
    """By how much a rotation turns about its own axes for a change of its vector (the right Jacobian of SO(3))."""
    angle, cross = float(np.linalg.norm(vector)), _cross(vector)
    if angle < 1e-6:
        return np.eye(3) - cross / 2
    bent: ndarray = (
        np.eye(3)
        - (1 - np.cos(angle)) / angle**2 * cross
        + (angle - np.sin(angle)) / angle**3 * cross @ cross
    )
    return bent


def difference(offset: Float[ndarray, "4 4"], true: Float[ndarray, "4 4"]) -> Float[ndarray, " 6"]:
    """The change (metres, radians) in an offset's own axes that makes it true."""
    change = np.linalg.inv(offset) @ true
    return np.hstack([change[:3, 3], Rotation.from_matrix(change[:3, :3]).as_rotvec()])


def _poses(rotation: Rotation, position: ndarray) -> Float[ndarray, "n 4 4"]:
    poses = np.tile(np.eye(4), (len(position), 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotation.as_matrix(), position
    return poses


def _linear(tracker: Float[ndarray, "k 4 4"], arm: Float[ndarray, "k 4 4"]) -> Float[ndarray, "4 4"]:
    """AX = XB in closed form (Park and Martin 1994): the TCP in the tracker's frame.

    Between two poses the tracker turned by log A and the arm by log B, and log A = R log B. Then
    (R_A - 1) t = R t_B - t_A.
    """
    one, other = np.triu_indices(len(arm), 1)
    a, b = (np.linalg.inv(track[one]) @ track[other] for track in (tracker, arm))
    turns = [Rotation.from_matrix(motion[:, :3, :3]).as_rotvec() for motion in (a, b)]
    with warnings.catch_warnings():  # turns about one axis only: the covariance will say so
        warnings.simplefilter("ignore", UserWarning)
        rotation, _ = Rotation.align_vectors(*turns)
    lever = (a[:, :3, :3] - np.eye(3)).reshape(-1, 3)
    way = (rotation.apply(b[:, :3, 3]) - a[:, :3, 3]).ravel()
    found = np.eye(4)
    found[:3, :3], found[:3, 3] = rotation.as_matrix(), np.linalg.lstsq(lever, way, rcond=1e-6)[0]
    return found


def _delay(tracker: Track, arm: Track) -> float:
    """Seconds that the tracker's stamps are late, to about 10 ms: where its turn rates fit the arm's best.

    Raises:
        CalibrationError: hardly any turn, or none that both saw.
    """
    from scipy.signal import medfilt

    begin, end = max(tracker.times[0], arm.times[0]), min(tracker.times[-1], arm.times[-1])
    if end - begin < 3.0:
        raise CalibrationError(
            f"{tracker.name} and {arm.name} were recorded together for {max(end - begin, 0):.1f} s, expected 3 s "
            "or more."
        )
    grid = np.arange(begin, end, GRID)
    # a sample that jumps spoils the rates of one span: of three, the median knows better
    seen, told = (
        medfilt(track.turn_rates(grid, span=SPAN), 2 * int(1.5 * SPAN / GRID) + 1) for track in (tracker, arm)
    )
    if told.max() < np.radians(2.0):
        raise CalibrationError(
            f"the {arm.name} turned at {np.degrees(told.max()):.1f} degrees/s at most: expected turns about several "
            "axes. Move it by 'rdt2 calibrate handeye', or by hand."
        )
    most = int(LONGEST_DELAY / GRID)
    shifts = range(-most, most + 1)
    # Pearson's correlation, of what overlaps
    fits = [
        np.corrcoef(seen[max(s, 0) : len(grid) + min(s, 0)], told[max(-s, 0) : len(grid) - max(s, 0)])[0, 1]
        for s in shifts
    ]
    best = int(np.argmax(fits))
    if fits[best] < 0.3:
        raise CalibrationError(
            f"{tracker.name} and {arm.name} did not turn alike (their turn rates correlate by {fits[best]:.2f} at "
            "best). Is this the tracker of this arm, and was it seen by the stations?"
        )
    return float(shifts[best] * GRID)


def _inverse(information: ndarray) -> ndarray:
    """Covariance of an information matrix; a direction without information gets a very large variance."""
    scale = np.sqrt(np.maximum(np.diag(information), 1e-30))
    values, vectors = np.linalg.eigh(information / np.outer(scale, scale))
    values = np.maximum(values, 1e-12)
    return (vectors / values) @ vectors.T / np.outer(scale, scale)


def _correlation(residuals: Float[ndarray, "n 6"]) -> float:
    """How many times fewer independent samples there are (the integrated autocorrelation time), 1 or more."""
    centred = residuals - residuals.mean(axis=0)
    power = (centred**2).sum()
    total = 1.0
    for lag in range(1, min(len(centred) // 4, 200)):
        rho = float((centred[lag:] * centred[:-lag]).sum() / power)
        if rho < 2 / np.sqrt(len(centred)):
            break
        total += 2 * rho
    return max(total, 1.0)
