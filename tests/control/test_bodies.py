"""Capsules enclose what MuJoCo draws from the same description, and their distances are right."""

from __future__ import annotations

import numpy as np
import pytest
from guarded import SIDES, body_of, geoms, kinematics, place, two_arms
from scipy.optimize import minimize

from rdt2.control.bodies import cross_pairs, distances, self_pairs
from rdt2.control.gaps import segment_distance
from rdt2.control.geometry import jacobian as jacobian_of
from rdt2.robot.models import arm_model

mujoco = pytest.importorskip("mujoco")


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_capsules_are_never_further_apart_than_the_solids(model):
    rng = np.random.default_rng(1)
    compiled, data = two_arms(model)
    bodies = {side: body_of(model, side) for side in SIDES}
    pairs = cross_pairs(bodies["right"], bodies["left"])
    near = 0
    for _ in range(12):
        segments, lowest = {}, {}
        for side in SIDES:
            k = kinematics(model, side)
            joints = np.clip(k.home + rng.normal(0, 0.5, len(k.home)), k.lower, k.upper)
            width = rng.uniform(0, 0.09)
            place(compiled, data, side, model, joints, width)
            frames = bodies[side].frames(joints[None], np.eye(4)[None], np.full((1, 2), width))
            segments[side] = bodies[side].segments(frames)
            lowest[side] = bodies[side].lowest(frames, segments[side])[0]
        mujoco.mj_forward(compiled, data)
        ours = distances(segments["right"], segments["left"], bodies["right"], bodies["left"], pairs)[0].min()
        right, left = (geoms(compiled, side) for side in SIDES)
        theirs = min(mujoco.mj_geomDistance(compiled, data, a, b, 0.5, None) for a in right for b in left)
        assert ours <= theirs + 1e-3 if theirs > 0 else ours <= 1e-3
        near += ours < 0.2
        if 0 < theirs < 0.4:
            assert ours > theirs - 0.09, "capsules that are much too large stop arms for nothing"
    assert near > 3


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_the_gripper_touches_the_table_where_its_boxes_do(model):
    """Corners, not capsules: a millimetre counts where thin things are picked up."""
    k, arm = kinematics(model, "left"), body_of(model, "left")
    compiled, data = two_arms(model)
    for width, lean in ((0.0, 0.0), (0.08, 0.3), (0.05, -0.6)):
        joints = k.home + np.eye(len(k.home))[-2] * lean
        frames = arm.frames(joints[None], np.eye(4)[None], np.full((1, 2), width))
        place(compiled, data, "left", model, joints, width)
        mujoco.mj_forward(compiled, data)
        parts = [i for i in geoms(compiled, "left") if compiled.geom_type[i] == mujoco.mjtGeom.mjGEOM_BOX]
        corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)])
        lowest = min(
            (data.geom_xpos[i] + corners * compiled.geom_size[i] @ data.geom_xmat[i].reshape(3, 3).T)[
                :, 2
            ].min()
            for i in parts
        )
        assert arm.lowest(frames, arm.segments(frames))[0, 0] == pytest.approx(lowest, abs=1e-9)
        pose = arm.tcp(frames)[0]
        assert pose[2, 3] - arm.hang(pose[None, :3, :3], np.full(2, width))[0] == pytest.approx(
            lowest, abs=1e-9
        )


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_frames_and_jacobians_are_those_of_the_kinematics(model):
    k, arm = kinematics(model, "right"), body_of(model, "right")
    joints = k.home + np.random.default_rng(2).normal(0, 0.3, (3, len(k.home)))
    frames = arm.frames(joints, np.eye(4)[None], np.zeros((1, 2)))
    for i in range(3):
        pose, jacobian = k.jacobian(joints[i])
        np.testing.assert_allclose(arm.tcp(frames)[i], pose, atol=1e-9)
        jacobian[3:] *= 0.25
        np.testing.assert_allclose(jacobian_of(arm.arrays, frames)[i], jacobian, atol=1e-9)


@pytest.mark.parametrize("model", ["ur5e", "fr3"])
def test_an_arm_at_home_does_not_touch_itself(model):
    arm, home = body_of(model, "left"), arm_model(model).home["left"]
    frames = arm.frames(np.array([home]), np.eye(4)[None], np.full((1, 2), 0.09))
    segments = arm.segments(frames)
    pairs = self_pairs(arm, home)
    assert distances(segments, segments, arm, arm, pairs).min() > 0.02
    steps = np.abs(arm.order[pairs[0]] - arm.order[pairs[1]])
    assert steps.min() >= 2
    folded = np.array(home)
    folded[2 if model == "ur5e" else 3] *= 1.45
    frames = arm.frames(folded[None], np.eye(4)[None], np.full((1, 2), 0.09))
    segments = arm.segments(frames)
    assert distances(segments, segments, arm, arm, pairs).min() < 0.02, "a folded arm meets itself"


def test_segment_distances_are_the_least():
    rng = np.random.default_rng(3)
    a, b, c, d = rng.normal(size=(4, 40, 3))
    b[0], d[1] = a[0], c[1]  # points
    d[2] = c[2] + (b[2] - a[2])  # parallel
    c[3], d[3] = a[3] + 0.2 * (b[3] - a[3]), a[3] + 2 * (b[3] - a[3])  # along one line
    found = [segment_distance(*ends) for ends in zip(a, b, c, d, strict=True)]

    def gap(s, i):
        return np.linalg.norm(a[i] + s[0] * (b[i] - a[i]) - c[i] - s[1] * (d[i] - c[i]))

    for i in range(40):
        best = min(
            minimize(gap, start, args=(i,), bounds=[(0, 1), (0, 1)]).fun
            for start in ((0.5, 0.5), (0.1, 0.9), (0.9, 0.1), (0.1, 0.1))
        )
        assert found[i] == pytest.approx(best, abs=1e-4)


def test_a_redundant_arm_whose_tcp_stands_still_stands_still():
    """Its elbow goes home while it moves only: an arm at rest comes near nothing."""
    k = kinematics("fr3", "left")
    elbow = np.linalg.svd(k.jacobian(k.home)[1])[2][-1]  # moves, and the TCP does not
    start = joints = k.home + 0.4 * elbow
    target = k.forward(joints)
    for _ in range(250):
        joints, *_ = k.step(joints, target, dt=0.008)
    assert np.abs(joints - start).max() < 1e-6
    height = target[2, 3]
    for i in range(250):
        target[2, 3] = height + 0.03 * np.sin(0.04 * i)
        joints, *_ = k.step(joints, target, dt=0.008)
    assert abs((joints - k.home) @ elbow) < 0.2
