"""Recordings of the simulated cell: shards say what the arms did; and correct, fine-tune, run again."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from test_loop_in_cell import _grey

pytest.importorskip("mujoco")
pytest.importorskip("mcap")

from rdt2.action import ARMS, FPS
from rdt2.control import DiskRecorder, LoopConfig, Steer, Together, run_episode
from rdt2.data import ShardIndex
from rdt2.data.convert import convert
from rdt2.data.recordings import read_recording
from rdt2.data.sources import SourceOptions, open_source
from rdt2.pose import geodesic_angle, interpolate, rot6d_to_matrix
from rdt2.robot import ArmState, GripperState
from rdt2.sim.cell import Cell, cell_settings
from rdt2.sim.demonstrator import Demonstrator
from rdt2.sim.drawing import make_scene
from rdt2.sim.manner import Manner
from rdt2.sim.tasks import task_for


class Truth:
    """Where the cell itself says that the policy's frames are, 30 times a second."""

    def __init__(self, cell):
        self.cell, self.times, self.poses, self.chunks = cell, [], {side: [] for side in ARMS}, []

    def on_cycle(self, observation, chunk, time):
        self.chunks.append((time, chunk))

    def on_frame(self, moment):
        self.times.append(moment.time)
        for side in ARMS:
            self.poses[side].append(self.cell.site_pose(self.cell.names.policy[side]))


def test_the_shards_of_a_recording_of_the_demo_policy_are_what_the_arms_did(tmp_path):
    from rdt2.evaluation.policies import open_policy
    from rdt2.policy.spec import PolicySpec

    scene = make_scene("pick", seed=3)
    task = task_for(scene)
    settings = cell_settings("ur5e").changed({"safety.table_height": scene.table_height})
    with Cell.of(settings, scene) as cell:
        robot, truth = cell.robot(), Truth(cell)
        recorder = DiskRecorder(tmp_path / "recordings", policy={"policy": "demo-fm"})
        recorder.begin(robot.clock, settings)
        result = run_episode(
            robot, open_policy(PolicySpec()), task.instruction, settings=settings, max_seconds=1.8,
            recorder=Together([recorder, truth]), config=LoopConfig(latency=0.1, execute_steps=12),
        )  # fmt: skip
        (path,) = recorder.end(result, mark="success", marked_by="the test")
    assert not result.pauses
    report = convert(tmp_path / "recordings", tmp_path / "shards", kind="recording")
    assert report.episodes == 1
    assert report.samples > 20
    (episode,) = open_source(tmp_path / "recordings", "recording")
    offset = read_recording(path).logged("/driver")[0] - truth.times[0]  # of one clock to the other
    index, moved, errors = ShardIndex(tmp_path / "shards"), 0.0, []
    known = np.array(truth.times)
    for number in range(len(index)):
        meta, action = index.meta(number), index.action(number)
        assert (meta["mark"], meta["driver"], meta["correction"]) == ("success", "policy", False)
        times = episode.timestamps[meta["frame"]] - offset + np.arange(25) / FPS
        for first, side in ((0, "right"), (10, "left")):
            true = interpolate(known, np.stack(truth.poses[side]), np.clip(times, known[0], known[-1]))
            relative = np.linalg.inv(true[0]) @ true[1:]
            said = action[:, first : first + 3]
            errors += np.linalg.norm(said - relative[:, :3, 3], axis=1).tolist()
            moved = max(moved, float(np.linalg.norm(said[-1])))
    assert moved > 0.05
    # 30 truths a second, straight lines between them, of arms that accelerate at metres per second squared
    assert np.mean(errors) < 1.5e-3
    assert np.max(errors) < 8e-3
    # and what was done is what the policy asked for, as far as arms follow: the half of a chunk that was driven
    errors = []
    cut = dict(episode.chunks())
    for time, chunk in truth.chunks[1:]:
        done = cut.get(int(np.abs(episode.timestamps - (time + offset)).argmin()))
        if done is not None:
            errors.append(
                np.abs(done[4:12, [0, 1, 2, 10, 11, 12]] - chunk.values[4:12, [0, 1, 2, 10, 11, 12]]).mean()
            )
            turned = geodesic_angle(_columns(done[4:12, 3:9]), _columns(chunk.values[4:12, 3:9]))
            assert np.degrees(turned).mean() < 3.0
    assert errors
    assert np.mean(errors) < 6e-3


def _columns(rot6d):
    return rot6d_to_matrix(np.asarray(rot6d, dtype=np.float64))


