"""Where the table is, and where one arm stands beside the other: from points that the fingers touched."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.calibration.moving import record, way_along
from rdt2.calibration.outcome import Outcome, plot
from rdt2.calibration.touch import Placement, placement, placement_by_tracker, plane
from rdt2.control.servo import TICK
from rdt2.control.shadow import Shadow
from rdt2.control.way import PEAK, smooth
from rdt2.errors import CalibrationError
from rdt2.progress import note, progress

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray

    from rdt2.control.recording import Recorder
    from rdt2.robot import ArmState, Robot
    from rdt2.robot.settings import RobotSettings

APART = 0.05
"""Metres from where the arm stands to each of four points that it touches by itself."""
LOWER = 0.06
"""Metres by which the table may be lower than the yaml says."""
NEAR = 0.02
"""Metres above what was touched before, from which an arm comes down slowly; where nothing was, it does all the way."""
SPEED, DOWN = 0.05, 0.01
"""m/s over the table, and towards it."""
FORCE = 5.0
"""N more than before, upwards, at which it was touched."""
LEAST_POINTS = 3
UNEVEN, UNSURE_BASE_MM = 3e-3, 5.0
"""Metres that touched points may lie off a plane; millimetres (one sigma) from which an arm's base is of no use."""
OUTSIDE = 0.5
"""Metres from every arm's workspace beyond which nothing is touched."""
HELD = 0.002
"""Metres behind its way, without a wrench to tell, at which it was touched."""


def fingertips(
    settings: RobotSettings, side: str, pose: Float[ndarray, "4 4"], width: float
) -> Float[ndarray, " 3"]:
    """What touches: between the fingertips, as low as the gripper's lowest corner. Cell frame, metres."""
    body = Shadow(side, settings.arms[side], settings.safety, settings.kinematics()[side], period=TICK).body
    tip: ndarray = pose[:3, 3] + pose[:3, :3] @ body.tip
    tip[2] = pose[2, 3] - float(body.hang(pose[None, :3, :3], np.array([width]))[0])
    return tip


def table(points: Float[ndarray, "n 3"], settings: RobotSettings) -> Outcome:
    """The table's height from touched points (cell frame, metres).

    Raises:
        CalibrationError: they lie on no plane that could be a table, or where no arm works.
    """
    found, before = plane(points), settings.safety.table_height
    _require_within(settings, points)
    if found.error > UNEVEN:
        raise CalibrationError(
            f"a touched point lies {1e3 * found.error:.0f} mm off the plane through all of them, expected "
            f"{1e3 * UNEVEN:.0f} mm at most: was something else touched? Touch the bare table again."
        )
    notes = []
    above = max(found.at(x, y) for x, y in _corners(settings)) - found.highest
    if above > settings.safety.table_clearance:
        notes.append(
            f"the table is tilted by {found.tilt:.1f} degrees: the highest touched point counts, and in a corner "
            f"of the workspace it would be {1e3 * above:.0f} mm higher, more than table_clearance. Level it, touch it "
            "there as well (--by-hand), or keep the arms away from there (bounds); or the base in the yaml is turned"
        )
    return Outcome(
        "Table",
        [
            ("height", f"{1e3 * found.highest:.1f} mm at the highest point; the yaml said {1e3 * before:.1f} mm"),
            ("tilt", f"{found.tilt:.2f} degrees"),
            ("largest distance of a point from the plane", f"{1e3 * found.error:.2f} mm"),
        ],
        {
            "height": found.middle[2], "highest": found.highest, "tilt_deg": found.tilt, "error_m": found.error,
            "points": points,
        },
        {"safety.table_height": round(found.highest, 4)}, notes, [
            "rdt2 calibrate arms {robot} --by-hand is next, where there are two arms.",
            "rdt2 calibrate camera {robot} comes after it.",
        ],
        [
            plot(
                f"Touched points along {axis}", {"height": (1e3 * points[:, column], 1e3 * points[:, 2])},
                x=f"mm along {axis}", y="mm",
            )
            for column, axis in enumerate("xy")
        ],
    )  # fmt: skip


