"""The vocabulary modules equal the values computed with the reference."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rdt2 import pose
from rdt2.action import ARMS, ActionChunk, arm_slice
from rdt2.normalizer import LinearNormalizer
from rdt2.observation import jpeg_roundtrip

F64, F32 = 1e-9, 1e-6


def close(ours: np.ndarray, theirs: np.ndarray, tolerance: float = F64) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


@pytest.fixture(scope="module")
def util(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "geometry/pose_util.npz"))


@pytest.fixture(scope="module")
def frames(golden: Path) -> dict[str, np.ndarray]:
    return dict(np.load(golden / "geometry/real_inference.npz"))


def test_vectors_matrices_and_6d(util):
    matrices = pose.pose_to_matrix(util["pose"])
    close(matrices, util["pose_to_mat"])
    close(pose.matrix_to_pose(matrices), util["mat_to_pose"])
    close(pose.rot6d_to_matrix(util["rot6d"]), util["rot6d_to_mat"])
    close(pose.matrix_to_rot6d(matrices[:, :3, :3]), util["mat_to_rot6d"])
    close(pose.pose9_to_matrix(util["pose9d"]), util["pose10d_to_mat"])
    close(pose.matrix_to_pose9(matrices), util["mat_to_pose10d"])
    close(pose.matrix_to_pose(pose.absolute(util["tx"], matrices)), util["transform_pose"])
    for start, delta, expected in zip(util["pose"], util["delta"], util["apply_delta_pose"], strict=True):
        moved = pose.from_delta(pose.pose_to_matrix(start), pose.pose_to_matrix(delta)[None])
        close(pose.matrix_to_pose(moved[0]), expected)


def test_vectors_at_the_edge_of_their_range(util):
    close(pose.matrix_to_pose(pose.pose_to_matrix(util["edge_pose"])), util["edge_pose_roundtrip"])


def test_float32(util):
    matrices = pose.pose_to_matrix(util["pose_to_mat_f32_in"])
    assert matrices.dtype == np.float32
    close(matrices, util["pose_to_mat_f32_out"], F32)
    close(pose.rot6d_to_matrix(util["rot6d"].astype(np.float32)), util["rot6d_to_mat_torch_f32"], F32)


def test_geodesic_angle(util):
    angle = pose.geodesic_angle(pose.rot6d_to_matrix(util["geo_a"]), pose.rot6d_to_matrix(util["geo_b"]))
    # the golden's arc cosine is itself inexact for small angles in float32
    close(angle, util["geodesic_rad_unreduced"], 2e-4)
    close(np.degrees(angle).mean(), util["geodesic_deg"], 2e-3)


def test_relative_and_delta_representations(golden):
    data = np.load(golden / "geometry/pose_repr.npz")
    base, poses = data["base"], data["seq"]
    close(pose.relative(base, poses), data["relative_forward"])
    close(pose.absolute(base, poses), data["relative_backward_of_seq"])
    close(pose.to_delta(base, poses), data["delta_forward"])
    close(pose.from_delta(base, poses), data["delta_backward_of_seq"])


def converted(action: np.ndarray, change: np.ndarray) -> np.ndarray:
    result = action.copy()
    for arm in ARMS:
        columns = result[:, arm_slice(arm)]
        columns[:, :9] = pose.matrix_to_pose9(pose.conjugate(pose.pose9_to_matrix(columns[:, :9]), change))
    return result


@pytest.mark.parametrize("name", ["default", "fr3", "rand"])
def test_policy_frame_to_tcp(frames, name: str):
    tcp = {"default": frames["T_ur5e"], "fr3": frames["T_fr3"], "rand": frames["T_tcp_rand"]}[name]
    policy = {"rand": frames["T_policy_rand"]}.get(name, frames["default_T_tracker_to_policy"])
    change = pose.policy_to_tcp_transform(tcp, policy)
    close(converted(frames["action"], change), frames[f"{name}_fwd"])
    close(converted(frames["action"], pose.invert(change)), frames[f"{name}_bwd"])


def test_the_handheld_offset_is_the_published_one(frames):
    close(pose.TRACKER_TO_POLICY, frames["default_T_tracker_to_policy"])
    # regression: one robot's calibration used on another moves the tool by decimetres
    offset = pose.policy_to_tcp_transform(frames["T_ur5e"]) - pose.policy_to_tcp_transform(frames["T_fr3"])
    assert abs(offset[2, 3]) > 0.29


def test_chunks_become_absolute_poses(frames):
    chunk = ActionChunk(frames["action"])
    expected = frames["get_real_umi_action.relative"]
    for index, arm in enumerate(ARMS):
        position = frames[f"obs.robot{index}_eef_pos"][-1]
        rotation = frames[f"obs.robot{index}_eef_rot_axis_angle"][-1]
        observed = pose.pose_to_matrix(np.concatenate([position, rotation]))
        # through float32 values, as executed, and exactly
        ours = pose.matrix_to_pose(chunk.absolute_poses(arm, observed))
        close(ours, expected[:, 7 * index : 7 * index + 6], 1e-5)
        exact = pose.absolute(observed, pose.pose9_to_matrix(frames["action"][:, arm_slice(arm)][:, :9]))
        close(pose.matrix_to_pose(exact), expected[:, 7 * index : 7 * index + 6])
        close(chunk.widths(arm), expected[:, 7 * index + 6], F32)


def test_jpeg_step(golden):
    data = np.load(golden / "vla/jpeg_roundtrip.npz")
    assert np.array_equal(jpeg_roundtrip(data["rgb_in"]), data["rgb_after_cv2_jpeg_q95_pil_decode"])


@pytest.mark.parametrize("file", ["normalizer_upstream.pt", "normalizer_upstream_f64.pt"])
def test_published_normalizer(golden, file: str):
    data = np.load(golden / "normalizer/normalizer.npz")
    normalizer = LinearNormalizer.from_pretrained(golden / "normalizer" / file)
    for name, key in (
        ("scale", "scale"),
        ("offset", "offset"),
        ("minimum", "input_stats.min"),
        ("maximum", "input_stats.max"),
    ):
        close(getattr(normalizer, name).numpy(), data[key], F32)
    close(normalizer.normalize(data["x"]), data["normalized"], F32)
    close(normalizer.denormalize(data["normalized"]), data["roundtrip"], F32)
    close(normalizer.denormalize(data["x"]), data["unnormalized"], F32)
    wide = normalizer.normalize(data["x_f64"])
    assert wide.dtype == np.float64
    close(wide, data["normalized_from_f64"], 2e-5)
    scale, offset = (getattr(normalizer, n).numpy().astype(np.float64) for n in ("scale", "offset"))
    close(wide, data["x_f64"] * scale + offset)


def test_normalizer_of_the_real_recording(real):
    normalizer = LinearNormalizer.from_pretrained(real / "normalizer.pt")
    assert np.isclose(normalizer.maximum[9], 0.088)
    assert np.array_equal(normalizer.scale[3:9], np.ones(6))
