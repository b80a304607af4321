"""What an operator's signal does between two episodes."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

from rdt2.control import EpisodeResult, LoopConfig, Pause
from rdt2.errors import RobotError
from rdt2.operation.driving import drive, result_of
from rdt2.operation.session import ending_in_order


class Waiting:
    """An operator who ends the command while it waits for a mark."""

    left = False

    def __init__(self, ends: BaseException | None) -> None:
        self.ends = ends

    def begin(self, *_, **__) -> None:
        """At once."""

    def end(self, *_, **__) -> None:
        if self.ends is not None:
            raise self.ends

    def sentence(self) -> str:
        return "Pick it up."

    def permit(self) -> str:
        return ""

    pause = permit

    def on_cycle(self, *_) -> None:
        """Nothing is shown."""

    on_frame = on_cycle


def driven(ends, *, real=False):
    return drive(
        fake_robot(real=real),
        ConstantPolicy(0.0005),
        "Pick it up.",
        settings=fake_settings(),
        config=LoopConfig(latency=0.1),
        max_seconds=0.5,
        seed=0,
        figure=lambda: None,
        title="one",
        judge=lambda say: SimpleNamespace(
            judged=True, update=lambda: None, done=False, success=False, followed=False
        ),
        desk=Waiting(ends),
    )


@pytest.mark.parametrize(
    ("ends", "number"), [(KeyboardInterrupt(), signal.SIGINT), (SystemExit(143), signal.SIGTERM)]
)
def test_an_episode_that_is_over_is_kept_when_a_signal_ends_the_command(ends, number) -> None:
    """Regression: its recording was left cut off and without a mark."""
    whole = driven(ends)
    assert whole.result.ending == "time is up"
    assert whole.interrupted
    assert whole.result.signal == number
    with ending_in_order(), pytest.raises(type(ends)):
        whole.obey()


def test_what_is_no_signal_goes_on() -> None:
    with pytest.raises(SystemExit):
        driven(SystemExit(2))


def test_an_episode_that_an_error_ends_keeps_what_there_was_of_it(monkeypatch) -> None:
    """Regression: its seconds, its pauses and what was not recorded were gone, and its notes said 0.0 s."""
    until_then = EpisodeResult(
        ending="the left arm does not answer", seconds=12.5, pauses=[Pause(3.0, "paused by the operator")],
        unrecorded="pictures of 7 moments dropped.",
    )  # fmt: skip
    error = RobotError("the left arm does not answer")
    error.episode = until_then
    monkeypatch.setattr("rdt2.operation.driving.run_episode", lambda *_, **__: (_ for _ in ()).throw(error))
    whole = driven(None, real=True)
    assert whole.result is until_then
    assert result_of(error) is until_then


@pytest.mark.parametrize(
    ("error", "words"), [(RobotError("gone."), "gone."), (KeyboardInterrupt(), "KeyboardInterrupt")]
)
def test_of_an_error_before_an_episode_its_words_remain(error, words) -> None:
    assert result_of(error) == EpisodeResult(ending=words)
