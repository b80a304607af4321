"""Closed-loop evaluation: run a policy in the simulated cell and count what it achieves.

    result = evaluate_cell("demo-fm", "ur5e", "pick", episodes=100, seed=0, workers=2)
    print(result.success, "of", result.episodes, result.success_rate)

The loop that drives the arms is the one that drives robots, `rdt2.control.run_episode`. Simulated time stands
still while a policy predicts, so the cell runs on for a fixed `LATENCY` instead: results do not depend on how
busy the machine is.
"""

from __future__ import annotations

import dataclasses
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from rdt2.errors import ConfigError
from rdt2.evaluation.policies import BlindPolicy, open_policy
from rdt2.evaluation.scenes import Trial, draw_trials
from rdt2.evaluation.statistics import Rate
from rdt2.policy.spec import PolicySpec
from rdt2.workers import worker_pool

if TYPE_CHECKING:
    from rich.table import Table

    from rdt2.control import EpisodeResult, LoopConfig, Mode, Recorder
    from rdt2.policy import Policy
    from rdt2.sim.cell import Cell

LATENCY = 0.1
"""Seconds of simulated time that a prediction takes, unless it is to take what it really takes."""
EXECUTE_STEPS = 6
"""Of a chunk, before the next look: where a hand is about to close, 12 steps are driven half blind."""
MAX_SECONDS = 20.0
"""Simulated length of an episode that does not succeed."""


@dataclass(frozen=True)
class EpisodeRecord:
    """How one trial went."""

    index: int
    seed: int
    """Of the scene."""
    instruction: str
    hand: str | None
    target: str | None
    colour: str | None
    success: bool
    followed: bool
    """The hand that the sentence names acted first, on the object that it names."""
    judged: bool
    """False for a sentence that names no task of the scene: nobody can say whether it was done."""
    seconds: float
    """Simulated."""
    reason: str
    """How it ended."""
    chunks: int
    pauses: int
    """How often the arms came to rest for a fault: an invalid chunk, an old picture."""
    slowed: int
    """How often the guard began to hold something back."""
    collisions: int
    """How often parts of the arms met one another, the table or what they should not touch."""
    inference_ms: float
    """Median wall-clock time of a prediction."""


@dataclass(frozen=True)
class CellEvaluation:
    """Closed-loop result of one policy, robot and task."""

    policy: str
    robot: str
    task: str
    seed: int
    scenery: str
    unseen_shapes: bool
    blind: bool
    swap_instruction: bool
    latency: float | None
    """Simulated seconds of a prediction; None: what it really took."""
    execute_steps: int
    max_seconds: float
    records: Sequence[EpisodeRecord]
    wall_seconds: float

    @property
    def episodes(self) -> int:
        """How many were run."""
        return len(self.records)

    @property
    def success(self) -> int:
        """How many succeeded."""
        return sum(record.success for record in self.records)

    @property
    def followed(self) -> int:
        """In how many the arms did what the sentence says."""
        return sum(record.followed for record in self.records)

    @property
    def success_rate(self) -> Rate:
        """With its 95 % Wilson interval."""
        return Rate.of(self.success, self.episodes)

    @property
    def followed_rate(self) -> Rate:
        """With its 95 % Wilson interval."""
        return Rate.of(self.followed, self.episodes)

    def by(self, name: Literal["hand", "colour"]) -> dict[str, Rate]:
        """Success by hand or by colour asked for."""
        trials = Counter(str(getattr(record, name)) for record in self.records)
        wins = Counter(str(getattr(record, name)) for record in self.records if record.success)
        return {key: Rate.of(wins[key], trials[key]) for key in sorted(trials)}

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON: settings, counts, intervals, then every episode."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name != "records"}
        success, followed = self.success_rate, self.followed_rate
        return {
            **values,
            "success": self.success,
            "episodes": self.episodes,
            "followed": self.followed,
            "success_rate": success.rate,
            "success_interval": [success.low, success.high],
            "followed_rate": followed.rate,
            "followed_interval": [followed.low, followed.high],
            "by_hand": {key: rate.as_dict() for key, rate in self.by("hand").items()},
            "by_colour": {key: rate.as_dict() for key, rate in self.by("colour").items()},
            "records": [dataclasses.asdict(record) for record in self.records],
        }

    def table(self) -> Table:
        """A table for the terminal."""
        from rich.table import Table

        table = Table(title=f"{self.policy} on {self.robot}, {self._conditions()}", title_justify="left")
        table.add_column("", no_wrap=True)
        for name in ("success", "rate", "95 % interval"):
            table.add_column(name, justify="right")
        rows = [(self.task, self.success_rate), ("did what the sentence says", self.followed_rate)]
        rows += [(f"  {hand} hand", rate) for hand, rate in self.by("hand").items()]
        for label, rate in rows:
            table.add_row(label, *rate_cells(rate))
        seconds = [record.seconds for record in self.records if record.success]
        median = f"{np.median(seconds):.1f} s to a success (median), " if seconds else ""
        table.caption = f"{median}seed {self.seed}, {self.wall_seconds:.0f} s of computing"
        return table

    def _conditions(self) -> str:
        words = [self.task]
        words += [f"{self.scenery} scenes"] if self.scenery != "seen" else []
        words += ["unseen shapes"] if self.unseen_shapes else []
        words += ["black pictures"] if self.blind else []
        words += ["swapped instructions"] if self.swap_instruction else []
        return ", ".join(words)


