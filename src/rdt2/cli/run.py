"""`rdt2 run`: a policy drives a robot of any kind, real or simulated."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rdt2.cli.choices import PageOptions, PolicyOptions, TaskName
from rdt2.cli.driving import Driving
from rdt2.cli.recording import Recording
from rdt2.dashboard.options import Looking
from rdt2.policy.spec import UNSAID, PolicySpec

if TYPE_CHECKING:
    from rdt2.control import DiskRecorder, EpisodeResult
    from rdt2.control.pilots import AnyPilot
    from rdt2.dashboard.desk import Desk
    from rdt2.data.recordings import Mark
    from rdt2.operation.driving import Driven
    from rdt2.operation.preview import Preview
    from rdt2.operation.session import Episode
    from rdt2.policy import Policy


@dataclass(kw_only=True)
class Run:
    """Drive a robot with a policy: real arms, or the simulated cell.

    Nothing moves until you type go, or press start on the page; whatever stops the arms, only your word lets them go
    on. While they move, a line that you type is a new instruction, and Enter alone stops them; type help for the rest.
    Before an arm is enabled its payload, speed slider, TCP and exposure are looked up, and asked where a device cannot
    tell. Only the cell is driven without --policy, by its own small model. First the cell, then --dry-run, then slowly:
    docs/robots.md.

    For example:
      rdt2 run --robot cell_ur5e --instruction "Pick up the red cube with the left hand."
      rdt2 run --robot cell_fr3 --task press --dashboard
      rdt2 run --robot my_robot.yaml --policy own-policy/fm.json --instruction "Pick up the apple." --dry-run
      rdt2 run --robot my_robot.yaml --policy ws://gpu-machine:8000 --instruction "Pick up the apple." --dashboard
      rdt2 run --robot my_robot.yaml --policy runs/expert/model --vlm owner/vlm --device cuda \\
        --instruction "Fold the towel." --max-seconds 120 --rerun towel.rrd
      rdt2 run --robot cell_ur5e --record recordings --pilot keyboard      type take to correct it: docs/recording.md
    """

    spec: PolicyOptions = field(default_factory=lambda: PolicySpec(policy=UNSAID))
    robot: str
    """The yaml of a robot, or the name of one in configs/robots: cell_ur5e, cell_fr3, cell_handheld,
    bimanual_ur5e, bimanual_fr3."""
    instruction: str | None = None
    """What the arms are to do: "Pick up the apple." None: what the scene of the cell was made for."""
    dry_run: bool = False
    """Connect, look once, show the first chunk and what the guard would make of it, in numbers and with --dashboard or
    --rerun in 3-D. No arm and no gripper is enabled."""
    yes: bool = False
    """Answer what is asked before the first episode with yes, and begin it without waiting for go. After a stop, or
    between two episodes of a real robot, a person is waited for all the same."""
    episodes: int | None = None
    """So many, then leave. None: until you quit."""
    max_seconds: float = 60.0
    """Length of an episode that nobody ends; pauses do not count."""
    seed: int = 0
    """The policy's noise; in the cell also which scenes."""
    task: TaskName = "pick"
    """In the cell: what stands on the table."""
    driving: Driving = field(default_factory=Driving)
    recording: Recording = field(default_factory=Recording)
    json: Path | None = None
    """Write how every episode went to this file. - is stdout, alone."""
    looking: PageOptions = field(default_factory=Looking)

    def run(self) -> None:
        from rdt2.cli.output import save_json
        from rdt2.errors import ConfigError
        from rdt2.evaluation.policies import open_policy
        from rdt2.observation import check_instruction
        from rdt2.operation.checklist import Checklist
        from rdt2.operation.session import confirmed, ending_in_order, episodes
        from rdt2.policy.process import PolicyProcess
        from rdt2.progress import note, working
        from rdt2.robot.settings import RobotSettings

        if self.episodes is not None and self.episodes < 1:
            raise ConfigError(f"--episodes is {self.episodes}, expected 1 or more.")
        if not self.max_seconds > 0:
            raise ConfigError(f"--max-seconds is {self.max_seconds}, expected more than 0.")
        if self.instruction is not None:
            for warning in check_instruction(self.instruction):
                note(f"instruction: {warning}")
        self.driving.config(None)
        self.recording.recorder({})  # says what is missing before anything is opened
        settings = RobotSettings.read(self.robot)
        if self.spec.policy == UNSAID:
            if settings.kind != "cell":  # the small model of the cell must not move a real arm by mistake
                raise ConfigError(
                    f"{settings.name} is not the simulated cell, and no policy was named: write --policy, a folder, a "
                    "bundle's .json, a hub id or ws://host:8000."
                )
            self.spec = dataclasses.replace(self.spec, policy=PolicySpec.policy)
        checklist = Checklist(settings, lambda text: confirmed(text, yes=self.yes))
        every = episodes(
            settings,
            instruction=self.instruction,
            task=self.task,
            seed=self.seed,
            checklist=checklist,
            enable=not self.dry_run,
            check=self.recording.check,
        )
        records: list[dict[str, Any]] = []
        with ending_in_order(), self.recording.opened_pilot(settings) as pilot, contextlib.closing(every):
            # Whether devices answer, and can be moved by hand, is known before minutes go by; else a cell is opened
            # later, since its physics would only make loading slower.
            later = settings.kind == "cell" and self.recording.pilot != "hand"
            first = None if later else next(every)
            with working(f"loading {self.spec.policy}"):
                policy = PolicyProcess(self.spec, open=open_policy)
            with policy:
                first = first or next(every)
                if self.dry_run:
                    self._preview(first, policy)
                    return
                try:
                    self._drive(first, every, policy, records, pilot)
                finally:  # also of a session that Ctrl-C or a device has ended
                    save_json(
                        self.json, {"robot": settings.name, "policy": self.spec.policy, "episodes": records}
                    )

    def _drive(
        self,
        first: Episode,
        every: Any,
        policy: Policy,
        records: list[dict[str, Any]],
        pilot: AnyPilot | None,
    ) -> None:
        """One episode after the other, until the operator leaves; what came of them is added to `records`."""
        from rdt2.cli.recording import marked
        from rdt2.dashboard.desk import Desk
        from rdt2.dashboard.figure import Figure
        from rdt2.errors import RobotError
        from rdt2.evaluation.identity import policy_identity
        from rdt2.operation.driving import drive, result_of

        driven: Driven[Any] | None = None
        simulated = first.opened.settings.kind == "cell"
        recorder = self.recording.recorder(
            policy_identity(self.spec, policy) if self.recording.record else {}
        )
        kept: dict[str, Any] = {}
        if recorder is not None:
            kept = {"keep": recorder.keep, "unkept": lambda: recorder.unkept}
        with Desk(
            self.looking, goes_on=self.yes and simulated, typed=True, welcomed=self.yes, pilot=pilot, **kept
        ) as desk:
            episode = first
            while True:
                opened = episode.opened
                title = f"{opened.settings.name}, episode {episode.number + 1}"
                if recorder is not None:
                    recorder.begin(opened.robot.clock, opened.settings, title=title)
                try:
                    driven = drive(
                        opened.robot,
                        policy,
                        episode.sentence,
                        settings=opened.settings,
                        config=self.driving.config(None),
                        max_seconds=self.max_seconds,
                        seed=1000 * (self.seed + episode.number),
                        figure=functools.partial(Figure.of_robot, opened.settings),
                        title=title,
                        judge=functools.partial(desk.monitor, opened.judge, episode.sentence),
                        desk=desk,
                        recorders=[recorder] if recorder is not None else [],
                        pilot=pilot,
                        prepare=episode.prepare,
                    )
                except BaseException as error:  # what was driven until then is kept, whatever ended it
                    failed = result_of(error)
                    _end(recorder, failed, desk.mark, "a person")
                    if hasattr(error, "episode"):
                        records.append(_record(failed, desk.mark, desk))
                    raise
                if driven is not None:
                    _end(recorder, driven.result, *marked(driven, desk.mark))
                    records.append(_record(driven.result, driven.mark or desk.mark, desk))
                if driven is None and not records:  # not 0, which says that all is well
                    raise RobotError("not begun: you left before go. Nothing has moved.")
                if driven is None or driven.interrupted or desk.left or len(records) == self.episodes:
                    break
                if (following := next(every, None)) is None:
                    break
                episode = following
        every.close()
        if driven is not None and driven.result.signal:
            driven.obey()

    def _preview(self, episode: Episode, policy: Policy) -> None:
        """Show what would happen."""
        from rdt2.cli.output import console, save_json
        from rdt2.dashboard import open_desk
        from rdt2.operation.preview import preview
        from rdt2.progress import note

        opened = episode.opened
        seen = preview(opened.robot, opened.settings, policy, episode.sentence, seed=1000 * self.seed)
        out = console()
        out.print(_table(seen, f"{opened.settings.name}: {episode.sentence}"))
        for doubt in seen.doubts:
            note(f"the loop would not act upon this: {doubt}")
        if not seen.doubts:
            note("the loop would act upon these pictures and states")
        for held in seen.held:
            note(f"the guard: {held.what} (from {held.time:.2f} s, for {held.seconds:.2f} s)")
        note(f"the prediction took {seen.seconds:.2f} s. Nothing was enabled, and nothing has moved.")
        save_json(self.json, _figures(seen))
        with open_desk(self.looking, goes_on=True) as desk:
            if desk is None:
                return
            desk.present(opened.robot, opened.figure, seen.messages(opened.figure), episode.sentence)
            if self.looking.dashboard:
                note("the page shows it; Enter ends")
                sys.stdin.readline()


