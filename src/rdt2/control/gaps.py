"""How far parts are from each other, which of them meet on their way, and how far they get: what `Pairs` computes."""

from __future__ import annotations

import numpy as np
from numba import types

from rdt2.control.compiled import INTEGER, MATRIX, NUMBER, PAIRS, STACK, STACKS, VECTOR, array, compiled

HALVINGS = 11
"""Of a capsule's axis, until its point nearest to a box is known: a tenth of a millimetre on half a metre."""
SWEEP = types.Tuple([STACKS, MATRIX, VECTOR])
"""`Sweep`, without its margins."""
SOLIDS = types.Tuple([VECTOR, VECTOR, MATRIX, MATRIX, STACK])
"""`rdt2.control.bodies.solids`: radii of the ones and of the others; where those are boxes their centres, halves and
turns."""


@compiled(VECTOR, VECTOR, VECTOR, VECTOR)
def segment_distance(a, b, c, d):
    """Metres between the segments a-b and c-d (Ericson, Real-Time Collision Detection, 5.1.9); points are allowed."""
    aa = bb = 1e-18
    ab = af = bf = 0.0
    for x in range(3):
        first, second, between = b[x] - a[x], d[x] - c[x], a[x] - c[x]
        aa, bb, ab = aa + first * first, bb + second * second, ab + first * second
        af, bf = af + first * between, bf + second * between
    square = aa * bb
    s = min(max((ab * bf - af * bb) / max(square - ab * ab, 1e-12 * square), 0.0), 1.0)
    t = min(max((ab * s + bf) / bb, 0.0), 1.0)
    s = min(max((ab * t - af) / aa, 0.0), 1.0)
    square = 0.0
    for x in range(3):
        gap = a[x] - c[x] + s * (b[x] - a[x]) - t * (d[x] - c[x])
        square += gap * gap
    return np.sqrt(square)


@compiled(VECTOR, VECTOR, VECTOR, VECTOR, MATRIX)
def box_distance(start, end, centre, half, turn):
    """Metres from a segment to a box, negative inside, where it counts from the nearest face. Along a segment the
    distance falls, then rises: its slope is halved towards zero."""
    here, way = np.zeros(3), np.zeros(3)
    for x in range(3):
        for k in range(3):
            here[x] += turn[k, x] * (start[k] - centre[k])
            way[x] += turn[k, x] * (end[k] - start[k])
    low, high = 0.0, 1.0
    over = np.empty(3)
    for halving in range(HALVINGS + 1):
        middle = 0.5 * (low + high)
        deepest = -np.inf
        for x in range(3):
            over[x] = abs(here[x] + middle * way[x]) - half[x]
            deepest = max(deepest, over[x])
        if halving == HALVINGS:
            break
        slope = 0.0
        for x in range(3):
            pushed = max(over[x], 0.0) if deepest > 0 else (1.0 if over[x] == deepest else 0.0)
            slope += pushed * np.sign(here[x] + middle * way[x]) * way[x]
        if slope > 0:
            high = middle
        else:
            low = middle
    outside = 0.0
    for x in range(3):
        outside += max(over[x], 0.0) ** 2
    return np.sqrt(outside) + min(deepest, 0.0)


@compiled(STACKS, STACKS, INTEGER, INTEGER, INTEGER, SOLIDS)
def _gap(first, second, s, a, b, solids):
    """Metres between two parts in a posture, negative where they overlap."""
    one, other, centres, halves, turns = solids
    start, end = first[0, s, a], first[1, s, a]
    if len(halves):
        return box_distance(start, end, centres[b], halves[b], turns[b]) - one[a]
    return segment_distance(start, end, second[0, s, b], second[1, s, b]) - (one[a] + other[b])


@compiled(STACKS, STACKS, SOLIDS, PAIRS)
def distances(first, second, solids, pairs):
    """Metres between the parts of pairs (2, p) at each posture: (s, p), negative where they overlap."""
    result = np.empty((first.shape[1], pairs.shape[1]))
    for s in range(first.shape[1]):
        for p in range(pairs.shape[1]):
            result[s, p] = _gap(first, second, s, pairs[0, p], pairs[1, p], solids)
    return result


