"""Observations in our names and in openpi's ALOHA and DROID forms; what is wrong is told in the client's words."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import simplejpeg
from standing_in import entries

from rdt2.errors import ActionError, ObservationError, RDT2Error, WireError
from rdt2.observation import jpeg_bytes, jpeg_roundtrip, wrist_picture
from rdt2.serving.adapters import observation_of
from rdt2.serving.requests import read_entries, read_request
from rdt2.wire import packed

GENERATOR = np.random.default_rng(0)


def pictures(*shape):
    return GENERATOR.integers(0, 256, shape, dtype=np.uint8)


def aloha(**changes):
    """As openpi's aloha_policy.make_aloha_example."""
    cameras = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
    images = {name: pictures(3, 224, 224) for name in cameras}
    return {"state": np.ones(14), "images": images, "prompt": "do something", **changes}


def droid(**changes):
    """As openpi's droid_policy.make_droid_example."""
    return {
        "observation/exterior_image_1_left": pictures(224, 224, 3),
        "observation/wrist_image_left": pictures(224, 224, 3),
        "observation/joint_position": GENERATOR.random(7),
        "observation/gripper_position": GENERATOR.random(1),
        "prompt": "do something",
        **changes,
    }


def test_aloha():
    given = aloha()
    for form in ("auto", "aloha"):
        seen = observation_of(given, form)
        for side in ("left", "right"):
            sent = given["images"][f"cam_{side}_wrist"]
            assert np.array_equal(getattr(seen, side), wrist_picture(np.moveaxis(sent, 0, 2)))
        assert seen.instruction == "do something"
        assert not seen.state.any()


def test_droid_has_a_right_arm_alone():
    given = droid()
    for form in ("auto", "droid"):
        seen = observation_of(given, form)
        assert np.array_equal(seen.right, wrist_picture(given["observation/wrist_image_left"]))
        assert not seen.left.any()


def test_ours_with_openpis_word_for_the_sentence():
    assert observation_of(entries(instruction=None, prompt="Press it.")).instruction == "Press it."


def test_jpeg_of_each_side():
    left, right = pictures(384, 384, 3), pictures(384, 384, 3)
    seen = observation_of(entries(left=jpeg_bytes(left), right=jpeg_bytes(right)))
    assert seen.compressed
    assert np.array_equal(seen.left, jpeg_roundtrip(left))
    assert np.array_equal(seen.right, jpeg_roundtrip(right))


