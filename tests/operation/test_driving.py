"""What an operator's signal does between two episodes."""

from __future__ import annotations

import signal
from types import SimpleNamespace

import pytest
from fake_robot import ConstantPolicy, fake_robot, fake_settings

from rdt2.control import LoopConfig
from rdt2.operation.driving import drive
from rdt2.operation.session import ending_in_order


class Waiting:
    """An operator who ends the command while it waits for a mark."""

    left = False

    def __init__(self, ends: BaseException) -> None:
        self.ends = ends

    def begin(self, *_, **__) -> None:
        """At once."""

    def end(self, *_, **__) -> None:
        raise self.ends

    def sentence(self) -> str:
        return "Pick it up."

    def permit(self) -> str:
        return ""

    pause = permit

    def on_cycle(self, *_) -> None:
        """Nothing is shown."""

    on_frame = on_cycle


def driven(ends):
    return drive(
        fake_robot(),
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
