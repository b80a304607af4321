"""Where the parts of an arm are in some postures, and what is left of its margins: what bodies and shadows compute."""

from __future__ import annotations

import numpy as np
from numba import types

from rdt2.control.compiled import INDICES, INTEGER, MATRIX, NUMBER, STACK, STACKS, VECTOR, array, compiled

WEIGHT = 0.25
"""Metres that one radian weighs where translation and rotation meet, as in inverse kinematics."""
REFINED, REFINEMENTS = 1e-3, 3
"""Metres and (weighted) radians: joints of a path are improved until they are so near, at most so many times."""
DAMPING = 1e-6
LAG_POSITION, LAG_ANGLE = 0.005, float(np.deg2rad(2.0))
"""How far the joints may stay behind a commanded pose."""
BOX, LAG, SPEED, SINGULAR, JOINTS = 2, 8, 9, 10, 11
"""Where these margins begin among all, see `Shadow.names`: behind the heights of gripper and links."""
BODY = types.Tuple([STACK, STACK, STACK, MATRIX, MATRIX, MATRIX, MATRIX, NUMBER])
"""`ArmBody.arrays`: each link in its parent as fixed + cos(q) * by_cos + sin(q) * by_sin, the gripper in the last, the
base, the TCP in the gripper and the gripper in the TCP, and how far the fingers' frames are along the gripper's z."""
SHAPES = types.Tuple([STACK, INDICES, VECTOR, INDICES, MATRIX, MATRIX, MATRIX])
"""`ArmBody.shapes`: both ends of each capsule, its frame, its radius; which of them are low at all; and the corners of
palm and fingers."""
LIMITS = types.Tuple([VECTOR, VECTOR, VECTOR, VECTOR, VECTOR, NUMBER])
"""`Shadow._limits`: corners of the workspace (m), least and largest angles and top speeds of the joints (rad), and the
height of the ground (m)."""
POSTURE = types.Tuple([VECTOR, STACK, STACKS, MATRIX, VECTOR])
"""`Shadow._now`: joints, the TCP, all capsules, joint motion for one of the TCP, and where a redundant arm goes."""
DRIFT = types.UniTuple(NUMBER, 2)
"""Speed of the TCP from which a redundant arm goes there as fast as it does, and how fast (1/s)."""
PATH = types.Tuple([MATRIX, STACK, MATRIX, NUMBER])
"""`Stop.arrays`: positions, rotations, velocities, and seconds between two."""


@compiled(MATRIX, MATRIX, array(2, written=True))
def _compose(a, b, result):
    """result = a @ b, of rigid transforms."""
    for i in range(3):
        for j in range(4):
            result[i, j] = a[i, 0] * b[0, j] + a[i, 1] * b[1, j] + a[i, 2] * b[2, j]
        result[i, 3] += a[i, 3]
    result[3, 0], result[3, 1], result[3, 2], result[3, 3] = 0.0, 0.0, 0.0, 1.0


@compiled(MATRIX, array(2, written=True))
def _copy(pose, result):
    """result = pose."""
    for i in range(4):
        for j in range(4):
            result[i, j] = pose[i, j]


@compiled(MATRIX, MATRIX)
def turned(start, vectors):
    """Rotations (n + 1, 3, 3): one, and each of those that follow by turning it by a rotation vector (radians, along
    the axes of the cell); Rodrigues' formula."""
    result, turn = np.empty((len(vectors) + 1, 3, 3)), np.empty((3, 3))
    for i in range(3):
        for j in range(3):
            result[0, i, j] = start[i, j]
    for k in range(len(vectors)):
        x, y, z = vectors[k]
        angle = np.sqrt(x * x + y * y + z * z)
        sine, half = 1.0, 0.5
        if angle > 1e-12:
            sine, half = np.sin(angle) / angle, 2.0 * (np.sin(0.5 * angle) / angle) ** 2
        turn[0, 0], turn[0, 1], turn[0, 2] = -y * y - z * z, x * y, x * z
        turn[1, 0], turn[1, 1], turn[1, 2] = x * y, -x * x - z * z, y * z
        turn[2, 0], turn[2, 1], turn[2, 2] = x * z, y * z, -x * x - y * y
        for i in range(3):
            for j in range(3):
                turn[i, j] = half * turn[i, j] + (1.0 if i == j else 0.0)
        turn[0, 1], turn[1, 0] = turn[0, 1] - sine * z, turn[1, 0] + sine * z
        turn[0, 2], turn[2, 0] = turn[0, 2] + sine * y, turn[2, 0] - sine * y
        turn[1, 2], turn[2, 1] = turn[1, 2] - sine * x, turn[2, 1] + sine * x
        for i in range(3):
            for j in range(3):
                result[k + 1, i, j] = 0.0
                for m in range(3):
                    result[k + 1, i, j] += turn[i, m] * result[k, m, j]
    return result


