"""`rdt2 calibrate`: where a robot's tool is, how late its devices are, where its table and arms stand."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rdt2.cli.asking import caliper, entered, numbers, pairs, typed, wave_before, within
from rdt2.cli.choices import PageOptions
from rdt2.dashboard.options import Looking

if TYPE_CHECKING:
    from rdt2.calibration.outcome import Outcome
    from rdt2.calibration.stand import Stand
    from rdt2.calibration.track import Track
    from rdt2.control.way import Way
    from rdt2.dashboard.desk import Desk
    from rdt2.robot.settings import RobotSettings


@dataclass(kw_only=True)
class _Calibration:
    """What all commands of the group take."""

    robot: str
    """The yaml of a robot, or the name of one in configs/robots: of that a changed copy is written to --out, with which
    later commands go on."""
    side: Literal["right", "left"] | None = None
    """Which arm. None: the right one, or the only one."""
    out: Path = Path("calibration")
    """Folder for the page with plots, the figures and recordings."""
    json: Path | None = None
    """Write what was found to this file, too. - is stdout, alone."""
    yes: bool = False
    """Answer what is asked with yes, and begin without waiting for go."""
    seed: int = 0
    """In the cell: which scene, and so from where."""
    looking: PageOptions = field(default_factory=Looking)

    def _settings(self) -> RobotSettings:
        from rdt2.calibration.writing import written_to
        from rdt2.progress import note
        from rdt2.robot.reading import find
        from rdt2.robot.settings import RobotSettings

        copy = written_to(self.robot, self.out)
        if copy != find(self.robot) and copy.is_file():
            self.robot = str(copy)
            note(f"robot: {self.robot}, as calibrated before; another --out begins anew")
        return RobotSettings.read(self.robot)

    def _side(self, settings: RobotSettings) -> str:
        from rdt2.calibration.stand import side_of

        return side_of(settings, self.side)

    @contextmanager
    def _standing(
        self, settings: RobotSettings, *, enable: bool = True, blind: bool = True
    ) -> Iterator[Stand]:
        from rdt2.calibration.stand import standing
        from rdt2.operation.session import confirmed, ending_in_order

        with (
            ending_in_order(),
            standing(
                settings,
                seed=self.seed,
                confirm=lambda text: confirmed(text, yes=self.yes),
                enable=enable,
                blind=blind,
            ) as stand,
        ):
            yield stand

    @contextmanager
    def _led(self, stand: Stand, way: Way, title: str) -> Iterator[Desk]:
        """Show a way and wait for go. Raises RobotError: the operator left."""
        from rdt2.dashboard.desk import Desk
        from rdt2.errors import RobotError
        from rdt2.operation.home import shots
        from rdt2.progress import note

        opened = stand.opened
        states = {side: arm.state() for side, arm in opened.robot.arms.items()}
        note(f"{opened.settings.name}: {title}")
        with Desk(self.looking, goes_on=False, typed=True, welcomed=self.yes, as_shown=True) as desk:
            shown = shots(way, opened.settings, opened.figure, states, opened.robot)
            desk.begin(opened.robot, opened.figure, "Calibrate.", title=title, shown=shown)
            if desk.left:  # not 0, which says that all is well
                raise RobotError(
                    "not begun: you left before go. Nothing has moved, and nothing was measured."
                )
            yield desk

    def _tell(self, outcome: Outcome, name: str) -> None:
        """The terminal, the page, the JSON, and the robot's yaml."""
        from rich.table import Table

        from rdt2.calibration.outcome import write_page
        from rdt2.calibration.writing import write_changes, written_to
        from rdt2.cli.output import console, save_json
        from rdt2.progress import note

        later = written_to(self.robot, self.out)
        robot = str(later if outcome.changes or later.is_file() else self.robot)
        outcome = replace(
            outcome, following=[each.replace("{robot}", f"--robot {robot}") for each in outcome.following]
        )
        table = Table(title=outcome.title, title_justify="left", show_header=False)
        for row in outcome.rows:
            table.add_row(*row)
        console().print(table)
        for remark in outcome.notes:
            note(remark)
        figures = {**outcome.values, "notes": list(outcome.notes), "changes": dict(outcome.changes)}
        if outcome.changes:  # before anything says that it was written
            path, old = write_changes(
                self.robot, outcome.changes, by=f"rdt2 calibrate {name.split('_')[0]}", copy_to=self.out
            )
            note(f"written: {', '.join(outcome.changes)} in {path}" + (f"; as it was: {old}" if old else ""))
        page = write_page(outcome, self.out / f"{name}.html")
        save_json(self.out / f"{name}.json", figures)
        save_json(self.json, figures)
        note(f"page: {page}")
        for step in outcome.following:
            note(f"next: {step}")
        if not outcome.holds:
            sys.exit(1)


