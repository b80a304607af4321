"""ROS 2 recordings: topics told apart, everything brought to the camera's time, damage named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bags import FLOAT, IMAGE, JPEG, POSE, TEXT, header
from motion import SIDE, Motion, same
from recordings import png

from rdt2.action import ARMS
from rdt2.data.clock import pieces
from rdt2.data.sources import SourceOptions, open_source
from rdt2.errors import ConfigError, RecordingError

pytest.importorskip("mcap_ros2", reason="the extra 'mcap' is not installed")


@pytest.fixture
def bag(tmp_path: Path) -> Callable[..., Path]:
    """Writes a recording: cameras at 30 Hz, poses and grippers at 120 Hz, begun earlier and ended later.

    without: messages that are left out; stamp: what the header of a message says instead of its time; text: one
    sentence, or (time, sentence) of several."""

    def write(
        motion: Motion,
        name: str = "episode_0",
        *,
        arms=ARMS,
        raw=False,
        without=lambda topic, time: False,
        stamp=lambda topic, time: time,
        prefix="",
        text="Fold it.",
    ) -> Path:
        from mcap_ros2.writer import Writer

        folder = tmp_path / "bags"
        folder.mkdir(exist_ok=True)
        fine = Motion(4 * len(motion.times) + 8, fps=120, number=motion.number)
        messages = []
        for number, arm in enumerate(arms):
            quaternion = fine.quaternion(arm)
            for row, time in enumerate(fine.times):
                pose = {
                    "position": dict(zip("xyz", map(float, fine.position[arm][row]), strict=True)),
                    "orientation": dict(zip("xyzw", map(float, quaternion[row]), strict=True)),
                }
                messages.append((time, f"{prefix}/{arm}/tcp_pose", *POSE, {"pose": pose}))
                opening = {"data": float(fine.width[arm][row])}
                messages.append((time, f"{prefix}/{arm}/opening", *FLOAT, opening))
            for row, time in enumerate(motion.times):
                picture = motion.picture[arm][row]
                late = time + 0.004 * number  # the cameras are not in step
                if raw:
                    kind, schema = IMAGE
                    values = {
                        **{"height": SIDE, "width": SIDE, "encoding": "bgr8", "is_bigendian": 0},
                        **{"step": 3 * SIDE, "data": picture[..., ::-1].tobytes()},
                    }
                else:
                    kind, schema = JPEG
                    values = {"format": "png", "data": png(picture)}
                messages.append((late, f"{prefix}/camera_{arm}/image", kind, schema, values))
        for time, sentence in [(0.0, text)] if isinstance(text, str) else text:
            kind, schema = TEXT
            messages.append((time, "/instruction", kind, schema, {"data": sentence}))
        messages = [message for message in messages if not without(message[1], message[0])]
        with open(folder / f"{name}.mcap", "wb") as stream:
            writer, schemas = Writer(stream), {}
            for time, topic, kind, schema, values in sorted(messages, key=lambda message: message[:2]):
                schemas.setdefault(
                    kind, writer.register_msgdef(kind, schema) if kind not in schemas else None
                )
                nanoseconds = round(1e9 * (1000 + time))
                if "header" in schema:
                    values = {"header": header(stamp(topic, time)), **values}
                writer.write_message(
                    topic, schemas[kind], values, log_time=nanoseconds, publish_time=nanoseconds
                )
            writer.finish()
        return folder

    return write


@pytest.mark.parametrize("raw", [False, True])
def test_a_bag_is_the_motion(bag: Callable[..., Path], raw: bool) -> None:
    motions = [Motion(30), Motion(26, number=1)]
    for number, motion in enumerate(motions):
        folder = bag(motion, f"episode_{number}", raw=raw)
    source = open_source(folder, "mcap")
    assert source.names == ["episode_0", "episode_1"]
    assert source.lengths == [30, 26]
    assert {guess.option: guess.value for guess in source.guesses} == {
        "arms": "right-left",
        "cameras": "/camera_right/image /camera_left/image",
        "gripper_unit": "m",
    }
    for motion, episode in zip(motions, source, strict=True):
        same(_from_zero(episode, motion), motion)
        assert episode.instruction == "Fold it."
        for arm in ARMS:
            picture = episode.videos[arm][7]
            expected = motion.picture[arm][7, 0, 0].astype(float)
            assert np.abs(picture.reshape(-1, 3).mean(0) - expected).max() < 1


def _from_zero(episode, motion):  # type: ignore[no-untyped-def]
    """The episode with times from 0, as the motion has them."""
    from dataclasses import replace

    return replace(episode, timestamps=episode.timestamps - episode.timestamps[0] + motion.times[0])


def test_arms_named_the_other_way_round_and_topics_by_name(bag: Callable[..., Path]) -> None:
    motion = Motion(28)
    folder = bag(motion, prefix="/robot")
    options = SourceOptions(
        arms="left-right",
        pose_key="/robot/{arm}/tcp_pose",
        gripper_key="/robot/{arm}/opening",
        cameras=("/robot/camera_right/image", "/robot/camera_left/image"),
        gripper_unit="m",
    )
    source = open_source(folder, "mcap", options)
    assert source.guesses == []
    np.testing.assert_allclose(source[0].poses["left"][3, :3, 3], motion.position["right"][3], atol=1e-6)
    assert source[0].videos["left"][9].mean(axis=(0, 1)).argmax() == ARMS.index("right")


def test_one_arm(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(27), arms=("left",))
    with pytest.raises(ConfigError, match="holds one arm"):
        open_source(folder, "mcap")
    episode = open_source(folder, "mcap", SourceOptions(missing_arm="still"))[0]
    assert episode.meta["still_arms"] == ["right"]


@pytest.mark.parametrize("side", ARMS)
def test_one_arm_whose_topics_name_no_side(bag: Callable[..., Path], side: str) -> None:
    """Regression: both arms got the same topic, and a bag of one arm became the recording of two."""
    folder = bag(Motion(27), arms=("left",), prefix="/robot")
    topics = {
        "pose_key": "/robot/left/tcp_pose",  # without {arm}: one topic
        "gripper_key": "/robot/left/opening",
        "cameras": ("/robot/camera_left/image",) * 2,
        "gripper_unit": "m",
    }
    with pytest.raises(ConfigError, match="holds one arm"):
        open_source(folder, "mcap", SourceOptions(**topics))
    with pytest.raises(ConfigError, match=r"holds 1 robot\(s\), --arms right-left names 2"):
        open_source(folder, "mcap", SourceOptions(**topics, arms="right-left"))
    source = open_source(folder, "mcap", SourceOptions(**topics, arms=side, missing_arm="still"))
    assert source.guesses == []
    assert source[0].meta["still_arms"] == [arm for arm in ARMS if arm != side]
    assert np.ptp(source[0].poses[side][:, :3, 3], axis=0).max() > 0.01


def test_one_gripper_topic_is_not_that_of_two_arms(bag: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match=r"/left/opening is one gripper topic for two arms"):
        open_source(bag(Motion(27)), "mcap", SourceOptions(gripper_key="/left/opening"))


def test_the_gripper_among_joints() -> None:
    """Regression: the first joint of an arm was its gripper's opening."""
    from rdt2.data.sources.mcap import _opening

    arm = [f"joint_{number}" for number in range(6)]
    assert _opening(["any"], [0.04], where="here") == 0.04
    assert _opening([*arm, "left_finger_joint"], [1.0] * 6 + [0.03], where="here") == 0.03
    for names, positions in ((arm, [1.0] * 6), (["finger_1", "finger_2"], [0.02, 0.02]), ([], [])):
        with pytest.raises(RecordingError, match="which of them is the gripper's opening"):
            _opening(names, positions, where="here")


