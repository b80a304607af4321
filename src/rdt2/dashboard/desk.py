"""The robot's end of the operator's page: looks on as a recorder does, and says what the operator wants.

Everything the loop asks here is answered at once, from memory: two threads talk with the page's process. When that
process is slow, what waits for it is dropped; when it ends, the arms go on as if nobody had looked, except that
nothing begins without an operator, and that a dead man's switch is let go.
"""

from __future__ import annotations

import threading
import time as wall
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from rdt2.action import ARMS
from rdt2.control.pilots import KeyboardPilot
from rdt2.dashboard.judging import OperatorsJudge
from rdt2.dashboard.keyboard import Keyboard
from rdt2.dashboard.messages import Asked, Chunk, Mark, Pictures, Scene, Shot, Stage, State
from rdt2.dashboard.showing import Showing
from rdt2.errors import RDT2Error, RobotError
from rdt2.observation import check_instruction
from rdt2.progress import note, wait_for_notes

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.control import Cycle, EpisodeResult, Moment, Monitor
    from rdt2.control.pilots import AnyPilot
    from rdt2.dashboard.figure import Figure
    from rdt2.dashboard.options import Looking
    from rdt2.observation import Observation
    from rdt2.robot import Robot

EMERGENCY = "emergency stop on the page"
STOP = "stopped on the page"
PAUSE = "paused by the operator"
DISTURBED = "the operator said something meanwhile"
UNMOVED = "nothing moves until you start it"
TOO_LATE = "the mark came too late: the episode that it was meant for is over, and has none"
TOO_SOON = "start came too soon: press it again, or type go again"
LET_GO = "the dead man's switch on the page was let go"
GONE = "the page has ended, and with it the dead man's switch"
HELD_SECONDS = 0.5
"""A dead man's switch says ten times a second that it is held; silence for so long counts as let go."""
LET_GO_SECONDS = 2.0  # so long where something was wrong: a page that hung for a moment is no new word
LOOK_EVERY = 0.1
"""Seconds between two looks at a robot that waits."""
SETTLING = 1.0
"""Seconds in which start does not count when it has come up anew, on the page or typed: who presses Go on, or types go,
twice does not mean it."""
NOTES_SECONDS = 1.0
"""Seconds that `close` waits for what is still to be told in the terminal."""
PICTURES_EVERY = 10
"""Of these looks, one for so many has pictures."""
DRY = "dry run: nothing is enabled"
UNKEPT = "--record FOLDER --record-last 30 keeps the last 30 s when you ask for it"
SENTENCE = 300
"""Characters an instruction may have."""
EXPECTED = ("done", "time is up")
"""Endings after which the next episode of a real robot may begin by itself; after any other a person has to look."""


