"""What the loop tells its recorders, as messages of a recording."""

from __future__ import annotations

import time as wall
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from rdt2.data.recordings import messages as ros
from rdt2.data.recordings import topics
from rdt2.data.recordings.messages import ERROR, INFO, WARN, Message

if TYPE_CHECKING:
    from rdt2.action import ActionChunk
    from rdt2.control.recording import Moment
    from rdt2.control.result import Cycle
    from rdt2.control.servo import Tick
    from rdt2.observation import Observation
    from rdt2.robot import Clock, Frame

JPEG_QUALITY = 95
OPENING = ("opening",)


class Teller:
    """Of one episode. Times of the robot's clock become times since 1970.

    Args:
        clock: the robot's.
    """

    def __init__(self, clock: Clock) -> None:
        self._now = clock.now()
        self._offset = wall.time_ns() - round(1e9 * self._now)
        self._said: dict[str, str] = {}
        self._cycle: Cycle | None = None
        self._sequences: dict[str, int] = {}
        self._joints: dict[str, tuple[str, ...]] = {}
        self.sentences: list[str] = []
        """What the policy was asked for, each once."""
        self.frames = 0
        """Pictures of the first arm's camera."""
        self.takeovers = 0
        """How often a person took over."""

    def cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> Iterator[Message]:
        """What the policy was asked and what it answered; the picture was taken at `time` (seconds)."""
        sentence = observation.instruction
        if sentence not in self.sentences:
            self.sentences.append(sentence)
        yield from self._changed(topics.INSTRUCTION, sentence, time)
        values = np.asarray(chunk.values, dtype=np.float32)
        yield self._of(topics.ACTIONS, ros.ARRAY, ros.pack_array(values, ("step", "value")), time)
        if not chunk.valid:
            yield self.log(WARN, "policy", f"the chunk is not valid: {chunk.reason}")

    def moment(self, moment: Moment) -> Iterator[Message]:
        """Everything since the last moment."""
        self._now = moment.time
        for tick in moment.ticks:
            yield from self._tick(tick)
        self.frames += len(next(iter(moment.frames.values()), ()))
        for side, frames in moment.frames.items():
            for frame in frames:
                yield self._picture(side, frame)
        if moment.driver == "person" and self._said.get(topics.DRIVER) != "person":
            self.takeovers += 1
        yield from self._changed(topics.DRIVER, moment.driver, moment.time)
        held = moment.told.command.slowed if moment.told else ""
        for name, level, text in (("guard", INFO, held), ("fault", WARN, moment.fault)):
            if text != self._said.get(name, ""):
                self._said[name] = text
                yield self.log(level if text else INFO, name, text or "over")
        if moment.cycle is not None and moment.cycle is not self._cycle:
            self._cycle = moment.cycle
            yield from self._chunk(moment.cycle, moment.inference)
        if moment.period is not None:
            yield self._number(topics.PERIOD, moment.period)
        if late := sum(not tick.told.taken for tick in moment.ticks):
            yield self._number(topics.NOT_TAKEN, late)

    def log(self, level: int, name: str, text: str) -> Message:
        """A line of the log, of now."""
        return self._of(
            topics.EVENTS, ros.LOG, ros.pack_log(self._ns(self._now), level, name, text), self._now
        )

    def mark(self, mark: str | None) -> Message:
        """Whether the episode shows what it should."""
        return self.log(INFO, "mark", mark or "none")

    def end(self, ending: str) -> Message:
        """How the episode ended."""
        return self.log(INFO if ending in ("done", "time is up") else ERROR, "end", ending)

    # ----------------------------------------------------------------------------------------------------- parts

    def _tick(self, tick: Tick) -> Iterator[Message]:
        for side, state in tick.arms.items():
            if not self._new(f"{side} arm", state.sequence):
                continue
            time = state.timestamp
            yield self._of(
                topics.TCP.format(side=side), ros.POSE, ros.pack_pose(self._ns(time), state.pose), time
            )
            for topic, kind, six in (
                (topics.VELOCITY, ros.TWIST, state.velocity),
                (topics.WRENCH, ros.WRENCH, state.wrench),
            ):
                if six is not None:
                    yield self._of(topic.format(side=side), kind, ros.pack_six(self._ns(time), six), time)
            if len(state.joints):
                names = self._joints.setdefault(
                    side, tuple(f"{side}_{k + 1}" for k in range(len(state.joints)))
                )
                data = ros.pack_joints(self._ns(time), names, state.joints.tolist())
                yield self._of(topics.JOINTS.format(side=side), ros.JOINTS, data, time)
        for side, opening in tick.grippers.items():
            if self._new(f"{side} gripper", opening.sequence):
                yield self._opening(topics.GRIPPER, side, opening.timestamp, opening.width)
        told = tick.told
        for topic, poses in ((topics.WISH, told.wish), (topics.COMMAND, told.command.poses)):
            for side, pose in poses.items():
                data = ros.pack_pose(self._ns(told.due), pose)
                yield self._of(topic.format(side=side), ros.POSE, data, told.due)
        openings = (topics.GRIPPER_WISH, told.wish_widths), (topics.GRIPPER_COMMAND, told.command.widths)
        for topic, widths in openings:
            for side, width in widths.items():
                yield self._opening(topic, side, told.due, width)

    def _picture(self, side: str, frame: Frame) -> Message:
        import simplejpeg

        jpeg = simplejpeg.encode_jpeg(
            np.ascontiguousarray(frame.image), quality=JPEG_QUALITY, colorspace="RGB", colorsubsampling="420"
        )
        data = ros.pack_picture(self._ns(frame.timestamp), f"{side}_camera", jpeg)
        return self._of(topics.CAMERA.format(side=side), ros.PICTURE, data, frame.timestamp)

    def _chunk(self, cycle: Cycle, inference: float | None) -> Iterator[Message]:
        plan = cycle.plan
        times = [self._ns(time) for time in plan.times.tolist()]
        for side, poses in plan.poses.items():
            data = ros.pack_path(self._ns(plan.observed), times, poses)
            yield self._of(topics.CHUNK.format(side=side), ros.PATH, data, plan.observed)
        yield self._number(topics.DELAY, cycle.delay)
        if inference is not None:
            yield self._number(topics.INFERENCE, inference)

    def _changed(self, topic: str, text: str, time: float) -> Iterator[Message]:
        if self._said.get(topic) != text:
            self._said[topic] = text
            yield self._of(topic, ros.TEXT, ros.pack_text(text), time)

    def _opening(self, topic: str, side: str, time: float, width: float) -> Message:
        data = ros.pack_joints(self._ns(time), OPENING, (width,))
        return self._of(topic.format(side=side), ros.JOINTS, data, time)

    def _number(self, topic: str, value: float) -> Message:
        return self._of(topic, ros.NUMBER, ros.pack_number(value), self._now)

    def _new(self, device: str, sequence: int) -> bool:
        if self._sequences.get(device) == sequence:
            return False
        self._sequences[device] = sequence
        return True

    def _of(self, topic: str, kind: str, data: bytes, time: float) -> Message:
        return Message(topic, kind, data, self._ns(self._now), self._ns(time))

    def _ns(self, time: float) -> int:
        return self._offset + round(1e9 * time)
