"""What the wrist cameras of a robot see: exposure, whose hand each is on, and the lens."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.calibration.lens import Board, Lens, exposure, fisheye, waved
from rdt2.calibration.outcome import Outcome, picture
from rdt2.devices.opening import device_number
from rdt2.errors import CalibrationError
from rdt2.files import whole_file
from rdt2.robot.protocols import Checked

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from rdt2.robot import Robot
    from rdt2.robot.settings import RobotSettings

FIRST = 5.0
"""Seconds in which a camera must have given a picture."""
LEAST_CROP = 16
"""Pixels of a side that no camera driver crops below."""
OFF_CENTRE = 0.08
"""Share of a picture's width that its lens's middle may be off."""


def pictures(robot: Robot) -> dict[str, UInt8[ndarray, "384 384 3"]]:
    """A new picture of each camera, by side.

    Raises:
        CalibrationError: a camera gives none.
    """
    clock, found = robot.clock, {}
    asked = clock.now()
    for side, camera in robot.cameras.items():
        while True:
            frame = camera.read()
            if frame.timestamp >= asked:
                break
            if clock.now() > asked + FIRST:
                raise CalibrationError(
                    f"the {side} camera gives no new picture: the last is {clock.now() - frame.timestamp:.1f} s old."
                )
            clock.sleep_until(clock.now() + 0.01)
        found[side] = frame.image
    return found


def eyes(
    robot: Robot,
    settings: RobotSettings,
    *,
    wave: Callable[[str | None], None] | None = None,
    lens: tuple[str, Lens] | None = None,
    view: float | None = None,
) -> Outcome:
    """Look at all cameras.

    Args:
        robot: its cameras are enabled.
        settings: of it.
        wave: has a person hold a hand before the gripper of a side, or nothing before any for None, and returns when
            that is so; None: nobody does.
        lens: that was found before, and on which side.
        view: degrees that the pictures are to show from edge to edge, by another crop; None: they stay.

    Raises:
        CalibrationError: a camera gives no picture, or a hand is seen by none.
    """
    seen = pictures(robot)
    rows, notes, following = [], [], []
    values: dict[str, Any] = {"exposure": {}, "hand": {}}
    cameras = {side: dict(settings.arms[side].camera.device) for side in seen}
    changes: dict[str, Any] = {}

    def change(side: str, key: str, value: int) -> None:
        changes[f"arms.{side}.camera.device.{key}"] = cameras[side][key] = value

    for side, image in sorted(seen.items()):
        now, fps = (device_number(settings, side, "camera", key) for key in ("exposure_us", "fps"))
        wrong, better = exposure(image, now, longest=0.9e6 / (fps or 30.0))
        rows.append((f"{side} picture", f"{image.shape[1]}x{image.shape[0]}, mean {image.mean():.0f} of 255"))
        values["exposure"][side] = {"mean": float(image.mean()), "wrong": wrong, "exposure_us": better}
        if wrong:
            notes.append(f"the {side} picture is {wrong}")
        if better is not None:
            change(side, "exposure_us", round(better))
            following.append(
                "Run this again: the new exposure is an estimate, and the light may have changed."
            )
    if lens is not None:
        side, found = lens
        if found.size != seen[side].shape[:2]:
            raise CalibrationError(
                f"the pictures of the board are {found.size[1]}x{found.size[0]}, and the {side} camera's are now "
                f"{seen[side].shape[1]}x{seen[side].shape[0]}. Take them with that camera as it is: --take FOLDER."
            )
        values["lens"] = {"side": side, **found.as_dict()}
        notes += found.notes
        rows.append((f"{side} lens", f"{found.error:.2f} pixels left in {found.pictures} pictures"))
        crop = device_number(settings, side, "camera", "crop")
        sensor = None if view is None else _sensor(robot.cameras[side])
        wanted = _crop(found, seen[side].shape[1], crop, view, sensor, rows, notes)
        if wanted is not None:
            change(side, "crop", wanted)
            following.append(
                "Take new pictures of the board if you go on with the lens: its crop is another."
            )
    if wave is not None and len(seen) == 2:
        wave(None)
        before = pictures(robot)
        for side in seen:
            wave(side)
            values["hand"][side] = on = waved(before, pictures(robot))
            rows.append((f"hand before the {side} gripper", f"seen by the {on} camera"))
        if all(side != on for side, on in values["hand"].items()):
            notes.append(
                "the cameras are the wrong way round: they are exchanged in the yaml, with their latencies"
            )
            whole = {
                side: {**settings.arms[side].camera.model_dump(mode="json"), "device": device}
                for side, device in cameras.items()
            }
            one, other = cameras
            changes = {f"arms.{one}.camera": whole[other], f"arms.{other}.camera": whole[one]}
        elif len(set(values["hand"].values())) == 1:
            raise CalibrationError(
                f"a hand before either gripper was seen by the {on} camera: one of the two stands still, or looks "
                "elsewhere. Look at both pictures with 'rdt2 device test'."
            )
    return Outcome(
        "Wrist cameras", rows, values, changes, notes, following=following or ["rdt2 run {robot} --dry-run is next."],
        plots=[picture(f"{side} camera", image) for side, image in sorted(seen.items())],
    )  # fmt: skip


def _crop(
    lens: Lens,
    width: int,
    crop: float | None,
    view: float | None,
    sensor: int | None,
    rows: list[tuple[str, str]],
    notes: list[str],
) -> int | None:
    """Say how much a camera shows; its new crop, where `view` asks for one (`sensor`: its shorter side, where known).

    Raises:
        CalibrationError: the camera has no crop, or its lens or its sensor does not show as much.
    """
    shown = float(np.degrees(lens.view(width)))
    rows.append(("shows from edge to edge", f"{shown:.0f} degrees"))
    off = lens.matrix[:2, 2] - (width - 1) / 2
    if np.linalg.norm(off) > OFF_CENTRE * width:
        notes.append(
            f"the lens's middle is {off[0]:+.0f}, {off[1]:+.0f} pixels (right, down) from the picture's, and the crop "
            "is of the sensor's middle: is the lens screwed in straight?"
        )
    if view is None:
        return None
    if crop is None:
        raise CalibrationError(
            "the yaml does not say what square of its picture this camera crops to, so there is nothing to change. Set "
            "crop in its device."
        )
    if not 10 <= view < 180:
        raise CalibrationError(f"a view of {view:g} degrees is asked for, expected 10 to 180.")
    half = float(np.radians(view / 2))
    if half > lens.rises:
        raise CalibrationError(
            f"a view of {view:g} degrees is asked for, expected {2 * np.degrees(lens.rises):.0f} or less: beyond that "
            "what was found of the lens bends back. Ask for less, or take more pictures with the board in the corners."
        )
    radius, size = lens.radius(half), np.array(lens.size[::-1])
    wanted = round(crop * 2 * radius / width)
    if wanted < LEAST_CROP or (sensor is not None and wanted > sensor):
        raise CalibrationError(
            f"a view of {view:g} degrees needs a crop of {wanted} pixels, expected {LEAST_CROP} to "
            f"{sensor or 'what the sensor has'}. Ask for another view; the yaml was not changed."
        )
    if radius > np.linalg.norm(np.maximum(lens.matrix[:2, 2], size - 1 - lens.matrix[:2, 2])):
        notes.append(
            f"{view:g} degrees are more than the pictures of the board show in their corners: the new crop is a guess. "
            "Take new pictures with it, and solve them again"
        )
    rows.append(("with the new crop", f"{view:.0f} degrees"))
    return wanted


def _sensor(camera: object) -> int | None:
    """The shorter side of what a camera cuts its square from, pixels; None where it does not say."""
    checks = camera.checks() if isinstance(camera, Checked) else []
    sides = [re.findall(r"\d+", check.got) for check in checks if check.name == "picture"]
    return min(map(int, sides[0])) if sides and len(sides[0]) == 2 else None


def lens_of(folder: Path, board: Board, side: str) -> Lens:
    """The lens of a side's camera from a folder of pictures (png, jpg) of a board: of those that `take` named after
    that side, where there are such, else of all.

    Raises:
        CalibrationError: no pictures, some that cannot be read, or they do not determine it.
    """
    from PIL import Image

    files = sorted(path for path in folder.glob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
    files = [path for path in files if path.name.startswith(f"{side}-")] or files
    if not files:
        raise CalibrationError(
            f"{folder} has no pictures, expected png or jpg files of the board (--take FOLDER takes them)."
        )
    read = []
    for path in files:
        try:
            with Image.open(path) as image:
                read.append(np.asarray(image.convert("RGB")))
        except OSError as error:
            raise CalibrationError(f"{path} is no picture that can be read ({error}). Delete it.") from None
    return fisheye(read, board)


def take(robot: Robot, side: str, folder: Path, ask: Callable[[str], str]) -> int:
    """Take pictures for `lens_of`, as the models see them, each when a person says so; how many.

    Args:
        robot: its cameras are enabled.
        side: whose camera.
        folder: where they go; those that are there stay.
        ask: is told what to do, and returns what is typed: "" takes a picture, anything else ends it.
    """
    from PIL import Image

    taken = len(list(folder.glob(f"{side}-*.png")))
    while not ask(
        f"Hold the board still before the {side} camera, and press Enter ({taken} taken; done ends it): "
    ).strip():
        with whole_file(folder / f"{side}-{taken:03d}.png") as partial:
            Image.fromarray(pictures(robot)[side]).save(partial, format="png")
        taken += 1
    return taken
