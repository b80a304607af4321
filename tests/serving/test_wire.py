"""Messages: what openpi's clients write is read, and nothing that a stranger sends does harm."""

from __future__ import annotations

import contextlib
import pickle
import time

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rdt2.errors import WireError
from rdt2.wire import DTYPES, Limits, packed, unpacked


def theirs(value):
    """As openpi_client.msgpack_numpy packs it."""

    def pack(each):
        if isinstance(each, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": each.tobytes(),
                b"dtype": each.dtype.str,
                b"shape": each.shape,
            }
        return {b"__npgeneric__": True, b"data": each.item(), b"dtype": each.dtype.str}

    return msgpack.packb(value, default=pack)


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_of_every_dtype_travel(dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    message = {"array": array, "turned": array.T, "none": array[:0], "one": array[0, 0, 1], "text": "ä"}
    assert packed({"array": array}) == theirs({"array": array})
    for data in (packed(message), theirs(message)):
        again = unpacked(data)
        assert again["array"].dtype == dtype
        assert np.array_equal(again["array"], array)
        assert np.array_equal(again["turned"], array.T)
        assert again["none"].shape == (0, 3, 4)
        assert again["one"] == array[0, 0, 1]
        assert again["text"] == "ä"
        assert not again["array"].flags.writeable


@pytest.mark.parametrize(
    "value", [np.array([None]), np.array(["a"]), np.array([1j]), {1, 2}, object(), 2**70]
)
def test_what_has_no_form_is_not_sent(value):
    with pytest.raises(WireError, match="cannot be sent"):
        packed({"value": value})


def array(**changes):
    entries = {"__ndarray__": True, "data": b"\0" * 8, "dtype": "<f4", "shape": [2], **changes}
    return msgpack.packb({"a": {name.encode(): value for name, value in entries.items()}})


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (array(dtype="|O"), r"dtype '\|O'"),
        (array(dtype="<U2"), "texts are sent as strings"),
        (array(dtype="f8, f8"), "dtype"),
        (array(dtype=["<f4"]), "dtype"),
        (array(shape=[3]), "has 12 bytes, 8 came"),
        (array(shape=[2**62, 2**62]), "bytes, 8 came"),
        (array(shape=[-2]), "shape of an array"),
        (array(shape=[1, 1, 1, 1, 2]), "at most 4"),
        (array(shape="2"), "shape of an array"),
        (array(data="text"), "expected bytes"),
        (
            msgpack.packb({"a": {b"__npgeneric__": True, b"data": "x", b"dtype": "<f4"}}),
            "no number of that kind",
        ),
        (msgpack.packb({"a": {b"__npgeneric__": True, b"dtype": "<f4"}}), "no number of that kind"),
        (msgpack.packb({"a": msgpack.ExtType(5, b"abc")}), "not msgpack, or holds more"),
        (msgpack.packb([1, 2]), "is a list, expected a dictionary"),
        (msgpack.packb(None), "is a NoneType"),
        (b"", "not msgpack"),
        (b"\xdd\xff\xff\xff\xff", "not msgpack"),
        (b"\xc6\xff\xff\xff\xff", "not msgpack"),
        (b"\x81" * 5000, "not msgpack"),
        (msgpack.packb(list(range(5000))), "holds more than is taken"),
        (msgpack.packb({"a": "x" * 70000}), "holds more than is taken"),
        (msgpack.packb({}) + b"more", "not msgpack"),
        (pickle.dumps({"a": 1}), "is a pickle, which is never read"),
        (msgpack.packb({"a": b"x" * 100}), "has 105 bytes, at most 64"),
        (msgpack.packb({"a": [[{}] * 4000] * 5}), "more than 16384 values"),
        (msgpack.packb({"a": [[0] * 4000] * 5}), "more than 16384 values"),
        (b"\x81\xa1a" * 17 + b"\x00", "more than 16 dictionaries and lists within each other"),
    ],
)
def test_hostile_messages_are_refused(data, words):
    limits = Limits(message_bytes=64) if "at most 64" in words else None
    with pytest.raises(WireError, match=words):
        unpacked(data, limits)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_refused(data):
    with contextlib.suppress(WireError):
        assert isinstance(unpacked(data), dict)


def test_millions_of_empty_maps_take_no_time():
    """regression: eight megabytes of them kept a server from everybody for two seconds."""
    inner = b"\xdc\x10\x00" + b"\x80" * 4096
    data = b"\x81\xa1a\xdc\x07\xff" + inner * 2047
    began = time.perf_counter()
    with pytest.raises(WireError, match="Send pictures and other numbers as arrays"):
        unpacked(data)
    assert time.perf_counter() - began < 0.5


def test_what_is_within_the_limits_is_read():
    deep = b"\x81\xa1a" * 15 + b"\x90"
    assert unpacked(deep)["a"]["a"]
    assert len(unpacked(msgpack.packb({"a": [[0] * 4000] * 4}))["a"]) == 4