class Desk:
    """Opens the page, and listens to the keyboard; close it, or use it in a `with` statement. It is a recorder for
    `run_episode`.

    Args:
        looking: what is to be opened, and where.
        goes_on: whether the next episode begins by itself; the operator may change that.
        typed: what is typed in the terminal counts, too: see `rdt2.dashboard.keyboard`.
        pilot: a person who takes over, on the page or by typing take.
        keep: writes the last seconds to a file, on the page or when keep is typed; gives None where nothing is kept.
        unkept: says why nothing is.
        as_shown: what is begun is a way that was shown: it is driven so, or not at all (see `as_shown`).
        welcomed: whether even the first episode begins by itself; None: where there is no page to start it.

    Raises:
        ConfigError: what it needs is not installed, or the address cannot be had.
    """

    def __init__(
        self,
        looking: Looking,
        *,
        goes_on: bool,
        typed: bool = False,
        welcomed: bool | None = None,
        pilot: AnyPilot | None = None,
        keep: Callable[[], Any] | None = None,
        unkept: Callable[[], str] = lambda: UNKEPT,
        as_shown: bool = False,
    ) -> None:
        self._figure: Figure | None = None
        self._cycle: Cycle | None = None
        self._simulated = False
        self._started, self._changed = False, threading.Event()
        self._stopping, self._emergency, self._faults = "", False, list[str]()
        self._held = self._settled = -float("inf")
        self._welcomed = not looking.dashboard if welcomed is None else welcomed
        self._unbidden = bool(welcomed)
        self.touched = False
        """The operator gave another sentence, paused or stopped: the episode is no longer what it was to be."""
        self.finished = False
        """The operator ended the episode, with a mark or without."""
        self.left = False
        """The operator wants nothing more."""
        self._asked, self._pilot = "", pilot
        self._keep, self._unkept, self._keeping = keep, unkept, threading.Lock()
        handed = pilot is not None and not isinstance(pilot, KeyboardPilot)
        self._state = State("loading", "", False, None, goes_on, False, pilot=handed, keeps=keep is not None)
        self._doing = threading.RLock()
        self._audience: list[Showing | Keyboard] = []
        self.url = ""
        self._showing: Showing | None = None
        if looking.dashboard or looking.rerun is not None:
            self._showing = Showing(looking, hear=self._do, gone=self._changed.set)
            self.url = self._showing.url
        self._keyboard = (
            Keyboard(
                hear=self._do, gone=self._changed.set, obeyed=self._welcomed, pilot=pilot, as_shown=as_shown
            )
            if typed
            else None
        )
        self._audience = [each for each in (self._showing, self._keyboard) if each is not None]
        self._starts = [each for each in self._audience if looking.dashboard or each is not self._showing]
        self._put(self._state)
        if self.url:
            note(f"operator's page: {self.url}")
            if "?key=" in self.url:
                note(
                    "whoever has this address can start the arms. From another machine put this one's name or number "
                    "in it; who can read along in the network between reads the key, too, unless you go through ssh -L"
                )

    @property
    def dropped(self) -> int:
        """Messages that the page did not keep up with."""
        return 0 if self._showing is None else self._showing.dropped

    @property
    def gone(self) -> bool:
        """Nobody is left who could start anything."""
        return all(each.gone for each in self._starts)

    # ------------------------------------------------------------------------------------------- asked by the loop

    def sentence(self) -> str:
        """What the arms are asked to do now."""
        return self._state.sentence

    def permit(self) -> str:
        """Why the arms may not move; "" when they may."""
        if self._emergency:
            return EMERGENCY
        if self._stopping:
            return self._stopping
        if self._state.dead_man:
            if self._showing is None or self._showing.gone:
                return GONE
            if wall.monotonic() - self._held > HELD_SECONDS:
                return LET_GO
        return ""

    def as_shown(self) -> Callable[[], str]:
        """A `permit` for a way that is driven as it was shown, or not at all: whatever an operator says ends it, since
        a pause, a mark or another sentence means nothing there, and may have been meant as a stop.
        """

        def permit() -> str:
            said = self._state.paused or self.finished or self._state.sentence != self._asked
            return self.permit() or (DISTURBED if said else "")

        return permit

    def pause(self) -> str:
        """Why the arms rest for now; "" when they go on."""
        return PAUSE if self._state.paused else ""

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        """As of a recorder: show the pictures that the policy was shown."""
        images = {side: getattr(observation, side) for side in ARMS}
        self._put(Pictures(time, images, observation.instruction))

    def on_frame(self, moment: Moment) -> None:
        """As of a recorder: show what the loop knows."""
        if self._figure is None:
            return
        if (pilot := self._pilot) is not None and pilot.hands.taken != self._state.taken:
            self._set(taken=pilot.hands.taken)
        if self._showing is None:  # nobody looks: where each link is need not be known
            return
        if moment.cycle is not None and moment.cycle is not self._cycle:
            self._cycle = moment.cycle
            self._put(Chunk.of(moment.cycle, moment.inference or 0.0))
        self._put(Shot.of(moment, self._figure.places(moment.states, moment.widths)))

    @property
    def mark(self) -> Mark | None:
        """What the operator said of the episode so far."""
        return self._state.mark

    def monitor(self, judge: Monitor | None, sentence: str, say: Callable[[], str]) -> OperatorsJudge:
        """Who says when the task is done: the operator, by a mark or by going on, and a judge where there is one.

        Args:
            judge: of what `sentence` asks for; it is not heard while the operator asks for something else.
            sentence: that the episode began with.
            say: what is asked for now.
        """
        return OperatorsJudge(self, judge, sentence, say)

    # ------------------------------------------------------------------------------------- between two episodes

    def begin(
        self,
        robot: Robot,
        figure: Figure,
        sentence: str,
        *,
        title: str,
        shown: Sequence[Any] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        """Show the robot, and return when the operator starts it, or has left.

        A robot that was stopped is recovered first: start is a person's word that all may move again, and each word is
        one attempt. Whoever says stop, pause or quit meanwhile takes the word back.

        Args:
            robot: connected and enabled; it is looked at meanwhile.
            figure: how it is drawn.
            sentence: what it is asked to do, unless the operator says something else before.
            title: of the episode.
            shown: messages of what is to come, for its timeline.
            prepare: is called when a robot was recovered, and nothing has moved: raises RobotError where it is not as
                it should be.

        Raises:
            RobotError: the page's process has ended, or the keyboard: nobody can start anything.
        """
        self._figure, self._cycle, self._simulated = figure, None, not robot.concurrent
        if self._showing is not None:
            self._showing.patient = self._simulated
        self._put(Scene(title, figure.bodies, figure.grippers, robot.sides))
        for message in shown:
            self._put(message)
        problem = f"{self._stopping}; {UNMOVED}" if self._stopping else ""
        said = sentence
        while True:
            self.touched = said != sentence
            self._faults = robot.faults(stops=False)
            unsaid = [each for each in self._faults if each not in problem]
            problem = "; ".join([problem, *unsaid] if problem else unsaid)
            self._get_ready(said, problem)
            while not (begins := self._started or self._by_itself()) and not (self.left or self.gone):
                self._watch(robot, until=self._by_itself)
            if self.left:
                return
            if not begins:
                raise RobotError(
                    "nobody can start the arms: the operator's page, or the terminal, has ended. Run the command "
                    "again, with --dashboard or in a terminal."
                )
            # From here on every stop counts, also while devices are recovered, which takes seconds.
            self._asked = self._state.sentence
            self._set(stage="running", problem="")
            if not (problem := self._held_back(robot, prepare)):
                break
            said = self._state.sentence
        self._welcomed, self._unbidden = True, False

    def _get_ready(self, sentence: str, problem: str) -> None:
        """Wait for a person's word; where there is a problem, nothing begins by itself any more."""
        self._started = self.finished = False
        self._unbidden = self._unbidden and not problem
        if self._state.stage != "loading":
            self._settled = wall.monotonic() + SETTLING
        self._set(
            stage="ready",
            sentence=sentence,
            mark=None,
            ending="",
            success=None,
            problem=problem,
            paused=False,
            goes_on=self._state.goes_on and not problem,
        )

    def _held_back(self, robot: Robot, prepare: Callable[[], None] | None) -> str:
        """Recover a robot that was stopped, once. Why it may not move all the same; it is stopped then."""
        problem = ""
        try:
            # What came while the robot waited who said start has not been told.
            if new := [each for each in robot.faults(stops=False) if each not in self._faults]:
                problem = f"{'; '.join(new)}; {UNMOVED}"
            elif not self.permit() and robot.faults():
                robot.recover()
                if prepare is not None:
                    prepare()
                problem = "; ".join(robot.faults())
        except RDT2Error as error:
            problem = str(error)
        marked = self.finished or self._state.mark is not None
        if reason := self.permit() or (DISTURBED if marked else ""):
            problem = f"{reason}; {UNMOVED}"
        if problem:
            robot.stop()
        return problem

    def present(self, robot: Robot, figure: Figure, messages: Sequence[Any], sentence: str) -> None:
        """Show what was seen of a robot, and what would be done, while nothing is."""
        self._put(Scene(f"{robot.name}: {DRY}", figure.bodies, figure.grippers, robot.sides))
        for message in messages:
            self._put(message)
        self._set(stage="over", sentence=sentence, ending=DRY)

    def _by_itself(self) -> bool:
        """Whether an episode begins without anybody who presses start: the first only where that was asked for."""
        wanted = self._unbidden or (self._welcomed and self._state.goes_on)
        return wanted and not self._emergency and not self._stopping and not self._state.dead_man

    def end(self, robot: Robot, result: EpisodeResult, *, judged: bool) -> Mark | None:
        """Show how the episode ended, and return when the operator goes on: with the operator's mark, if any."""
        self._started, self._stopping = False, ""
        success = result.success if judged else None
        # An operator who stopped it wants to look before anything moves again; on a real robot also after a fault.
        goes_on = self._state.goes_on and not self.touched
        goes_on = goes_on and (self._simulated or result.ending in EXPECTED)
        if self._pilot is not None:
            self._pilot.hands.give_back()
        self._set(
            stage="over", ending=result.ending, success=success, goes_on=goes_on, paused=False, taken=False
        )
        self._watch(robot, until=self._by_itself)
        return self._state.mark

    def _watch(self, robot: Robot, *, until: Callable[[], bool]) -> None:
        """Look at a robot that waits, until the operator presses start, or `until` something."""
        looks = 0
        stopped = False
        while not (self._started or self.left or self.gone or until()):
            if self._emergency and not stopped:
                stopped = not robot.stop()
            self._look(robot, pictures=looks % PICTURES_EVERY == 0)
            looks += 1
            self._changed.wait(LOOK_EVERY)
            self._changed.clear()

    def _look(self, robot: Robot, *, pictures: bool) -> None:
        now, faults = robot.clock.now(), robot.faults(stops=False)
        if self._state.stage == "ready" and faults and faults != self._faults:
            self._faults = faults
            self._set(problem="; ".join(faults))
        try:
            states = {side: arm.state() for side, arm in robot.arms.items()}
            widths = {side: gripper.state().width for side, gripper in robot.grippers.items()}
            images = {side: camera.read().image for side, camera in robot.cameras.items()} if pictures else {}
        except RDT2Error as error:  # of a robot that cannot be looked at, the operator hears
            if self._state.problem != str(error):
                self._set(problem=str(error))
            return
        assert self._figure is not None
        if images:
            self._put(Pictures(now, images, self._state.sentence))
        measured = {side: state.pose for side, state in states.items()}
        self._put(Shot(now, None, self._figure.places(states, widths), measured, widths))

    # ------------------------------------------------------------------------------------------- what people do

    def _set(self, **changes: Any) -> None:
        with self._doing:
            self._state = replace(self._state, **changes)
            self._put(self._state)
        self._changed.set()

    def _put(self, message: Any) -> None:
        for each in self._audience:
            each.put(message)

    def _do(self, asked: Asked) -> None:
        """What an operator did; a mistake is told on the page."""
        stage: Stage = self._state.stage
        if asked.what == "emergency":
            self._emergency, self._unbidden = True, False
            self.touched = self.touched or stage == "running"
            self._set(emergency=True, goes_on=False)
        elif asked.what == "release":
            if stage != "running":
                self._emergency = False
                self._set(emergency=False)
        elif asked.what == "stop":
            self._stop(asked.value or STOP)
        elif asked.what == "pause":
            if stage == "running":
                self.touched = True
                self._set(paused=True)
            else:
                self._stop(PAUSE)
        elif asked.what == "finish":
            if asked.value and stage in ("running", "over"):
                self._set(mark=asked.value)
            if stage == "running":
                self.finished = True
            elif stage == "over" and not asked.value:
                self._start()
        elif asked.what == "leave":
            self.left = True
            if stage == "running":
                self._stopping, self.touched = asked.value, True
            self._changed.set()
        elif asked.what == "take":
            self._hand_over()
        elif asked.what == "keep":
            # A stop does not wait for it.
            threading.Thread(target=self._keep_last, name="keep", daemon=True).start()
        elif asked.what == "holding":
            before, self._held = self._held, wall.monotonic()
            # Who goes on holding what has stopped has not said another word.
            let_go = LET_GO_SECONDS if self._state.problem else HELD_SECONDS
            if stage == "ready" and self._state.dead_man and self._held - before > let_go:
                self._start()
        elif asked.what == "start":
            if asked.value and asked.value != ("start" if stage == "ready" else "next"):
                return  # the button of a moment ago
            if stage == "loading" or (stage == "ready" and wall.monotonic() < self._settled):
                self._set(problem=TOO_SOON)
            elif stage == "over" or self._state.paused or not self._state.dead_man:
                self._start()
        elif asked.what == "say":
            self._say(asked.value)
        elif asked.what == "mark" and stage in ("running", "over"):
            self._set(mark=asked.value if asked.value in ("success", "failure") else None)
        elif asked.what == "mark":
            self._set(problem=TOO_LATE)
        elif asked.what == "goes_on":
            self._set(goes_on=asked.value == "yes")
        elif asked.what == "dead_man" and stage != "running":
            self._set(dead_man=asked.value == "yes")

    def _start(self) -> None:
        with self._doing:  # a stop that another thread hears comes before it, or after it
            if self._emergency and self._state.stage == "ready":
                self._set(problem="release the emergency stop first")
            elif self._state.stage in ("ready", "over"):
                self._stopping, self._started = "", True
                self._changed.set()
            elif self._state.paused:
                self._set(paused=False)

    def _stop(self, reason: str) -> None:
        """Stop the arms; where none moves yet, what was to start them counts no more."""
        with self._doing:
            begins, running = self._started or self._by_itself(), self._state.stage == "running"
            if not (begins or running):
                return
            self._stopping, self._started = reason, False
            if running:
                self.touched = True
            else:
                self._set(goes_on=False, problem=f"{reason}; {UNMOVED}")

    def _hand_over(self) -> None:
        """Let a person drive, or the policy again."""
        if self._pilot is None or self._state.stage != "running":
            self._set(problem="there is nothing to take over")
        elif isinstance(self._pilot, KeyboardPilot):
            self._set(problem="the keys are those of the terminal: type take there")
        else:
            taken = self._pilot.hands.taken
            self._pilot.hands.give_back() if taken else self._pilot.take()
            self._set(taken=not taken)

    def _keep_last(self) -> None:
        """Write the last seconds to a file, once at a time."""
        with self._keeping:
            if self._keep is None or self._keep() is None:
                self._set(problem=f"nothing is kept: {self._unkept()}")

    def _say(self, sentence: str) -> None:
        sentence = " ".join(sentence.split())
        if not sentence or len(sentence) > SENTENCE:
            self._set(problem=f"an instruction has 1 to {SENTENCE} characters, this one has {len(sentence)}")
            return
        changed = sentence != self._state.sentence and self._state.stage in ("ready", "running")
        self.touched = self.touched or changed
        self._set(sentence=sentence, problem="; ".join(check_instruction(sentence)))

    def close(self) -> None:
        """End the page, and let go of the keyboard. Again: nothing happens."""
        for each in self._audience:
            each.close()
        wait_for_notes(NOTES_SECONDS)

    def __enter__(self) -> Desk:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
