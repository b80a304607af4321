"""Recording: runs the demonstrator in the handheld cell and writes what it did as shards in the published layout.

For example `record_dataset("data/", episodes=900, seed=0, stride=3, workers=2)`.
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.spatial.transform import Rotation

from rdt2.action import ARMS, HORIZON
from rdt2.errors import ConfigError, SimulationError, TaskError
from rdt2.sim.cell import Cell
from rdt2.sim.demonstrator import STEP, Demonstrator, other_hand
from rdt2.sim.drawing import make_scene
from rdt2.sim.manner import Manner, draw_manner, perturbed_start, wandered_start
from rdt2.sim.scene import Scene
from rdt2.sim.tasks import Monitor, Task, task_for
from rdt2.workers import worker_pool

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray
    from numpy.random import Generator

TASK_MIX = {"pick": 0.38, "place": 0.34, "press": 0.28}
FIRST_SCENE_SEED = 1_000_000_000
"""Scenes of recordings have seeds from here on, so that smaller seeds are never trained on."""
EPISODES_PER_SHARD = 40
_ATTEMPTS = 6
_LONGEST = 16.0
"""Seconds of an episode."""
FARTHEST, WIDEST = 0.05, 0.35
"""Metres and radians that a hand moves within 1/30 s at most: 1.5 m/s, 10 rad/s."""


# --------------------------------------------------------------------------------------------- one episode


@dataclass
class Demonstration:
    """What one episode left behind: everything but the pictures, which are drawn afterwards from ``states``.

    poses: {"right", "left"} -> (n, 4, 4) policy frame in the cell frame, metres. widths: {"right", "left"}
    -> (n,) commanded openings, metres. disturbed: (n,) bool, whether the motion that follows a frame is not
    the demonstrator's.
    """

    scene: Scene
    task: Task
    manner: Manner
    times: Float[ndarray, " n"]
    poses: dict[str, Float[ndarray, "n 4 4"]]
    widths: dict[str, Float[ndarray, " n"]]
    disturbed: ndarray
    phases: list[str]
    states: Float[ndarray, "n q"]
    success: bool

    def __len__(self) -> int:
        return len(self.times)

    def usable(self, stride: int = 1) -> list[int]:
        """Frames whose 24 following steps are the demonstrator's own; after the end the hands stay still."""
        bad = np.convolve(self.disturbed, np.ones(HORIZON))[HORIZON - 1 :]
        return [frame for frame in range(0, len(self), stride) if not bad[frame]]

    def chunks(self, frames: Sequence[int]) -> Iterator[tuple[int, Float[ndarray, "24 20"]]]:
        """(frame, chunk (24, 20) float32 in metres) of the given frames."""
        from rdt2.data.episode import cut_chunks

        yield from cut_chunks(self.poses, self.widths, self.times, frames, tail="pad")


def demonstrate(cell: Cell, task: Task, manner: Manner) -> Demonstration:
    """Do the task from the cell's present state, without drawing anything.

    Raises:
        SimulationError: a hand jumped, which no hand does: the physics went wrong.
    """
    robot = cell.robot()
    monitor = Monitor(cell, task)
    demonstrator = Demonstrator(cell, robot, task, manner)
    before = cell.object_pose(task.target)[2, 3]
    start = robot.clock.now()
    times, states, disturbed, phases = [], [], [], []
    poses: dict[str, list[ndarray]] = {side: [] for side in ARMS}
    widths: dict[str, list[float]] = {side: [] for side in ARMS}
    running, tick = True, 0
    while running and robot.clock.now() - start < _LONGEST:
        times.append(robot.clock.now())
        states.append(cell.data.qpos.copy())
        for side in ARMS:
            poses[side].append(robot.arms[side].state().pose @ robot.policy_to_tcp[side])
            widths[side].append(demonstrator.width[side])
        phases.append(demonstrator.phase)
        running = demonstrator.step()
        disturbed.append(demonstrator.disturbed)
        tick += 1
        robot.clock.sleep_until(start + tick * STEP)
    monitor.close()
    for side in ARMS:
        _check_motion(side, np.array(poses[side]))
    success = not running and bool(monitor.success)
    if task.kind == "pick":
        # The task asks for 3 s in the air. A shorter hold teaches as much.
        success = not running and cell.object_pose(task.target)[2, 3] - before > 0.10
    return Demonstration(
        scene=cell.scene,
        task=task,
        manner=manner,
        times=np.array(times),
        poses={side: np.array(values) for side, values in poses.items()},
        widths={side: np.array(values) for side, values in widths.items()},
        disturbed=np.array(disturbed, dtype=np.float64),
        phases=phases,
        states=np.array(states),
        success=success,
    )


