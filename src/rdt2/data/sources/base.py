"""What all sources have in common: episodes by number, pictures decoded when they are asked for."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar, overload

import numpy as np

from rdt2.action import ARMS
from rdt2.data.episode import Episode
from rdt2.data.sources.options import Guess, SourceOptions, to_matrices, to_widths
from rdt2.data.sources.pictures import to_picture
from rdt2.errors import ConfigError, RecordingError
from rdt2.observation import IMAGE_SIZE

if TYPE_CHECKING:
    from jaxtyping import Float

Value = TypeVar("Value")


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
    not say and the options left open.
    """

    kind: ClassVar[str]

    def __init__(self, path: str | Path, options: SourceOptions | None = None) -> None:
        self.path = Path(path)
        self.options = options or SourceOptions()
        self.guesses: list[Guess] = []
        self.names: list[str] = []
        self.lengths: list[int] = []
        if not self.path.exists():
            raise RecordingError(f"{self.path}: no such file or folder.")

    @abstractmethod
    def episode(self, number: int) -> Episode:
        """One episode at its recorded rate. Raises RDT2Error that names file and frame."""

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> Episode:
        if not 0 <= number < len(self):
            raise IndexError(number)
        return self.episode(number)

    def __iter__(self) -> Iterator[Episode]:
        return (self.episode(number) for number in range(len(self)))

    # ------------------------------------------------------------------------------- for the sources' own use

    def _choose(self, option: str, guess: Callable[[], tuple[Value, str]]) -> Value:
        """The option if it was given, else the guess, which is remembered."""
        given = getattr(self.options, option)
        if given is not None:
            return given
        value, reason = guess()
        shown = " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
        self.guesses.append(Guess(option, shown, reason))
        return value

    def _arms_of_columns(self, columns: int, left_first: str) -> int:
        """How many arms a vector of ``columns`` numbers holds, and settle which robot each is (see _robots).

        ``left_first`` says why two arms are guessed to stand left before right.
        """
        arms = 2 if columns >= 14 else 1
        if self.options.arms is not None:
            arms = len(self.options.arms.split("-"))
        guess = ("left-right", left_first)
        if arms == 1:
            guess = ("right", "one arm is recorded and nothing says which")
        self._robots_of = self._robots(arms, *guess)
        return arms

    def _robots(self, count: int, guess: str, reason: str) -> dict[str, int]:
        """Which robot number each recorded arm is.

        Raises:
            ConfigError: more or fewer robots than the arm order names, or one arm without leave.
        """
        order = self._choose("arms", lambda: (guess, reason)).split("-")
        if len(order) != count:
            raise ConfigError(
                f"{self.path}: holds {count} robot(s), --arms {'-'.join(order)} names {len(order)}. "
                f"Say 'right' or 'left' for one robot, 'right-left' or 'left-right' for two."
            )
        if count == 1 and self.options.missing_arm == "refuse":
            raise ConfigError(
                f"{self.path}: holds one arm and the models move two. Add --missing-arm still to have the "
                f"other one stand still with a grey picture."
            )
        return {arm: number for number, arm in enumerate(order)}

    def _episode(
        self,
        number: int,
        *,
        position: Mapping[str, np.ndarray],
        rotation: Mapping[str, np.ndarray],
        gripper: Mapping[str, np.ndarray],
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
        kind, unit = self.options.rotation, self.options.gripper_unit
        assert kind is not None
        assert unit is not None
        poses, widths, videos = {}, {}, {}
        for arm in ARMS:
            if arm not in position:
                poses[arm] = np.tile(np.eye(4), (count, 1, 1))
                widths[arm] = np.zeros(count)
                videos[arm] = Pictures(count, _grey)
                continue
            for name, values in (("poses", position[arm]), ("gripper", gripper[arm])):
                if len(values) != count:
                    raise RecordingError(
                        f"{where}: {len(values)} {name} of the {arm} arm for {count} frames. "
                        f"Record it again, or cut it to equal length."
                    )
            poses[arm] = to_matrices(position[arm], rotation[arm], kind, where=f"{where}, {arm} arm")
            widths[arm] = to_widths(gripper[arm], unit, self.options, where=f"{where}, {arm} gripper")
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


def _grey(_: int) -> np.ndarray:
    return np.full((IMAGE_SIZE, IMAGE_SIZE, 3), 128, np.uint8)


def _prepared(
    read: Callable[[int], np.ndarray], options: SourceOptions, where: str
) -> Callable[[int], np.ndarray]:
    return lambda number: to_picture(read(number), options, where=f"{where}, frame {number}")


def guess_rotation(columns: int, arms: int, *, where: str) -> tuple[str, str]:
    """The rotation storage that fits a state of position, rotation and gripper for each arm, and why.

    Raises:
        ConfigError: no storage has that many columns.
    """
    reason = f"{columns} numbers for {arms} arm(s), each position, rotation, gripper"
    kinds = {3: "rotvec", 4: "xyzw", 6: "columns"}
    size = columns // arms - 4
    if columns % arms or size not in kinds:
        raise ConfigError(
            f"{where}: {columns} numbers a frame; expected 7, 8 or 10 for an arm (position, rotation vector "
            f"or quaternion or 6D, gripper). Joint angles are no poses: point --pose-key at end-effector poses."
        )
    return kinds[size], reason


def guess_cameras(names: Sequence[str], *, where: str) -> tuple[tuple[str, str], str]:
    """(right, left) wrist cameras by their names, and why.

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
                f"Name both: --cameras RIGHT LEFT"
            )
        found.append(matches[0])
    return (found[0], found[1]), "by their names"
