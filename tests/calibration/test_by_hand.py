"""Points that a person leads fingertips to: typed Enter takes them, and what was found is written."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("mujoco")

from rdt2.calibration import places
from rdt2.calibration.places import FORCE, HELD, _Meets, fingertips, touched_by_hand
from rdt2.cli.main import main
from rdt2.errors import CalibrationError
from rdt2.robot.protocols import ArmState
from rdt2.robot.reading import CONFIGS
from rdt2.robot.settings import RobotSettings

PATH = CONFIGS / "cell_ur5e.yaml"
TRUE = RobotSettings.read(PATH)
CORNERS = np.array([[0.1, -0.1, 0.013], [0.1, 0.1, 0.013], [0.3, 0.1, 0.013], [0.3, -0.1, 0.013]])


def state(pose: np.ndarray, wrench: np.ndarray | None = None) -> ArmState:
    return ArmState(0.0, 0, pose, np.zeros(6), np.zeros(6), wrench)


@pytest.fixture
def hand(monkeypatch):
    """A person with a robot at the terminal: what is typed, and where the fingertips are then."""

    def begin(typed: list[str], points: list[np.ndarray]) -> list[str]:
        asked, lines, where = [], iter(typed), iter(points)

        def read(text: str) -> str:
            asked.append(text)
            return next(lines)

        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(places, "fingertips", lambda *_: next(where))
        return asked

    return begin


def test_the_table_is_touched_by_hand(hand, tmp_path) -> None:
    asked = hand(["", "", " ", "", "done"], list(CORNERS))
    main(["calibrate", "table", "--robot", str(PATH), "--by-hand", "--side", "left", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "table.json").read_text())["highest"] == pytest.approx(0.013)
    assert RobotSettings.read(tmp_path / PATH.name).safety.table_height == pytest.approx(0.013)
    assert "left arm's closed fingertips to the table" in asked[0]
    assert "(4 taken" in asked[4]


def test_arms_are_placed_by_hand(hand, tmp_path) -> None:
    """The right arm stands 3 cm further than its yaml says, and so tells all points."""
    moved = np.eye(4)
    moved[:3, 3] = 0.03, 0.0, 0.0
    corners = (CORNERS - [0.2, 0, 0]) * [2, 2, 5]
    told = [point for corner in corners for point in (corner, corner - moved[:3, 3])]
    asked = hand([""] * 8 + ["done"], told)
    main(["calibrate", "arms", "--robot", str(PATH), "--by-hand", "--out", str(tmp_path)])
    after = RobotSettings.read(tmp_path / PATH.name)
    np.testing.assert_allclose(after.arms["right"].base, moved @ TRUE.arms["right"].base, atol=1e-5)
    assert after.arms["left"] == TRUE.arms["left"]
    assert ["left" in asked[0], "right" in asked[1], "point 2" in asked[2]] == [True] * 3


@pytest.mark.parametrize("typed", [["", "", "done"], ["done"]])
def test_too_few_points_write_nothing(hand, tmp_path, typed, capsys) -> None:
    hand(typed, list(CORNERS))
    with pytest.raises(SystemExit):
        main(["calibrate", "table", "--robot", str(PATH), "--by-hand", "--out", str(tmp_path)])
    assert "expected 3 or more. Nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nobody_at_the_terminal_is_done(monkeypatch, tmp_path) -> None:
    def nobody(text: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", nobody)
    with pytest.raises(SystemExit):
        main(["calibrate", "arms", "--robot", str(PATH), "--by-hand", "--out", str(tmp_path)])


def test_where_fingertips_are_comes_from_what_the_arm_says() -> None:
    pose = np.diag([1.0, -1.0, -1.0, 1.0])
    pose[:3, 3] = 0.2, 0.1, 0.3
    one = np.array([0.05, -0.02, 0.01])
    robot = SimpleNamespace(
        arms={"right": SimpleNamespace(state=lambda: state(pose))},
        grippers={"right": SimpleNamespace(state=lambda: SimpleNamespace(width=0.0))},
    )

    def ask(text: str) -> str:
        pose[:3, 3] += one
        return "" if "(3 taken" not in text else "done"

    found = touched_by_hand(robot, TRUE, ["right"], ask)["right"]  # type: ignore[arg-type]
    np.testing.assert_allclose(np.diff(found, axis=0), [one, one], atol=1e-9)
    pose[:3, 3] -= 2 * one
    np.testing.assert_allclose(found[1], fingertips(TRUE, "right", pose, 0.0), atol=1e-9)


def test_a_table_is_met_by_the_wrench_and_by_lagging_behind_without_one() -> None:
    pose = np.eye(4)
    push = np.zeros(6)
    felt = _Meets(state(pose, push), lambda since: -0.01 * since)
    for force, met in ((0.9 * FORCE, False), (1.1 * FORCE, True)):
        push = np.array([0, 0, force, 0, 0, 0])
        assert felt(state(pose, push), 5.0) is met  # however far it is behind its way
    np.testing.assert_array_equal(felt.pose, pose)
    lags = _Meets(state(pose), lambda since: -0.01 * since)
    pose = pose.copy()
    pose[2, 3] = -0.01 * 2 + 0.9 * HELD
    assert not lags(state(pose), 2.0)
    assert lags(state(pose), 2.0 + 0.2 * HELD / 0.01)


def test_points_that_were_ended_too_early_are_refused() -> None:
    with pytest.raises(CalibrationError, match="0 points were touched"):
        touched_by_hand(SimpleNamespace(), TRUE, ["left"], lambda text: "done")  # type: ignore[arg-type]
