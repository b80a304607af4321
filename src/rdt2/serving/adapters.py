"""Forms in which robots send what they see, and the observation each becomes.

    ours    left, right (or picture), instruction: see `rdt2.policy.messages`
    aloha   openpi's ALOHA: images/cam_left_wrist and cam_right_wrist, uint8 (3, h, w); state (14,); prompt
    droid   openpi's DROID: observation/wrist_image_left, uint8 (h, w, 3); one arm, which is the right one here; prompt

In the last two forms pictures may have any size and are cropped to their centred square. Joint angles and gripper
positions are checked and left out: RDT2's models do not read them, and a policy that reads the state of both arms takes
`ours` alone. The `actions` that come back are RDT2's in every form; the metadata says what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from rdt2.action import ACTION_DIM
from rdt2.errors import ObservationError
from rdt2.observation import IMAGE_SIZE, Observation, check_colours, wrist_picture
from rdt2.registry import did_you_mean

Form = Literal["auto", "ours", "aloha", "droid"]
MAX_SIDE = 2048
"""Pixels of a picture's side."""
MAX_SENTENCE = 1000
"""Characters of an instruction; what the models learned has fewer than 200."""

BESIDES = ("protocol", "seed", "deadline", "promise")
"""Entries beside the observation, in every form; see `rdt2.serving.requests`."""
_SEGMENTS, _SCANS = 256, 4
"""Of a JPEG picture. One that is not progressive has a scan for each colour at most."""
_TEM, _RST0, _SOI, _EOI, _SOS = 0x01, 0xD0, 0xD8, 0xD9, 0xDA
_MARKER = re.compile(rb"\xff+[^\xff]", re.DOTALL)
_BEHIND_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]", re.DOTALL)
_OURS = ("left", "right", "picture", "instruction", "prompt", "state", "timestamp", "compressed")
_ALOHA = ("images", "state", "prompt")
_ALOHA_CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
_WRIST = "observation/wrist_image_left"
_DROID = (
    *(_WRIST, "observation/wrist_image_right", "observation/exterior_image_1_left"),
    *("observation/exterior_image_2_left", "observation/joint_position", "observation/gripper_position", "prompt"),
)  # fmt: skip


def observation_of(entries: Mapping[str, Any], form: Form = "auto") -> Observation:
    """What a robot sees, in one of the forms; `auto` knows them by their entries.

    Raises:
        ObservationError: in the words of that form: an entry that is missing, unknown, or no such thing.
    """
    return _READERS[recognised(entries) if form == "auto" else form](entries)


def recognised(entries: Mapping[str, Any]) -> Form:
    """The form that a message has, by its entries."""
    if "images" in entries:
        return "aloha"
    return (
        "droid" if any(isinstance(key, str) and key.startswith("observation/") for key in entries) else "ours"
    )


def _ours(entries: Mapping[str, Any]) -> Observation:
    _only(entries, _OURS, "an observation")
    if "instruction" in entries and "prompt" in entries:
        raise ObservationError("instruction and prompt are two names of one sentence: send one of them.")
    sentence = _sentence(entries, "prompt" if "prompt" in entries else "instruction")
    state = entries.get("state")
    if state is not None:
        state = _numbers(
            state, "state", ACTION_DIM, "20 finite numbers (rdt2.action.state_vector), or leave it out"
        )
    compressed = _flag(entries, "compressed")
    if "picture" in entries:
        if "left" in entries or "right" in entries:
            raise ObservationError("picture holds left | right: send it, or left and right.")
        both = _jpeg(entries["picture"], "picture")
        if both.shape != (IMAGE_SIZE, 2 * IMAGE_SIZE, 3):
            raise ObservationError(
                f"picture is {both.shape[0]} x {both.shape[1]} pixels, expected JPEG of left | right, "
                f"{IMAGE_SIZE} x {2 * IMAGE_SIZE}."
            )
        left, right, compressed = both[:, :IMAGE_SIZE], both[:, IMAGE_SIZE:], True
    else:
        sides = {
            side: _entry(entries, side, "the picture of the wrist camera on that side")
            for side in ("left", "right")
        }
        kinds = [isinstance(value, bytes) for value in sides.values()]
        if any(kinds) != all(kinds):
            raise ObservationError("one of left and right is JPEG and the other is not: send both alike.")
        left, right = (_exact(value, side) for side, value in sides.items())
        compressed = compressed or all(kinds)
    given = {} if state is None else {"state": state}
    return Observation(
        left, right, sentence, timestamp=_time(entries.get("timestamp")), compressed=compressed, **given
    )  # fmt: skip


