"""`rdt2 evaluate`: open loop on shards, closed loop in the simulated cell."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from tyro.conf import Positional, arg

from rdt2.cli.choices import PageOptions, PolicyOptions, SceneryName, TaskNameOrAll
from rdt2.cli.driving import Driving
from rdt2.dashboard.options import Looking
from rdt2.errors import ServingError
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rdt2.evaluation.results import EpisodeRecord


@dataclass(kw_only=True)
class EvaluateShards:
    """Open loop: predict recorded samples, and measure the errors.

    They are those of action, position, rotation and gripper. By default only the episodes that training on the same
    folder holds out, never augmented. Beside the policy stand two baselines on the same samples: staying still, and
    always the mean chunk.

    For example:
      rdt2 evaluate shards --policy demo-fm --data data/pick --json errors.json
      rdt2 evaluate shards --policy demo-vq --data data/other --split all --limit 500
    """

    spec: PolicyOptions = field(default_factory=PolicySpec)
    data: str
    """Folder of shards, a tar, a URL, a range such as shards/shard-{000000..000044}.tar, or a dataset yaml."""
    split: Literal["held_out", "train", "all"] = "held_out"
    """Which samples; all is for a folder that was not trained on."""
    held_out: float | None = None
    """The share of the episodes that training left out, its setting of that name. None: that of the run in whose
    folder the policy lies, else 0.05; with another one, samples that were trained on would be evaluated."""
    limit: int | None = None
    """At most so many samples, spread evenly."""
    batch_size: int = 16
    """Samples predicted at once."""
    seed: int = 0
    """Of the policy's noise."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, data_there, save_json
        from rdt2.data import ShardIndex
        from rdt2.evaluation.policies import open_policy
        from rdt2.evaluation.shards import (
            HELD_OUT,
            check_counts,
            chosen_samples,
            evaluate_shards,
            trained_with,
        )
        from rdt2.progress import note, progress, working

        data_there(self.data)
        check_counts(self.batch_size, self.limit)
        held_out = self.held_out
        if held_out is None and (held_out := trained_with(self.spec.policy)) is not None:
            share = f"{held_out:g}" if held_out else "none"
            note(f"training held out {share} of the episodes, as its settings say")
        held_out = HELD_OUT if held_out is None else held_out
        total = len(
            chosen_samples(ShardIndex(self.data, tokens=False), self.split, self.limit, held_out=held_out)
        )
        with working(f"loading {self.spec.policy}"):
            policy = open_policy(self.spec)
        with progress("samples", total) as advance:
            result = evaluate_shards(
                policy,
                self.data,
                name=self.spec.policy,
                split=self.split,
                held_out=held_out,
                limit=self.limit,
                batch_size=self.batch_size,
                seed=self.seed,
                on_batch=advance,
            )
        console().print(result.table())
        save_json(self.json, result.as_dict())


