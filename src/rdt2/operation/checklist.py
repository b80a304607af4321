"""What has to be right before an arm moves: looked up where a device can tell, asked of a person where it cannot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import RobotError
from rdt2.robot.protocols import Check, Checked

if TYPE_CHECKING:
    from rdt2.robot import Robot
    from rdt2.robot.settings import ArmSettings, RobotSettings


ENABLE = (
    "Enable the arms and grippers? They get their power and hold still; keep a hand at the emergency stop."
)


@dataclass(frozen=True)
class Question:
    """What only a person can say."""

    device: str
    """"left arm"."""
    name: str
    """payload, inertia, speed, tool, exposure."""
    text: str

    def answered_by(self, check: Check) -> bool:
        """Whether a device's own word makes asking needless."""
        said = check.name.lower()
        return said == self.name if self.name == "payload" else self.name in said


class Checklist:
    """The checks of a robot, remembered as long as this object: nobody is asked twice.

    Args:
        settings: of the robot.
        confirm: asks a person; False stops everything.
        blind: its cameras are not used, and nothing is asked of them.
    """

    def __init__(
        self, settings: RobotSettings, confirm: Callable[[str], bool], *, blind: bool = False
    ) -> None:
        self._questions = [] if settings.kind == "cell" else questions(settings, blind=blind)
        self._confirm, self._may_enable = confirm, settings.kind == "cell"
        self.found: dict[str, list[Check]] = {}
        """What devices said, by name of the device."""
        self.answered: set[Question] = set()
        """What a person said yes to."""

    def look(self, robot: Robot) -> None:
        """Have all devices that can say how they are set up.

        Raises:
            RobotError: something is not as the robot's yaml says; all of it.
        """
        for name, device in robot.devices():
            if isinstance(device, Checked):
                self.found[name] = list(device.checks())
        wrong = [
            f"{name}: {check.name} is {check.got}, expected {check.expected}"
            for name, checks in self.found.items()
            for check in checks
            if not check.ok
        ]
        if wrong:
            raise RobotError(
                "the robot is not set up as its yaml says:\n  "
                + "\n  ".join(wrong)
                + "\nSet it on the device, or "
                "mend the yaml if that is what is meant."
            )

    def enable(self, robot: Robot) -> None:
        """Enable all devices, with a person's word; look at what they say then, and ask for what they cannot.

        Raises:
            RobotError: a device refuses, is not set up as the yaml says, or was not confirmed; nothing has moved.
        """
        if not self._may_enable and not self._confirm(ENABLE):
            raise RobotError(f"not confirmed: {ENABLE} Nothing was enabled.")
        self._may_enable = True
        robot.enable()
        self.look(robot)
        self.ask()

    def open_questions(self) -> list[Question]:
        """What no device answered, and nobody has said yes to."""
        return [
            question
            for question in self._questions
            if question not in self.answered
            and not any(map(question.answered_by, self.found.get(question.device, ())))
        ]

    def ask(self) -> None:
        """Ask a person for the rest.

        Raises:
            RobotError: an answer that is no yes; nothing has moved.
        """
        for question in self.open_questions():
            if not self._confirm(question.text):
                raise RobotError(
                    f"not confirmed: {question.text} Nothing has moved. Set it up, then run the command again."
                )
            self.answered.add(question)


def questions(settings: RobotSettings, *, blind: bool = False) -> list[Question]:
    """All that a person can be asked of a real robot; `blind`: not of its cameras."""
    found = []
    for side in settings.sides:
        arm, name = settings.arms[side], f"{side} arm"
        slides = settings.kind == "ur5e" or "speed_slider" in arm.device
        found += [
            Question(name, key, f"{name}: {text}")
            for key, text in _of_arm(arm).items()
            if slides or key != "speed"
        ]
        if blind:
            continue
        exposure = arm.camera.device.get("exposure_us")
        wanted = "short enough that what moves is sharp" if exposure is None else f"{exposure} us"
        found.append(Question(f"{side} camera", "exposure", f"{side} camera: is the exposure {wanted}?"))
    return found


def _of_arm(arm: ArmSettings) -> dict[str, str]:
    device = arm.device
    kilograms, inertia, speed = (device.get(key) for key in ("payload", "payload_inertia", "speed_slider"))
    said = {
        "payload": "is the payload on its controller "
        + ("that of gripper, camera and cables?" if kilograms is None else f"{kilograms} kg?"),
        "inertia": "is the payload's inertia on its controller "
        + ("that of gripper, camera and cables?" if inertia is None else f"{inertia} kg m^2?"),
        "speed": "does its controller limit the speed"
        + ("?" if speed is None else f": is the slider at {100 * float(str(speed)):.0f} %?"),
    }
    if arm.tool is not None:
        x, y, z = (f"{1e3 * value:.0f}" for value in np.asarray(arm.tool)[:3, 3])
        said["tool"] = (
            f"is the TCP on its controller {x}, {y}, {z} mm from the flange, turned as tool in the yaml?"
        )
    return said
