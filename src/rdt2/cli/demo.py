"""`rdt2 demo`: the main job, small: two wrist pictures and a sentence move two simulated arms."""

from __future__ import annotations

import dataclasses
import shlex
import sys
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rdt2.cli.choices import PageOptions, PolicyOptions, RobotName, TaskNameOrAll
from rdt2.dashboard.options import Looking
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from rdt2.evaluation.report import EpisodeView, SummaryRow
    from rdt2.evaluation.results import EpisodeRecord

ROBOTS = {"ur5e": "two UR5e arms", "fr3": "two Franka Research 3 arms", "handheld": "two handheld grippers"}
MODELS = {"demo-fm": "RDT2-FM", "demo-vq": "RDT2-VQ"}


@dataclass(kw_only=True)
class Demo:
    """Film a policy that moves two simulated arms, in a report.

    A table says how often it succeeds. The arms were never in the training data of the built-in models: only two
    handheld grippers were. --policy films any other, such as one that you trained.

    For example:
      rdt2 demo                                            all three tasks on two UR5e
      rdt2 demo --robot fr3 --task press --episodes 4
      rdt2 demo --policy demo-vq --task pick --seed 7
      rdt2 demo --policy own-policy/fm.json --steps 1
      rdt2 demo --policy owner/expert --vlm owner/vlm --normalizer normalizer.pt --device cuda
      rdt2 demo --dashboard                                an operator's page: type a sentence, press start
      rdt2 demo --instruction "Pick up the red cube with the left hand."
    """

    out_is_file: ClassVar[bool] = True

    spec: PolicyOptions = field(default_factory=PolicySpec)
    robot: RobotName = "ur5e"
    """Which arms."""
    task: TaskNameOrAll = "all"
    """What to do."""
    instruction: str | None = None
    """A sentence of your own. Scenes are chosen in which it names something."""
    episodes: int = 2
    """Scenes for each task."""
    seed: int = 0
    """Which scenes, and the policy's noise."""
    out: Path = Path("reports/demo.html")
    """The report: one HTML file."""
    json: Path | None = None
    """Write the figures to this file. - is stdout, alone."""
    looking: PageOptions = field(default_factory=Looking)

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.dashboard import open_desk
        from rdt2.evaluation.cell import loop_config, run_trial
        from rdt2.evaluation.film import EpisodeFilm
        from rdt2.evaluation.policies import open_policy
        from rdt2.evaluation.report import Report, stage_timings, write_report
        from rdt2.evaluation.scenes import draw_trials, trials_for
        from rdt2.observation import check_instruction
        from rdt2.progress import note, progress, working
        from rdt2.sim.render import require_rendering
        from rdt2.sim.tasks import TASKS, task_for

        spec = self.spec
        require_rendering()
        kinds = list(TASKS) if self.task == "all" else [self.task]
        if self.instruction is None:
            trials = [trial for kind in kinds for trial in draw_trials(kind, self.episodes, self.seed)]
        else:
            for warning in check_instruction(self.instruction):
                note(f"instruction: {warning}")
            trials = trials_for(self.instruction, kinds, self.episodes, self.seed)
            scene = trials[0].scene()
            if trials[0].task(scene) is None:
                note(
                    "instruction: it names no task of these scenes, so nobody can say whether it was done: the report "
                    f"shows what the arms did. A sentence that does: {task_for(scene).instruction}"
                )
        with working(f"loading {spec.policy}"):
            policy = open_policy(spec)

        records: dict[str, list[EpisodeRecord]] = defaultdict(list)
        views: list[EpisodeView] = []
        seconds: dict[str, list[float]] = defaultdict(list)
        with (
            open_desk(self.looking, goes_on=False) as operator,
            progress(f"two hands on {self.robot}", len(trials)) as advance,
        ):
            for trial in trials:
                films: list[EpisodeFilm] = []

                def watch(cell: Any, films: list[EpisodeFilm] = films) -> EpisodeFilm:
                    films.append(EpisodeFilm(cell))
                    return films[0]

                record, result = run_trial(
                    trial, policy, self.robot, config=loop_config(), watch=watch, desk=operator
                )
                records[trial.task_kind].append(record)
                views.append(films[0].view(record, result, title=f"{trial.task_kind} on {self.robot}"))
                for stage, values in films[0].seconds.items():
                    seconds[stage] += values
                advance(1, f"{record.instruction} {record.reason}")

        summary = [_row(kind, done) for kind, done in records.items() if all(r.judged for r in done)]
        seeds = ", ".join(str(view.seed) for view in views)
        report = Report(
            title="Two wrist pictures and a sentence move two arms",
            title_zh="两张腕部图像加一句话，驱动双臂完成操作",
            subtitle=_subtitle(spec.policy, _words(self.robot)),
            summary=summary,
            episodes=views,
            timing=stage_timings(seconds),
            settings={
                "command": shlex.join(["rdt2", *sys.argv[1:]]),
                **{k: str(v) for k, v in vars(policy).items() if k in ("draws", "temperature")},
                **{name: str(value) for name, value in _asked(spec).items()},
                "scene seeds": seeds,
            },
        )
        with working("writing the report"):
            path = write_report(self.out, report)
        out = console()
        if summary:
            out.print(_table(summary, f"{spec.policy} on {_words(self.robot)}"))
        if self.instruction is not None:
            for view in views:
                out.print(_told(view), highlight=False, markup=False, soft_wrap=True)
        out.print(f"Report: [link=file://{path}]{path}[/link]", highlight=False, soft_wrap=True)
        save_json(self.json, self._figures(records, path))

    def _figures(self, records: dict[str, list[EpisodeRecord]], report: Path) -> dict[str, Any]:
        every = [record for done in records.values() for record in done]
        judged = {kind: [record for record in done if record.judged] for kind, done in records.items()}
        return {
            "robot": self.robot,
            **_asked(self.spec),
            "seed": self.seed,
            "episodes": len(every),
            "judged": sum(map(len, judged.values())),
            "success": sum(record.success for done in judged.values() for record in done),
            "followed": sum(record.followed for done in judged.values() for record in done),
            "tasks": {kind: _row(kind, done).success.as_dict() for kind, done in judged.items() if done},
            "records": [dataclasses.asdict(record) for record in every],
            "report": report,
        }


