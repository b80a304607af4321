"""The C library aravis 0.8, which speaks GigE Vision and USB3 Vision, by ctypes.

Its usual way into Python, PyGObject, is built for one Python and one system: in a virtual environment it is not there.
The library itself is one small package of the system (`INSTALL`) and fits every Python.

    aravis = library()
    camera = aravis.camera_new(b"192.168.0.5")      # arv_camera_new; raises RobotError with aravis' own words
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable
from ctypes import (
    POINTER,
    byref,
    c_bool,
    c_char_p,
    c_double,
    c_int,
    c_int64,
    c_size_t,
    c_uint,
    c_uint64,
    c_void_p,
)
from types import SimpleNamespace
from typing import Any

from rdt2.errors import RobotError

INSTALL = "sudo apt-get install libaravis-0.8-0"
SUCCESS = 0
"""Of a buffer's status: it holds a whole picture."""
STATUS = {
    1: "cleared", 2: "timed out", 3: "packets missing", 4: "packets numbered wrongly", 5: "of another size",
    6: "half filled", 7: "aborted", 8: "of an unknown kind",
}  # fmt: skip
CONTINUOUS = 0
"""The acquisition mode that goes on until it is stopped."""
LOST = ctypes.CFUNCTYPE(None, c_void_p, c_void_p)
"""Of a signal's callback."""
FILL = ctypes.CFUNCTYPE(None, c_void_p, c_void_p, c_uint, c_uint, c_uint)
"""Of what draws a fake camera's pictures: buffer, data, exposure in us, gain, pixel format."""

_ERROR = object()
"""The last argument of functions that may fail: filled in here, and raised."""
_INTS = POINTER(c_int)
_SIGNATURES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "update_device_list": (None, ()),
    "get_n_devices": (c_uint, ()),
    "get_device_id": (c_char_p, (c_uint,)),
    "get_device_serial_nbr": (c_char_p, (c_uint,)),
    "get_device_model": (c_char_p, (c_uint,)),
    "get_device_vendor": (c_char_p, (c_uint,)),
    "get_device_address": (c_char_p, (c_uint,)),
    "get_device_protocol": (c_char_p, (c_uint,)),
    "camera_new": (c_void_p, (c_char_p, _ERROR)),
    "camera_get_device": (c_void_p, (c_void_p,)),
    "camera_get_model_name": (c_char_p, (c_void_p, _ERROR)),
    "camera_get_device_serial_number": (c_char_p, (c_void_p, _ERROR)),
    "camera_get_sensor_size": (None, (c_void_p, _INTS, _INTS, _ERROR)),
    "camera_get_region": (None, (c_void_p, _INTS, _INTS, _INTS, _INTS, _ERROR)),
    "camera_set_region": (None, (c_void_p, c_int, c_int, c_int, c_int, _ERROR)),
    "camera_is_binning_available": (c_bool, (c_void_p, _ERROR)),
    "camera_set_binning": (None, (c_void_p, c_int, c_int, _ERROR)),
    "camera_get_x_offset_increment": (c_int, (c_void_p, _ERROR)),
    "camera_get_y_offset_increment": (c_int, (c_void_p, _ERROR)),
    "camera_get_width_increment": (c_int, (c_void_p, _ERROR)),
    "camera_get_height_increment": (c_int, (c_void_p, _ERROR)),
    "camera_dup_available_pixel_formats_as_strings": (POINTER(c_char_p), (c_void_p, POINTER(c_uint), _ERROR)),
    "camera_set_pixel_format_from_string": (None, (c_void_p, c_char_p, _ERROR)),
    "camera_get_pixel_format_as_string": (c_char_p, (c_void_p, _ERROR)),
    "camera_clear_triggers": (None, (c_void_p, _ERROR)),
    "camera_set_acquisition_mode": (None, (c_void_p, c_int, _ERROR)),
    "camera_set_exposure_time": (None, (c_void_p, c_double, _ERROR)),
    "camera_get_exposure_time": (c_double, (c_void_p, _ERROR)),
    "camera_set_gain": (None, (c_void_p, c_double, _ERROR)),
    "camera_get_gain": (c_double, (c_void_p, _ERROR)),
    "camera_set_frame_rate": (None, (c_void_p, c_double, _ERROR)),
    "camera_get_frame_rate": (c_double, (c_void_p, _ERROR)),
    "camera_is_feature_available": (c_bool, (c_void_p, c_char_p, _ERROR)),
    "camera_set_string": (None, (c_void_p, c_char_p, c_char_p, _ERROR)),
    "camera_get_string": (c_char_p, (c_void_p, c_char_p, _ERROR)),
    "camera_set_boolean": (None, (c_void_p, c_char_p, c_bool, _ERROR)),
    "camera_set_float": (None, (c_void_p, c_char_p, c_double, _ERROR)),
    "camera_get_float": (c_double, (c_void_p, c_char_p, _ERROR)),
    "camera_get_integer": (c_int64, (c_void_p, c_char_p, _ERROR)),
    "camera_execute_command": (None, (c_void_p, c_char_p, _ERROR)),
    "camera_is_gv_device": (c_bool, (c_void_p,)),
    "camera_gv_auto_packet_size": (c_uint, (c_void_p, _ERROR)),
    "camera_get_payload": (c_uint, (c_void_p, _ERROR)),
    "camera_create_stream": (c_void_p, (c_void_p, c_void_p, c_void_p, _ERROR)),
    "camera_start_acquisition": (None, (c_void_p, _ERROR)),
    "camera_stop_acquisition": (None, (c_void_p, _ERROR)),
    "gv_device_is_controller": (c_bool, (c_void_p,)),
    "gv_device_get_timestamp_tick_frequency": (c_uint64, (c_void_p, _ERROR)),
    "stream_push_buffer": (None, (c_void_p, c_void_p)),
    "stream_try_pop_buffer": (c_void_p, (c_void_p,)),
    "stream_timeout_pop_buffer": (c_void_p, (c_void_p, c_uint64)),
    "buffer_new_allocate": (c_void_p, (c_size_t,)),
    "buffer_get_status": (c_int, (c_void_p,)),
    "buffer_get_data": (c_void_p, (c_void_p, POINTER(c_size_t))),
    "buffer_get_image_width": (c_int, (c_void_p,)),
    "buffer_get_image_height": (c_int, (c_void_p,)),
    "buffer_get_image_pixel_format": (c_uint, (c_void_p,)),
    "buffer_get_frame_id": (c_uint64, (c_void_p,)),
    "buffer_get_timestamp": (c_uint64, (c_void_p,)),
    "buffer_set_timestamp": (None, (c_void_p, c_uint64)),
    "gv_fake_camera_new": (c_void_p, (c_char_p, c_char_p)),
    "gv_fake_camera_is_running": (c_bool, (c_void_p,)),
    "gv_fake_camera_get_fake_camera": (c_void_p, (c_void_p,)),
    "fake_camera_set_fill_pattern": (None, (c_void_p, FILL, c_void_p)),
    "fake_camera_read_register": (c_bool, (c_void_p, c_uint, POINTER(c_uint))),
    "fake_camera_write_register": (c_bool, (c_void_p, c_uint, c_uint)),
}


