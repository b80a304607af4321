from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from rdt2.action import ActionChunk
from rdt2.errors import ActionError
from rdt2.metrics import action_errors, per_sample_errors, valid_rate


def identity(samples: int = 1) -> np.ndarray:
    chunks = np.zeros((samples, 24, 20), np.float32)
    chunks[..., [3, 7, 13, 17]] = 1
    return chunks


def test_equals_the_reference(golden):
    case = np.load(golden / "geometry" / "metrics.npz")
    found = action_errors(case["pred"], case["gt"], width_valid=case["gripper_valid"])
    assert found.action_mse == pytest.approx(float(case["action_mse_error"]), rel=1e-6)
    assert found.position_mse == pytest.approx(float(case["action_mse_error_pos"]), rel=1e-6)
    assert found.rotation_deg == pytest.approx(float(case["action_geodesic_error_rot"]), rel=1e-6)
    assert found.width_mse == pytest.approx(float(case["action_mse_error_width"]), rel=1e-6)
    assert found.samples == 3


def test_millimetres_and_degrees_of_a_known_error():
    truth, predicted = identity(), identity()
    predicted[0, :, :3] = (0.003, 0.0, 0.004)  # right arm 5 mm off, left arm exact
    predicted[0, :, 13:19] = Rotation.from_euler("z", 10, degrees=True).as_matrix()[:, :2].T.reshape(6)
    predicted[0, :, 9] = 0.008
    found = action_errors(predicted, truth)
    assert found.position_mm == pytest.approx(2.5, abs=1e-5)
    assert found.rotation_deg == pytest.approx(5.0, abs=1e-4)
    assert found.width_mm == pytest.approx(4.0, abs=1e-5)
    assert found.position_mse == pytest.approx((0.003**2 + 0.004**2) / 6, rel=1e-5)


def test_errors_are_computed_in_float64_for_half_precision_predictions():
    """Metrics in a half type lose small errors: 0.1 mm beside 1 m is below its resolution."""
    truth = identity().astype(np.float16)
    found = per_sample_errors(truth, truth.astype(np.float64) + 1e-4)
    assert found["action_mse"].dtype == np.float64
    assert found["action_mse"][0] == pytest.approx(1e-8, rel=1e-6)


def test_widths_without_a_reading_do_not_count():
    truth, predicted = identity(2), identity(2)
    predicted[1, :, 9] = 1.0
    assert action_errors(predicted, truth, width_valid=np.array([True, False])).width_mm == 0
    assert np.isnan(action_errors(predicted, truth, width_valid=np.array([False, False])).width_mm)


def test_no_samples_is_not_zero_error():
    assert np.isnan(action_errors(identity(0), identity(0)).position_mm)


@pytest.mark.parametrize(
    ("predicted", "message"),
    [
        (identity()[0], "Add a batch axis"),
        (identity(2), "same shape"),
        (np.full((1, 24, 20), np.nan), "sample 0, step 0, dimension 0"),
        (np.zeros((1, 16, 14)), "expected"),
    ],
)
def test_unusable_chunks_are_refused(predicted, message):
    with pytest.raises(ActionError, match=message):
        action_errors(predicted, identity())


def test_valid_rate_counts_invalid_chunks_as_misses():
    good = ActionChunk(identity()[0])
    bad = ActionChunk(identity()[0], valid=False, reason="a text token among the action tokens")
    assert valid_rate([good, good, bad, good]) == 0.75
