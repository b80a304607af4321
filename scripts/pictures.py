"""The README's picture and animation: the built-in model in the cell, drawn from what happened.

    python scripts/pictures.py docs/images        # demo.webp, and chunk.webp: what the model sees and what it answers

An episode of each task on two UR5e, one after the other, no matter how they end; --seed chooses the scenes
(with the one of the README all three are done: the table beside it says how often that is so). What the
model sees is left | right; the front camera faces the arms, so there the right arm is on the left, and is labelled.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from rdt2.action import SIDES, ActionChunk
from rdt2.control import Moment
from rdt2.evaluation.cell import loop_config, run_trial
from rdt2.evaluation.scenes import draw_trials
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.sim.cell import Cell

WRIST, FRONT_WIDTH, CAPTION = 280, 400, 36
EVERY, PER_SECOND = 6, 10
"""Of the loop's 30 moments a second every sixth one becomes a picture: the film runs at double speed, and is small."""
STILL_AFTER = 0.5
"""Seconds from the beginning to the chunk that is drawn: the hand is on its way then."""
COLOURS = {"right": (222, 98, 26), "left": (24, 110, 214)}
SMALL, LARGE = (ImageFont.load_default(size) for size in (15, 19))


class Film:
    """A recorder for the loop: labelled pictures, and one chunk over the front view."""

    def __init__(self, cell: Cell, sentence: str) -> None:
        self._cell, self._sentence = cell, sentence
        self._moments = 0
        self._seen: Observation | None = None
        self.frames: list[Image.Image] = []
        self.still: Image.Image | None = None

    def on_cycle(self, observation: Observation, chunk: ActionChunk, time: float) -> None:
        self._seen = observation

    def on_frame(self, moment: Moment) -> None:
        if self._moments % EVERY == 0:
            self.frames.append(self._frame())
        self._moments += 1
        if self.still is None and moment.since > STILL_AFTER and moment.cycle and self._seen:
            self.still = self._drawn(self._seen, moment.cycle.plan.poses)

    def _frame(self) -> Image.Image:
        views = [self._cell.render(side, size=(WRIST, WRIST)) for side in SIDES]
        views.append(self._cell.render("front", size=(FRONT_WIDTH, WRIST)))
        frame = Image.new("RGB", (2 * WRIST + FRONT_WIDTH, WRIST + CAPTION), "white")
        frame.paste(Image.fromarray(np.concatenate(views, axis=1)), (0, 0))
        pen = ImageDraw.Draw(frame)
        for number, side in enumerate(SIDES):
            _label(pen, (number * WRIST + 8, 6), f"{side} wrist")
        front = 2 * WRIST
        _label(pen, (front + 8, 6), "front camera, facing the arms")
        _label(pen, (front + 8, WRIST - 26), "right arm", COLOURS["right"])
        _label(pen, (frame.width - 76, WRIST - 26), "left arm", COLOURS["left"])
        pen.text((frame.width / 2, WRIST + CAPTION / 2), self._sentence, "black", LARGE, anchor="mm")
        return frame

    def _drawn(self, seen: Observation, poses: dict[str, np.ndarray]) -> Image.Image:
        """What the model saw, left | right, and beside it where its chunk wants both tools to go."""
        height = 384
        front = Image.fromarray(self._cell.render("front", size=(576, height)))
        pen = ImageDraw.Draw(front)
        for side in SIDES:
            for number, pose in enumerate(poses[side]):
                x, y = self._on_front(pose[:3, 3], front.size)
                radius = 5 - 3 * number / len(poses[side])
                pen.ellipse((x - radius, y - radius, x + radius, y + radius), COLOURS[side])
        picture = Image.new("RGB", (2 * height + front.width + 24, height + 2 * CAPTION), "white")
        for place, view in ((0, seen.left), (height, seen.right), (2 * height + 24, np.asarray(front))):
            picture.paste(Image.fromarray(np.asarray(view)), (place, CAPTION))
        pen = ImageDraw.Draw(picture)
        told = f"In: left wrist | right wrist, and “{self._sentence}”"
        pen.text((height, CAPTION / 2), told, "black", LARGE, anchor="mm")
        middle = 2 * height + 24 + front.width / 2
        pen.text((middle, CAPTION / 2), "Out: 24 steps of both hands, 0.8 s", "black", LARGE, anchor="mm")
        pen.text((height, picture.height - CAPTION / 2), "384 x 768, RGB", "gray", SMALL, anchor="mm")
        below = picture.height - CAPTION / 2
        pen.text((middle, below), "front camera, facing the arms", "gray", SMALL, anchor="mm")
        for side, where in (("right", -200), ("left", 200)):
            pen.text((middle + where, below), f"{side} arm", COLOURS[side], SMALL, anchor="mm")
        return picture

    def _on_front(self, point: np.ndarray, size: tuple[int, int]) -> tuple[float, float]:
        """A point of the cell in pixels of the front camera's picture; MuJoCo's cameras look along their -z."""
        camera = self._cell.model.camera("front")
        x, y, z = (point - self._cell.data.cam_xpos[camera.id]) @ self._cell.data.cam_xmat[camera.id].reshape(
            3, 3
        )
        scale = size[1] / (2 * np.tan(np.deg2rad(self._cell.model.cam_fovy[camera.id]) / 2) * -z)
        return size[0] / 2 + scale * x, size[1] / 2 - scale * y


def _label(pen: ImageDraw.ImageDraw, place: tuple[float, float], text: str, colour: Any = "black") -> None:
    pen.rounded_rectangle(np.add(pen.textbbox(place, text, SMALL), (-4, -2, 4, 4)).tolist(), 4, "white")
    pen.text(place, text, colour, SMALL)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=3)
    parser.add_argument("--max-seconds", type=float, default=20.0)
    parser.add_argument("--tasks", nargs="+", default=["pick", "place", "press"])
    asked = parser.parse_args()
    policy = load_policy("demo-fm")
    films: list[Film] = []
    for task in asked.tasks:
        (trial,) = draw_trials(task, 1, asked.seed)
        sentence = trial.task(trial.scene()).instruction

        def watch(cell: Cell, sentence: str = sentence) -> Film:
            films.append(Film(cell, sentence))
            return films[-1]

        record, _ = run_trial(
            trial, policy, "ur5e", config=loop_config(), max_seconds=asked.max_seconds, watch=watch
        )
        print(f"{sentence} {record.reason} after {record.seconds:.1f} s")
    asked.out.mkdir(parents=True, exist_ok=True)
    first, *rest = [frame for film in films for frame in film.frames]
    first.save(
        asked.out / "demo.webp", save_all=True, append_images=rest, duration=1000 // PER_SECOND, loop=0,
        quality=40, method=4,
    )  # fmt: skip
    if films[0].still is not None:
        films[0].still.save(asked.out / "chunk.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
