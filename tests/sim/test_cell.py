"""The cell: exact frames, firm grasps, pictures that show what matters, no leaks."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from driving import drive
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS
from rdt2.errors import ConfigError, SimulationError, TaskError
from rdt2.robot.models import ARM_MODELS
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings
from rdt2.sim import EMBODIMENTS, Cell, make_scene
from rdt2.sim.cell import cell_settings
from rdt2.sim.render import CellRenderer

pytest.importorskip("mujoco")

SIDES = ("right", "left")


def shifted(pose: np.ndarray, offset: tuple[float, float, float], yaw: float = 0.0) -> np.ndarray:
    moved = pose.copy()
    moved[:3, :3] = Rotation.from_euler("z", yaw).as_matrix() @ pose[:3, :3]
    moved[:3, 3] += offset
    return moved


@pytest.fixture
def cell():
    with Cell("handheld", make_scene("pick", 1)) as cell:
        yield cell


def test_hands_follow_their_waypoints(cell: Cell) -> None:
    robot = cell.robot()
    arm = robot.arms["left"]
    start = arm.state().pose
    goal = shifted(start, (0.1, -0.1, -0.05), yaw=0.4)
    times, share = 0.05 * np.arange(1, 11), 0.1 * np.arange(1, 11)
    poses = [shifted(start, tuple(s * np.array((0.1, -0.1, -0.05))), yaw=0.4 * s) for s in share]
    for tick in range(5):
        arm.execute(times, poses)
        robot.clock.sleep_until(0.05 * (tick + 1))
    middle = arm.state()
    assert middle.timestamp == robot.clock.now() == pytest.approx(0.25)
    np.testing.assert_allclose(middle.pose[:3, 3], (start + goal)[:3, 3] / 2, atol=5e-4)
    np.testing.assert_allclose(middle.velocity[:3], (0.2, -0.2, -0.1), atol=5e-3)
    np.testing.assert_allclose(middle.velocity[3:], (0, 0, 0.8), atol=5e-2)
    drive(cell, arm, goal, until=0.5)
    robot.clock.sleep_until(0.6)
    np.testing.assert_allclose(arm.state().pose, goal, atol=5e-4)


def test_an_idle_hand_keeps_its_place(cell: Cell) -> None:
    start = cell.arms["right"].state().pose
    cell.advance_to(1.0)
    np.testing.assert_allclose(cell.arms["right"].state().pose, start, atol=1e-4)


def test_a_hand_gives_way_to_the_table(cell: Cell) -> None:
    """A command 10 cm below the table top pushes no finger through it and does not blow up."""
    arm = cell.arms["right"]
    under = shifted(arm.state().pose, (0, 0, 0))
    under[2, 3] = -0.10
    drive(cell, arm, under, until=0.6)
    cell.advance_to(1.5)
    assert arm.state().pose[2, 3] > -0.005
    assert np.isfinite(cell.data.qpos).all()


def test_widths_are_metres_between_the_pads(cell: Cell) -> None:
    gripper = cell.grippers["left"]
    for width in (0.02, 0.088, 0.0):
        drive(cell, gripper, width, until=cell.time + 0.3)
        cell.advance_to(cell.time + 0.5)
        assert gripper.state().width == pytest.approx(width, abs=0.001)
        pads = [cell.data.geom(f"left/finger_{f}_pad") for f in "ab"]
        thickness = 2 * cell.model.geom("left/finger_a_pad").size[1]
        gap = np.linalg.norm(pads[0].xpos - pads[1].xpos) - thickness
        assert gap == pytest.approx(width, abs=0.001)


@pytest.mark.parametrize("side", SIDES)
def test_policy_frame_is_not_the_tcp(cell: Cell, side: str) -> None:
    """A motion in the policy's frame that is not converted is wrong by centimetres once the hand turns."""
    c = cell.robot().policy_to_tcp[side]
    tcp, policy = (cell.site_pose(getattr(cell.names, n)[side]) for n in ("tcp", "policy"))
    np.testing.assert_allclose(tcp @ c, policy, atol=1e-12)
    turn = np.eye(4)
    turn[:3, :3] = Rotation.from_euler("z", 0.5).as_matrix()
    converted = c @ turn @ np.linalg.inv(c)
    assert np.linalg.norm(converted[:3, 3]) > 0.02


