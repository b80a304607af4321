"""Recorded pictures: colour of 8 bits a channel and nothing else, cropped and resized as the models see them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from rdt2.errors import RecordingError
from rdt2.observation import wrist_picture

if TYPE_CHECKING:
    from jaxtyping import Shaped, UInt8
    from PIL.Image import Image

    from rdt2.data.sources.options import SourceOptions

MAX_SIDE = 8192
"""A picture side above this is no wrist camera: refused before anything is allocated."""
NOT_COLOUR = (
    "The models see colour pictures, uint8 RGB in 0..255; depth, thermal and grey ones are none. "
    "Name colour cameras with --cameras RIGHT LEFT, or store the pictures as 8-bit RGB."
)


def decode_image(data: bytes, *, where: str) -> UInt8[np.ndarray, "h w 3"]:
    """JPEG or PNG bytes (trailing zeros allowed) as RGB; an alpha channel is left out.

    Raises:
        RecordingError: neither, damaged, too large for a wrist camera, or no colour picture of 8 bits.
    """
    import io

    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
            if max(image.size) > MAX_SIDE:
                raise RecordingError(f"{where}: a picture of {image.size} pixels is no wrist picture.")
            kind = deep(image) or single(image)
            if kind:
                raise RecordingError(f"{where}: the picture has {kind}. {NOT_COLOUR}")
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, RecordingError):
            raise
        raise RecordingError(f"{where}: the picture is no JPEG or PNG, or damaged ({error}).") from None


def deep(image: Image) -> str | None:
    """What an opened picture has more than 8 bits a channel of; converting it to RGB would clip it to white."""
    if image.mode in ("I", "F"):
        return "32-bit numbers for pixels"
    # Colour of 16 bits is opened as 8; only the raw mode of the file still tells.
    raw = [str(tile[3]) for tile in getattr(image, "tile", [])]
    if ";16" in image.mode or any(";16" in mode for mode in raw):
        return f"16 bits a channel ({image.mode})"
    return None


def single(image: Image) -> str | None:
    """What tells that an opened picture has a single channel."""
    return f"one channel ({image.mode})" if image.mode in ("1", "L", "LA") else None


def to_picture(
    image: Shaped[np.ndarray, "h w channels"], options: SourceOptions, *, where: str
) -> UInt8[np.ndarray, "384 384 3"]:
    """A wrist picture (uint8, RGB or RGBA) cropped to its centred square and resized to 384 x 384, RGB.

    Raises:
        RecordingError: no uint8 colour picture, or smaller than the crop.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] not in (3, 4):
        raise RecordingError(f"{where}: a picture is {image.dtype} {image.shape}. {NOT_COLOUR}")
    if max(image.shape[:2]) > MAX_SIDE:
        raise RecordingError(f"{where}: a picture of {image.shape[:2]} pixels is no wrist picture.")
    if options.crop is not None and options.crop > min(image.shape[:2]):
        raise RecordingError(
            f"{where}: a picture is {image.shape[0]} x {image.shape[1]}, smaller than --crop {options.crop}."
        )
    return wrist_picture(image, crop=options.crop, bgr=options.color == "bgr")