def _aloha(entries: Mapping[str, Any]) -> Observation:
    _only(entries, _ALOHA, "an ALOHA observation")
    images = _entry(entries, "images", "the pictures of the cameras")
    if not isinstance(images, Mapping):
        raise ObservationError(
            f"images is of type {type(images).__name__}, expected a dictionary of cameras."
        )
    _only(images, _ALOHA_CAMERAS, "images")
    if "state" in entries:
        _numbers(entries["state"], "state", 14, "the 14 joint and gripper positions of ALOHA, finite")
    left, right = (
        _aloha_picture(_entry(images, f"cam_{side}_wrist", "the wrist camera of that arm", named=name), name)
        for side, name in (("left", "images/cam_left_wrist"), ("right", "images/cam_right_wrist"))
    )
    return Observation(left, right, _sentence(entries, "prompt"))


def _aloha_picture(value: Any, name: str) -> np.ndarray:
    if isinstance(value, bytes):
        return wrist_picture(_jpeg(value, name))
    array = _array(value, name)
    if array.ndim != 3 or array.shape[0] != 3:
        raise ObservationError(
            f"{name} has shape {array.shape}, expected channels first (3, height, width), as openpi's ALOHA sends it."
        )
    return _any_size(np.moveaxis(array, 0, 2), name)


def _droid(entries: Mapping[str, Any]) -> Observation:
    _only(entries, _DROID, "a DROID observation")
    for name, count in (("observation/joint_position", 7), ("observation/gripper_position", 1)):
        if name in entries:
            _numbers(entries[name], name, count, f"{count} finite number{'s' if count > 1 else ''}")
    value = _entry(entries, _WRIST, "the wrist camera, uint8 (h, w, 3)")
    right = (
        wrist_picture(_jpeg(value, _WRIST))
        if isinstance(value, bytes)
        else _any_size(_array(value, _WRIST), _WRIST)
    )
    # As the loop shows an arm that a robot has not.
    return Observation(np.zeros_like(right), right, _sentence(entries, "prompt"))


_READERS: dict[str, Callable[[Mapping[str, Any]], Observation]] = {
    "ours": _ours,
    "aloha": _aloha,
    "droid": _droid,
}


# ------------------------------------------------------------------------------------------------ entries


def _only(entries: Mapping[str, Any], known: tuple[str, ...], what: str) -> None:
    for name in entries:
        if name not in known:
            entries_told = ", ".join((*known, *(BESIDES if what != "images" else ())))
            raise ObservationError(
                f"{what} has no entry {name!r:.60}.{did_you_mean(str(name)[:60], known)} Its entries: {entries_told}."
            )


def _entry(entries: Mapping[str, Any], name: str, what: str, *, named: str | None = None) -> Any:
    if entries.get(name) is None:
        there = ", ".join(str(key)[:40] for key in list(entries)[:12]) or "none"
        raise ObservationError(f"{named or name} is missing: {what}. There are: {there}.")
    return entries[name]


def _sentence(entries: Mapping[str, Any], name: str) -> str:
    value = _entry(entries, name, "a sentence such as 'Pick up the apple.'")
    if not isinstance(value, str) or not value.strip():
        raise ObservationError(f"{name} is {value!r:.60}, expected a sentence such as 'Pick up the apple.'")
    if len(value) > MAX_SENTENCE:
        raise ObservationError(
            f"{name} has {len(value)} characters, at most {MAX_SENTENCE} are taken; the models learned one short "
            "sentence such as 'Pick up the apple.'"
        )
    return value


