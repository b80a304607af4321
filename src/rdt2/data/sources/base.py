"""What all sources have in common: episodes by number, pictures decoded when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import numpy as np

from rdt2.action import ARMS
from rdt2.data.episode import Episode
from rdt2.data.sources.columns import sides
from rdt2.data.sources.layout import read_layout
from rdt2.data.sources.numbers import (
    ARM_LENGTH_MIN,
    ROTATION_SIZE,
    check_positions,
    contradicts_unit,
    extent,
    guess_angle_unit,
    guess_gripper,
    to_matrices,
    to_widths,
)
from rdt2.data.sources.options import METRES, Guess, SourceOptions, tool_rotation
from rdt2.data.sources.pictures import to_picture
from rdt2.errors import ConfigError, RDT2Error, RecordingError
from rdt2.observation import IMAGE_SIZE

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

Value = TypeVar("Value")
OPTIONS = frozenset(field.name for field in fields(SourceOptions))
"""Names of all options, for layouts to which few of them mean anything."""


class Pictures(Sequence[np.ndarray]):
    """The pictures of one camera, each decoded when it is asked for; only the last one stays in memory."""

    def __init__(self, count: int, decode: Callable[[int], np.ndarray]) -> None:
        self._count, self._decode = count, decode
        self._last: tuple[int, np.ndarray] | None = None

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, number: int) -> np.ndarray: ...
    @overload
    def __getitem__(self, number: slice) -> Sequence[np.ndarray]: ...
    def __getitem__(self, number: int | slice) -> np.ndarray | Sequence[np.ndarray]:
        if isinstance(number, slice):
            return [self[row] for row in range(*number.indices(self._count))]
        if not -self._count <= number < self._count:
            raise IndexError(number)
        number %= self._count
        if self._last is None or self._last[0] != number:
            self._last = (number, self._decode(number))
        return self._last[1]


class Source(ABC):
    """Recordings of one layout. ``len``, indexing and iteration give :class:`~rdt2.data.Episode` objects.

    names: one for each episode, unique. lengths: recorded frames of each. guesses: what the recording does
    not say and the options left open. notes: what is known of recordings of this origin and was taken for granted.
    damaged: number -> what is wrong, of episodes that cannot be read as far as
    opening tells; asking for one of them raises that.
    """

    kind: ClassVar[str]
    meaningless: ClassVar[frozenset[str]] = frozenset()
    """Options that say nothing about recordings of this layout: who gives one expects what does not happen."""
    because: ClassVar[str] = "an option that says nothing about such recordings was given"

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        """Look at `path`.

        Raises:
            RecordingError: there is nothing. ConfigError: options that mean nothing to this layout.
        """
        self.path = Path(path)
        self.options = options or SourceOptions()
        self.guesses: list[Guess] = []
        self.notes: list[str] = []
        self.names: list[str] = []
        self.lengths: list[int] = []
        self.damaged: dict[int, RDT2Error] = {}
        self._missing: list[str] = []
        self._guessed_unit = False
        self._other_arm = ""  # where the other arm's numbers are, if one arm is read and there are such
        if not self.path.exists():
            raise RecordingError(f"{self.path}: no such file or folder.")
        usual = SourceOptions()
        if foreign := [
            f"--{name.replace('_', '-')}"
            for name, value in vars(self.options).items()
            if name in self.meaningless and value != getattr(usual, name)
        ]:
            raise ConfigError(f"--from {self.kind}: {self.because}. Leave out {', '.join(foreign)}.")

    @abstractmethod
    def episode(self, number: int) -> Episode:
        """One episode at its recorded rate. Raises RDT2Error that names file and frame."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Episode:
        if not 0 <= number < len(self):
            raise IndexError(number)
        if number in self.damaged:
            raise self.damaged[number]
        return self.episode(number)

    def __iter__(self) -> Iterator[Episode]:
        return (self[number] for number in range(len(self)))

    # ------------------------------------------------------------------------------- for the sources' own use

    def _choose(self, option: str, guess: Callable[[], tuple[Value, str]]) -> Value | None:
        """The option if it was given, else the guess, which is remembered; what cannot be guessed is asked for
        with everything else that is missing (see _settle), and None meanwhile."""
        given = getattr(self.options, option)
        if given is not None:
            return given
        try:
            value, reason = guess()
        except ConfigError as error:
            self._ask(str(error))
            return None
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        self.guesses.append(Guess(option, shown, reason))
        return value

    def _ask(self, message: str) -> None:
        """Remember a setting that has to be given."""
        message = message.removeprefix(f"{self.path}: ")
        if message not in self._missing:
            self._missing.append(message)

    def _settle(self) -> None:
        """The end of opening.

        Raises:
            ConfigError: settings are missing: all of them, and the guesses, in one message.
        """
        if self._missing:
            raise ConfigError(explain(self.path, self.guesses, self._missing))

    @contextmanager
    def _asking_as_well(self, others: Callable[[], None]) -> Iterator[None]:
        """For what the rest of opening needs, such as where the poses are: a setting that is missing or wrong there
        ends opening, together with what ``others`` asks for, which does not need it."""
        try:
            yield
        except ConfigError as error:
            self._ask(str(error))
            others()
            self._settle()

    def _ask_instruction(self, recorded: Iterable[str | None]) -> None:
        """Ask for a sentence where an episode has none."""
        texts = [(text or "").strip() for text in recorded]
        without = texts.count("")
        if without and not (self.options.instruction or "").strip():
            self._ask(
                f"no instruction is recorded in {without} of {len(texts)} episode{'s' * (len(texts) != 1)}. "
                f"Give one: --instruction 'Pick up the apple.'"
            )

    def _robots(self, count: int, guess: str, reason: str) -> dict[str, int]:
        """Which robot number each recorded arm is; ``guess`` is no guess where ``reason`` is empty.

        Raises:
            ConfigError: more or fewer robots than the arm order names, or another order than theirs.
        """
        if reason:
            order = (self._choose("arms", lambda: (guess, reason)) or guess).split("-")
        else:
            order = guess.split("-")
            if self.options.arms not in (None, guess):
                raise ConfigError(
                    f"{self.path}: its names say {guess}, --arms says {self.options.arms}. Leave --arms out; where "
                    f"the names are wrong, name the columns: --pose-names left_x left_y ..."
                )
        if len(order) != count:
            raise ConfigError(
                f"{self.path}: holds {count} robot(s), --arms {'-'.join(order)} names {len(order)}. "
                f"Say 'right' or 'left' for one robot, 'right-left' or 'left-right' for two."
            )
        if count == 1 and self.options.missing_arm == "refuse":
            self._ask(
                f"{self.path}: holds one arm and the models move two. Add --missing-arm still to have the "
                f"other one stand still with a grey picture.{self._other_arm}"
            )
        return {arm: number for number, arm in enumerate(order)}

    def _read_columns(
        self,
        key: str,
        names: Sequence[str],
        sample: Float[np.ndarray, "n columns"],
        *,
        left_first: str,
        gripper_choices: Sequence[str] = (),
    ) -> None:
        """Settle which column is what: arms, rotation, where the gripper is, and units that names tell.

        sample: rows of one recording. left_first: why two arms without names are guessed to be left and right.
        gripper_choices: where else in the recording numbers of a gripper may be.

        Raises:
            ConfigError: columns that are no poses, or options that contradict them.
        """
        where, columns = f"{self.path}: {key}", sample.shape[1]
        given = self.options.pose_names
        if given is not None:
            names = [*given] * (columns // len(given) if given and len(given) * 2 == columns else 1)
            if len(names) != columns:
                raise ConfigError(
                    f"{where}: has {columns} columns, --pose-names names {len(given)}. Name all of them in their "
                    f"order, or those of one arm where two stand side by side."
                )
        layout = read_layout(key, names, sample, self.options, where=where)
        if layout.rotation_reason and self.options.rotation is None:
            self.guesses.append(Guess("rotation", layout.rotation, layout.rotation_reason))
        one = ("right", "one arm is recorded and nothing says which")
        two = ("left-right", f"{left_first}; nothing in the numbers tells")
        guess = (layout.order, "") if layout.order else two if len(layout.arms) == 2 else one
        self._robots_of = self._robots(len(layout.arms), *guess)
        self._columns = {arm: layout.arms[robot] for arm, robot in self._robots_of.items()}
        self._key = key
        self.options = replace(self.options, rotation=layout.rotation, **layout.units)  # type: ignore[arg-type]
        if any(arm.gripper is None for arm in layout.arms):
            self._ask_gripper(
                f"{key} has {columns} columns: position and rotation ({layout.rotation}) of {len(layout.arms)} arm(s)",
                gripper_choices,
            )

    def _ask_gripper(self, what: str, choices: Sequence[str]) -> None:
        """Ask where the gripper openings are, unless that was said."""
        if self.options.gripper_key is None and self.options.gripper_fixed is None:
            others = f" (there are {', '.join(choices[:12])})" if choices else ""
            self._ask(
                f"{what}, and no gripper. Say where its openings are: --gripper-key NAME{others}, or declare the "
                f"width in metres: --gripper-fixed 0.05"
            )

    def _parts(
        self, values: Float[np.ndarray, "n columns"], grippers: Mapping[str, Float[np.ndarray, " n"]] | None
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]:
        """Position, rotation and gripper numbers of each arm; ``grippers``: those that are recorded elsewhere."""
        parts = {}
        for arm, columns in self._columns.items():
            inside = None if columns.gripper is None else values[:, columns.gripper]
            parts[arm] = (
                values[:, columns.position],
                values[:, columns.rotation],
                inside if grippers is None else grippers[arm],
            )
        return parts

    def _gripper_numbers(
        self, read: Callable[[str], np.ndarray], names: Callable[[str], Sequence[str]], *, where: str
    ) -> dict[str, np.ndarray] | None:
        """arm -> (n,) numbers that --gripper-key names; None without it. ``read`` gives (n,) or (n, arms),
        ``names`` what those columns are called. {arm} and {robot} in the key stand for an arm's name and number.

        Raises:
            ConfigError: not one number for each arm.
        """
        key = self.options.gripper_key
        if key is None:
            return None
        if "{arm}" in key or "{robot}" in key:
            keys = {
                arm: key.replace("{arm}", arm).replace("{robot}", str(n))
                for arm, n in self._robots_of.items()
            }
            return {arm: self._one_each(read(each), 1, each, where)[:, 0] for arm, each in keys.items()}
        table = self._one_each(read(key), len(self._robots_of), key, where)
        sided = {arm: number for number, arm in enumerate(sides(names(key)))}
        order = sided if set(sided) == set(self._robots_of) else self._robots_of
        return {arm: table[:, number] for arm, number in order.items()}

    def _one_each(self, values: np.ndarray, arms: int, key: str, where: str) -> Float[np.ndarray, "n arms"]:
        table = values.reshape(len(values), -1)
        if table.shape[1] != arms:
            raise ConfigError(
                f"{where}: {key} has {table.shape[1]} numbers a frame for the gripper of {arms} arm(s), expected one "
                f"each. Name another --gripper-key; {{arm}} in it stands for right and left."
            )
        return table

    def _settle_units(
        self, episodes: Iterable[tuple[str, Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray | None]]]]
    ) -> None:
        """Judge the units by the numbers of all ``episodes``: (name, arm -> position, rotation, gripper)."""
        kind = self.options.rotation
        assert kind is not None
        extents = {
            f"{name}, {arm} arm": extent(*part, kind)
            for name, parts in episodes
            for arm, part in parts.items()
            if len(part[0])
        }
        try:
            check_positions(extents, self.options.position_unit, where=str(self.path))
        except ConfigError as error:
            self._ask(str(error))
        unit = self.options.angle_unit
        far = any((each.angle or 0.0) > 2 * np.pi + 0.01 for each in extents.values())
        if kind.startswith("euler") or (kind == "rotvec" and far):
            unit = self._choose("angle_unit", lambda: guess_angle_unit(extents))
        self.options = replace(self.options, angle_unit=unit)
        grippers = {name: each.gripper for name, each in extents.items() if each.gripper is not None}
        if self.options.gripper_fixed is None and grippers:
            self._guessed_unit = self.options.gripper_unit is None
            found = self._choose("gripper_unit", lambda: guess_gripper(grippers, where=str(self.path)))
            self.options = replace(self.options, gripper_unit=found)  # type: ignore[arg-type]

    def _episode(
        self,
        number: int,
        *,
        position: Mapping[str, np.ndarray],
        rotation: Mapping[str, np.ndarray],
        gripper: Mapping[str, np.ndarray | None],
        frames: Mapping[str, Callable[[int], np.ndarray]],
        timestamps: Float[np.ndarray, " n"],
        instruction: str | Sequence[str | None] | None,
        meta: Mapping[str, Any] | None = None,
    ) -> Episode:
        """Put an episode together from recorded numbers; an arm that is not there stands still.

        instruction: the sentence, or one for each frame; blank ones are filled with the option.
        """
        where = f"{self.path.name}, {self.names[number]}"
        count = len(timestamps)
        if count == 0:
            raise RecordingError(f"{where}: has no frame. Leave that episode out of the recording.")
        kind = self.options.rotation
        assert kind is not None
        self._require_as_far_as_others(position, where=where)
        poses, widths, videos = {}, {}, {}
        for arm in ARMS:
            if arm not in position:
                poses[arm] = np.tile(np.eye(4), (count, 1, 1))
                widths[arm] = np.zeros(count)
                videos[arm] = Pictures(count, grey_picture)
                continue
            opening = None if self.options.gripper_fixed is not None else gripper[arm]
            for name, values in (("poses", position[arm]), ("gripper", opening)):
                if values is not None and len(values) != count:
                    raise RecordingError(
                        f"{where}: {len(values)} {name} of the {arm} arm for {count} frames. "
                        f"Record it again, or cut it to equal length."
                    )
            place, turn = self._metres_and_radians(position[arm], rotation[arm], where=f"{where}, {arm} arm")
            poses[arm] = to_matrices(place, turn, kind, where=f"{where}, {arm} arm")
            if self.options.tool_axes is not None:
                poses[arm][:, :3, :3] @= tool_rotation(self.options.tool_axes)
            widths[arm] = self._widths(opening, count, where=f"{where}, {arm} gripper")
            videos[arm] = Pictures(count, _prepared(frames[arm], self.options, f"{where}, {arm} camera"))
        return Episode(
            videos=videos,
            poses=poses,
            widths=widths,
            timestamps=timestamps,
            instruction=self._sentences(instruction, where),
            source=where,
            meta={
                "episode": self.names[number],
                **({"still_arms": [arm for arm in ARMS if arm not in position]} if len(position) < 2 else {}),
                **(meta or {}),
            },
        )

    def _sentences(self, recorded: str | Sequence[str | None] | None, where: str) -> str | list[str]:
        """The recorded sentence or sentences, --instruction in the place of blank ones."""
        found = [recorded] if recorded is None or isinstance(recorded, str) else list(recorded)
        instead = (self.options.instruction or "").strip()
        filled = [(sentence or "").strip() or instead for sentence in found]
        if "" in filled:
            some = f"frame {filled.index('')} has no instruction"
            missing = some if any(filled) else "no instruction is recorded"
            raise RecordingError(f"{where}: {missing}. Give one: --instruction 'Pick up the apple.'")
        return filled[0] if len(set(filled)) == 1 else filled

    def _require_as_far_as_others(self, position: Mapping[str, np.ndarray], *, where: str) -> None:
        """Raises RecordingError for an episode in metres among others in --position-unit."""
        unit = self.options.position_unit or "m"
        farthest = max(extent(each, each, None, "rotvec").farthest for each in position.values())
        if unit != "m" and 0 < farthest * METRES[unit] < ARM_LENGTH_MIN:
            raise RecordingError(
                f"{where}: no arm goes further than {farthest:.4g} from 0, which is "
                f"{1e3 * farthest * METRES[unit]:.2g} mm in {unit}, as the other episodes are. In metres it would be "
                f"likely: convert this episode apart with --position-unit m, or leave it out (--skip-damaged)."
            )

    def _metres_and_radians(
        self, position: np.ndarray, rotation: np.ndarray, *, where: str
    ) -> tuple[np.ndarray, np.ndarray]:
        kind = self.options.rotation
        assert kind is not None
        far = extent(position, rotation, None, kind)
        if self.options.position_unit is None:
            check_positions({"this episode": far}, None, where=where)
        if self.options.angle_unit is None and (far.angle or 0.0) > 2 * np.pi + 0.01:
            raise RecordingError(
                f"{where}: the angles go to {far.angle:.4g}, beyond 2 pi. Say the unit: --angle-unit deg (or rad)"
            )
        scale = np.pi / 180 if ROTATION_SIZE[kind] == 3 and self.options.angle_unit == "deg" else 1.0
        return position * METRES[self.options.position_unit or "m"], rotation * scale

    def _widths(self, opening: np.ndarray | None, count: int, *, where: str) -> np.ndarray:
        if self.options.gripper_fixed is not None:
            return np.full(count, self.options.gripper_fixed)
        unit = self.options.gripper_unit
        assert opening is not None
        assert unit is not None
        finite = opening[np.isfinite(opening)]
        if self._guessed_unit and len(finite) and contradicts_unit((finite.min(), finite.max()), unit):
            raise RecordingError(
                f"{where}: the numbers run from {finite.min():.4g} to {finite.max():.4g}, the other episodes look "
                f"like {unit}. Say what they mean (--gripper-unit), or leave this episode out."
            )
        return to_widths(opening, unit, self.options, where=where)