def test_tcp_axes(cell: Cell) -> None:
    """z approaches, y opens; the right hand waits at y < 0, fingertips 0.2 to 0.3 m over the table."""
    for side, sign in (("right", -1), ("left", 1)):
        pose = cell.arms[side].state().pose
        assert pose[2, 2] < -0.9
        assert sign * pose[1, 3] > 0.2
        assert 0.2 < pose[2, 3] < 0.31
        opening = np.subtract(*(cell.data.geom(f"{side}/finger_{f}_pad").xpos for f in "ab"))
        assert abs(opening @ pose[:3, 1]) == pytest.approx(np.linalg.norm(opening))


@pytest.mark.parametrize("kind", ["pick", "place", "press"])
def test_both_cameras_see_all_objects_at_the_start(kind: str) -> None:
    for seed in range(8):
        with Cell("handheld", make_scene(kind, seed)) as cell:
            for side in SIDES:
                camera = cell.data.camera(f"{side}/camera")
                axes = camera.xmat.reshape(3, 3)
                edge = np.tan(np.deg2rad(cell.model.camera(f"{side}/camera").fovy[0] / 2))
                for item in cell.scene.objects:
                    x, y, z = axes.T @ (cell.object_pose(item.name)[:3, 3] - camera.xpos)
                    assert z < 0
                    assert max(abs(x), abs(y)) / -z < 0.95 * edge


def test_pictures(cell: Cell) -> None:
    for side in SIDES:
        frame = cell.robot().cameras[side].read()
        assert frame.timestamp == cell.time
        assert frame.image.shape == (384, 384, 3)
        assert frame.image.dtype == np.uint8
        colours = frame.image.astype(int)
        assert (colours.max(-1) < 4).mean() < 0.01, "no black regions"
        target = np.array(cell.scene.object(cell.scene.target).rgb)
        cosine = colours @ target / (np.linalg.norm(colours, axis=-1) + 1e-9) / np.linalg.norm(target)
        assert (cosine > 0.97).sum() > 50, "the target is seen"
    assert cell.render("front").shape == (480, 640, 3)
    assert cell.render("left", (96, 64)).shape == (64, 96, 3)


def test_what_no_camera_sees_is_left_out_of_pictures_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = RobotSettings.read("cell_ur5e")
    with Cell.of(settings, make_scene("place", seed=7)) as arms:
        for size in (None, (200, 320)):
            for camera in (*ARMS, "front"):
                less = arms.render(camera, size)
                with monkeypatch.context() as patched:
                    patched.setattr(CellRenderer, "_leave_out_unseen", lambda *_: None)
                    np.testing.assert_array_equal(less, arms.render(camera, size))


def test_a_closing_gripper_is_seen(cell: Cell) -> None:
    before = cell.render("left")
    drive(cell, cell.grippers["left"], 0.0, until=0.3)
    cell.advance_to(0.6)
    lower = slice(250, 384)
    assert (np.abs(cell.render("left")[lower].astype(int) - before[lower]).max(-1) > 30).mean() > 0.05


def test_a_hand_follows_a_path_that_trembles() -> None:
    """Commands that jump about within a centimetre and five degrees never throw it off."""
    rng = np.random.default_rng(0)
    with Cell("handheld", make_scene("pick", 3)) as cell:
        arm = cell.arms["left"]
        start = arm.state().pose
        for tick in range(60):
            pose = shifted(start, tuple(rng.uniform(-0.01, 0.01, 3)))
            pose[:3, :3] = Rotation.from_rotvec(np.deg2rad(rng.uniform(-5, 5, 3))).as_matrix() @ start[:3, :3]
            arm.execute([(tick + 1) / 30], [pose])
            cell.advance_to((tick + 1) / 30)
            off = np.linalg.inv(pose) @ arm.state().pose
            assert np.linalg.norm(off[:3, 3]) < 0.04
            assert Rotation.from_matrix(off[:3, :3]).magnitude() < np.deg2rad(30)
        arm.execute([cell.time + 0.1], [start])
        cell.advance_to(cell.time + 0.4)
        np.testing.assert_allclose(arm.state().pose, start, atol=1e-3)


