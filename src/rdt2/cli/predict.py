"""`rdt2 predict`: two picture files and a sentence to one action chunk."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rdt2.cli.choices import PolicyOptions
from rdt2.errors import ConfigError
from rdt2.policy.spec import PolicySpec

if TYPE_CHECKING:
    from jaxtyping import UInt8
    from numpy import ndarray

    from rdt2.action import ActionChunk

DRAWINGS = (".png", ".svg", ".pdf")


@dataclass(kw_only=True)
class Predict:
    """Predict one action chunk from two pictures and a sentence.

    For example:
      rdt2 predict --left left.png --right right.png --instruction "Pick up the red cube with the left hand."
      rdt2 predict --policy runs/fm --left l.jpg --right r.jpg --instruction "Pick up the apple." --plot c.png
    """

    out_is_file: ClassVar[bool] = True

    spec: PolicyOptions = field(default_factory=PolicySpec)
    left: Path
    """Picture of the left wrist camera; other sizes are cropped to the middle square and resized to 384."""
    right: Path
    """Picture of the right wrist camera."""
    instruction: str
    """Short English, "Verb + object.", with capital letter and full stop."""
    seed: int = 0
    """Of the noise that the flow-matching policy starts from."""
    out: Path | None = None
    """Write the chunk to this .npz: values (24, 20), and poses and widths of each arm."""
    plot: Path | None = None
    """Draw the chunk to this .png, .svg or .pdf."""
    json: Path | None = None
    """Write the chunk to this file. - is stdout, alone."""

    def run(self) -> None:
        from rdt2.cli.output import console, save_json
        from rdt2.evaluation.policies import open_policy
        from rdt2.observation import Observation, check_instruction
        from rdt2.progress import note, working

        if self.plot is not None and self.plot.suffix.lower() not in DRAWINGS:
            raise ConfigError(f"--plot {self.plot}: a drawing ends in {', '.join(DRAWINGS)}.")
        for warning in check_instruction(self.instruction):
            note(f"instruction: {warning}")
        observation = Observation(
            left=read_picture(self.left), right=read_picture(self.right), instruction=self.instruction
        )
        with working(f"loading {self.spec.policy}"):
            policy = open_policy(self.spec)
        (chunk,) = policy.predict([observation], seed=self.seed)
        values: dict[str, Any] = {
            "policy": self.spec.policy,
            "instruction": self.instruction,
            "seed": self.seed,
            "valid": chunk.valid,
            "reason": chunk.reason,
            "values": chunk.values,
            "tokens": chunk.tokens,
            "confidence": chunk.confidence,
            "timing_seconds": dict(chunk.timing),
        }
        if not chunk.valid:
            console().print(
                f"The chunk is not valid and must not be executed: {chunk.reason}", style="bold red"
            )
        else:
            console().print(_table(chunk))
            if self.out is not None:
                _save_arrays(self.out, chunk)
            if self.plot is not None:
                _save_plot(self.plot, chunk)
        save_json(self.json, values)
        if not chunk.valid:
            sys.exit(1)


def read_picture(path: Path) -> UInt8[ndarray, "384 384 3"]:
    """A picture file as the models take it: RGB, middle square, 384 x 384.

    Raises:
        ObservationError: no such file, no picture, or one of more than 8 bits a channel.
    """
    from PIL import Image, UnidentifiedImageError

    from rdt2.data.sources.pictures import deep
    from rdt2.errors import ObservationError
    from rdt2.observation import wrist_picture

    try:
        with Image.open(path) as file:
            kind = deep(file)
            if kind:
                raise ObservationError(
                    f"{path}: the picture has {kind}; expected a colour picture of 8 bits a channel. Save it "
                    f"as 8-bit RGB; depth pictures are not what the models see."
                )
            image = file.convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise ObservationError(
            f"{path}: cannot be read as a picture ({error}). Pass a PNG or JPEG file."
        ) from error
    return wrist_picture(image)


def _table(chunk: ActionChunk) -> Any:
    import numpy as np
    from rich.table import Table

    from rdt2.action import FPS, SIDES

    table = Table(
        title="predicted motion, each gripper in its own frame at the observation", title_justify="left"
    )
    for name in ("arm", "time (s)", "x (mm)", "y (mm)", "z (mm)", "opening (mm)"):
        table.add_column(name, justify="left" if name == "arm" else "right")
    for arm in SIDES:
        for step in (0, 5, 11, 17, 23):
            millimetres = 1000 * np.append(chunk.relative_poses(arm)[step, :3, 3], chunk.widths(arm)[step])
            table.add_row(
                arm, f"{(step + 1) / FPS:.2f}", *(f"{round(value, 1) + 0.0:.1f}" for value in millimetres)
            )
    return table


def _save_arrays(path: Path, chunk: ActionChunk) -> None:
    import io

    import numpy as np

    from rdt2.action import ARMS
    from rdt2.files import write_whole
    from rdt2.progress import note

    arrays = {"values": chunk.values}
    for arm in ARMS:
        arrays[f"{arm}_poses"] = chunk.relative_poses(arm)
        arrays[f"{arm}_widths"] = chunk.widths(arm)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    note(f"chunk: {write_whole(path, buffer.getvalue())}")


def _save_plot(path: Path, chunk: ActionChunk) -> None:
    import io

    from rdt2.action import ARMS
    from rdt2.evaluation.figures import chunk_figure
    from rdt2.files import write_whole
    from rdt2.progress import note

    figure = chunk_figure(
        {arm: chunk.relative_poses(arm)[:, :3, 3] for arm in ARMS}, {arm: chunk.widths(arm) for arm in ARMS}
    )
    buffer = io.BytesIO()
    figure.savefig(buffer, format=path.suffix.lstrip(".").lower(), dpi=150)
    note(f"drawing: {write_whole(path, buffer.getvalue())}")