def _end(recorder: DiskRecorder | None, result: EpisodeResult, mark: Mark | None, by: str) -> None:
    """Give what was recorded of an episode its end and its mark, and say where it is."""
    from rdt2.progress import note

    if recorder is not None:
        for path in recorder.end(result, mark=mark, marked_by=by):
            note(f"recorded: {path}" + (f" ({mark}, says {by})" if mark else " (without a mark)"))


def _record(result: EpisodeResult, mark: Mark | None, desk: Desk) -> dict[str, Any]:
    return {
        "instruction": desk.sentence(),
        "ending": result.ending,
        "success": result.success,
        "mark": mark,
        "seconds": round(result.seconds, 3),
        "chunks": len(result.inference),
        "pauses": [dataclasses.asdict(pause) for pause in result.pauses],
        "held_back": [dataclasses.asdict(held) for held in result.slowed],
        "unrecorded": result.unrecorded,
    }


def _figures(seen: Preview) -> dict[str, Any]:
    rows = [{**vars(row), "move": row.move.tolist(), "made": row.made.tolist()} for row in seen.rows()]
    held = [dataclasses.asdict(held) for held in seen.held]
    return {"rows": rows, "doubts": seen.doubts, "held_back": held, "inference_seconds": seen.seconds}


def _table(seen: Preview, title: str) -> Any:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for name in (
        "arm",
        "step",
        "moves in x, y, z (mm)",
        "turns (°)",
        "opening (mm)",
        "the guard makes of it (mm)",
    ):
        table.add_column(
            name, justify="left" if name == "arm" else "right", min_width=min(14, len(name) // 2 + 1)
        )
    for row in sorted(seen.rows(), key=lambda row: row.side):
        table.add_row(
            row.side,
            str(row.step),
            _mm(row.move),
            f"{57.29578 * row.turn:.1f}",
            f"{1e3 * row.width:.0f}",
            _mm(row.made),
        )
    return table


def _mm(move: Any) -> str:
    return ", ".join("-" if value != value else str(round(1e3 * value)) for value in move)
