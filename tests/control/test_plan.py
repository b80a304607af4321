"""From plan to plan: no jump, and no chase where they are far apart."""

from __future__ import annotations

import numpy as np
import pytest

from rdt2.action import HORIZON
from rdt2.control.plan import PERIOD, Plan, blend


def plan(start, speed, *, began=10.0):
    times = began + PERIOD * np.arange(HORIZON + 1)
    poses = np.repeat(np.eye(4)[None], HORIZON + 1, axis=0)
    poses[:, 0, 3] = start + speed * (times - began)
    return Plan(began, times, {"left": poses}, {"left": np.full(HORIZON + 1, 0.05)})


@pytest.mark.parametrize(("apart", "takes"), [(0.02, 0.1), (0.25, 0.5)])
def test_a_hand_over_takes_longer_where_the_plans_are_far_apart(apart, takes):
    """Regression: whatever their distance, the wish went from one to the other within 0.1 s, 3.75 m/s for 0.25 m."""
    blended = blend(plan(0, 0), plan(apart, 0), now=10.1, seconds=0.1, catch_up={"left": (0.75, 4.0)})
    times = np.arange(10.1, 10.8, 0.002)
    x = blended.path("left", times)[:, 0, 3]
    assert x[0] == pytest.approx(0, abs=1e-9)
    assert np.abs(np.diff(x) / 0.002).max() < 0.9
    assert times[np.argmax(x > apart - 1e-6)] == pytest.approx(10.1 + takes, abs=0.01)


def test_a_plan_is_the_same_at_one_time_and_at_many():
    one = plan(0.1, 0.3)
    times = np.array([9.0, 10.02, 10.5, 12.0])
    np.testing.assert_allclose(one.path("left", times), [one.pose("left", t) for t in times], atol=1e-12)
    np.testing.assert_allclose(one.openings("left", times), [one.width("left", t) for t in times])