@dataclass(kw_only=True)
class CalibrateHandeye(_Calibration):
    """Find the tool of an arm with a tracker screwed on it.

    All six numbers of the offset, and the clocks' difference. The arm turns and moves a little about where it stands,
    for half a minute. The motion is made smaller until its whole way is clear, and shown first; it begins when you type
    go, and Enter stops it. What the motion leaves open is named, nothing is written then, and it ends with 1. In the
    cell the tracker is simulated.

    For example:
      rdt2 calibrate handeye --robot cell_ur5e --yes
      rdt2 calibrate handeye --robot my_robot.yaml --side left --tracker serial=LHR-0123ABCD
      rdt2 calibrate handeye --robot my_robot.yaml --recording calibration/recording_right
      rdt2 calibrate handeye --robot my_robot.yaml --side left --recording tmp --published
    """

    tracker: tuple[str, ...] = ()
    """What its driver needs, each key=value: type=openvr serial=LHR-0123ABCD."""
    recording: Path | None = None
    """Solve this folder instead of moving: one that this command kept, or tmp of the published scripts."""
    published: bool = False
    """Tell y and z of the published method, too. They are never written."""
    degrees: float = 25.0
    """Largest turn about each axis, 5 to 60; made smaller where there is no room."""
    seconds: float = 30.0
    """Length of the motion, 12 to 120."""

    def run(self) -> None:
        from rdt2.calibration.motion import Excitation
        from rdt2.calibration.tool import handeye, keep, kept, side_of_recording
        from rdt2.cli.output import existing
        from rdt2.errors import ConfigError
        from rdt2.progress import working

        settings = self._settings()
        if self.recording is not None:
            self.side = side_of_recording(existing(self.recording, "recording"), self.side)  # type: ignore[assignment]
            if self.side is None and len(settings.sides) > 1:
                raise ConfigError(f"{self.recording} does not say of which arm it is: --side right or left.")
        side = self._side(settings)
        if self.recording is not None:
            tracker, arm = kept(self.recording)
        else:
            motion = Excitation(
                degrees=within("--degrees", self.degrees, 5, 60),
                seconds=within("--seconds", self.seconds, 12, 120),
            )
            tracker, arm = _recorded(self, settings, side, motion, self.tracker)
            keep(self.out / f"recording_{side}", tracker, arm, side)
        with working("solving"):
            outcome = handeye(tracker, arm, side, robot=self.robot, published=self.published)
        self._tell(outcome, f"handeye_{side}")


def _recorded(
    command: Any, settings: RobotSettings, side: str, motion: Any, tracker: tuple[str, ...]
) -> tuple[Track, Track]:
    """Tracker and arm of a motion."""
    from rdt2.calibration.moving import planned, record

    with command._standing(settings) as stand, stand.tracker(side, pairs(tracker)) as device:
        opened = stand.opened
        way, motion = planned(opened.settings, opened.robot, side, motion)
        title = (
            f"the {side} arm turns by up to {motion.degrees:.0f} degrees and goes {1e3 * motion.metres:.0f} mm to each "
            f"side, {motion.seconds:.0f} s, clear all the way"
        )
        with command._led(stand, way, title) as desk:
            kept = record(
                opened.robot,
                opened.settings,
                side,
                way,
                permit=desk.as_shown(),
                recorder=desk,
                tracker=device,
            )
        return kept.tracker_track(), kept.arm_track(settings.arms[side].base)


@dataclass(kw_only=True)
class CalibrateCheck(_Calibration):
    """Say whether the stored calibration of a tool still holds.

    It takes less than a minute, and ends with 1 where it does not. The arm moves a little for some seconds, with the
    tracker on its tool; nothing is written.

    For example:
      rdt2 calibrate check --robot cell_ur5e --yes
      rdt2 calibrate check --robot my_robot.yaml --side left --tracker serial=LHR-0123ABCD
    """

    tracker: tuple[str, ...] = ()
    """What its driver needs, each key=value: type=openvr serial=LHR-0123ABCD."""

    def run(self) -> None:
        from rdt2.calibration.tool import CHECKING, check, tracker_to_policy

        settings = self._settings()
        side = self._side(settings)
        tracker, arm = _recorded(self, settings, side, CHECKING, self.tracker)
        stored = settings.arms[side].policy_to_tcp, tracker_to_policy(self.robot, side)
        self._tell(check(tracker, arm, side, *stored), f"check_{side}")