def test_options_that_say_nothing_about_a_bag_are_refused(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(27))
    with pytest.raises(
        ConfigError, match=r"--from mcap: an option that says nothing .* was given. Leave out --pose-names"
    ):
        open_source(folder, "mcap", SourceOptions(pose_names=("x", "y")))
    with pytest.raises(ConfigError, match="--rotation says wxyz"):
        open_source(folder, "mcap", SourceOptions(rotation="wxyz"))


def test_a_gripper_of_fixed_width_and_damaged_files(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(30))
    source = open_source(folder, "mcap", SourceOptions(gripper_fixed=0.04))
    assert (source[0].widths["left"] == 0.04).all()
    with pytest.raises(ConfigError, match=r"no gripper topic[\s\S]*--gripper-fixed"):
        open_source(folder, "mcap", SourceOptions(gripper_key="/{arm}/nothing"))
    bag(Motion(30), "episode_1")
    (folder / "._episode_0.mcap").write_bytes(b"shadow")
    (folder / "episode_0.mcap").write_bytes(b"not mcap" * 10)
    source = open_source(folder, "mcap")
    assert source.names == ["episode_0", "episode_1"]
    assert list(source.damaged) == [0]
    assert len(source[1]) > 0
    with pytest.raises(RecordingError, match=r"episode_0\.mcap"):
        source[0]


def test_what_is_wrong_is_named(bag: Callable[..., Path], tmp_path: Path) -> None:
    folder = bag(Motion(30), text="")
    with pytest.raises(ConfigError, match="no instruction"):
        open_source(folder, "mcap")
    with pytest.raises(ConfigError, match=r"no pose topic of an arm.*right/tcp_pose"):
        open_source(folder, "mcap", SourceOptions(pose_key="/{arm}/eef"))
    path = folder / "episode_0.mcap"
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(RecordingError, match=r"episode_0\.mcap"):
        open_source(folder, "mcap")
    path.write_bytes(b"not mcap" * 10)
    with pytest.raises(RecordingError, match="no whole MCAP file"):
        open_source(folder, "mcap")
    (tmp_path / "none").mkdir()
    with pytest.raises(RecordingError, match=r"holds no \.mcap"):
        open_source(tmp_path / "none", "mcap")


