"""Whatever is wished for, what is commanded stays within all limits, in the workspace, off the table and apart.

`make fuzz-safety` tries many more sequences than a run of the tests.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from guarded import (
    CALM,
    PERIOD,
    SAFETY,
    SIDES,
    TABLE,
    Onlooker,
    down,
    guarded,
    joints_at,
    kinematics,
    waiting,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from rdt2.control.geometry import LAG_ANGLE, LAG_POSITION
from rdt2.errors import SafetyError

EXAMPLES = int(os.environ.get("RDT2_SAFETY_EXAMPLES", "1000"))
MISSED = {"box": 1e-6, "table": 5e-4, "wall": 3e-3, "gap": 3e-3}
"""Metres by which what has to be kept may be missed: by rounding, and between two samples of a sweep."""
STOPPED = 5e-3
"""Metres by which a device that stops by itself may be past what the guard keeps clear."""
# Quick arms: dangers are reached within few periods.
QUICK = CALM.model_copy(
    update={"acceleration": 25, "jerk": 2000, "turn_rate": 6, "turn_acceleration": 100, "turn_jerk": 8000}
)


def starts():
    """Postures to begin from; some of them are not allowed."""
    low = TABLE + 0.005 + 0.012
    return [
        {s: waiting(s) for s in SIDES},
        # at work, the other near
        {"right": down("right", 0.0, -0.28, 0.2), "left": down("left", 0.0, -0.02, 0.15)},
        # close over the table
        {"right": down("right", 0.05, -0.25, low + 0.01), "left": down("left", 0.05, 0.2, low + 0.02)},
        # near the ends of the workspace
        {"right": down("right", 0.2, -0.35, 0.3), "left": down("left", 0.2, 0.45, 0.3)},
        # outside of it
        {"right": down("right", 0.0, -0.61, 0.3), "left": waiting("left")},
        # under the clearance
        {"right": waiting("right"), "left": down("left", 0.0, 0.25, low - 0.008)},
        # too near to each other
        {"right": down("right", 0.0, -0.086, 0.2), "left": down("left", 0.0, 0.086, 0.2)},
        # in each other
        {"right": down("right", 0.0, -0.07, 0.2), "left": down("left", 0.0, 0.07, 0.2)},
        # in the wall, as far as the guard knows
        {"right": waiting("right"), "left": down("left", 0.30, 0.3, 0.25)},
    ]


def bent(model):
    """Joints to begin from: near the end of a joint, nearer than any command leads, and nearly singular."""
    waits = {side: joints_at(model, side, waiting(side)) for side in SIDES}
    ended = {side: waits[side].copy() for side in SIDES}
    singular = {side: waits[side].copy() for side in SIDES}
    for side in SIDES:
        ended[side][-1] = kinematics(model, side).upper[-1] - 0.01
        singular[side][4 if model == "ur5e" else 3] = 0.06 if model == "ur5e" else -0.6
    past = {side: ended[side] + 0.02 * np.eye(len(ended[side]))[-1] for side in SIDES}
    return [ended, past, singular]


WALL = {"centre": [0.45, 0, 0.3], "size": [0.2, 3, 1.5]}
MODELS = ("ur5e", "ur5e", "ur5e", "fr3", "handheld")
_GUARDS: dict = {}


def prepared(model, quick, start):
    """A guard of a kind, at rest in a start posture; made once, started each time."""
    key = model, quick
    if key not in _GUARDS:
        postures = [(p, {s: joints_at(model, s, p[s]) for s in SIDES}) for p in starts()]
        for joints in bent(model) if model != "handheld" else []:
            postures.append(({s: kinematics(model, s).forward(joints[s]) for s in SIDES}, joints))
        bounds = QUICK if quick else CALM
        _GUARDS[key] = guarded(model, bounds=bounds, obstacles={"wall": WALL})[0], postures
    guard, postures = _GUARDS[key]
    poses, joints = postures[start % len(postures)]
    guard.start(poses, joints, dict.fromkeys(SIDES, 0.08))
    return guard, Onlooker(SIDES, model, poses, joints)


unit = st.integers(-2, 2)
BRIEF, LONG = (1, 2, 4, 8), (2, 6, 15, 45)
"""Ticks that a move may last: most sequences change their mind soon, one in ten goes on for as long as a chunk may be
late, 0.5 s."""


def moves(ticks):
    return st.fixed_dictionaries({
        "kind": st.sampled_from(["line", "line", "chunk", "chunk", "jump", "stay", "brake", "nan"]),
        "way": st.tuples(unit, unit, unit),
        "speed": st.sampled_from([0.1, 0.5, 1.5, 1.5, 4.0]),
        "turn": st.tuples(unit, unit, unit),
        "target": st.integers(0, 5),
        "late": st.integers(0, 62),
        "width": st.sampled_from([0.0, 0.05, 0.092, 0.3]),
        "ticks": st.sampled_from(ticks),
    })  # fmt: skip


def programs(ticks):
    return st.lists(st.tuples(moves(ticks), moves(ticks)), min_size=2, max_size=4)


def target(side, other, index):
    """Where no arm may go, and some places where it may."""
    pose = down(side, 0.0, 0.0, 0.1)
    if index == 0:
        pose = other.copy()
        pose[:3, :3] = down(side, 0, 0, 0)[:3, :3]
    elif index == 1:
        pose[2, 3] = -0.3
    elif index == 2:
        pose[:3, 3] = 0.3, 0.9 if side == "left" else -0.9, 1.0
    elif index == 3:
        pose = down(side, -0.35, 0.0, 0.3, yaw=2.5)
    elif index == 4:
        pose = down(side, 0.1, 0.0, 0.05, lean=0.8, pitch=0.7)
    return pose


def wishes(side, move, past, others):
    """The wishes of one arm during a move, one a tick; `past` are its commanded poses."""
    now = past[-1] if move["kind"] != "chunk" else past[-1 - min(move["late"], len(past) - 1)]
    way = np.array(move["way"], float)
    way /= max(np.linalg.norm(way), 1.0)
    for tick in range(1, move["ticks"] + 1):
        wish = now.copy()
        if move["kind"] in ("line", "chunk"):
            wish[:3, 3] += way * move["speed"] * PERIOD * tick
            wish[:3, :3] = (
                Rotation.from_rotvec(np.array(move["turn"]) * PERIOD * tick).as_matrix() @ wish[:3, :3]
            )
        elif move["kind"] == "jump":
            wish = target(side, others[-1], move["target"])
        elif move["kind"] == "nan":
            wish[1, 3] = np.nan
        yield wish


def drive(guard, onlooker, program, measured):
    """`measured`: opening at which an object, or a fault, keeps both grippers; None where they go as told."""
    fingers = {side: 0.08 if measured is None else measured for side in SIDES}

    def look(commanded):
        onlooker.look(commanded, fingers)
        if measured is None:
            fingers.update(commanded.widths)
        guard.see(fingers)

    guard.see(fingers)
    onlooker.widths = {side: [(0.08, fingers[side])] for side in SIDES}
    for pair in program:
        move = dict(zip(SIDES, pair, strict=True))
        path = {}
        for side, other in zip(SIDES, SIDES[::-1], strict=True):
            path[side] = list(wishes(side, move[side], onlooker.poses[side], onlooker.poses[other]))
        for tick in range(max(m["ticks"] for m in move.values())):
            wish = {side: path[side][min(tick, len(path[side]) - 1)] for side in SIDES}
            if "brake" in (move["right"]["kind"], move["left"]["kind"]):
                look(guard.brake())
                continue
            try:
                look(guard.step(wish, {side: move[side]["width"] for side in SIDES}))
            except SafetyError:
                assert any(not np.isfinite(pose).all() for pose in wish.values())
                look(guard.brake())
    for _ in range(200):
        if guard.at_rest:
            return
        look(guard.brake())
    raise AssertionError("the arms do not come to rest")


def margins(seen, bounds):
    """Metres beyond what has to be kept, at every look: to the workspace, the table, the wall, and between parts."""
    shapes, found = seen.shapes(), {}
    for (side, (_, lowest)), outside in zip(shapes.items(), seen.outside(bounds), strict=True):
        found[side, "box"] = -outside
        found[side, "table"] = lowest.min(axis=1) - (TABLE + 0.005)
        found[side, "wall"] = seen.off(side, WALL) - 0.02
    for key, gap in seen.gaps(shapes).items():
        found[key, "gap"] = gap - (0.02 if key == "both" else 0.005)
    return found


def require_kept(margins, start, slack=0.0):
    """What was wrong at the start may stay wrong, and get no worse; all else stays right."""
    for (which, kind), left in margins.items():
        assert left.min() >= min(start[which, kind][0], 0.0) - MISSED[kind] - slack, (which, kind)


@settings(
    max_examples=EXAMPLES, deadline=None, derandomize="RDT2_SAFETY_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(
    model=st.sampled_from(MODELS), quick=st.booleans(), start=st.integers(0, 11),
    measured=st.sampled_from([None, None, 0.0, 0.092]),
    program=st.sampled_from([LONG, *[BRIEF] * 9]).flatmap(programs),
)  # fmt: skip
@pytest.mark.timeout(6 * 3600)
def test_no_wish_brings_an_arm_where_it_must_not_be(model, quick, start, measured, program):
    bounds = QUICK if quick else CALM
    guard, onlooker = prepared(model, quick, start)
    drive(guard, onlooker, program, measured)
    assert onlooker.limits(bounds).max() <= 1.0 + 1e-6
    seen = margins(onlooker, bounds)
    require_kept(seen, seen)
    require_kept(margins(onlooker.stopped(bounds), bounds), seen, STOPPED)
    for side in SIDES if onlooker.known else ():
        off, turned, left, singular = onlooker.postures(side)
        assert off.max() <= LAG_POSITION + 1e-4
        assert turned.max() <= LAG_ANGLE + 1e-3
        assert left.min() >= min(left[0], 0.0) - 1e-3
        assert singular.min() >= min(singular[0], SAFETY["singularity_stop"]) - 1e-3
    gaps = seen["both", "gap"] + 0.02
    if onlooker.known and 0 < gaps.min() < 0.06:
        solid = onlooker.solid_gap(model, int(np.argmin(gaps)) // 2)
        assert solid > 0
        assert solid > gaps.min() - 1e-3