def _asked(spec: PolicySpec) -> dict[str, Any]:
    """The policy, and its options that were set."""
    usual = PolicySpec()
    values = {each.name: getattr(spec, each.name) for each in dataclasses.fields(spec)}
    return {
        name: value for name, value in values.items() if name == "policy" or value != getattr(usual, name)
    }


def _words(robot: str) -> str:
    return ROBOTS.get(robot, f"two {robot} arms")


def _subtitle(policy: str, robot: str) -> str:
    if policy in MODELS:
        return (
            f"{MODELS[policy]}, the small built-in checkpoint, on {robot} in simulation. Its training data show two "
            "handheld grippers and no arm at all."
        )
    return f"The policy {policy} on {robot} in simulation."


def _row(kind: str, done: list[EpisodeRecord]) -> SummaryRow:
    from statistics import median

    from rdt2.evaluation.report import SummaryRow
    from rdt2.evaluation.statistics import Rate

    times = [record.seconds for record in done if record.success]
    return SummaryRow(
        label=kind,
        success=Rate.of(len(times), len(done)),
        followed=Rate.of(sum(record.followed for record in done), len(done)),
        seconds=median(times) if times else float("nan"),
    )


def _told(view: EpisodeView) -> str:
    """What the arms did about a sentence of the user's own."""
    if view.success is None:
        done = "it names no task of this scene, so look at the report for what the arms did"
    elif view.success:
        done = "done"
    else:
        done = "begun as asked, not finished" if view.followed else "not done"
    return f"scene {view.seed}, {view.seconds:.1f} s: {view.instruction} {done} ({view.reason})"


def _table(rows: list[SummaryRow], title: str) -> Any:
    from rich.table import Table

    from rdt2.evaluation.results import rate_cells

    table = Table(title=title, title_justify="left")
    table.add_column("task")
    for name in ("success", "rate", "95 % interval", "did what the sentence says", "median time"):
        table.add_column(name, justify="right")
    for row in rows:
        seconds = f"{row.seconds:.1f} s" if row.success.count else ""
        followed = f"{row.followed.count}/{row.followed.trials}"
        table.add_row(row.label, *rate_cells(row.success), followed, seconds)
    return table