def test_a_run_repeats_exactly() -> None:
    ends = []
    for _ in range(2):
        with Cell("handheld", make_scene("place", 4)) as cell:
            arm = cell.arms["left"]
            drive(cell, arm, shifted(arm.state().pose, (0.1, -0.2, -0.1)), until=0.4)
            cell.advance_to(0.5)
            ends.append((cell.data.qpos.copy(), cell.render("left")))
    np.testing.assert_array_equal(ends[0][0], ends[1][0])
    np.testing.assert_array_equal(ends[0][1], ends[1][1])


def test_reset_goes_back_to_the_start(cell: Cell) -> None:
    start = cell.data.qpos.copy()
    drive(cell, cell.arms["left"], shifted(cell.arms["left"].state().pose, (0.1, -0.2, -0.1)), until=0.4)
    cell.advance_to(0.5)
    cell.reset()
    assert cell.time == 0.0
    np.testing.assert_array_equal(cell.data.qpos, start)


def test_listeners_are_called_at_30_hz(cell: Cell) -> None:
    times: list[float] = []
    cell.listeners.append(lambda: times.append(cell.time))
    cell.advance_to(0.31)
    cell.advance_to(1.001)
    np.testing.assert_allclose(times, np.arange(1, 31) / 30, atol=0.0021)


MANY_CELLS = """
import resource
from rdt2.sim.cell import Cell
from rdt2.sim.drawing import make_scene

for seed in range(35):
    with Cell("handheld", make_scene("pick", seed)) as cell:
        cell.render("left", (64, 64))
    if seed == 4:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_many_cells_in_one_process() -> None:
    """Contexts and textures are freed: 30 cells need no more memory than a few. In a process of its own, since what
    other tests leave behind decides where this one's memory comes from."""
    done = subprocess.run([sys.executable, "-c", MANY_CELLS], capture_output=True, text=True, check=True)
    grown = int(done.stdout)
    assert grown < 60_000, f"{grown} KiB more after 30 cells"


def test_two_cells_at_once() -> None:
    """Two open renderers do not draw into each other's pictures."""
    with Cell("handheld", make_scene("pick", 1)) as one, Cell("handheld", make_scene("press", 2)) as two:
        first = one.render("left")
        two.render("left")
        np.testing.assert_array_equal(one.render("left"), first)


def test_errors_say_what_to_do(cell: Cell) -> None:
    with pytest.raises(TaskError, match=r"'octopus'.*ur5e"):
        Cell("octopus", cell.scene)
    with pytest.raises(TaskError, match=r"'top'.*front"):
        cell.render("top")
    with pytest.raises(TaskError, match="ghost"):
        cell.object_pose("ghost")
    with pytest.raises(ConfigError, match="1280x960"):
        cell.render("front", (4000, 100))


def test_an_arm_that_no_robot_of_the_cell_has_is_told_what_to_write(monkeypatch, tmp_path) -> None:
    """Regression: --robot ur10e was offered, and then there was no robot called 'cell_ur10e'."""
    ur5e = (CONFIGS / "cell_ur5e.yaml").read_text()
    monkeypatch.setattr("rdt2.robot.reading.CONFIGS", tmp_path)
    monkeypatch.setattr("rdt2.sim.cell.EMBODIMENTS", (*EMBODIMENTS, "ur10e"))
    monkeypatch.setitem(ARM_MODELS._loaded, "ur10e", ARM_MODELS["ur5e"])
    monkeypatch.setitem(ARM_MODELS._places, "ur10e", ARM_MODELS._places["ur5e"])
    with pytest.raises(ConfigError, match=r"Copy cell_ur5e\.yaml .*to cell_ur10e\.yaml, .*model and base"):
        cell_settings("ur10e")
    (tmp_path / "cell_ur10e.yaml").write_text(ur5e.replace("name: cell_ur5e", "name: cell_ur10e"))
    assert cell_settings("ur10e").name == "cell_ur10e"


def test_without_opengl_the_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import ctypes.util

    from rdt2.sim import render

    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    with pytest.raises(ConfigError, match="apt-get install libosmesa6"):
        render.choose_backend()
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "lib" if name == "OSMesa" else None)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert render.choose_backend() == "osmesa"