class _GError(ctypes.Structure):
    _fields_ = (("domain", ctypes.c_uint32), ("code", c_int), ("message", c_char_p))


@functools.cache
def library() -> SimpleNamespace:
    """Aravis' functions without their prefix `arv_`, and `unref`, `free`, `connect` and `set_double` of its objects.

    Raises:
        RobotError: it is not installed, or lacks a function; says how to get it.
    """
    if sys.platform == "darwin":
        names = ("libaravis-0.8.0.dylib", "libgobject-2.0.0.dylib")
    else:
        names = ("libaravis-0.8.so.0", "libgobject-2.0.so.0")
    try:
        aravis, objects = (ctypes.CDLL(name) for name in names)
        functions = {name: _bound(aravis, name, *what) for name, what in _SIGNATURES.items()}
    except (OSError, AttributeError) as error:
        raise RobotError(
            f"GigE Vision and USB3 Vision cameras need the library aravis 0.8 of the system ({error}). "
            f"Install it: {INSTALL}"
        ) from None
    _typed(objects.g_object_unref, None, c_void_p)
    _typed(objects.g_free, None, c_void_p)
    _typed(objects.g_signal_connect_data, c_uint64, c_void_p, c_char_p, LOST, c_void_p, c_void_p, c_int)
    _typed(objects.g_object_set, None, c_void_p, c_char_p, c_double, c_void_p)

    def connect(item: int, signal: bytes, callback: Any) -> None:
        objects.g_signal_connect_data(item, signal, callback, None, None, 0)

    def set_double(item: int, name: bytes, value: float) -> None:
        objects.g_object_set(item, name, value, None)

    return SimpleNamespace(
        **functions, unref=objects.g_object_unref, free=objects.g_free, connect=connect, set_double=set_double
    )


def _typed(function: Any, result: Any, *arguments: Any) -> Any:
    function.restype, function.argtypes = result, arguments
    return function


def _bound(aravis: ctypes.CDLL, name: str, result: Any, arguments: tuple[Any, ...]) -> Callable[..., Any]:
    function = getattr(aravis, f"arv_{name}")
    if not arguments or arguments[-1] is not _ERROR:
        return _typed(function, result, *arguments)
    _typed(function, result, *arguments[:-1], POINTER(POINTER(_GError)))

    def call(*values: Any) -> Any:
        error = POINTER(_GError)()
        found = function(*values, byref(error))
        if error:
            raise RobotError(_said(error.contents.message))
        return found

    return call


def _said(message: bytes | None) -> str:
    return (message or b"aravis does not say why").decode(errors="replace").strip().rstrip(".") + "."
