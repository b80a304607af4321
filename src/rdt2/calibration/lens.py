"""What a wrist camera sees: its lens from pictures of a board, its exposure, and whose hand it is on.

    board = Board()
    Image.fromarray(board.picture()).save("board.png")      # print it, measure a square, hold it before the camera
    lens = fisheye(pictures, board)

The board is a ChArUco board: squares of a chessboard, known by the markers in them, so that a part of it is enough. The
lens is the equidistant model with four coefficients of Kannala and Brandt (2006), as OpenCV's fisheye module has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from rdt2.errors import CalibrationError

if TYPE_CHECKING:
    from jaxtyping import Float, Int, UInt8
    from numpy import ndarray

LEAST_CORNERS, LEAST_PICTURES = 8, 8
UNFIT = 3.0
"""Pixels that are left on average from which it is no lens that was found."""
CELLS = 4
"""The picture is divided into so many rows and columns to tell where corners were seen."""
DARK, BRIGHT = 40, 215
"""Of 255: a mean outside of these is too dark or too bright."""
CLIPPED = 0.1
"""Share of pixels at the upper end that a picture may have."""
MOVED = 2.0
"""How many times more one picture changes than the other when a hand is waved before it."""
STILL = 1.0
"""Grey levels by which a picture changes on average when nothing moves."""


@dataclass(frozen=True)
class Board:
    """A ChArUco board."""

    columns: int = 8
    rows: int = 6
    square: float = 0.03
    """Side of a square, metres: measure it on the print."""

    @cached_property
    def _board(self) -> Any:
        import cv2

        words = cv2.aruco.getPredefinedDictionary(cv2.aruco.DICT_5X5_100)
        return cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, 0.73 * self.square, words)

    @cached_property
    def _detector(self) -> Any:
        import cv2

        return cv2.aruco.CharucoDetector(self._board)

    def picture(self, pixels: int = 120) -> UInt8[ndarray, "h w"]:
        """The board to print, so many pixels a square."""
        size = (self.columns * pixels, self.rows * pixels)
        drawn: ndarray = self._board.generateImage(size, marginSize=0)
        return drawn

    @property
    def corners(self) -> Float[ndarray, "n 3"]:
        """Inner corners on the board, metres, by number."""
        corners: ndarray = np.asarray(self._board.getChessboardCorners(), dtype=np.float64)
        return corners

    def find(self, picture: UInt8[ndarray, "h w 3"]) -> tuple[Int[ndarray, " k"], Float[ndarray, "k 2"]]:
        """Numbers and places (pixels) of the corners that a picture shows; none where it shows no board."""
        import cv2

        grey = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2GRAY)
        points, numbers, _, _ = self._detector.detectBoard(grey)
        if numbers is None or len(numbers) == 0:
            return np.zeros(0, int), np.zeros((0, 2))
        return np.ravel(numbers), np.asarray(points, dtype=np.float64).reshape(-1, 2)


@dataclass(frozen=True)
class Lens:
    """A calibrated lens."""

    matrix: Float[ndarray, "3 3"]
    """fx, fy, cx, cy in pixels."""
    distortion: Float[ndarray, " 4"]
    """k1 to k4 of the equidistant model."""
    error: float
    """Root mean square distance of the corners from where the model has them, pixels."""
    size: tuple[int, int]
    """Height and width of the pictures."""
    pictures: int
    covered: float
    """Share of the picture's cells in which corners were seen."""

    def radius(self, angle: float) -> float:
        """Pixels from the middle at which light is seen that comes in at so many radians from the axis."""
        k1, k2, k3, k4 = self.distortion
        square = angle * angle
        bent = angle * (1 + square * (k1 + square * (k2 + square * (k3 + square * k4))))
        return float(self.matrix[0, 0] * bent)

    @cached_property
    def rises(self) -> float:
        """Radians from its axis, a right angle at most, up to which light from further aside is seen further out."""
        angles = np.linspace(0.0, np.pi / 2, 1000)
        falls = np.flatnonzero(np.diff([self.radius(angle) for angle in angles]) <= 0)
        return float(angles[falls[0] if len(falls) else -1])

    def view(self, width: float) -> float:
        """Radians from edge to edge that a picture so many pixels wide shows across the middle of the lens."""
        angles = np.linspace(0.0, self.rises, 1000)
        return 2 * float(np.interp(width / 2, [self.radius(angle) for angle in angles], angles))

    @property
    def notes(self) -> list[str]:
        """What makes this less than it could be."""
        said = []
        if self.covered < 0.75:
            said.append(
                f"corners were seen in {100 * self.covered:.0f} % of the picture: hold the board into its corners, too"
            )
        if self.error > 0.7:
            said.append(
                f"{self.error:.2f} pixels are left on average: is the board flat, and the picture sharp?"
            )
        return said

    def as_dict(self) -> dict[str, Any]:
        """For JSON: the matrix (3, 3) in pixels, the distortion's coefficients, the error in pixels."""
        return {
            "matrix": self.matrix.tolist(), "distortion": self.distortion.tolist(), "error_px": self.error,
            "pictures": self.pictures, "covered": self.covered,
        }  # fmt: skip


