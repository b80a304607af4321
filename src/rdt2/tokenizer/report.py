"""What a tokenizer loses: reconstruction error in millimetres and degrees, and the use of its codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from rdt2.action import ROTATION_DIMS
from rdt2.errors import ActionError
from rdt2.pose import geodesic_angle, rot6d_to_matrix
from rdt2.tokenizer.config import PART_COLUMNS

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from rdt2.normalizer import LinearNormalizer
    from rdt2.tokenizer.model import ActionTokenizer

BATCH = 512
WORST = 8


@dataclass(frozen=True)
class ReconstructionReport:
    """Mean errors of encode-decode over a set of chunks, by step of the horizon and by arm (right, left)."""

    chunks: int
    position_mm: Float[np.ndarray, "24 2"]
    """Distance between recorded and decoded position."""
    position_axis_mm: Float[np.ndarray, "24 2 3"]
    """Absolute error along x, y, z of the end-effector frame at the observation."""
    rotation_degrees: Float[np.ndarray, "24 2"]
    """Geodesic angle between recorded and decoded rotation."""
    grip_mm: Float[np.ndarray, "24 2"]
    """Absolute error of the gripper width."""
    position_mm_by_codebooks: list[float]
    """Mean distance when only the first codebook of each part is read, the first two, and so on."""
    code_use: dict[str, list[float]]
    """Share of each codebook's codes that occur at all, coarse to fine."""
    perplexity: dict[str, list[float]]
    """How many codes each codebook would use if it used them evenly."""
    worst: Int[np.ndarray, " w"]
    """Indices of the chunks with the largest mean distance, worst first."""

    def summary(self) -> dict[str, float]:
        """One figure for each kind of error, and code use and perplexity averaged over a part's codebooks."""
        figures = {
            "position_mm": float(self.position_mm.mean()),
            "position_last_step_mm": float(self.position_mm[-1].mean()),
            "rotation_degrees": float(self.rotation_degrees.mean()),
            "grip_mm": float(self.grip_mm.mean()),
        }
        for part in PART_COLUMNS:
            figures[f"{part}_code_use"] = float(np.mean(self.code_use[part]))
            figures[f"{part}_perplexity"] = float(np.mean(self.perplexity[part]))
        return figures

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON takes it."""
        arrays = {key: value.tolist() for key, value in vars(self).items() if isinstance(value, np.ndarray)}
        return {
            "chunks": self.chunks,
            "summary": self.summary(),
            **arrays,
            "position_mm_by_codebooks": self.position_mm_by_codebooks,
            "code_use": self.code_use,
            "perplexity": self.perplexity,
        }


def evaluate_reconstruction(
    tokenizer: ActionTokenizer,
    normalizer: LinearNormalizer,
    actions: Float[np.ndarray, "n 24 20"] | Float[Tensor, "n 24 20"],
) -> ReconstructionReport:
    """Encode and decode chunks as recorded (metres, not normalised) and compare.

    Raises:
        ActionError: if there is no chunk, or chunks are not (24, 20) or not finite.
    """
    recorded = torch.as_tensor(actions, dtype=torch.float32, device="cpu")
    if len(recorded) == 0:
        raise ActionError("no chunk to reconstruct: expected actions of shape (n, 24, 20) with n >= 1")
    levels = range(1, max(tokenizer.config.n_codebooks.values()) + 1)
    tokens: list[Tensor] = []
    decoded: dict[int, list[Tensor]] = {level: [] for level in levels}
    for batch in recorded.split(BATCH):
        tokens.append(tokenizer.encode(normalizer.normalize(batch)).cpu())
        for level in levels:
            decoded[level].append(normalizer.denormalize(tokenizer.decode(tokens[-1], levels=level).cpu()))
    # (n, step, arm, 10) in float64: a millimetre must not drown in rounding.
    want = recorded.unflatten(-1, (2, 10)).double().numpy()
    by_codebooks = []
    for level in levels:
        got = torch.cat(decoded[level]).unflatten(-1, (2, 10)).double().numpy()
        offset = (got[..., :3] - want[..., :3]) * 1000
        by_codebooks.append(float(np.linalg.norm(offset, axis=-1).mean()))
    distance = np.linalg.norm(offset, axis=-1)
    angle = np.degrees(geodesic_angle(rot6d_to_matrix(got[..., 3:9]), rot6d_to_matrix(want[..., 3:9])))
    use, perplexity = code_use(tokenizer, torch.cat(tokens).numpy())
    return ReconstructionReport(
        chunks=len(recorded),
        position_mm=distance.mean(axis=0),
        position_axis_mm=np.abs(offset).mean(axis=0),
        rotation_degrees=angle.mean(axis=0),
        grip_mm=np.abs(got[..., 9] - want[..., 9]).mean(axis=0) * 1000,
        position_mm_by_codebooks=by_codebooks,
        code_use=use,
        perplexity=perplexity,
        worst=np.argsort(-distance.mean(axis=(1, 2)), kind="stable")[:WORST],
    )


def outside_range(
    normalizer: LinearNormalizer, actions: Float[np.ndarray, "n 24 20"]
) -> Float[np.ndarray, " 20"]:
    """Share of each column's values, metres, that lie beyond what the normalizer was fitted to.

    A tokenizer decodes what its codebooks hold: values far from those it was trained on come back wrong. Rotations
    count as inside: all that can occur were in the training of a tokenizer that saw any turn.
    """
    low, high = normalizer.minimum.numpy(), normalizer.maximum.numpy()
    slack = 1e-3 * (high - low) + 1e-6  # what float32 and a last digit make of a limit
    share = ((actions < low - slack) | (actions > high + slack)).mean(axis=(0, 1))
    share[list(ROTATION_DIMS)] = 0.0
    return share


def worst_chunks(
    tokenizer: ActionTokenizer,
    normalizer: LinearNormalizer,
    actions: Float[np.ndarray, "n 24 20"],
    report: ReconstructionReport,
    count: int = 4,
) -> tuple[Float[np.ndarray, "k 24 20"], Float[np.ndarray, "k 24 20"]]:
    """The chunks that a report found worst, decoded and as recorded, metres."""
    recorded = np.asarray(actions[report.worst[:count]], np.float32)
    tokens = tokenizer.encode(normalizer.normalize(torch.from_numpy(recorded)))
    return normalizer.denormalize(tokenizer.decode(tokens).cpu()).numpy(), recorded


def code_use(
    tokenizer: ActionTokenizer, tokens: Int[np.ndarray, "n 27"]
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """By part and codebook, coarse to fine: the share of codes that occur, and the perplexity of their use."""
    use: dict[str, list[float]] = {}
    perplexity: dict[str, list[float]] = {}
    for part, where in tokenizer.part_slices.items():
        codebooks = tokens[:, where].reshape(-1, tokenizer.config.n_codebooks[part]).T
        counts = [np.bincount(ids, minlength=tokenizer.num_embeddings) for ids in codebooks]
        use[part] = [float((count > 0).mean()) for count in counts]
        shares = [count[count > 0] / count.sum() for count in counts]
        perplexity[part] = [float(np.exp(-(share * np.log(share)).sum())) for share in shares]
    return use, perplexity