@compiled(STACKS, STACKS)
def _moved(before, after):
    """How far (metres) each capsule got from its first posture in one array to any of another."""
    result = np.zeros(after.shape[2])
    for e in range(2):
        for s in range(after.shape[1]):
            for c in range(after.shape[2]):
                square = 0.0
                for x in range(3):
                    square += (after[e, s, c, x] - before[e, 0, c, x]) ** 2
                result[c] = max(result[c], np.sqrt(square))
    return result


@compiled(STACKS)
def motions(segments):
    """How far (metres) each capsule gets from each posture to the next, (s - 1, c), and from the first to any, (c,)."""
    steps = np.empty((segments.shape[1] - 1, segments.shape[2]))
    for s in range(len(steps)):
        step = _moved(segments[:, s : s + 1], segments[:, s + 1 : s + 2])
        for c in range(len(step)):
            steps[s, c] = step[c]
    return steps, _moved(segments, segments)


@compiled(STACKS, STACKS, INTEGER, INTEGER, INTEGER)
def _closing(first, second, s, a, b):
    """How far (metres) two capsules can move to each other until a posture since the one before: the most that any end
    of one moves as seen from an end of the other."""
    most = 0.0
    for i in range(2):
        for j in range(2):
            square = 0.0
            for x in range(3):
                moved = second[j, s, b, x] - second[j, s - 1, b, x]
                square += (moved - (first[i, s, a, x] - first[i, s - 1, a, x])) ** 2
            most = max(most, square)
    return np.sqrt(most)


@compiled(SWEEP, SWEEP, SOLIDS, PAIRS, VECTOR, VECTOR, NUMBER, NUMBER, NUMBER)
def meet(one, other, solids, pairs, gaps, floors, clearance, exact, between):
    """See `Pairs.meet`: the first pair that comes nearer than its floor, at a posture or else between two; -1 for none.

    Between two postures a gap is no less than its mean there less half of what the two can move to each other. A gap
    is computed where what both move since one that is known, or since the least it can be, is not little enough.
    """
    (first, motion, reach), (second, other_motion, other_reach) = one, other
    perhaps = -1
    for p in range(pairs.shape[1]):
        a, b = pairs[0, p], pairs[1, p]
        if gaps[p] - reach[a] - other_reach[b] >= clearance:
            continue
        before, known = gaps[p], False
        for s in range(1, first.shape[1]):
            moved = motion[s - 1, a] + other_motion[s - 1, b]
            if before - moved < clearance and not known:
                before, known = _gap(first, second, s - 1, a, b, solids), True
            if before - moved >= clearance:
                before, known = before - moved, False
                continue
            gap = _gap(first, second, s, a, b, solids)
            if gap < floors[p] - exact:
                return p
            if perhaps < 0:
                least = 0.5 * (before + gap - _closing(first, second, s, a, b))
                if least < floors[p] - between:
                    perhaps = p
            before = gap
    return perhaps


@compiled(STACKS, STACKS, STACKS, STACKS, SOLIDS, PAIRS, *[array(1, written=True)] * 2, NUMBER, NUMBER)
def move(old_first, old_second, first, second, solids, pairs, gaps, floors, clearance, horizon):
    """See `Pairs.move`: writes the new gaps and floors."""
    one, other = _moved(old_first, first), _moved(old_second, second)
    near, closed, count = np.empty(len(gaps), np.int64), np.empty(len(gaps)), 0
    for p in range(len(gaps)):
        a, b = pairs[0, p], pairs[1, p]
        before = gaps[p]
        gaps[p] = before - one[a] - other[b]
        if gaps[p] >= horizon:
            continue
        gaps[p] = _gap(first, second, 0, a, b, solids)
        floors[p] = min(max(floors[p], gaps[p]), clearance)
        if gaps[p] < horizon:
            near[count], closed[count] = p, before - gaps[p]
            count += 1
    return near[:count], gaps[near[:count]], closed[:count]