def _check_motion(side: str, poses: Float[ndarray, "n 4 4"]) -> None:
    moved = np.linalg.norm(np.diff(poses[:, :3, 3], axis=0), axis=-1)
    turned = Rotation.from_matrix(np.swapaxes(poses[:-1, :3, :3], 1, 2) @ poses[1:, :3, :3]).magnitude()
    for what, steps, limit in (("m", moved, FARTHEST), ("rad", turned, WIDEST)):
        if len(steps) and steps.max() > limit:
            raise SimulationError(
                f"the {side} hand jumped by {steps.max():.2f} {what} within 1/30 s, expected at most {limit}: it was "
                "pressed into something until the physics gave way. This episode is lost; go on with another."
            )


def draw_frame(cell: Cell, state: Float[ndarray, " q"]) -> ndarray:
    """Picture left | right, uint8 RGB (384, 768, 3), of a recorded state. The cell's own state is lost."""
    import mujoco

    cell.data.qpos[:] = state
    mujoco.mj_forward(cell.model, cell.data)
    return np.concatenate([cell.render("left"), cell.render("right")], axis=1)


def _seen(cell: Cell) -> dict[str, dict[str, list[float]]]:
    """Where each wrist camera sees each object: x, y, depth as in `Cell.seen_from`."""
    return {
        item.name: {side: [round(value, 4) for value in cell.seen_from(side, item.name)] for side in ARMS}
        for item in cell.scene.objects
    }


# ----------------------------------------------------------------------------------------------- data sets


@dataclass
class RecordingReport:
    """What record_dataset did. attempts and successes are by task; frames are samples written."""

    episodes: int = 0
    samples: int = 0
    attempts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASK_MIX, 0))
    successes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TASK_MIX, 0))
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return dataclasses.asdict(self)