def test_opengl_that_does_not_work_is_one_error(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    """regression: mujoco's and ctypes' own errors, after the policy was loaded."""
    import ctypes.util

    from rdt2.sim import render

    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    for chosen, told in (("glfw", "there is none"), ("GLFW ", "there is none"), ("cgl", "egl or osmesa")):
        monkeypatch.setenv("MUJOCO_GL", chosen)
        with pytest.raises(ConfigError, match=f"MUJOCO_GL is .*{told}"):
            render.choose_backend()
    monkeypatch.setenv("MUJOCO_GL", "")
    broken = tmp_path / "libOSMesa.so"
    broken.write_text("no library")
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: str(broken) if name == "OSMesa" else None)
    with pytest.raises(ConfigError, match="apt-get install libosmesa6"):
        render.choose_backend()
    code = "from rdt2.sim.render import require_rendering; require_rendering()"
    for variables, told in (
        ({"MUJOCO_GL": "glfw", "DISPLAY": ":77"}, "MUJOCO_GL=glfw"),
        ({"MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "egl"}, "MUJOCO_GL=osmesa"),
    ):
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables}
        )
        assert f"ConfigError: OpenGL could not start with {told}" in done.stderr


def test_importing_the_package_imports_no_mujoco() -> None:
    code = "import sys, rdt2.sim.cell, rdt2.sim.tasks; sys.exit('mujoco' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_seen_from_says_where_the_picture_shows_an_object(cell: Cell) -> None:
    """What changes in the picture when the object is taken away is where it was."""
    import mujoco

    name = cell.scene.objects[0].name
    arm = cell.arms["left"]
    over = arm.state().pose.copy()
    over[:3, 3] = cell.object_pose(name)[:3, 3] + (0.03, 0.02, 0.15)
    drive(cell, arm, over, until=1.0)
    cell.advance_to(1.5)
    x, y, depth = cell.seen_from("left", name)
    before = cell.render("left").astype(int)
    address = cell.model.joint(name).qposadr[0]
    cell.data.qpos[address : address + 3] = (3.0, 0.0, 0.5)
    mujoco.mj_forward(cell.model, cell.data)
    rows, columns = (np.abs(cell.render("left").astype(int) - before).sum(-1) > 60).nonzero()
    assert len(rows) > 200
    assert x == pytest.approx(columns.mean() / 384 - 0.5, abs=0.03)
    assert y == pytest.approx(rows.mean() / 384 - 0.5, abs=0.03)
    assert 0.1 < depth < 0.4
    assert cell.seen_from("left", name)[2] < 0 or abs(cell.seen_from("left", name)[0]) > 0.5


def test_physics_that_break_down_end_the_episode_instead_of_beginning_afresh(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with Cell("handheld", make_scene("pick", 3)) as cell:
        cell.advance_to(0.1)
        cell.data.qvel[:] = np.nan
        with pytest.raises(SimulationError, match="scene 3"):
            cell.advance_to(0.2)
        cell.reset()
        cell.advance_to(0.1)
    assert not list(tmp_path.iterdir()), "no log in the user's folder"


def pushing(cell: Cell, side: str) -> float:
    """Newtons with which a gripper's parts press upon the table and what stands on it."""
    import mujoco

    force, total = np.zeros(6), 0.0
    for number in range(cell.data.ncon):
        sides = {cell._geom_side.get(int(geom)) for geom in cell.data.contact[number].geom}
        if sides == {side, None}:
            mujoco.mj_contactForce(cell.model, cell.data, number, force)
            total += abs(float(force[0]))
    return total


@pytest.mark.parametrize("embodiment", ["handheld", "ur5e", "fr3"])
def test_what_is_stopped_no_longer_pushes(embodiment: str) -> None:
    """Regression: a hand that was told to hold went on pushing the table with 60 N."""
    with Cell(embodiment, make_scene("pick", 1)) as cell:
        arm = cell.arms["right"]
        goal = arm.state().pose.copy()
        goal[2, 3] = cell.scene.table_height + 0.05
        drive(cell, arm, goal, until=1.0)
        goal[2, 3] = cell.scene.table_height - 0.02
        drive(cell, arm, goal, until=2.0)
        assert pushing(cell, "right") > 40.0
        arm.stop()
        cell.advance_to(cell.time + 0.4)
        assert pushing(cell, "right") < 8.0
        there = arm.state().pose[:3, 3]
        cell.advance_to(cell.time + 0.5)
        np.testing.assert_allclose(arm.state().pose[:3, 3], there, atol=1e-3)