@dataclass(kw_only=True)
class CalibrateLatency(_Calibration):
    """Measure how late arm, gripper and camera are.

    Each is told with an interval.

    The arm turns by some degrees, fingers move to and fro, and the camera looks at whatever stands there: the room must
    be lit, and not empty. The latencies of the side are written.

    For example:
      rdt2 calibrate latency --robot cell_ur5e --yes
      rdt2 calibrate latency --robot my_robot.yaml --side left
    """

    no_camera: bool = False
    """Leave the camera out: where it sees nothing but a bare wall."""

    def run(self) -> None:
        from rdt2.calibration.devices import MOTION, fingers, latency
        from rdt2.calibration.moving import planned, record

        settings = self._settings()
        side = self._side(settings)
        with self._standing(settings, blind=self.no_camera) as stand:
            robot, told = stand.opened.robot, stand.opened.settings
            opening = fingers(robot.grippers[side].state().width, settings.arms[side].gripper.stroke)
            way, motion = planned(told, robot, side, MOTION, width=opening)
            title = f"the {side} arm turns by {motion.degrees:.0f} degrees, its fingers move, {MOTION.seconds:.0f} s"
            with self._led(stand, way, title) as desk:
                kept = record(
                    robot, told, side, way, permit=desk.as_shown(), recorder=desk, width=opening,
                    pictures=not self.no_camera,
                )  # fmt: skip
        self._tell(
            latency(kept, way, side, settings.arms[side], camera=not self.no_camera), f"latency_{side}"
        )


@dataclass(kw_only=True)
class CalibrateGripper(_Calibration):
    """Find how far a gripper opens, and what a metre really is.

    Nothing may be between the fingers. It closes, and opens, and Enter stops it; measure the opening with a caliper
    each time, or say what you have measured before.

    For example:
      rdt2 calibrate gripper --robot my_robot.yaml --side left
      rdt2 calibrate gripper --robot cell_ur5e --measured 0.0 0.092 --yes
    """

    measured: tuple[float, float] | None = None
    """Real opening between the fingers closed and open, metres, from a caliper."""

    def run(self) -> None:
        from rdt2.calibration.devices import gripper
        from rdt2.errors import RobotError
        from rdt2.operation.session import confirmed

        settings = self._settings()
        side = self._side(settings)
        if not confirmed(
            f"The {side} gripper will close and open (Enter stops it): is nothing between its fingers?",
            yes=self.yes,
        ):
            raise RobotError("not confirmed. Nothing has moved.")
        with self._standing(settings) as stand:
            outcome = gripper(
                stand.opened.robot, stand.opened.settings, side, permit=entered, measured=self.measured,
                ask=None if self.yes else caliper,
            )  # fmt: skip
        self._tell(outcome, f"gripper_{side}")


@dataclass(kw_only=True)
class CalibrateTable(_Calibration):
    """Find the height of the table by touching it.

    The arm comes down on four points around where it stands until it meets the table: by its wrench, where it has one.
    It does at 1 cm/s, only to 2 cm above what it has met before at 5 cm/s. Have the closed fingers a few centimetres
    over the free table before. With --by-hand nothing moves by itself: you lead the arm to three points or more, and
    press Enter at each. With --points they are what you know.

    For example:
      rdt2 calibrate table --robot cell_ur5e --yes
      rdt2 calibrate table --robot my_robot.yaml --side left --by-hand
      rdt2 calibrate table --robot my_robot.yaml --points touched.json
    """

    points: Path | None = None
    """A JSON file of touched points: [[x, y, z], ...] in the cell frame, metres."""
    by_hand: bool = False
    """Read the points while you lead the arm with its hand-guiding button or pendant; Enter takes one, done ends it."""

    def run(self) -> None:
        from rdt2.calibration.places import table, touch_off, touched_by_hand

        settings = self._settings()
        side = self._side(settings)
        if self.points is not None:
            self._tell(table(numbers(self.points), settings), "table")
            return
        if self.by_hand:
            with self._standing(settings, enable=False) as stand:
                touched = touched_by_hand(stand.opened.robot, stand.opened.settings, [side], typed)
            self._tell(table(touched[side], settings), "table")
            return
        with self._standing(settings) as stand:
            opened = stand.opened
            way = _still(opened)
            title = f"the {side} arm comes down on four points of the table, at 1 cm/s where it may meet it"
            with self._led(stand, way, title) as desk:
                points = touch_off(opened.robot, opened.settings, side, permit=desk.as_shown(), recorder=desk)
        self._tell(table(points, settings), "table")