def touch_off(
    robot: Robot,
    settings: RobotSettings,
    side: str,
    *,
    permit: Callable[[], str],
    recorder: Recorder | None = None,
) -> Float[ndarray, "4 3"]:
    """Touch four points around where the arm stands, slowly, and rise again.

    Args:
        robot: enabled, its fingers a few centimetres over the table.
        settings: of it.
        side: of the arm.
        permit: why it may not move; "" when it may.
        recorder: is shown where the arms are.

    Raises:
        CalibrationError: nothing was met. SafetyError: a way is not clear, or somebody stopped it.
    """
    lowered = settings.changed(
        {
            "safety.table_height": settings.safety.table_height - LOWER,
            f"arms.{side}.bounds.low": [
                *settings.arms[side].bounds.low[:2], settings.arms[side].bounds.low[2] - LOWER,
            ],
        }
    )  # fmt: skip

    kinematics = settings.kinematics()[side]

    def go(along: ndarray, speed: float, *, looks: bool = True) -> ndarray | None:
        """A straight way, slow at both ends, that ends where it meets something: the pose there."""
        seconds = max(1.0, PEAK * float(np.linalg.norm(along)) / speed)
        share = smooth(np.linspace(0.0, 1.0, round(seconds / TICK) + 1))

        def poses(start: ndarray) -> ndarray:
            told = np.repeat(start[None], len(share), axis=0)
            told[:, :3, 3] += share[:, None] * along
            return told

        way = way_along(lowered, robot, side, poses, seconds)
        assert kinematics is not None, "an arm that has a way has joints"
        arm, latency = robot.arms[side], settings.arms[side].latency
        found = _Meets(arm.state(), lambda since: kinematics.forward(way.at(side, since - latency))[2, 3])
        record(robot, lowered, side, way, permit=permit, recorder=recorder, ends=found if looks else None)
        return found.pose

    def height() -> float:
        state, width = robot.arms[side].state(), robot.grippers[side].state().width
        return float(fingertips(settings, side, state.pose, width)[2])

    start = robot.arms[side].state().pose[:3, 3].copy()

    def down(to: float, speed: float) -> ndarray | None:
        return go(np.array([0.0, 0.0, min(to - height(), 0.0)]), speed)

    def touched(corner: ndarray, before: float) -> ndarray:
        width = robot.grippers[side].state().width
        met = go(start + corner - robot.arms[side].state().pose[:3, 3], SPEED)
        if met is None and height() > before + NEAR:
            met = down(before + NEAR, SPEED)
        if met is not None:
            raise CalibrationError(
                f"the {side} arm met something {1e3 * (height() - settings.safety.table_height):.0f} mm above where "
                "the yaml has the table, before it came down slowly. Clear the table around it, and begin higher."
            )
        met = down(settings.safety.table_height - LOWER + 0.01, DOWN)
        if met is None:
            raise CalibrationError(
                f"the {side} arm met nothing down to {1e3 * (LOWER - 0.01):.0f} mm below where the yaml has the table. "
                "Lead it nearer, or give points that you touched by hand (--points)."
            )
        # the way up begins where it touches
        go(np.array([0.0, 0.0, start[2] - robot.arms[side].state().pose[2, 3]]), SPEED, looks=False)
        return fingertips(settings, side, met, width)

    points: list[ndarray] = []
    corners = APART * np.array([[1, 1, 0], [1, -1, 0], [-1, -1, 0], [-1, 1, 0.0]])
    with progress("points touched", len(corners)) as advance:
        for corner in corners:
            points.append(touched(corner, max((point[2] for point in points), default=np.inf)))
            advance()
    return np.array(points)