def record_dataset(
    out_dir: str | Path,
    episodes: int,
    *,
    seed: int = 0,
    tasks: Mapping[str, float] = TASK_MIX,
    stride: int = 1,
    workers: int = 1,
    episodes_per_shard: int = EPISODES_PER_SHARD,
    perturbed: float = 1 / 3,
    progress: Callable[[int, int], None] | None = None,
) -> RecordingReport:
    """Record so many successful episodes as shards, with instructions, normalizer and ``dataset.yaml``.

    The data are a function of the other arguments, whatever the number of ``workers``. A shard holds
    ``episodes_per_shard`` episodes and is skipped when it is there already, so an interrupted run is gone
    on with by the same call. Motion is 30 Hz; every ``stride``-th step becomes a sample. ``progress(done,
    episodes)`` is called as episodes are finished.

    Raises:
        ConfigError: numbers that make no sense. RecordingError: the disk is full; earlier shards are whole.
        TaskError: an episode that fails again and again.
    """
    import time

    from rdt2.data.shards import write_dataset_yaml, write_instructions
    from rdt2.data.stats import fit_normalizer

    if episodes < 1 or stride < 1 or workers < 1 or episodes_per_shard < 1:
        raise ConfigError("episodes, stride, workers and episodes_per_shard must be at least 1.")
    if not tasks or set(tasks) - set(TASK_MIX) or sum(tasks.values()) <= 0:
        raise ConfigError(
            f"tasks is {dict(tasks)}, expected positive weights for some of {list(TASK_MIX)}, "
            "which the demonstrator does."
        )
    began, folder = time.monotonic(), Path(out_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _remember_settings(
        folder,
        episodes,
        seed=seed,
        tasks=dict(tasks),
        stride=stride,
        per_shard=episodes_per_shard,
        perturbed=perturbed,
    )
    jobs = [
        _Job(
            str(folder),
            shard,
            first,
            min(first + episodes_per_shard, episodes),
            seed,
            dict(tasks),
            stride,
            perturbed,
        )
        for shard, first in enumerate(range(0, episodes, episodes_per_shard))
    ]
    missing = [job for job in jobs if not job.done]
    for job in missing:
        job.path.unlink(missing_ok=True)  # one that was cut short by the number of episodes then
    report = RecordingReport(episodes=episodes)
    done = sum(job.last - job.first for job in jobs) - sum(job.last - job.first for job in missing)

    def recorded(count: int) -> None:
        if progress is not None:
            progress(done + count, episodes)

    if done:
        recorded(0)
    for attempts, successes in _run(missing, workers, recorded):
        for kind in TASK_MIX:
            report.attempts[kind] += attempts[kind]
            report.successes[kind] += successes[kind]
    table, report.samples = _instruction_table(folder)
    write_instructions(folder, table)
    fit_normalizer(folder).save_pretrained(folder)
    write_dataset_yaml(folder, name=folder.resolve().name)
    report.seconds = time.monotonic() - began
    return report


@dataclass(frozen=True)
class _Job:
    """One shard: the episodes first .. last - 1."""

    folder: str
    shard: int
    first: int
    last: int
    seed: int
    tasks: dict[str, float]
    stride: int
    perturbed: float

    @property
    def path(self) -> Path:
        return Path(self.folder) / f"shard-{self.shard:06d}.tar"

    @property
    def done(self) -> bool:
        """Whether its file is there, with all of its episodes."""
        from rdt2.data.dataset import ShardIndex

        if not self.path.is_file():
            return False
        index = ShardIndex(self.path, instructions="ignore")
        return bool(index.meta(len(index) - 1)["episode"] >= self.last - 1)


_Counts = tuple[dict[str, int], dict[str, int]]


_counter: Any = None
"""In a worker: the number of episodes that all workers have finished."""


def _run(jobs: list[_Job], workers: int, recorded: Callable[[int], None]) -> Iterator[_Counts]:
    """The counts of each shard as it is finished; ``recorded`` is told how many episodes are finished in all."""
    if workers == 1 or len(jobs) < 2:
        finished = count(1)
        for job in jobs:
            yield _record_shard(job, lambda: recorded(next(finished)))
        return
    counter = multiprocessing.get_context("spawn").Value("i", 0)
    with worker_pool(workers, initializer=partial(_share, counter)) as pool:
        waiting = {pool.submit(_record_there, job) for job in jobs}
        while waiting:
            done, waiting = wait(waiting, timeout=0.5, return_when=FIRST_COMPLETED)
            recorded(counter.value)
            yield from (future.result() for future in done)


def _share(counter: Any) -> None:
    global _counter
    _counter = counter


def _record_there(job: _Job) -> _Counts:
    return _record_shard(job, _count)


def _count() -> None:
    with _counter.get_lock():
        _counter.value += 1


def _record_shard(job: _Job, finished: Callable[[], None]) -> _Counts:
    from rdt2.data.episode import stored_state
    from rdt2.data.shards import ShardWriter

    attempts, successes = dict.fromkeys(TASK_MIX, 0), dict.fromkeys(TASK_MIX, 0)
    with ShardWriter(
        job.folder, samples_per_shard=1 << 30, first_shard=job.shard, write_instructions=False
    ) as writer:
        for episode in range(job.first, job.last):
            for attempt in range(_ATTEMPTS):
                rng = np.random.default_rng([job.seed, episode, attempt])
                kinds = sorted(job.tasks)
                weights = np.array([job.tasks[kind] for kind in kinds])
                # The task of an episode does not change between attempts, so failures do not bend the mix.
                draw = np.random.default_rng([job.seed, episode]).choice(
                    len(kinds), p=weights / weights.sum()
                )
                kind = kinds[int(draw)]
                scene_seed = FIRST_SCENE_SEED + int(rng.integers(1 << 40))
                attempts[kind] += 1
                with open_episode(kind, scene_seed, rng, perturbed=job.perturbed) as (cell, task, manner):
                    try:
                        demonstration = demonstrate(cell, task, manner)
                    except SimulationError:
                        continue  # a failed attempt like any other
                    if not demonstration.success:
                        continue
                    successes[kind] += 1
                    for frame, chunk in demonstration.chunks(demonstration.usable(job.stride)):
                        picture = draw_frame(cell, demonstration.states[frame])
                        writer.write(
                            picture=picture,
                            action=chunk,
                            instruction=task.instruction,
                            meta={
                                "instruction": task.instruction,
                                "episode": episode,
                                "frame": frame,
                                "seed": scene_seed,
                                "task": kind,
                                "hand": task.hand,
                                "phase": demonstration.phases[frame],
                                "state": stored_state(demonstration.poses, demonstration.widths, frame),
                                "objects": _seen(cell),
                            },
                            key=episode * 1000 + frame,
                        )
                finished()
                break
            else:
                raise TaskError(
                    f"episode {episode} ({kind}) failed {_ATTEMPTS} times. "
                    f"Look at the scene with seed {scene_seed}."
                )
    return attempts, successes


@contextmanager
def open_episode(
    kind: str, scene_seed: int, rng: Generator, *, perturbed: float = 1 / 3
) -> Iterator[tuple[Cell, Task, Manner]]:
    """A handheld cell with the hand at its start, the task, and a manner of doing it; closed at the end."""
    scene = make_scene(kind, scene_seed)
    task = task_for(scene)
    open_width = scene.starts[task.hand].width
    if rng.random() < perturbed:
        starts = {**scene.starts, task.hand: perturbed_start(rng, scene, task.hand)}
        scene = dataclasses.replace(scene, starts=starts)
    idle = other_hand(task.hand)
    if rng.random() < perturbed:
        starts = {**scene.starts, idle: wandered_start(rng, scene.starts[idle], idle)}
        scene = dataclasses.replace(scene, starts=starts)
    manner = draw_manner(rng, kind=kind, open_width=open_width)
    with Cell("handheld", scene) as cell:
        yield cell, task, manner


def _remember_settings(folder: Path, episodes: int, **settings: Any) -> None:
    """Refuse to go on with a recording that was begun with other settings: its shards would not fit."""
    from rdt2.data.shards import write_atomic

    path = folder / "recording.json"
    settings = json.loads(json.dumps(settings))
    before = 0
    if path.is_file():
        found = json.loads(path.read_text(encoding="utf-8"))
        before = found.pop("episodes", 0)
        if {**settings, **found} != settings:
            raise ConfigError(
                f"{path}: this folder was recorded with {found}, not {settings}. Choose another folder."
            )
    write_atomic(path, json.dumps({**settings, "episodes": max(before, episodes)}) + "\n")


def _instruction_table(folder: Path) -> tuple[dict[str, str], int]:
    """Key -> sentence as the samples themselves say, and the number of samples."""
    from rdt2.data.dataset import ShardIndex
    from rdt2.data.shards import INSTRUCTION_KEY

    index = ShardIndex(folder, instructions="ignore")
    metas = [index.meta(number) for number in index.first_of_each_instruction()]
    return {meta[INSTRUCTION_KEY]: meta["instruction"] for meta in metas}, len(index)