def rate_cells(rate: Rate) -> tuple[str, str, str]:
    """A rate as three cells of a table: count, percent, interval."""
    return (
        f"{rate.count}/{rate.trials}",
        f"{100 * rate.rate:.0f} %",
        f"{100 * rate.low:.0f} to {100 * rate.high:.0f} %",
    )


def loop_config(
    execute_steps: int = EXECUTE_STEPS, *, latency: float | None = LATENCY, mode: Mode | None = None
) -> LoopConfig:
    """How evaluations run the loop; raises ConfigError for steps that a chunk does not have."""
    from rdt2.control import LoopConfig

    return LoopConfig(latency=latency, execute_steps=execute_steps, mode=mode)


def evaluate_cell(
    policy: PolicySpec | Policy | str,
    robot: str,
    task: str,
    *,
    episodes: int = 20,
    seed: int = 0,
    scenery: str = "seen",
    unseen_shapes: bool = False,
    swap_instruction: bool = False,
    blind: bool = False,
    workers: int = 1,
    config: LoopConfig | None = None,
    max_seconds: float = MAX_SECONDS,
    on_episode: Callable[[EpisodeRecord], None] | None = None,
) -> CellEvaluation:
    """Run episodes and count.

    Args:
        policy: which one to load, or a loaded one with one worker.
        robot: which arms.
        robot: which arms: ur5e, fr3, handheld, or the yaml of a robot of kind cell.
        task: what the sentences ask for, a name of `rdt2.sim.tasks.TASKS`.
        episodes: how many scenes; hands and colours are balanced over them.
        seed: which scenes, never those of training, and the policy's noise.
        scenery: what textures, light and table height are drawn from: "seen" is what training has, "unseen" what it
            never has. See `rdt2.sim.sceneries`.
        unseen_shapes: shapes that training never had, in known colours.
        swap_instruction: ask for another hand or object than the scene was made for.
        blind: show it black pictures.
        workers: processes, one thread each; the records do not depend on their number.
        config: of the loop.
        max_seconds: simulated length of an episode that does not succeed.
        on_episode: called with each record as it is finished.

    Raises:
        ConfigError: numbers that make no sense. TaskError: unknown robot or task.
        CheckpointError: the policy cannot be loaded. KeyboardInterrupt: Ctrl-C, also during an episode.
    """
    if workers < 1:
        raise ConfigError(f"workers is {workers}, expected at least 1.")
    if workers > 1 and not isinstance(policy, (str, PolicySpec)):
        raise ConfigError("several workers load the policy themselves: pass its name or a PolicySpec.")
    spec = PolicySpec.of(policy) if isinstance(policy, str) else policy
    if blind and not isinstance(spec, PolicySpec):
        spec = BlindPolicy(spec)
    config = config or loop_config()
    trials = draw_trials(
        task,
        episodes,
        seed,
        scenery=scenery,
        unseen_shapes=unseen_shapes,
        swap_instruction=swap_instruction,
    )
    started = time.perf_counter()
    records = []
    for record in _run(spec, blind, robot, trials, config, max_seconds, min(workers, episodes)):
        records.append(record)
        if on_episode is not None:
            on_episode(record)
    return CellEvaluation(
        policy=spec.policy if isinstance(spec, PolicySpec) else type(policy).__name__,
        robot=robot,
        task=task,
        seed=seed,
        scenery=scenery,
        unseen_shapes=unseen_shapes,
        blind=blind,
        swap_instruction=swap_instruction,
        latency=config.latency,
        execute_steps=config.execute_steps,
        max_seconds=max_seconds,
        records=sorted(records, key=lambda record: record.index),
        wall_seconds=time.perf_counter() - started,
    )