def touched_by_hand(
    robot: Robot, settings: RobotSettings, sides: Sequence[str], ask: Callable[[str], str]
) -> dict[str, Float[ndarray, "n 3"]]:
    """Points that a person leads the fingertips to, one after the other, all arms to the same; nothing moves by itself.

    Args:
        robot: connected.
        settings: of it.
        sides: of the arms that touch each point, in this order.
        ask: is told what to do, and returns what is typed: "" takes the point, anything else ends it.

    Returns:
        Points in the cell frame as each arm tells it, metres, by side: three or more.

    Raises:
        CalibrationError: it was ended before there were three.
    """
    found: dict[str, list[ndarray]] = {side: [] for side in sides}
    number = 0
    while True:
        taken = []
        for side in sides:
            where = "the table" if len(sides) == 1 else f"point {number + 1}"
            if ask(
                f"Lead the {side} arm's closed fingertips to {where} and press Enter ({number} taken; done ends it): "
            ):
                if number < LEAST_POINTS:
                    raise CalibrationError(
                        f"{number} points were touched, expected {LEAST_POINTS} or more. Nothing was written."
                    )
                return {each: np.array(points) for each, points in found.items()}
            state, width = robot.arms[side].state(), robot.grippers[side].state().width
            taken.append(fingertips(settings, side, state.pose, width))
        for side, point in zip(sides, taken, strict=True):
            found[side].append(point)
            note(f"{side}: " + ", ".join(f"{1e3 * value:.1f}" for value in point) + " mm")
        number += 1


def _corners(settings: RobotSettings) -> list[tuple[float, float]]:
    """x and y of the corners of what the arms may do, metres."""
    bounds = [arm.bounds for arm in settings.arms.values()]
    return [(x, y) for b in bounds for x in (b.low[0], b.high[0]) for y in (b.low[1], b.high[1])]


def _require_within(settings: RobotSettings, points: Float[ndarray, "n 3"]) -> None:
    """Raise CalibrationError for a point (cell frame, metres) far from what any arm may do."""
    bounds = [arm.bounds for arm in settings.arms.values()]
    off = [points - np.clip(points, each.low, each.high) for each in bounds]
    far = np.linalg.norm(off, axis=2).min(axis=0)
    if far.max() > OUTSIDE:
        worst = points[far.argmax()]
        raise CalibrationError(
            f"the touched point ({', '.join(f'{value:g}' for value in worst)}) lies {far.max():.1f} m outside of every "
            f"arm's workspace (bounds), expected {OUTSIDE:g} m or less: were these metres, in the cell frame?"
        )


class _Meets:
    """Whether an arm on its way down has met something: by its wrench, else because it falls behind its way.

    Args:
        rest: before it moves.
        meant: height (metres) that its TCP should have, by seconds since its way began.
    """

    def __init__(self, rest: ArmState, meant: Callable[[float], float]) -> None:
        self._force = None if rest.wrench is None else float(rest.wrench[2])
        self._off, self._meant = float(rest.pose[2, 3]) - meant(0.0), meant
        self.pose: ndarray | None = None

    def __call__(self, state: ArmState, since: float) -> bool:
        if self._force is not None and state.wrench is not None:
            met = abs(float(state.wrench[2]) - self._force) > FORCE
        else:
            met = float(state.pose[2, 3]) - self._meant(since) - self._off > HELD
        if met and self.pose is None:
            self.pose = state.pose
        return met


def arms(settings: RobotSettings, found: Placement, how: str) -> Outcome:
    """Where the right arm stands, by the left one's base.

    Raises:
        CalibrationError: there is one arm only, or touched points do not tell it well enough.
    """
    if set(settings.arms) != {"right", "left"}:
        raise CalibrationError(f"robot {settings.name!r} has one arm: there is nothing to place it by.")
    base = settings.arms["left"].base @ found.transform
    bases = {
        "left arm": settings.arms["left"].base,
        "right arm in the yaml": settings.arms["right"].base,
        "now": base,
    }
    change = np.linalg.inv(settings.arms["right"].base) @ base
    turned = float(np.degrees(Rotation.from_matrix(change[:3, :3]).magnitude()))
    place = ", ".join(f"{1e3 * v:.1f}" for v in found.transform[:3, 3])
    rows = [
        ("right arm's base in the left one's", f"{place} mm (tx_left_right), {how}"),
        ("against the yaml", f"{1e3 * float(np.linalg.norm(change[:3, 3])):.1f} mm and {turned:.2f} degrees"),
    ]
    known = {}
    if len(found.distances):
        known = _known(settings, found)
        base_mm, work_mm = 1e3 * known["sigma_m"], 1e3 * known["workspace_sigma_m"]
        said = (
            f"{base_mm:.1f} mm at its base, {work_mm:.1f} mm where it works, {known['sigma_deg']:.2f} degrees"
        )
        rows += [("left of the touched points", f"{1e3 * found.error:.2f} mm"), ("known to, one sigma", said)]
    else:
        rows.append(("known to, one sigma", f"{1e3 * found.error:.2f} mm"))
    return Outcome(
        "Arms", rows,
        {
            "tx_left_right": found.transform, "error_m": found.error,
            "moved_mm": 1e3 * np.linalg.norm(change[:3, 3]), **known,
        },
        {"arms.right.base": base},
        following=[
            "rdt2 run {robot} --dry-run shows both arms where they are said to stand: look whether they do.",
            "rdt2 calibrate camera {robot} is next.",
        ],
        plots=[
            plot(
                "Bases from above", {name: (each[:1, 3], each[1:2, 3]) for name, each in bases.items()},
                x="m along x", y="m along y",
            ),
            plot(
                "Left of each touched point",
                {"mm": (np.arange(1, len(found.distances) + 1), 1e3 * found.distances)}, x="point", y="mm",
            )
        ],
    )  # fmt: skip


