"""Arms are solid: what they hit holds them up, and is told."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from driving import drive

from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene
from rdt2.sim.gripper import tcp_rotation


def reached(cell: Cell, side: str, place: tuple[float, float, float], *, lean: float = 0.0) -> np.ndarray:
    """TCP of an arm whose fingertips are at `place`, pointing down, or leaning about x by `lean` radians."""
    tips = np.eye(4)
    c, s = np.cos(lean), np.sin(lean)
    tips[:3, :3] = np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ tcp_rotation(side)
    tips[:3, 3] = place
    return (
        tips
        @ np.linalg.inv(cell.site_pose(cell.names.fingertips[side]))
        @ cell.site_pose(cell.names.tcp[side])
    )


@pytest.mark.parametrize("embodiment", ["ur5e", "fr3"])
def test_waiting_arms_touch_nothing(embodiment: str) -> None:
    for kind in ("pick", "place", "press"):
        for seed in range(3):
            with Cell(embodiment, make_scene(kind, seed, scenery=("seen", "unseen")[seed % 2])) as cell:
                cell.advance_to(0.1)
                assert not cell.collisions, cell.collisions


@pytest.mark.parametrize("embodiment", ["ur5e", "fr3"])
def test_arms_do_not_pass_through_each_other(embodiment: str) -> None:
    """regression: links met nothing. The grippers cross over the table, the wrists and forearms follow."""
    with Cell(embodiment, make_scene("press", 0)) as cell:
        drive(cell, cell.arms["right"], reached(cell, "right", (0.1, -0.02, 0.25)), until=1.2)
        drive(cell, cell.arms["left"], reached(cell, "left", (0.1, -0.25, 0.25)), until=3.0)
        left, right = (cell.site_pose(cell.names.fingertips[side])[1, 3] for side in ("left", "right"))
        assert left > right - 0.05, "the left one has stopped at the right one"
        pairs = {collision.parts for collision in cell.collisions}
        assert any(one.startswith("left/") and other.startswith("right/") for one, other in pairs), pairs
        first = cell.collisions[0]
        assert 1.2 < first.began <= first.ended <= cell.time
        assert str(first).startswith(f"{first.parts[0]} against {first.parts[1]} at {first.began:.2f} s")


def test_links_are_stopped_by_links() -> None:
    """An elbow that is swung into the other arm's stops there."""
    import mujoco

    with Cell("ur5e", make_scene("press", 0)) as cell:
        model, data = cell.model, cell.data
        for side, first in (("right", 1.45), ("left", -1.45)):
            arm = cell.arms[side]
            posture = arm.state().joints.copy()
            posture[0] += first
            for k, link in enumerate(arm.model.links):
                data.qpos[int(model.joint(f"{side}/{link.name}").qposadr[0])] = posture[k]
        mujoco.mj_forward(model, data)
        names = {model.body(model.geom_bodyid[g]).name for pair in data.contact.geom for g in pair}
    assert {name.partition("/")[0] for name in names if "/" in name} == {"left", "right"}


def test_fingers_on_the_table_are_told_and_fingers_on_objects_are_not() -> None:
    with Cell("handheld", make_scene("pick", 3)) as cell:
        target, side = cell.scene.object(cell.scene.target), cell.scene.hand
        middle = cell.object_pose(target.name)[:3, 3]
        pose = np.eye(4)
        pose[:3, :3] = tcp_rotation(side, yaw=target.yaw)
        pose[:3, 3] = middle + np.array([0, 0, 0.1])
        drive(cell, cell.arms[side], pose, until=1.0)
        pose[:3, 3] = middle
        drive(cell, cell.arms[side], pose, until=1.6)
        drive(cell, cell.grippers[side], 0.0, until=2.0)
        assert cell.grasping(side, target.name)
        assert not cell.collisions
        drive(cell, cell.grippers[side], 0.088, until=2.4)
        pose[2, 3] = cell.scene.table_height - 0.01
        drive(cell, cell.arms[side], pose, until=2.8)
        assert {c.parts for c in cell.collisions} == {(f"{side}/finger_{f}", "table") for f in "ab"}
        count = len(cell.collisions)
        cell.advance_to(3.2)
        assert len(cell.collisions) == count, "one that lasts is one"
        assert cell.collisions[-1].ended > 3.1
        cell.reset()
        assert not cell.collisions


def test_closing_on_nothing_is_no_collision() -> None:
    with Cell("fr3", make_scene("pick", 3)) as cell:
        drive(cell, cell.grippers["left"], 0.0, until=0.5)
        cell.advance_to(1.0)
        assert not cell.collisions


@pytest.mark.parametrize("embodiment", ["ur5e", "fr3"])
def test_an_arm_meets_itself_and_what_it_stands_on_but_not_its_neighbours(embodiment: str) -> None:
    """In postures drawn from the whole range of the joints."""
    import mujoco

    with Cell(embodiment, make_scene("press", 0)) as cell:
        arm = cell.arms["left"]
        home = np.array(arm.model.home["left"])
        address = [int(cell.model.joint(f"left/{link.name}").qposadr[0]) for link in arm.model.links]
        rng = np.random.default_rng(0)
        for _ in range(400):
            cell.data.qpos[address] = rng.uniform(arm.kinematics.lower, arm.kinematics.upper)
            mujoco.mj_forward(cell.model, cell.data)
            cell._watch.update()
        found = {c.parts for c in cell.collisions if all(part.startswith("left/") for part in c.parts)}
        assert any("left/base" in pair for pair in found)
        assert any("left/base" not in pair for pair in found)
        order = ["base", *(link.name for link in arm.model.links)]
        for one, other in found:
            numbers = [order.index(p[5:]) if p[5:] in order else len(order) - 1 for p in (one, other)]
            assert abs(numbers[0] - numbers[1]) > 1, "neighbours belong together"
        cell.data.qpos[address] = home
        mujoco.mj_forward(cell.model, cell.data)
        cell._watch.clear()
        cell._watch.update()
        assert not cell.collisions