def grey_picture(_: int) -> UInt8[np.ndarray, "384 384 3"]:
    """The picture of an arm that is not there."""
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 128, np.uint8)


def _prepared(
    read: Callable[[int], np.ndarray], options: SourceOptions, where: str
) -> Callable[[int], np.ndarray]:
    return lambda number: to_picture(read(number), options, where=f"{where}, frame {number}")


def explain(path: Path, guesses: Sequence[Guess], missing: Sequence[str] = ()) -> str:
    """What a recording leaves open as a message with the flags: what has to be said, and what was guessed."""
    if len(missing) == 1 and not guesses:
        return f"{path}: {missing[0]}"
    lines = [f"{path}: the recording does not say all that is needed."]
    if missing:
        lines += ["Say these:", *(f"  - {message}" for message in missing)]
    if guesses:
        lines += ["Look at these guesses:", *(f"  {guess.flag:32} {guess.reason}" for guess in guesses)]
        lines.append("Confirm or correct them with these flags, or take all of them with --accept-guesses.")
    return "\n".join(lines)


def guess_cameras(names: Sequence[str], *, where: str, how: str = "") -> tuple[tuple[str, str], str]:
    """(right, left) wrist cameras by their names, and why. how: in what way they may be named.

    Raises:
        ConfigError: not exactly one name for each side.
    """
    found = []
    for side, other in (("right", "left"), ("left", "right")):
        matches = [name for name in names if side in name.lower() and other not in name.lower()]
        wrist = [name for name in matches if "wrist" in name.lower()]
        matches = wrist if len(wrist) == 1 else matches
        if len(matches) != 1:
            raise ConfigError(
                f"{where}: cannot tell the {side} wrist camera among {', '.join(names) or 'no cameras'}. "
                f"Name both: --cameras RIGHT LEFT{how}"
            )
        found.append(matches[0])
    return (found[0], found[1]), "by their names"