@pytest.mark.parametrize("silent", ["tcp_pose", "opening", "camera_left", "camera_right", "/"])
def test_a_pause_of_any_topic_is_no_motion(bag: Callable[..., Path], silent: str) -> None:
    """Of poses or openings alone, of one camera, of all: frames in it are left out, and no chunk crosses it."""
    motion = Motion(90)
    folder = bag(motion, without=lambda topic, time: silent in topic and 1.2 < time < 1.6, text="Fold it.")
    episode = open_source(folder, "mcap")[0]
    times = episode.timestamps - episode.timestamps[0]
    assert [part.start for part in pieces(times)] == [0, len(times[times < 1.4])]
    assert not ((times > 1.25) & (times < 1.55)).any()
    kept = np.round(times * 30).astype(int)
    for arm in ARMS:
        np.testing.assert_allclose(episode.poses[arm][:, :3, 3], motion.position[arm][kept], atol=1e-5)
        np.testing.assert_allclose(episode.widths[arm], motion.width[arm][kept], atol=2e-4)
    frames = [frame for frame, _ in episode.chunks()]
    assert max(times[frame] for frame in frames if times[frame] < 1.4) + 0.8 <= 1.25


def test_a_few_missing_messages_are_no_pause(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(60), without=lambda topic, time: "opening" in topic and 0.52 < time < 0.58)
    assert len(pieces(open_source(folder, "mcap")[0].timestamps)) == 1


def test_openings_that_are_sent_when_they_change_are_named(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(60), without=lambda topic, time: "opening" in topic and round(time * 120) % 60 != 0)
    with pytest.raises(
        RecordingError, match=r"right/opening come every 0\.5 s, expected at least 5 a second"
    ):
        open_source(folder, "mcap")[0]


def test_clocks_that_differ(bag: Callable[..., Path]) -> None:
    """Headers of another machine: named; the times of the recorder are taken when asked for."""
    motion = Motion(30)
    folder = bag(motion, stamp=lambda topic, time: time + 500 * ("camera" in topic))
    with pytest.raises(
        RecordingError, match=r"no time in common.*right/tcp_pose 1000\.000.*--message-clock recorder"
    ):
        open_source(folder, "mcap")[0]
    options = SourceOptions(message_clock="recorder")
    same(_from_zero(open_source(folder, "mcap", options)[0], motion), motion)


def test_headers_that_run_back_or_are_partly_empty(bag: Callable[..., Path]) -> None:
    motion = Motion(30)
    folder = bag(motion, stamp=lambda topic, time: time - 0.5 * ("right/tcp_pose" in topic and time > 0.6))
    with pytest.raises(
        RecordingError, match=r"of /right/tcp_pose is not later than .*--message-clock recorder"
    ):
        open_source(folder, "mcap")[0]
    same(_from_zero(open_source(folder, "mcap", SourceOptions(message_clock="recorder"))[0], motion), motion)
    folder = bag(
        motion, stamp=lambda topic, time: -1000 if "right/tcp_pose" in topic and time > 0.6 else time
    )
    same(_from_zero(open_source(folder, "mcap")[0], motion), motion)


def test_a_sentence_holds_until_the_next(bag: Callable[..., Path]) -> None:
    folder = bag(Motion(60), text=[(0.2, "Pick it up."), (1.0, "Put it down.")])
    episode = open_source(folder, "mcap")[0]
    assert [episode.sentence(frame) for frame in (0, 29, 31, 59)] == ["Pick it up."] * 2 + [
        "Put it down."
    ] * 2
    folder = bag(Motion(30), text=" ")
    assert open_source(folder, "mcap", SourceOptions(instruction="Fold."))[0].instruction == "Fold."


def test_a_given_rate(bag: Callable[..., Path]) -> None:
    episode = open_source(bag(Motion(30)), "mcap", SourceOptions(fps=15))[0]
    np.testing.assert_allclose(episode.timestamps, np.arange(30) / 15, atol=1e-9)


def test_topics_without_messages(bag: Callable[..., Path]) -> None:
    bag(Motion(30))
    folder = bag(Motion(30), "episode_1", without=lambda topic, time: topic == "/camera_left/image")
    source = open_source(folder, "mcap")
    assert len(source[0]) == 30
    with pytest.raises(RecordingError, match=r"episode_1\.mcap: no message of /camera_left/image"):
        source[1]