def fisheye(pictures: Sequence[UInt8[ndarray, "h w 3"]], board: Board) -> Lens:
    """The lens from pictures (uint8 RGB, all of one size) of a board in many places and turns.

    Raises:
        CalibrationError: too few pictures that show enough of the board, or pictures that determine nothing.
    """
    sizes = {picture.shape for picture in pictures}
    if len(sizes) != 1:
        raise CalibrationError(f"the pictures have {len(sizes)} sizes ({sorted(sizes)[:3]}), expected one.")
    found = [board.find(picture) for picture in pictures]
    found = [(numbers, points) for numbers, points in found if len(numbers) >= LEAST_CORNERS]
    if len(found) < LEAST_PICTURES:
        raise CalibrationError(
            f"{len(found)} of {len(pictures)} pictures show {LEAST_CORNERS} corners of the board or more, expected "
            f"{LEAST_PICTURES} such pictures. Hold it nearer, flat and in light, and check its rows and columns "
            f"({board.rows} and {board.columns})."
        )
    height, width = pictures[0].shape[:2]
    return from_corners(
        [board.corners[n] for n, _ in found], [points for _, points in found], (width, height)
    )


def from_corners(
    corners: Sequence[Float[ndarray, "k 3"]], points: Sequence[Float[ndarray, "k 2"]], size: tuple[int, int]
) -> Lens:
    """The lens from corners of a board (metres) and where each picture of `size` (width, height) shows them.

    Raises:
        CalibrationError: they determine nothing.
    """
    import cv2

    home: Any = cv2.fisheye if hasattr(cv2.fisheye, "CALIB_FIX_SKEW") else cv2  # OpenCV 4, and 5
    flags = home.CALIB_RECOMPUTE_EXTRINSIC | home.CALIB_FIX_SKEW
    ideal = home.CALIB_FIX_K1 | home.CALIB_FIX_K2 | home.CALIB_FIX_K3 | home.CALIB_FIX_K4
    objects = [np.ascontiguousarray(c.reshape(1, -1, 3)) for c in corners]
    images = [np.ascontiguousarray(p.reshape(1, -1, 2)) for p in points]
    try:
        # all at once may run away where corners are few; from a lens that is not bent it does not
        _, matrix, straight, _, _ = cv2.fisheye.calibrate(
            objects, images, size, np.eye(3), np.zeros((4, 1)), flags=flags | ideal
        )
        error, matrix, distortion, _, _ = cv2.fisheye.calibrate(
            objects, images, size, matrix, straight, flags=flags | home.CALIB_USE_INTRINSIC_GUESS
        )
    except cv2.error as failure:
        raise CalibrationError(
            f"the pictures do not determine the lens ({str(failure).strip().splitlines()[-1]}). Hold the board into "
            "all corners of the picture, and tilt it."
        ) from None
    if not error < UNFIT:
        raise CalibrationError(
            f"the pictures do not fit a lens: {error:.0f} pixels are left on average. Hold the board still and flat, "
            "and check that it is the printed one."
        )
    cells = np.concatenate(points) / size * CELLS
    seen = {tuple(cell) for cell in np.clip(cells.astype(int), 0, CELLS - 1).tolist()}
    return Lens(
        matrix, distortion.ravel(), float(error), (size[1], size[0]), len(points), len(seen) / CELLS**2
    )


# ------------------------------------------------------------------------------------------------------------- pictures


def exposure(
    picture: UInt8[ndarray, "h w 3"], exposure_us: float | None, *, longest: float = 1e6
) -> tuple[str, float | None]:
    """What is wrong with a picture's brightness, and what to expose for instead.

    Args:
        picture: as the models see it.
        exposure_us: microseconds it was exposed for; None where the camera chooses, or has no exposure.
        longest: that the rate of pictures leaves time for, microseconds.

    Returns:
        A sentence, empty where nothing is wrong; and the exposure (None: nothing can be set, or what is there stays).
    """
    mean, clipped = float(picture.mean()), float((picture >= 250).any(axis=-1).mean())
    if mean > BRIGHT or clipped > CLIPPED:
        factor = min(0.8, 128 / max(mean, 1.0))
        told = f"too bright: {100 * clipped:.0f} % of it is white"
    elif mean < DARK:
        factor = 128 / max(mean, 8.0)
        told = f"too dark: its mean is {mean:.0f} of 255"
    else:
        return "", None
    if exposure_us is None:
        return f"{told}, and its exposure is not in the yaml: change the light, or set exposure_us", None
    wanted = exposure_us * factor
    if wanted > longest:
        told = f"{told}, and longer than {longest:.0f} us leaves no time for the next picture: it needs more light"
        return told, longest if exposure_us < longest else None
    return f"{told} with {exposure_us:.0f} us. About {wanted:.0f} us are right; or change the light", wanted


def waved(before: dict[str, UInt8[ndarray, "h w 3"]], after: dict[str, UInt8[ndarray, "h w 3"]]) -> str:
    """Before which of two cameras something moved, by their names.

    Raises:
        CalibrationError: before none, or before both alike.
    """
    change = {name: float(np.abs(after[name].astype(np.int16) - before[name]).mean()) for name in before}
    most = max(change, key=lambda name: change[name])
    others = max(value for name, value in change.items() if name != most)
    if change[most] < STILL or change[most] < MOVED * others:
        said = ", ".join(f"{name} by {value:.1f}" for name, value in change.items())
        raise CalibrationError(
            f"the pictures changed ({said} of 255 on average), which does not tell whose hand was waved. Wave before "
            "one camera only, near to it, and keep the arms still."
        )
    return most