@dataclass(kw_only=True)
class EvaluateCell:
    """Closed loop: run simulated episodes, and count successes.

    Hands and colours are balanced over the episodes, and no scene was ever in the training data. `followed`
    counts the episodes in which the arms did what the sentence says. The same --task, --episodes and --seed give the
    same scenes to any policy, robot and setting: write each result to a --json file, and `rdt2 evaluate compare`
    tells whether they differ.

    For example:
      rdt2 evaluate cell --policy demo-fm --robot ur5e --task pick --episodes 100 --workers 2 --json pick.json
      rdt2 evaluate cell --policy demo-fm --task all --json all.json --resume     goes on if it was interrupted
      rdt2 evaluate cell --policy demo-fm --report page.html        films of what went wrong
      rdt2 evaluate cell --policy demo-fm --robot fr3 --scene unseen
      rdt2 evaluate cell --policy demo-fm --blind                   control: black pictures
      rdt2 evaluate cell --policy demo-fm --no-instruction          control: nothing is asked for
      rdt2 evaluate cell --policy untrained                         control: random weights
      rdt2 evaluate cell --policy demo-fm --swap-instruction        the sentence names another hand or colour
      rdt2 evaluate cell --policy demo-vq --latency real --mode synchronous  the arms wait as long as it takes here
      rdt2 evaluate cell --policy demo-fm --dashboard               look on, stop it, and mark what you see
    """

    spec: PolicyOptions = field(default_factory=PolicySpec)
    robot: str = "ur5e"
    """Which arms: ur5e, fr3, handheld, or the yaml of another simulated robot (see configs/robots)."""
    task: TaskNameOrAll = "pick"
    """What the sentence asks for; all runs every task, --episodes of each."""
    episodes: int = 20
    """How many scenes of a task."""
    seed: int = 0
    """Which scenes, and the policy's noise."""
    scene: SceneryName = "seen"
    """What the surroundings are drawn from. unseen: textures, light and table heights outside of training's ranges."""
    shapes: Literal["seen", "unseen"] = "seen"
    """unseen: object shapes that training never had, in known colours."""
    blind: bool = False
    """Control: show the policy black pictures."""
    no_instruction: bool = False
    """Control: tell the policy "Do something." in place of every sentence (policies refuse an empty one). What it still
    achieves of the sentence that is judged, it does not achieve by listening."""
    swap_instruction: bool = False
    """In each scene, ask for another hand or colour than the scene was made for."""
    driving: Driving = field(default_factory=Driving)
    latency: str = "0.1"
    """Simulated seconds from a question to its chunk, or real: what the prediction took on this machine."""
    max_seconds: float = 20.0
    """Simulated length of an episode that does not succeed."""
    workers: int = 1
    """Processes that run episodes at the same time, one thread each."""
    json: Path | None = None
    """Write counts, intervals, every episode, and all that decides them (digests of the weights, the robot's settings,
    versions) to this file. It is whole and up to date after every episode. A file that is there already is not
    replaced."""
    resume: bool = False
    """Go on with the --json file of an evaluation that was interrupted, or with more --episodes; begin where there is
    none. Without it a --json file that is there is refused. Refused, with the difference, when something that decides
    the result has changed."""
    report: Path | None = None
    """Write a page with every episode in a line, and films: what the arms did, when they paused, what the guard held
    back and what collided."""
    film: Literal["failures", "all", "none"] = "failures"
    """Which episodes the --report shows in full. Unless none, every episode is filmed while it runs, which takes a bit
    longer."""
    looking: PageOptions = field(default_factory=Looking)

    def run(self) -> None:
        from rdt2.cli.output import console, figures_file, save_json
        from rdt2.dashboard import open_desk
        from rdt2.errors import ConfigError
        from rdt2.evaluation.cell import evaluate_cell
        from rdt2.evaluation.page import Page
        from rdt2.evaluation.results import require_new
        from rdt2.progress import note, progress
        from rdt2.sim.render import require_rendering
        from rdt2.sim.tasks import TASKS

        if self.report is None and self.film != "failures":
            raise ConfigError(
                f"--film {self.film}: films are parts of a page. Name it with --report page.html."
            )
        figures = figures_file(self.json)
        if figures is not None and not self.resume:
            require_new(figures)
        config = self.driving.config(_latency(self.latency))
        page = Page(self.report, self.film) if self.report is not None else None
        require_rendering()
        total = self.episodes * (len(TASKS) if self.task == "all" else 1)
        with (
            open_desk(self.looking, goes_on=True) as operator,
            progress(f"{self.task} on {self.robot}", total) as advance,
        ):
            succeeded = 0

            def on_start(done: Sequence[EpisodeRecord]) -> None:
                nonlocal succeeded
                succeeded = sum(record.success for record in done)
                if done:
                    advance(len(done), f"{succeeded} succeeded")

            def on_episode(record: EpisodeRecord) -> None:
                nonlocal succeeded
                succeeded += record.success
                advance(1, f"{succeeded} succeeded")

            try:
                result = evaluate_cell(
                    self.spec,
                    self.robot,
                    self.task,
                    episodes=self.episodes,
                    seed=self.seed,
                    scenery=self.scene,
                    unseen_shapes=self.shapes == "unseen",
                    swap_instruction=self.swap_instruction,
                    blind=self.blind,
                    no_instruction=self.no_instruction,
                    workers=self.workers,
                    config=config,
                    max_seconds=self.max_seconds,
                    json=figures,
                    resume=self.resume,
                    page=page,
                    desk=operator,
                    on_start=on_start,
                    on_episode=on_episode,
                )
            except (KeyboardInterrupt, ServingError):
                if self.json is not None and self.json.is_file():
                    note(f"{self.json} holds what was finished: the same command with --resume goes on.")
                elif page is not None:
                    page.close()
                raise
        console().print(result.table())
        if page is not None:
            note(f"report: {page.write(result)}")
        save_json(self.json, result.as_dict())


@dataclass(kw_only=True)
class EvaluateCompare:
    """Say which of two evaluations is better, and how sure that is.

    Takes two files of `rdt2 evaluate cell --json` with the same --task, --episodes and --seed: of two policies, or of
    one with two settings (--mode, --latency, --steps, --robot, a control such as --blind). Scenes are compared pair by
    pair: those that both did, or neither did, say nothing about which is better. p is that of McNemar's exact test: how
    likely so unequal a split of the others is if neither is better. The interval is of the difference between the two
    success rates (Agresti and Min 2005). `followed` compares how often
    the arms did what the sentence says. What else differs between the two is listed.

    For example:
      rdt2 evaluate cell --policy demo-fm --episodes 60 --json a.json
      rdt2 evaluate cell --policy demo-fm --episodes 60 --mode synchronous --json b.json
      rdt2 evaluate compare a.json b.json
    """

    first: Annotated[Positional[Path], arg(metavar="FIRST")]
    """Differences are of this one against the other: positive where it is better."""
    second: Annotated[Positional[Path], arg(metavar="SECOND")]
    """The other one."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.evaluation.compare import compare
        from rdt2.evaluation.results import read_evaluation

        first, second = read_evaluation(self.first), read_evaluation(self.second)
        comparison = compare(first, second)
        out = console()
        lines = comparison.differing()
        out.print(
            "What differs (first / second):" if lines else "Nothing that was set differs.", highlight=False
        )
        for line in lines:
            out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)
        out.print(comparison.table(str(self.first), str(self.second)))
        save_json(self.json, comparison.as_dict())


def _latency(text: str) -> float | None:
    from rdt2.errors import ConfigError

    try:
        return None if text == "real" else float(text)
    except ValueError:
        raise ConfigError(f"--latency is {text!r}, expected seconds such as 0.1, or real.") from None