def run_trial(
    trial: Trial,
    policy: Policy,
    robot: str,
    *,
    config: LoopConfig,
    max_seconds: float = MAX_SECONDS,
    watch: Callable[[Cell], Recorder] | None = None,
) -> tuple[EpisodeRecord, EpisodeResult]:
    """Run one trial.

    Args:
        trial: which scene and sentence.
        policy: what predicts.
        robot: which arms, as for `evaluate_cell`; the height of its table becomes that of the scene.
        config: of the loop.
        max_seconds: simulated.
        watch: makes a recorder for the trial's cell.

    Raises:
        TaskError: unknown robot. KeyboardInterrupt: Ctrl-C; the loop has stopped the arms.
    """
    from rdt2.control import STOPPED, run_episode
    from rdt2.sim.cell import Cell, cell_settings
    from rdt2.sim.tasks import Monitor

    scene = trial.scene()
    task = trial.task(scene)
    sentence = trial.instruction or (task.instruction if task else "")
    # A cell's table is measured once, as that of a robot is.
    settings = cell_settings(robot).changed({"safety.table_height": scene.table_height})
    with Cell.of(settings, scene) as cell:
        monitor = Monitor(cell, task) if task is not None else None
        result = run_episode(
            cell.robot(settings.sides),
            policy,
            sentence,
            settings=settings,
            monitor=monitor,
            config=config,
            recorder=watch(cell) if watch is not None else None,
            max_seconds=max_seconds,
            seed=1000 * trial.seed,  # cycle k adds k: no two episodes share noise
        )
    if result.signal:
        signal.raise_signal(result.signal)  # the arms have stopped; now it means what it always means
    if result.ending == STOPPED:
        raise KeyboardInterrupt
    record = EpisodeRecord(
        index=trial.index,
        seed=trial.seed,
        instruction=sentence,
        hand=task.hand if task else None,
        target=task.target if task else None,
        colour=task.colour if task else None,
        success=result.success,
        followed=result.followed,
        judged=task is not None,
        seconds=result.seconds,
        reason=result.ending,
        chunks=len(result.inference),
        pauses=len(result.pauses),
        slowed=len(result.slowed),
        collisions=len(cell.collisions),
        inference_ms=1000 * float(np.median(result.inference)) if result.inference else float("nan"),
    )
    return record, result


# ------------------------------------------------------------------------------------------- worker processes


def _run(
    spec: PolicySpec | Policy,
    blind: bool,
    robot: str,
    trials: Sequence[Trial],
    config: LoopConfig,
    max_seconds: float,
    workers: int,
) -> Iterator[EpisodeRecord]:
    if workers == 1 or not isinstance(spec, PolicySpec):
        policy = open_policy(spec, blind=blind) if isinstance(spec, PolicySpec) else spec
        for trial in trials:
            yield run_trial(trial, policy, robot, config=config, max_seconds=max_seconds)[0]
        return
    from concurrent.futures import as_completed

    with worker_pool(workers, initializer=_one_thread) as pool:
        futures = [
            pool.submit(_in_worker, spec, blind, robot, trial, config, max_seconds) for trial in trials
        ]
        for future in as_completed(futures):
            yield future.result()


_loaded: dict[tuple[PolicySpec, bool], Policy] = {}
"""The policy of this worker process, loaded with its first trial."""


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)  # several processes with a thread for each core make one another wait


def _in_worker(
    spec: PolicySpec, blind: bool, robot: str, trial: Trial, config: LoopConfig, max_seconds: float
) -> EpisodeRecord:
    if (spec, blind) not in _loaded:
        _loaded[spec, blind] = open_policy(spec, blind=blind)
    return run_trial(trial, _loaded[spec, blind], robot, config=config, max_seconds=max_seconds)[0]