def _numbers(value: Any, name: str, count: int, expected: str) -> np.ndarray:
    plain = isinstance(value, list) and all(isinstance(each, (int, float)) for each in value)
    array = np.asarray(value) if plain or isinstance(value, np.ndarray) else np.empty(0, object)
    if array.dtype.kind not in "fiu" or array.shape != (count,) or not np.isfinite(array).all():
        told = f"{array.dtype} {array.shape}" if array.dtype.kind in "fiub" else f"{value!r:.40}"
        nan = (
            " with NaN or infinite values" if array.dtype.kind == "f" and not np.isfinite(array).all() else ""
        )
        raise ObservationError(f"{name} is {told}{nan}, expected {expected}.")
    return array.astype(np.float32)


def _flag(entries: Mapping[str, Any], name: str) -> bool:
    value = entries.get(name, False)
    if not isinstance(value, (bool, np.bool_)):
        raise ObservationError(f"{name} is {value!r:.40}, expected true or false.")
    return bool(value)


def _time(value: Any) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, (int, float, np.number))):
        raise ObservationError(
            f"timestamp is {value!r:.40}, expected seconds of the robot's clock, or leave it out."
        )
    return None if value is None else float(value)


# ------------------------------------------------------------------------------------------------ pictures


def _array(value: Any, name: str) -> np.ndarray:
    if not isinstance(value, np.ndarray):
        raise ObservationError(
            f"{name} is of type {type(value).__name__}, expected an array of uint8, or JPEG as bytes."
        )
    return value


def _exact(value: Any, name: str) -> np.ndarray:
    """A picture of ours, of the size that the models see."""
    array = _jpeg(value, name) if isinstance(value, bytes) else _array(value, name)
    check_colours(array, name)
    if array.shape != (IMAGE_SIZE, IMAGE_SIZE, 3):
        raise ObservationError(
            f"{name} has shape {array.shape}, expected ({IMAGE_SIZE}, {IMAGE_SIZE}, 3): crop the picture to its "
            "centred square and resize it, as rdt2.observation.wrist_picture does."
        )
    return array


def _any_size(array: np.ndarray, name: str) -> np.ndarray:
    check_colours(array, name)
    if not min(array.shape[:2]) >= 1 or max(array.shape[:2]) > MAX_SIDE:
        raise ObservationError(f"{name} has shape {array.shape}, expected sides of 1 to {MAX_SIDE} pixels.")
    return wrist_picture(array)


def _jpeg(data: Any, name: str) -> np.ndarray:
    """A JPEG picture; how large it says to be is looked at before anything is made of it."""
    import simplejpeg

    if not isinstance(data, bytes):
        raise ObservationError(f"{name} is of type {type(data).__name__}, expected JPEG as bytes.")
    if not _baseline(data):  # a progressive one, or one of many scans, may be small and take minutes
        raise ObservationError(f"{name} is no baseline JPEG picture.")
    try:
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        if max(height, width) > MAX_SIDE:
            raise ObservationError(
                f"{name} is {height} x {width} pixels, expected sides of at most {MAX_SIDE}."
            )
        picture: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB")
    except ValueError as error:
        if isinstance(error, ObservationError):
            raise
        raise ObservationError(f"{name} is no whole JPEG picture: {error}.") from error
    return picture


def _baseline(data: bytes) -> bool:
    """Whether a JPEG has one frame, of a single pass (SOF0 or SOF1), and few scans.

    Markers are found as libjpeg finds them, also behind bytes that only fill; what cameras do not write, though libjpeg
    may read on behind it, is refused.
    """
    if not data.startswith(b"\xff\xd8"):
        return False
    at, frames, scans = 2, 0, 0
    for _ in range(_SEGMENTS):
        if (found := _MARKER.match(data, at)) is None:
            return False
        kind, at = data[found.end() - 1], found.end()
        if kind == _EOI:
            return scans > 0
        if kind <= _TEM or _RST0 <= kind <= _SOI:  # they have no length
            return False
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            frames += 1
            if frames > 1 or kind not in (0xC0, 0xC1):
                return False
        at += int.from_bytes(data[at : at + 2], "big")
        if kind == _SOS:
            scans += 1
            if not frames or scans > _SCANS:
                return False
            if (following := _BEHIND_SCAN.search(data, at)) is None:
                return True  # its end is missing, which decoding will tell
            at = following.start()
    return False