GOOD = jpeg_bytes(pictures(384, 384, 3))
FRAME, SCAN = GOOD.index(b"\xff\xc0"), GOOD.index(b"\xff\xda")
PROGRESSIVE = (
    b"\xff\xd8\xff\xc2\x00\x11\x08\x01\x80\x01\x80\x03\x01\x22\x00\x02\x11\x01\x03\x11\x01" + b"\0" * 32
)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (entries(left=np.zeros((384, 384, 3), np.float32)), r"^left is float32, expected uint8 RGB in 0\.\.255"),
        (entries(left=pictures(3, 384, 384)), r"^left has shape \(3, 384, 384\); it has the channels first"),
        (entries(right=None), r"^right is missing: the picture of the wrist camera on that side\. There are: left"),
        (entries(right=pictures(240, 320, 3)), r"^right has shape \(240, 320, 3\), expected \(384, 384, 3\)"),
        (entries(right="picture"), "^right is of type str"),
        (entries(left=b"\xff\xd8 no picture"), "one of left and right is JPEG"),
        (entries(left=b"\xff\xd8 no", right=b"\xff\xd8 no"), "left is no baseline JPEG"),
        (entries(left=PROGRESSIVE, right=PROGRESSIVE), "left is no baseline JPEG"),
        (entries(left=PROGRESSIVE.replace(b"\xc2", b"\xc0"), right=b""), "left is no baseline JPEG"),
        (entries(left=GOOD[:5000], right=GOOD), "left is no whole JPEG"),
        (entries(picture=b"x"), "picture holds left | right"),
        (entries(left=None, right=None, picture=jpeg_bytes(pictures(384, 384, 3))), "384 x 384 pixels, expected"),
        (entries(state=np.zeros(14)), r"^state is float64 \(14,\), expected 20 finite numbers"),
        (entries(state=np.full(20, np.nan)), r"^state is float64 \(20,\) with NaN"),
        (entries(state="zeros"), "^state is 'zeros'"),
        (entries(state=[1, [2, 3]]), r"^state is \[1, \[2, 3\]\], expected 20"),
        (entries(state=[2**63] * 20 + [-1]), "expected 20"),
        (entries(instruction=""), "^instruction is '', expected a sentence"),
        (entries(instruction="  \n"), "^instruction is"),
        (entries(instruction=b"Pick it up."), "^instruction is b'Pick"),
        (entries(instruction="a" * 10_000), "^instruction has 10000 characters, at most 1000"),
        (entries(instruction=None), "^instruction is missing"),
        (entries(prompt="Pick it up."), "two names of one sentence"),
        (entries(instructoin="x"), "no entry 'instructoin'. Did you mean 'instruction'?"),
        (entries(**{"state ": 1}), "no entry 'state '. Did you mean 'state'?"),
        (entries(timestamp=float("inf")), "timestamp is inf"),
        (entries(timestamp="now"), "timestamp is 'now'"),
        (entries(compressed=1), "compressed is 1, expected true or false"),
        (entries(seed=-1), "the seed is -1"),
        (entries(seed=1.5), r"the seed is 1\.5"),
        (entries(deadline=0), "deadline is 0, expected seconds"),
        (entries(deadline=float("nan")), "deadline is nan"),
        (entries(deadline="soon"), "deadline is 'soon'"),
        (aloha(images={"cam_left_wrist": pictures(3, 8, 8)}), "^images/cam_right_wrist is missing"),
        (aloha(images={"cam_left_wrist": pictures(8, 8, 3)}), "^images/cam_left_wrist has shape .*channels first"),
        (aloha(images={"cam_left_wrist": np.zeros((3, 8, 8))}), "^images/cam_left_wrist is float64"),
        (aloha(images={"cam_back": pictures(3, 8, 8)}), "images has no entry 'cam_back'"),
        (aloha(images=[1]), "^images is of type list"),
        (aloha(state=np.ones(8)), r"^state is float64 \(8,\), expected the 14 joint"),
        (aloha(instruction="x"), "an ALOHA observation has no entry 'instruction'"),
        (droid(**{"observation/wrist_image_left": None}), "^observation/wrist_image_left is missing"),
        (droid(**{"observation/wrist_image_left": pictures(3, 8, 8)}), "channels first: move them last"),
        (droid(**{"observation/wrist_image_left": pictures(1, 4000, 3)}), "sides of 1 to 2048"),
        (droid(**{"observation/joint_position": np.ones(6)}), r"^observation/joint_position is float64 \(6,\)"),
        (droid(**{"observation/state": np.ones(6)}), "a DROID observation has no entry 'observation/state'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_in_the_clients_words(given, words):
    with pytest.raises(ObservationError, match=words):
        read_request(
            read_entries(packed({name: value for name, value in given.items() if value is not None}))
        )


def test_a_declared_form_is_not_guessed():
    with pytest.raises(ObservationError, match="an observation has no entry 'images'"):
        observation_of(aloha(), "ours")


@pytest.mark.parametrize(
    "promise",
    [
        *([], {"actions": 1}, {"actions": [1.0], "fixed": 1, "known": 2}),
        {"actions": np.zeros((24, 20)), "fixed": 2, "known": 1},
        {"actions": np.zeros((24, 20)), "fixed": 1, "known": 2},
        {"actions": np.full((24, 20), np.nan), "fixed": 1, "known": 2},
        {"actions": np.zeros((24, 20)), "fixed": "1", "known": 2},
        {"actions": np.zeros((2, 20)), "fixed": 1, "known": 2},
        {"actions": np.zeros((24, 20), bool), "fixed": 1, "known": 2},
    ],
)
def test_promises_that_are_none_are_refused(promise):
    with pytest.raises(ActionError):
        read_request(read_entries(packed(entries(promise=promise))))


def test_other_protocols_and_texts_are_refused():
    with pytest.raises(WireError, match="speaks protocol 0, this server 1"):
        read_entries(packed(entries(protocol=0)))
    with pytest.raises(WireError, match="speaks protocol array"):
        read_entries(packed(entries(protocol=np.zeros(3))))
    with pytest.raises(WireError, match="a text frame came"):
        read_entries('{"prompt": "Pick it up."}')
    with pytest.raises(RDT2Error):
        read_request(read_entries(packed({1: 2, "left": 3})))


def encoded(*options):
    done, data = cv2.imencode(".jpg", pictures(384, 384, 3), options)
    assert done
    return data.tobytes()


def hidden(before):
    """A progressive picture; who takes what stands before its frame for a segment finds another frame behind that."""
    picture = encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1)
    frame = picture.index(b"\xff\xc2")
    data = bytearray(picture[:frame] + before + picture[frame:])
    behind = frame + 2 + int.from_bytes(data[frame + 2 : frame + 4], "big")
    data[behind : behind + 4] = b"\xff\xc0\x00\x11"
    return bytes(data)


HEADER = GOOD[SCAN : SCAN + 2 + int.from_bytes(GOOD[SCAN + 2 : SCAN + 4], "big")]
BOMBS = {
    "progressive": encoded(cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    "behind bytes that fill": hidden(b"\xff"),
    "behind a restart": hidden(b"\xff\xd0"),
    "behind a marker that says nothing": hidden(b"\xff\x01"),
    "a second frame": GOOD[:SCAN] + GOOD[FRAME:],
    "a second frame behind a scan": GOOD[:-2] + PROGRESSIVE[2:],
    "a second beginning": GOOD[:-2] + GOOD,
    "many scans": GOOD[:SCAN] + HEADER * 5 + GOOD[SCAN:],
    "many segments": b"\xff\xd8" + b"\xff\xfe\x00\x02" * 300 + GOOD[2:],
    "nothing but what fills": b"\xff\xd8" + b"\xff" * 4096,
    "no scan": GOOD[:SCAN] + b"\xff\xd9",
}


@pytest.mark.parametrize("name", BOMBS)
def test_jpeg_that_takes_long_is_refused_before_it_is_decoded(name):
    """regression: bytes that fill, or a marker without a length, hid the frame of a progressive picture."""
    with pytest.raises(ObservationError, match=r"^left is no baseline JPEG picture\."):
        observation_of(entries(left=BOMBS[name], right=GOOD))


@pytest.mark.parametrize(
    "good",
    [
        encoded(cv2.IMWRITE_JPEG_RST_INTERVAL, 2),
        encoded(cv2.IMWRITE_JPEG_OPTIMIZE, 1),
        GOOD[:FRAME] + b"\xff\xff" + GOOD[FRAME:],
        GOOD[:SCAN] + b"\xff\xfe\x00\x06\xff\xc2\xff\xda" + GOOD[SCAN:],
    ],
    ids=["restarts", "tables of its own", "bytes that fill", "a comment"],
)
def test_jpeg_of_other_cameras_is_taken(good):
    seen = observation_of(entries(left=good, right=GOOD))
    assert np.array_equal(seen.left, simplejpeg.decode_jpeg(good, colorspace="RGB"))