@compiled(BODY, MATRIX, STACK, MATRIX)
def frames(arm, joints, poses, widths):
    """See `ArmBody.frames`."""
    fixed, by_cos, by_sin, hand, base, _, to_gripper, finger_z = arm
    links, jaws = len(fixed), 2 * widths.shape[1]
    palm = links + 1 if links else 0
    count = len(joints) if links else len(poses)
    result = np.empty((count, palm + 1 + jaws, 4, 4))
    local = np.empty((4, 4))
    for s in range(count):
        if links:
            _copy(base, result[s, 0])
            for i in range(links):
                cos, sin = np.cos(joints[s, i]), np.sin(joints[s, i])
                for r in range(3):
                    for c in range(4):
                        local[r, c] = fixed[i, r, c] + cos * by_cos[i, r, c] + sin * by_sin[i, r, c]
                _compose(result[s, i], local, result[s, i + 1])
            _compose(result[s, links], hand, result[s, palm])
        else:
            _compose(poses[s], to_gripper, result[s, 0])
        here = result[s, palm]
        for k in range(jaws):
            half = (0.5 if k % 2 == 0 else -0.5) * widths[min(s, len(widths) - 1), k // 2]
            jaw = result[s, palm + 1 + k]
            _copy(here, jaw)
            for x in range(3):
                jaw[x, 3] = here[x, 3] + finger_z * here[x, 2] + half * here[x, 1]
    return result


@compiled(BODY, STACKS)
def tcp(arm, frames):
    """See `ArmBody.tcp`."""
    links, tool = len(arm[0]), arm[5]
    palm = links + 1 if links else 0
    result = np.empty((len(frames), 4, 4))
    for s in range(len(frames)):
        _compose(frames[s, palm], tool, result[s])
    return result


@compiled(BODY, STACKS)
def jacobian(arm, frames):
    """Velocity of the TCP along the cell's axes (m/s, then rad/s times `WEIGHT`) for joint speeds of 1 rad/s:
    (s, 6, n)."""
    links = len(arm[0])
    ends = tcp(arm, frames)
    result = np.empty((len(frames), 6, links))
    for s in range(len(frames)):
        for i in range(links):
            axis = frames[s, i + 1]
            x, y, z = axis[0, 2], axis[1, 2], axis[2, 2]
            u, v, w = ends[s, 0, 3] - axis[0, 3], ends[s, 1, 3] - axis[1, 3], ends[s, 2, 3] - axis[2, 3]
            result[s, 0, i], result[s, 1, i], result[s, 2, i] = y * w - z * v, z * u - x * w, x * v - y * u
            result[s, 3, i], result[s, 4, i], result[s, 5, i] = WEIGHT * x, WEIGHT * y, WEIGHT * z
    return result


@compiled(STACK, STACK)
def errors(poses, wanted):
    """From poses (s or 1, 4, 4) to others (s, 4, 4): (s, 6), metres, and weighted rotation vectors, or their sine, for
    which Newton's steps make up."""
    result = np.zeros((len(wanted), 6))
    for s in range(len(wanted)):
        here, there = poses[min(s, len(poses) - 1)], wanted[s]
        for x in range(3):
            result[s, x] = there[x, 3] - here[x, 3]
            a, b = (x + 2) % 3, (x + 1) % 3
            for k in range(3):
                result[s, 3 + x] += 0.5 * WEIGHT * (there[a, k] * here[b, k] - there[b, k] * here[a, k])
    return result


@compiled(MATRIX)
def inverse(jacobian):
    """Joint motion (n, 6) for a motion of the TCP: J^T (J J^T + damping)^-1, by Cholesky's method."""
    links = jacobian.shape[1]
    lower, result = np.zeros((6, 6)), np.zeros((links, 6))
    for i in range(6):
        for j in range(i + 1):
            value = DAMPING if i == j else 0.0
            for k in range(links):
                value += jacobian[i, k] * jacobian[j, k]
            for k in range(j):
                value -= lower[i, k] * lower[j, k]
            lower[i, j] = np.sqrt(value) if i == j else value / lower[j, j]
    column = np.empty(6)
    for c in range(6):
        for i in range(6):
            value = 1.0 if i == c else 0.0
            for k in range(i):
                value -= lower[i, k] * column[k]
            column[i] = value / lower[i, i]
        for i in range(5, -1, -1):
            for k in range(i + 1, 6):
                column[i] -= lower[k, i] * column[k]
            column[i] /= lower[i, i]
        for j in range(links):
            for i in range(6):
                result[j, c] += jacobian[i, j] * column[i]
    return result


@compiled(BODY, array(2, written=True), STACK, MATRIX)
def follow(arm, found, poses, widths):
    """Change the joints `found` (s, n) so that they put the TCP at poses (s, 4, 4); returns the frames. Newton's
    method."""
    where = frames(arm, found, poses, widths)
    for _ in range(REFINEMENTS):
        off = errors(tcp(arm, where), poses)
        most = 0.0
        for s in range(len(found)):
            for x in range(6):
                most = max(most, abs(off[s, x]))
        if most < REFINED:
            break
        slopes = jacobian(arm, where)
        for s in range(len(found)):
            step = inverse(slopes[s])
            for i in range(found.shape[1]):
                for x in range(6):
                    found[s, i] += step[i, x] * off[s, x]
        where = frames(arm, found, poses, widths)
    return where


@compiled(SHAPES, STACKS)
def segments(shapes, frames):
    """See `ArmBody.segments`."""
    ends, carriers = shapes[0], shapes[1]
    result = np.empty((2, len(frames), len(carriers), 3))
    for e in range(2):
        for s in range(len(frames)):
            for c in range(len(carriers)):
                frame, end = frames[s, carriers[c]], ends[e, c]
                for x in range(3):
                    result[e, s, c, x] = (
                        frame[x, 0] * end[0] + frame[x, 1] * end[1] + frame[x, 2] * end[2] + frame[x, 3]
                    )
    return result


@compiled(NUMBER, NUMBER, NUMBER, MATRIX)
def _bottom(x, y, z, corners):
    """Least of some corners along a direction."""
    least = np.inf
    for k in range(len(corners)):
        least = min(least, x * corners[k, 0] + y * corners[k, 1] + z * corners[k, 2])
    return least


@compiled(BODY, SHAPES, STACKS, STACKS)
def lowest(arm, shapes, frames, segments):
    """See `ArmBody.lowest`."""
    _, _, radius, carrying, corners, first, second = shapes
    palm = len(arm[0]) + 1 if len(arm[0]) else 0
    result = np.full((len(frames), 2), np.inf)
    for s in range(len(frames)):
        for k in range(palm, frames.shape[1]):
            x, y, z, height = frames[s, k, 2]
            if k == palm:
                low = _bottom(x, y, z, corners)
            else:
                low = _bottom(x, y, z, first if (k - palm) % 2 else second)
            result[s, 0] = min(result[s, 0], low + height)
        for c in carrying:
            low = min(segments[0, s, c, 2], segments[1, s, c, 2]) - radius[c]
            result[s, 1] = min(result[s, 1], low)
    return result


@compiled(BODY, SHAPES, STACK, VECTOR)
def hang(arm, shapes, rotations, widths):
    """See `ArmBody.hang`."""
    palm, first, second = shapes[4:]
    to_gripper, finger_z = arm[6], arm[7]
    result = np.empty(len(rotations))
    for s in range(len(rotations)):
        up = rotations[s, 2]
        x = up[0] * to_gripper[0, 0] + up[1] * to_gripper[1, 0] + up[2] * to_gripper[2, 0]
        y = up[0] * to_gripper[0, 1] + up[1] * to_gripper[1, 1] + up[2] * to_gripper[2, 1]
        z = up[0] * to_gripper[0, 2] + up[1] * to_gripper[1, 2] + up[2] * to_gripper[2, 2]
        finger, opposite, low = _bottom(x, y, z, first), _bottom(x, y, z, second), np.inf
        for width in widths:
            low = min(low, finger + 0.5 * width * y, opposite - 0.5 * width * y)
        low = min(low + finger_z * z, _bottom(x, y, z, palm))
        result[s] = -low - (up[0] * to_gripper[0, 3] + up[1] * to_gripper[1, 3] + up[2] * to_gripper[2, 3])
    return result


@compiled(BODY, SHAPES, LIMITS, STACKS, STACKS, MATRIX, STACK)
def margins(arm, shapes, limits, frames, segments, joints, poses):
    """Least of all margins in some postures but those of the box, joint speed and singularity, which stay infinite."""
    _, _, lower, upper, _, ground = limits
    links = len(arm[0])
    result = np.full(JOINTS + 2 * links if links else LAG, np.inf)
    heights = lowest(arm, shapes, frames, segments)
    ends = tcp(arm, frames)
    for s in range(len(frames)):
        for k in range(2):
            result[k] = min(result[k], heights[s, k] - ground)
        if not links:
            continue
        square, trace = 0.0, 0.0
        for x in range(3):
            square += (poses[s, x, 3] - ends[s, x, 3]) ** 2
            for k in range(3):
                trace += poses[s, x, k] * ends[s, x, k]
        # 2 sin(angle / 2), which grows up to half a turn
        angle = np.sqrt(max(3.0 - trace, 0.0))
        result[LAG] = min(result[LAG], 1.0 - max(np.sqrt(square) / LAG_POSITION, angle / LAG_ANGLE))
        for i in range(links):
            result[JOINTS + i] = min(result[JOINTS + i], joints[s, i] - lower[i])
            result[JOINTS + links + i] = min(result[JOINTS + links + i], upper[i] - joints[s, i])
    return result


@compiled(BODY, SHAPES, LIMITS, VECTOR, STACK, MATRIX)
def look(arm, shapes, limits, joints, pose, widths):
    """One posture: the TCP, all capsules, the Jacobian, and the margins but the one of singularity."""
    low, high, links = limits[0], limits[1], len(arm[0])
    angles = np.empty((1, links))
    for i in range(links):
        angles[0, i] = joints[i]
    where = frames(arm, angles, pose, widths)
    parts = segments(shapes, where)
    least = margins(arm, shapes, limits, where, parts, angles, pose)
    for x in range(3):
        least[BOX + x], least[BOX + 3 + x] = pose[0, x, 3] - low[x], high[x] - pose[0, x, 3]
    return tcp(arm, where), parts, jacobian(arm, where), least


@compiled(BODY, SHAPES, LIMITS, DRIFT, POSTURE, PATH, INTEGER, INDICES, MATRIX)
def sweep(arm, shapes, limits, drifting, now, path, first, ticks, widths):
    """See `Shadow.sweep`: all capsules now and at each tick, the least margins but the one of singularity, and the last
    Jacobian."""
    low, high, _, _, speeds, ground = limits
    joints, here, present, to_joints, drift = now
    positions, rotations, velocities, period = path
    links, last = len(arm[0]), len(positions) - 1
    poses = np.zeros((len(ticks), 4, 4))
    for s in range(len(ticks)):
        k = min(first + ticks[s], last)
        for i in range(3):
            poses[s, i, 3] = positions[k, i]
            for j in range(3):
                poses[s, i, j] = rotations[k, i, j]
        poses[s, 3, 3] = 1.0
    found = np.zeros((len(ticks), links))
    if links:
        off = errors(here, poses)
        seconds, k = 0.0, first
        for s in range(len(ticks)):
            while k <= min(first + ticks[s], last):
                v = velocities[k]
                speed = np.sqrt(v[0] ** 2 + v[1] ** 2 + v[2] ** 2)
                speed += WEIGHT * np.sqrt(v[3] ** 2 + v[4] ** 2 + v[5] ** 2)
                seconds += period * min(speed / drifting[0], 1.0)
                k += 1
            share = 1.0 - np.exp(-drifting[1] * seconds)
            for i in range(links):
                found[s, i] = joints[i] + share * drift[i]
                for x in range(6):
                    found[s, i] += to_joints[i, x] * off[s, x]
        where = follow(arm, found, poses, widths)
    else:
        where = frames(arm, found, poses, widths)
    after = segments(shapes, where)
    parts = np.empty((2, len(ticks) + 1, present.shape[2], 3))
    for e in range(2):
        for s in range(len(ticks) + 1):
            for c in range(present.shape[2]):
                for x in range(3):
                    parts[e, s, c, x] = after[e, s - 1, c, x] if s else present[e, 0, c, x]
    least = margins(arm, shapes, limits, where, after, found, poses)
    # Of every tick, not of samples: millimetres count here.
    start = min(first, last)
    hangs = hang(arm, shapes, rotations[start:], widths[0])
    for k in range(start, last + 1):
        least[0] = min(least[0], positions[k, 2] - hangs[k - start] - ground)
        for x in range(3):
            least[BOX + x] = min(least[BOX + x], positions[k, x] - low[x])
            least[BOX + 3 + x] = min(least[BOX + 3 + x], high[x] - positions[k, x])
    for s in range(len(ticks)):
        seconds = period * (ticks[s] - (ticks[s - 1] if s else -1))
        for i in range(links):
            moved = abs(found[s, i] - (found[s - 1, i] if s else joints[i]))
            least[SPEED] = min(least[SPEED], 1.0 - moved / (seconds * speeds[i]))
    return parts, least, jacobian(arm, where[-1:])