@dataclass(kw_only=True)
class CalibrateArms(_Calibration):
    """Find where the arms stand to each other (tx_left_right).

    That is where the right arm stands in the left one's frame. Nothing moves by itself. From two hand-eye calibrations
    under the same stations, or from the same three points or more that both arms touched, in the same order: by hand
    now, or written in a file.

    For example:
      rdt2 calibrate arms --robot my_robot.yaml --by-hand
      rdt2 calibrate arms --robot my_robot.yaml --reports calibration/handeye_left.json calibration/handeye_right.json
      rdt2 calibrate arms --robot my_robot.yaml --points touched.json
    """

    reports: tuple[Path, Path] | None = None
    """What 'rdt2 calibrate handeye' wrote of the left and of the right arm; the stations must not have been moved."""
    points: Path | None = None
    """A JSON file {"left": [[x, y, z], ...], "right": [...]}, each in the cell frame as its arm tells it, metres."""
    by_hand: bool = False
    """Lead both arms to each point, the left one first; Enter takes it, done ends it. Far apart is exact."""

    def run(self) -> None:
        from rdt2.calibration.places import arms, from_points, from_reports, touched_by_hand
        from rdt2.errors import ConfigError

        settings = self._settings()
        if [self.reports is not None, self.points is not None, self.by_hand].count(True) != 1:
            raise ConfigError("expected one of --by-hand, --reports LEFT RIGHT and --points FILE.")
        if len(settings.sides) < 2:
            raise ConfigError(f"robot {settings.name!r} has one arm: there is nothing to place it by.")
        how = "by touched points"
        if self.reports is not None:
            found, how = from_reports(*self.reports), "by the tracker"
        elif self.points is not None:
            found = from_points(settings, numbers(self.points, sides=True))
        else:
            with self._standing(settings, enable=False) as stand:
                touched = touched_by_hand(stand.opened.robot, settings, ["left", "right"], typed)
            found = from_points(settings, touched)
        self._tell(arms(settings, found, how), "arms")


@dataclass(kw_only=True)
class CalibrateCamera(_Calibration):
    """Look at the wrist cameras: exposure, crop, whose hand, lens.

    No arm moves. You are asked to hold a hand before one gripper after the other. Exposures that are wrong, and cameras
    that are the wrong way round, are put right in the yaml. For the lens print the board, measure a square, take 15
    pictures of it in all corners and tilts, and solve them.

    For example:
      rdt2 calibrate camera --robot my_robot.yaml
      rdt2 calibrate camera --robot my_robot.yaml --board board.png
      rdt2 calibrate camera --robot my_robot.yaml --side left --take lens/
      rdt2 calibrate camera --robot my_robot.yaml --side left --pictures lens/ --square 0.0298
      rdt2 calibrate camera --robot my_robot.yaml --side left --pictures lens/ --view 110       and crops to 110 degrees
    """

    board: Path | None = None
    """Draw the board to this file, and do nothing else."""
    take: Path | None = None
    """Take pictures of the board into this folder with the camera of --side, one at each Enter, and do nothing else."""
    pictures: Path | None = None
    """A folder of pictures of the board, taken by --take with the camera of --side: its lens is told, too."""
    square: float = 0.03
    """Side of a square of the printed board, metres."""
    view: float | None = None
    """With --pictures: write the crop with which that camera shows so many degrees from edge to edge. What a policy was
    trained on says how many: calibrate the camera of the recordings, and take what it is told to show."""

    def run(self) -> None:
        from rdt2.calibration.eyes import eyes, lens_of, take
        from rdt2.calibration.lens import Board
        from rdt2.errors import ConfigError
        from rdt2.files import whole_file
        from rdt2.progress import note

        if self.view is not None and self.pictures is None:
            raise ConfigError("--view needs the lens: --pictures FOLDER.")
        board = Board(square=within("--square, metres,", self.square, 0.001, 1))
        if self.board is not None:
            from PIL import Image

            with whole_file(self.board) as partial:
                Image.fromarray(board.picture()).save(partial, format="png")
            note(f"board: {self.board}; print it, glue it onto something flat, and measure a square")
            return
        settings = self._settings()
        side = self._side(settings)
        lens = None if self.pictures is None else (side, lens_of(self.pictures, board, side))
        with self._standing(settings, blind=False) as stand:
            if self.take is not None:
                taken = take(stand.opened.robot, side, self.take, typed)
                note(f"{taken} pictures of the {side} camera in {self.take}; next: --pictures {self.take}")
                return
            wave = None if self.yes or stand.cell is not None else wave_before
            outcome = eyes(stand.opened.robot, settings, wave=wave, lens=lens, view=self.view)
        self._tell(outcome, "camera")


def _still(opened: Any) -> Way:
    """The arms as they stand, for the operator to look at."""
    import numpy as np

    from rdt2.control.way import Way

    return Way(
        {s: np.repeat(arm.state().joints[None], 2, axis=0) for s, arm in opened.robot.arms.items()}, "still"
    )
