"""What goes from the robot's process to the one that shows it: plain values, all times on the robot's clock."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

import numpy as np

from rdt2.control.servo import TICK

if TYPE_CHECKING:
    from jaxtyping import Float, Float32, UInt8
    from numpy import ndarray

    from rdt2.control import Cycle, Moment
    from rdt2.dashboard.figure import Body, GripperShape

Stage = Literal["loading", "ready", "running", "over"]
Mark = Literal["success", "failure"]


@dataclass(frozen=True, eq=False)
class Scene:
    """A new episode will be of this; what was kept of the last is forgotten."""

    title: str
    bodies: tuple[Body, ...]
    grippers: Mapping[str, GripperShape]
    sides: tuple[str, ...]


@dataclass(frozen=True)
class State:
    """How things stand with the operator: what the page's buttons and its first line say."""

    stage: Stage
    sentence: str
    emergency: bool
    mark: Mark | None
    goes_on: bool
    """The next episode begins by itself."""
    dead_man: bool
    """Arms move only while a button is held."""
    ending: str = ""
    """How the last episode ended; empty before."""
    success: bool | None = None
    """What the judge says of it; None where nobody judges."""
    problem: str = ""
    """Why something that was asked for was refused."""
    paused: bool = False
    """The arms rest until the operator lets them go on."""
    pilot: bool = False
    """A person may take over, and not with the terminal's keys."""
    taken: bool = False
    """A person drives."""
    keeps: bool = False
    """The last seconds can be kept."""


@dataclass(frozen=True, eq=False)
class Chunk:
    """What the policy asks for, as TCPs of the cell frame."""

    since: float
    """Seconds since the episode began, of the picture."""
    poses: Mapping[str, Float32[ndarray, "n 4 4"]]
    widths: Mapping[str, Float32[ndarray, " n"]]
    delay: float
    """Seconds from the picture until the chunk was there."""
    inference: float
    """Seconds the prediction took."""

    @classmethod
    def of(cls, cycle: Cycle, inference: float) -> Chunk:
        """What one chunk became."""
        plan = cycle.plan
        poses = {side: path.astype(np.float32) for side, path in plan.poses.items()}
        widths = {side: path.astype(np.float32) for side, path in plan.widths.items()}
        return cls(cycle.time, poses, widths, cycle.delay, inference)


@dataclass(frozen=True, eq=False)
class Pictures:
    """What the policy was shown."""

    time: float
    images: Mapping[str, UInt8[ndarray, "384 384 3"]]
    sentence: str


@dataclass(frozen=True, eq=False)
class Shot:
    """One moment. TCPs are (4, 4) in the cell frame, by side; openings are metres."""

    time: float
    since: float | None
    """Seconds since the episode began; None while none goes on."""
    places: Float32[ndarray, "b 7"]
    measured: Mapping[str, Float[ndarray, "4 4"]]
    widths: Mapping[str, float]
    wish: Mapping[str, Float[ndarray, "4 4"]] = field(default_factory=dict)
    """Of the chunk that is driven; empty where the arms brake."""
    made: Mapping[str, Float[ndarray, "4 4"]] = field(default_factory=dict)
    """What the guard made of it."""
    wish_widths: Mapping[str, float] = field(default_factory=dict)
    made_widths: Mapping[str, float] = field(default_factory=dict)
    taken: bool = False
    """Whether the devices took it."""
    held: str = ""
    """Why the wish was not met in full."""
    fault: str = ""
    """Why the arms pause or were stopped."""
    period: float = TICK
    """The longest time between two commands since the last shot; on a simulated clock always that of one tick."""
    age: float = 0.0
    """Of the oldest measured state."""

    @classmethod
    def of(cls, moment: Moment, places: Float32[ndarray, "b 7"]) -> Shot:
        """What a recorder of the loop was told."""
        told = moment.told
        stamps = [state.timestamp for state in moment.states.values()]
        return cls(
            time=moment.time,
            since=moment.since,
            places=places,
            measured={side: state.pose for side, state in moment.states.items()},
            widths=dict(moment.widths),
            wish=dict(told.wish) if told else {},
            made=dict(told.command.poses) if told else {},
            wish_widths=dict(told.wish_widths) if told else {},
            made_widths=dict(told.command.widths) if told else {},
            taken=told.taken if told else False,
            held=told.command.slowed if told else "",
            fault=moment.fault,
            period=moment.period or TICK,
            age=max(0.0, moment.time - min(stamps)) if stamps else 0.0,
        )


@dataclass(frozen=True)
class Asked:
    """What an operator did on the page, or typed."""

    what: Literal[
        "start", "stop", "pause", "finish", "leave", "emergency", "release", "say", "mark", "goes_on", "dead_man",
        "holding", "take", "keep",
    ]  # fmt: skip
    value: str = ""
    """A sentence, a mark, yes or no, why the arms stop. Of start: which of the page's buttons, "start" or "next"; "" is
    typed."""
