"""What the arms will do anyway: chunks begin with it, and go on from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rdt2.action import ARMS, HORIZON, Promise, arm_slice
from rdt2.errors import ActionError
from rdt2.evaluation.policies import Deprived
from rdt2.observation import Observation
from rdt2.policy import CompiledFMPolicy, FMPolicy, VQPolicy, load_policy

POSITIONS = [0, 1, 2, 10, 11, 12]


def observations() -> list[Observation]:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 2, 24, 24, 3), dtype=np.uint8)
    pictures = pictures.repeat(16, axis=2).repeat(16, axis=3)
    sentences = ("Pick up the red apple.", "Open the door.", "Put the cup in the bowl with the left hand.")
    return [Observation(left, right, text) for (left, right), text in zip(pictures, sentences, strict=True)]


def path(*, speed: float = 0.003) -> np.ndarray:
    """Both arms go straight ahead (m a step), hands level and half open."""
    values = np.zeros((24, 20), np.float32)
    for arm in ARMS:
        columns = values[:, arm_slice(arm)]
        columns[:, 0] = speed * np.arange(1, 25)
        columns[:, [3, 7]] = 1
        columns[:, 9] = 0.04
    return values


# ---------------------------------------------------------------------------------------------- the promise


def test_rows_behind_the_known_ones_are_not_read():
    values = path()
    values[10:] = np.nan
    promise = Promise(values, fixed=3, known=10)
    assert np.array_equal(promise.actions[:10], path()[:10])
    assert not promise.actions[10:].any()
    assert not promise.actions.flags.writeable
    values[:] = 0
    assert promise.actions[0, 0] > 0


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"fixed": -1}, "-1 fixed of 12 known rows"),
        ({"fixed": 13}, "13 fixed of 12 known rows"),
        ({"known": 25}, "fixed <= known <= 24"),
        ({"fixed": 2.0}, "fixed of a promise is 2.0"),
        ({"known": True}, "known of a promise is True"),
        ({"actions": path()[:12]}, r"have shape \(12, 20\)"),
        ({"actions": np.where(np.arange(24)[:, None] == 11, np.nan, path())}, "12 known rows of a promise hold NaN"),
        ({"actions": np.where(np.arange(20) // 3 == 4, 0, path()) * 0}, "right arm of a promise: 6D rotation"),
    ],
)  # fmt: skip
def test_what_is_no_promise_is_refused(change, match: str):
    with pytest.raises(ActionError, match=match):
        Promise(**{"actions": path(), "fixed": 4, "known": 12, **change})


@pytest.mark.parametrize(
    ("promised", "match"),
    [
        (Promise(path(), 1, 2), "type Promise, expected a list"),
        ([None, None], "2 promises for 3"),
        ([path(), None, None], "promise 0 is of type ndarray"),
    ],
)
def test_promises_are_one_for_each_row(fm: FMPolicy, promised, match: str):
    with pytest.raises(ActionError, match=match):
        fm.predict(observations(), seed=0, promised=promised)


# ---------------------------------------------------------------------------------------------- the policies


def test_fixed_rows_are_kept_and_rows_may_differ_in_what_they_promise(fm: FMPolicy):
    assert fm.keeps_promises
    assert fm.longest_promise == Deprived(fm, blind=True).longest_promise == HORIZON
    seen, promise = observations(), Promise(path(), fixed=5, known=14)
    plain = fm.predict(seen, seed=3)
    kept = fm.predict(seen, seed=3, promised=[promise, None, Promise(path(speed=0.001), fixed=0, known=8)])
    assert np.array_equal(kept[0].values[:5], promise.actions[:5])
    np.testing.assert_allclose(kept[1].values, plain[1].values, atol=1e-5)
    assert np.abs(kept[2].values - plain[2].values).max() > 1e-4
    (alone,) = fm.predict(seen[:1], seed=3, promised=[promise])
    np.testing.assert_allclose(alone.values, kept[0].values, atol=1e-4)


def test_nothing_known_is_nothing_promised(fm: FMPolicy):
    seen = observations()
    plain = fm.predict(seen, seed=3)
    for promised in (None, [None] * 3, [Promise(path(), fixed=0, known=0)] * 3):
        for one, other in zip(fm.predict(seen, seed=3, promised=promised), plain, strict=True):
            assert np.array_equal(one.values, other.values)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_each_draw_keeps_the_promise(bundles: dict[str, Path], dtype: torch.dtype):
    policy = load_policy(bundles["fm"], draws=3, dtype=dtype)
    seen, promise = observations()[:2], Promise(path(), fixed=6, known=6)
    (first, second) = policy.predict(seen, seed=[4, 5], promised=[promise, promise])
    assert np.array_equal(first.values[:6], promise.actions[:6])
    (alone,) = policy.predict(seen[1:], seed=5, promised=[promise])
    np.testing.assert_allclose(alone.values, second.values, atol=1e-4 if dtype == torch.float32 else 0.05)


def test_who_keeps_no_promises_says_so(bundles: dict[str, Path], vq: VQPolicy):
    one_step = load_policy(bundles["fm"], steps=1)
    seen, promise = observations()[:1], Promise(path(), fixed=5, known=14)
    for policy, kind in ((vq, "a VQ policy"), (one_step, "of one Euler step")):
        assert not policy.keeps_promises
        assert not Deprived(policy, blind=True).keeps_promises
        with pytest.raises(ActionError, match=kind):
            policy.predict(seen, seed=0, promised=[promise])
        assert policy.predict(seen, seed=0, promised=[None])[0].valid
        assert policy.predict(seen, seed=0, promised=[Promise(path(), 0, 0)])[0].valid


def test_a_blind_policy_keeps_its_promises(fm: FMPolicy):
    promise = Promise(path(), fixed=5, known=14)
    (chunk,) = Deprived(fm, blind=True).predict(observations()[:1], seed=0, promised=[promise])
    assert np.array_equal(chunk.values[:5], promise.actions[:5])


def test_a_compiled_policy_keeps_them_too(bundles: dict[str, Path], fm: FMPolicy):
    own = load_policy(bundles["fm"])
    parts = {name: getattr(own, name) for name in ("vlm", "processor", "normalizer", "expert")}
    policy = CompiledFMPolicy(**parts, backend="eager")
    promised = [Promise(path(), fixed=5, known=14), None, Promise(path(), fixed=0, known=20)]
    expected = fm.predict(observations(), seed=2, promised=promised)
    for ours, theirs in zip(policy.predict(observations(), seed=2, promised=promised), expected, strict=True):
        np.testing.assert_allclose(ours.values, theirs.values, atol=1e-4)


# ---------------------------------------------------------------------------------------------- what it is worth


def test_plans_of_the_demo_go_on_from_each_other():
    """Another draw for the same scene goes another way; drawn to what is being driven, it goes on from there."""
    pytest.importorskip("mujoco")
    from rdt2.sim.cell import Cell
    from rdt2.sim.drawing import make_scene

    policy, fixed = load_policy("demo-fm"), 4
    turns, distances = [], []
    for number in range(3):
        with Cell("handheld", make_scene("pick", seed=number)) as cell:
            sides = {side: cell.robot().cameras[side].read().image for side in ARMS}
        seen = Observation(**sides, instruction="Pick up the red cube with the left hand.")
        (driven,) = policy.predict([seen], seed=number)
        promise = Promise(driven.values, fixed=fixed, known=20)
        plain, kept = (
            policy.predict([seen], seed=50 + number, promised=[given])[0].values.copy()
            for given in (None, promise)
        )
        plain[:fixed] = promise.actions[:fixed]
        # How much the way of a step changes where the new plan begins, and how far apart the plans are behind it.
        turns.append(
            [np.abs(np.diff(each[:, POSITIONS], 2, axis=0)[fixed - 2]).max() for each in (plain, kept)]
        )
        gap = np.array([plain, kept])[:, fixed:20, POSITIONS] - promise.actions[fixed:20, POSITIONS]
        distances.append(np.abs(gap).mean(axis=(1, 2)))
    turn, distance = np.mean(turns, axis=0), np.mean(distances, axis=0)
    assert turn[1] < 0.5 * turn[0], f"turns of {1000 * turn} mm a step without and with guidance"
    assert distance[1] < 0.8 * distance[0], f"{1000 * distance} mm without and with guidance"
