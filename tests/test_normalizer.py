from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from rdt2.action import POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS
from rdt2.errors import NormalizerError
from rdt2.normalizer import LinearNormalizer


@pytest.fixture
def fitted() -> LinearNormalizer:
    return LinearNormalizer.fit(np.random.default_rng(0).uniform(-0.3, 0.5, (50, 24, 20)).astype(np.float32))


def test_fit_maps_limits_to_one_and_leaves_rotations():
    actions = np.random.default_rng(1).uniform(-0.2, 0.7, (40, 24, 20))
    normalized = LinearNormalizer.fit(actions).normalize(actions)
    moved = [0, 1, 2, 9, 10, 11, 12, 19]
    assert np.allclose(normalized[..., moved].min(axis=(0, 1)), -1, atol=1e-6)
    assert np.allclose(normalized[..., moved].max(axis=(0, 1)), 1, atol=1e-6)
    turned = [3, 4, 5, 6, 7, 8, 13, 14, 15, 16, 17, 18]
    assert np.array_equal(normalized[..., turned], actions[..., turned])


def test_mean_std_gives_positions_rotations_and_widths_the_same_spread():
    """By limits, one wide throw leaves all other positions near 0, and a squared error looks at widths alone."""
    rng = np.random.default_rng(1)
    actions = rng.normal(0.02, 0.01, (400, 24, 20))
    actions[0, 0, :3] = 0.9  # a column's limits say little about its spread
    actions[..., POSITION_DIMS[:3]] *= 2.0  # one hand moves more
    actions[..., WIDTH_DIMS] = rng.choice([0.0, 0.088], (400, 24, 2))
    actions[..., ROTATION_DIMS] = 1 + rng.normal(0, 0.003, (400, 24, 12))
    normalizer = LinearNormalizer.fit(actions, mode="mean_std")
    normalized = normalizer.normalize(actions).reshape(-1, 20)
    np.testing.assert_allclose(normalized.mean(0), 0, atol=1e-4)
    for columns in map(list, (POSITION_DIMS, ROTATION_DIMS, WIDTH_DIMS)):
        assert normalized[:, columns].std() == pytest.approx(1, abs=1e-4)
        assert len(set(normalizer.scale[columns].tolist())) == 1, (
            "one scale: directions keep their proportion"
        )
    assert np.allclose(normalizer.denormalize(normalizer.normalize(actions)), actions, atol=1e-6)
    still = LinearNormalizer.fit(np.full((10, 24, 20), 0.03), mode="mean_std")
    assert np.allclose(still.normalize(np.full(20, 0.03)), 0)
    with pytest.raises(NormalizerError, match="'limits' or 'mean_std'"):
        LinearNormalizer.fit(actions, mode="quantiles")  # type: ignore[arg-type]


def test_a_column_that_never_changes_is_safe():
    actions = np.full((10, 24, 20), 0.03)
    normalizer = LinearNormalizer.fit(actions)
    normalized = normalizer.normalize(actions)
    assert np.allclose(normalized[..., [0, 9, 10, 19]], 0)
    assert np.allclose(normalizer.denormalize(normalized), actions, atol=1e-8)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_map_is_inverted_and_keeps_numpy_types(fitted: LinearNormalizer, dtype: type):
    x = np.random.default_rng(2).normal(size=(3, 24, 20)).astype(dtype)
    there = fitted.normalize(x)
    back = fitted.denormalize(there)
    assert there.dtype == back.dtype == dtype
    assert np.allclose(back, x, atol=1e-5 if dtype is np.float32 else 1e-12)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_torch_types_are_kept_and_nothing_has_gradients(fitted: LinearNormalizer, dtype: torch.dtype):
    x = torch.randn(2, 24, 20, dtype=dtype)
    result = fitted.denormalize(fitted.normalize(x))
    assert result.dtype == dtype
    assert not result.requires_grad
    assert not any(getattr(fitted, name).requires_grad for name in ("scale", "offset", "minimum", "maximum"))


