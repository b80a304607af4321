"""Arms and grippers of another machine keep every promise of the protocols."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("websockets")
pytest.register_assert_rewrite("conformance")

from conformance import Conformance  # noqa: E402
from lateness import on_time  # noqa: E402
from remote_robot import fakes, hosted, remote_robot, remote_settings  # noqa: E402

from rdt2.errors import SafetyError  # noqa: E402

pytestmark = pytest.mark.realtime


@pytest.fixture(autouse=True)
def hurried():
    with on_time():
        yield


class TestFakesElsewhere(Conformance):
    """The same suite as for every robot, over the network."""

    @pytest.fixture
    def robot(self):
        there, settings = fakes()
        with hosted(there, settings) as host:
            yield remote_robot(remote_settings(settings, host.port), there.cameras)

    @pytest.mark.parametrize(
        "wrong", ["past", "nan", "mirrored"]
    )  # it is this side that refuses: see RemoteArm
    def test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(self, robot, wrong):
        super().test_what_an_arm_must_not_follow_is_refused_and_changes_nothing(robot, wrong)

    def test_an_arm_that_takes_joints_is_led_along_them(self, robot):
        robot.connect()
        robot.enable()
        with pytest.raises(SafetyError, match="the driver of its host does not offer it"):
            robot.arms["right"].execute_joints(np.array([robot.clock.now() + 1.0]), np.zeros((1, 6)))

    @pytest.mark.parametrize("width", [np.nan, 0.6])
    def test_what_a_gripper_must_not_follow_is_refused_and_changes_nothing(self, robot, width):
        super().test_what_a_gripper_must_not_follow_is_refused_and_changes_nothing(robot, width)