class DemonstratorPilot:
    """The scripted demonstrator with a hand on the arms: it takes over at once, and gives back when it is done."""

    def __init__(self, cell, robot, task, *, begins):
        self.cell, self.robot, self.begins = cell, robot, robot.clock.now() + begins
        self.goal, self.widths, self.task, self.demonstrator, self.running = {}, {}, task, None, True
        self.heights = []

    def begin(self):
        """A robot whose TCPs are the fingertips, as that of the demonstrator's handheld grippers are."""
        tip = self.cell.names.fingertips

        def arm(side):
            return SimpleNamespace(
                state=lambda: ArmState(0.0, 0, self.cell.site_pose(tip[side]), np.zeros(6), np.zeros(0))
            )

        def gripper(side):
            return SimpleNamespace(
                state=lambda: GripperState(0.0, 0, self.robot.grippers[side].state().width)
            )

        robot = SimpleNamespace(
            arms={side: arm(side) for side in ARMS}, grippers={side: gripper(side) for side in ARMS},
            clock=self.robot.clock, execute=self.execute,
        )  # fmt: skip
        manner = Manner(1.0, 0.0, (0.0, 0.0), 0.14, 0.085, (0.0, 0.0, 0.0), ())
        return Demonstrator(self.cell, robot, self.task, manner)

    def execute(self, times, poses, widths):
        self.goal = {side: path[-1] for side, path in poses.items()}
        self.widths = {side: float(values[-1]) for side, values in widths.items()}

    success = followed = property(lambda self: not self.running)

    @property
    def done(self):
        """As of a monitor: a second after the person has given back."""
        return not self.running and self.robot.clock.now() > self.gave_back + 0.5

    def steer(self):
        if self.robot.clock.now() < self.begins or not self.running:
            return None
        self.demonstrator = self.demonstrator or self.begin()
        self.heights.append(self.cell.object_pose(self.task.target)[2, 3])
        here = {side: self.cell.site_pose(self.cell.names.fingertips[side]) for side in ARMS}
        goal = self.goal or here
        if max(np.linalg.norm(goal[side][:3, 3] - here[side][:3, 3]) for side in ARMS) < 0.012:
            self.running = self.demonstrator.step() and self.demonstrator.phase != "still"
            self.gave_back = self.robot.clock.now()
        twists = {}
        for side in ARMS:
            goal, now = self.goal[side], here[side]
            turn = _rotation_vector(goal[:3, :3] @ now[:3, :3].T)
            # the fingertips are to go there and to turn; the TCP, elsewhere on the same tool, is what is steered
            speed, rate = 8.0 * (goal[:3, 3] - now[:3, 3]), 8.0 * turn
            tcp = self.robot.arms[side].state().pose[:3, 3]
            twists[side] = np.concatenate([speed + np.cross(rate, tcp - now[:3, 3]), rate])
        return Steer(twists, self.widths)


def _rotation_vector(matrix):
    from scipy.spatial.transform import Rotation

    return Rotation.from_matrix(matrix).as_rotvec()


def test_correct_mark_convert_fine_tune_and_run_again(tmp_path, monkeypatch):
    """What is fine-tuned is the expert that drove, and what drives again is what came of it."""
    monkeypatch.setattr("rdt2.sim.cell.CellCamera.read", _grey)  # drawing is slow
    from rdt2.expert import Expert
    from rdt2.policy import load_policy
    from rdt2.policy.load import DEMOS
    from rdt2.policy.spec import PolicySpec
    from rdt2.training.cli import run_training

    drove = load_policy("demo-fm")
    scene = make_scene("pick", seed=3)
    task = task_for(scene)
    settings = cell_settings("ur5e").changed({"safety.table_height": scene.table_height})
    with Cell.of(settings, scene) as cell:
        robot = cell.robot()
        height = cell.object_pose(task.target)[2, 3]
        recorder = DiskRecorder(tmp_path / "recordings", policy={"policy": "demo-fm"})
        recorder.begin(robot.clock, settings)
        pilot = DemonstratorPilot(cell, robot, task, begins=0.3)
        result = run_episode(
            robot, drove, task.instruction, settings=settings,
            recorder=recorder, pilot=pilot, monitor=pilot,
            config=LoopConfig(latency=0.1), max_seconds=9.0,
        )  # fmt: skip
        lifted = max(pilot.heights) - height
        recorder.end(result, mark="success" if lifted > 0.05 else "failure", marked_by="the test")
    assert not result.pauses
    assert result.ending == "done"
    assert lifted > 0.05

    # the person's part of it, and nothing else, as shards
    options = SourceOptions(marks="corrections")
    report = convert(tmp_path / "recordings", tmp_path / "shards", kind="recording", options=options)
    assert report.samples > 60
    index = ShardIndex(tmp_path / "shards")
    metas = [index.meta(number) for number in range(len(index))]
    assert all(meta["correction"] and meta["driver"] == "person" for meta in metas)
    assert set(map(index.instruction, range(len(index)))) == {task.instruction}
    (whole,) = open_source(tmp_path / "recordings", "recording")
    assert {meta["driver"] for meta in whole.frame_meta} == {"policy", "person"}
    side = 0 if task.hand == "right" else 10
    last = index.all_actions()[:, -1]
    assert last[:, side + 9].min() < 0.045  # it closed on the object
    assert np.ptp(last[:, side : side + 3], axis=0).max() > 0.05

    # two steps of the expert that drove
    trained = run_training(
        "expert", config=None, data=tmp_path / "shards", out=tmp_path / "run",
        overrides=[
            "steps=2", "batch_size=1", "warmup_steps=1", "log_every=1", "evaluate_samples=1", "trackers=[]",
            "precision=fp32", f"start_from={DEMOS / 'expert'}", f"vlm={DEMOS / 'vlm'}", "draws=1", "compile=false",
            "loader_workers=0",
        ],
    )  # fmt: skip
    before, after = (Expert.from_pretrained(path).state_dict() for path in (DEMOS / "expert", trained.model))
    assert before.keys() == after.keys()
    far = max(float((after[name] - before[name]).abs().max()) for name in before)
    assert 0 < far < 0.05  # it has learnt, and is still the one that drove
    policy = load_policy(PolicySpec(policy=str(trained.model), vlm=str(DEMOS / "vlm")))
    with Cell.of(settings, scene) as cell:
        again = run_episode(
            cell.robot(),
            policy,
            task.instruction,
            settings=settings,
            config=LoopConfig(latency=0.1),
            max_seconds=0.2,
        )
    assert again.cycles
    assert again.ending == "time is up"
