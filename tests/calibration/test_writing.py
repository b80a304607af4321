"""New values in a robot's yaml change nothing else."""

from __future__ import annotations

import pytest
import yaml

from rdt2.calibration import writing
from rdt2.calibration.writing import changed_text, write_changes
from rdt2.errors import CalibrationError, ConfigError
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings

TEXT = (CONFIGS / "cell_ur5e.yaml").read_text()
ROWS = [[1.0, 0.0, 0.0, 0.1], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 1.0]]


def comments(text):
    return {line.split("#", 1)[1].strip() for line in text.splitlines() if "#" in line}


def test_a_matrix_is_replaced_and_said_before():
    new = changed_text(TEXT, {"arms.left.policy_to_tcp": ROWS}, remark="today")
    expected = yaml.safe_load(TEXT)
    expected["arms"]["left"]["policy_to_tcp"] = ROWS
    assert yaml.safe_load(new) == expected
    assert comments(TEXT) < comments(new)
    assert "# before today: [[0.766316, -0.615341, -0.184706, 0.098236]," in new


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("part", ["gripper", "camera"])
def test_what_two_arms_share_changes_for_one(side, part):
    new = yaml.safe_load(changed_text(TEXT, {f"arms.{side}.{part}.latency": 0.044}, remark="today"))
    expected = yaml.safe_load(TEXT)
    expected["arms"][side][part] = {**expected["arms"][side][part], "latency": 0.044}
    assert new == expected


def test_what_stood_between_braces_is_kept_above_its_line():
    """Regression: old values were kept as a comment only where each has a line of its own."""
    new = changed_text(TEXT, {"arms.left.gripper.latency": 0.044}, remark="today")
    assert comments(new) == comments(TEXT) | {"before today: arms.left.gripper.latency: 0.03"}
    assert changed_text("{a: {b: 1}}", {"a.b": 2}, remark="now") == "# before now: a.b: 1\n{a: {b: 2}}"
    assert changed_text("{a: {b: 1}}", {"a.c": 2}, remark="now") == "# new by now: a.c\n{a: {c: 2, b: 1}}"


def test_what_is_missing_is_added():
    changes = {"arms.right.device.speed": 3, "safety.table_height": 0.01}
    new = yaml.safe_load(changed_text(TEXT, changes, remark="today"))
    assert new["arms"]["right"]["device"] == {"speed": 3}
    assert new["safety"]["table_height"] == 0.01
    assert yaml.safe_load(changed_text("{a: {b: 1}}", {"a.c.d": 2}, remark="")) == {
        "a": {"b": 1, "c": {"d": 2}}
    }


@pytest.mark.parametrize("moment", [1, 2, 3])
def test_ctrl_c_while_it_is_written_leaves_the_old_file_whole(tmp_path, monkeypatch, moment):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    write, done = writing.write_whole, []

    def interrupted(*what):
        done.append(what)
        if len(done) == moment:
            raise KeyboardInterrupt
        return write(*what)

    monkeypatch.setattr(writing, "write_whole", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_changes(path, {"arms.left.latency": 0.06}, by="test", copy_to=tmp_path)
    assert path.read_text() == TEXT
    assert [each.name for each in tmp_path.iterdir() if "before" not in each.name] == ["mine.yaml"]


def test_comments_within_a_value_are_kept_with_it():
    """Regression: what was noted beside the rows of a matrix was lost."""
    text = (
        "a:   # measured in March\n  - [1, 2]   # first, #1\n  - ['x # y', 3]\n  # the end\nb: 1   # stays\n"
    )
    new = changed_text(text, {"a": [[4]]}, remark="now")
    assert new.startswith(
        "# before now: [[1, 2], ['x # y', 3]] (measured in March; first, #1)\na:\n  - [4]\n"
    )
    assert new.endswith("  # the end\nb: 1   # stays\n")
    nested = changed_text("c:\n  d: 1   # one\n  e: {f: 2}\n", {"c": 5}, remark="now")
    assert nested == "# before now: {d: 1, e: {f: 2}} (one)\nc: 5\n"


def test_what_no_driver_takes_is_not_written(tmp_path):
    path, text = tmp_path / "mine.yaml", (CONFIGS / "bimanual_ur5e.yaml").read_text()
    path.write_text(text)
    for changes in ({"arms.left.gripper.stroke": 0.121}, {"arms.left.camera.device.crop": 8}):
        with pytest.raises(CalibrationError, match="no robot could be opened by"):
            write_changes(path, changes, by="test", copy_to=tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("changes", [{"arms.left.latency": 99.0}, {"arms.left.nonsense": 1}])
def test_what_would_be_no_robot_any_more_is_not_written(tmp_path, changes):
    path = tmp_path / "mine.yaml"
    path.write_text(TEXT)
    with pytest.raises((CalibrationError, ConfigError)):
        write_changes(path, changes, by="test", copy_to=tmp_path)
    assert path.read_text() == TEXT
    assert [each.name for each in tmp_path.iterdir()] == ["mine.yaml"]


def test_a_relative_path_to_a_robot_of_the_package_gets_a_changed_copy(tmp_path, monkeypatch):
    monkeypatch.chdir(CONFIGS.parents[1])
    new, old = write_changes(
        "configs/robots/cell_ur5e.yaml", {"arms.left.latency": 0.06}, by="test", copy_to=tmp_path
    )
    assert (new, old) == (tmp_path / "cell_ur5e.yaml", None)
    assert RobotSettings.read(new).arms["left"].latency == 0.06
    assert (CONFIGS / "cell_ur5e.yaml").read_text() == TEXT