def _known(settings: RobotSettings, found: Placement) -> dict[str, float]:
    """What the touched points leave open: at the right arm's base, and in the middle of its workspace.

    Raises:
        CalibrationError: too much.
    """
    bounds, left = settings.arms["right"].bounds, np.linalg.inv(settings.arms["left"].base)
    middle = left[:3, :3] @ (0.5 * np.add(bounds.low, bounds.high)) + left[:3, 3]
    (base, turn), (work, _) = (found.unsure(place) for place in (found.transform[:3, 3], middle))
    if 1e3 * max(base, work) > UNSURE_BASE_MM:
        raise CalibrationError(
            f"the touched points tell where the right arm stands to {1e3 * base:.1f} mm, where it works to "
            f"{1e3 * work:.1f} mm and its turn to {turn:.2f} degrees only (one sigma), expected {UNSURE_BASE_MM:g} mm "
            "or less. Nothing was written: touch more points, further apart, all over what both arms reach."
        )
    return {"sigma_m": base, "workspace_sigma_m": work, "sigma_deg": turn}


def from_reports(left: Path, right: Path) -> Placement:
    """From what 'rdt2 calibrate handeye' wrote of both arms under the same stations.

    Raises:
        CalibrationError: they are none, of the other arm, or were not trusted themselves.
    """
    bases, sigmas = [], [0.0]
    for side, path in (("left", left), ("right", right)):
        try:
            told = json.loads(path.read_text(encoding="utf-8"))
            bases.append(np.array(told["base"], dtype=np.float64).reshape(4, 4))
            sigmas.append(float(np.linalg.norm(np.array(told["base_sigma_mm"], dtype=np.float64))))
            whose, doubts = str(told["side"]), list(told["doubts"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CalibrationError(
                f"{path} is no report of 'rdt2 calibrate handeye' ({error!r}). Expected its handeye_SIDE.json."
            ) from None
        if whose != side:
            raise CalibrationError(
                f"{path} is of the {whose} arm, expected the {side} one: LEFT, then RIGHT."
            )
        if doubts or sigmas[-1] > UNSURE_BASE_MM:
            raise CalibrationError(
                f"{path} does not tell where the {side} arm stands: "
                + (doubts[0] if doubts else f"its base is known to {sigmas[-1]:.1f} mm only")
                + ". Calibrate that arm again."
            )
    return placement_by_tracker(*bases, error=1e-3 * float(np.linalg.norm(sigmas)))


def from_points(settings: RobotSettings, points: Mapping[str, Any]) -> Placement:
    """From points (cell frame by each arm's own base in the yaml, metres) that both touched in the same order."""
    own = {}
    for side in ("left", "right"):
        told = np.asarray(points[side], dtype=np.float64).reshape(-1, 3)
        base = np.linalg.inv(settings.arms[side].base)
        own[side] = told @ base[:3, :3].T + base[:3, 3]
    return placement(own["left"], own["right"])