def test_gradients_of_the_input_pass_through(fitted: LinearNormalizer):
    x = torch.zeros(24, 20, requires_grad=True)
    fitted.normalize(x).sum().backward()
    assert torch.allclose(x.grad, fitted.scale.expand(24, 20))


@pytest.mark.parametrize("published", [True, False])
def test_written_files_are_read_back_equal(fitted: LinearNormalizer, tmp_path: Path, published: bool):
    file = fitted.save_published(tmp_path / "n.pt") if published else fitted.save_pretrained(tmp_path)
    for source in (file, str(file)) if published else (file, tmp_path):
        read = LinearNormalizer.from_pretrained(source)
        for name in ("scale", "offset", "minimum", "maximum"):
            assert torch.equal(getattr(read, name), getattr(fitted, name))
    assert not list(tmp_path.glob("*.partial"))


class Hostile:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("form", ["torch", "torch_nested", "bare_pickle"])
def test_a_malicious_pickle_is_refused_and_not_executed(tmp_path: Path, form: str):
    """regression: the file was unpickled with full trust."""
    proof, file = tmp_path / "executed", tmp_path / "normalizer.pt"
    if form == "torch":
        torch.save(Hostile(proof), file)
    elif form == "torch_nested":
        nested = torch.nn.ParameterDict({"action": torch.nn.ParameterDict({"scale": torch.ones(20)})})
        nested.trap = Hostile(proof)
        torch.save(nested, file)
    else:
        file.write_bytes(pickle.dumps(Hostile(proof)))
    with warnings.catch_warnings(), pytest.raises(NormalizerError, match="refused") as caught:  # noqa: PT012
        warnings.simplefilter("ignore")  # torch remarks on the pickle protocol
        LinearNormalizer.from_pretrained(file)
    assert str(file) in str(caught.value)
    assert not proof.exists()
    # the file really is harmful: a trusting load runs it
    if form != "bare_pickle":
        torch.load(file, weights_only=False)
    else:
        pickle.loads(file.read_bytes())
    assert proof.exists()


def test_reading_leaves_no_global_permission(fitted: LinearNormalizer, tmp_path: Path):
    file = fitted.save_published(tmp_path / "n.pt")
    before = set(torch.serialization.get_safe_globals())
    LinearNormalizer.from_pretrained(file)
    assert set(torch.serialization.get_safe_globals()) == before


def test_files_that_are_no_normalizer_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    broken = tmp_path / "broken.pt"
    broken.write_bytes(b"not a checkpoint")
    other = tmp_path / "other.pt"
    torch.save({"model": torch.zeros(3)}, other)
    empty = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(3)}, empty)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(empty.read_bytes()[:20])
    for path, match in (
        (broken, "broken.pt"),
        (other, "action.scale"),
        (empty, "another kind"),
        (cut, "whole"),
        (tmp_path / "absent.pt", "expected absent.pt"),
        (tmp_path, "holds none of"),
    ):
        with pytest.raises(NormalizerError, match=match):
            LinearNormalizer.from_pretrained(path)


def test_bad_values_are_refused(fitted: LinearNormalizer):
    ones, zeros = torch.ones(20), torch.zeros(20)
    for arguments, match in (
        ((torch.ones(14), zeros, zeros, ones), r"scale has shape \(14,\)"),
        ((ones * torch.nan, zeros, zeros, ones), "NaN"),
        ((zeros, zeros, zeros, ones), "inverted"),
        ((ones, zeros, ones, zeros), "min is above"),
    ):
        with pytest.raises(NormalizerError, match=match):
            LinearNormalizer(*arguments)
    unusable = ((np.zeros((0, 20)), "empty"), (np.zeros((3, 14)), "14"), (np.full((3, 20), np.nan), "NaN"))
    for data, match in unusable:
        with pytest.raises(NormalizerError, match=match):
            LinearNormalizer.fit(data)
    with pytest.raises(NormalizerError, match="14"):
        fitted.normalize(np.zeros(14))
    with pytest.raises(NormalizerError, match="int64"):
        fitted.normalize(np.zeros(20, np.int64))
