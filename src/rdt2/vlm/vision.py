"""The vision tower of Qwen2.5-VL, run so that its cost grows with the number of pictures.

Same weights, same result as ``model.visual(pixel_values, grid_thw)`` of transformers, in another order:

- pictures of one size form a batch (b, n, d), and each attends to itself only;
- the patches of a picture are put in an order in which the windows of one size lie next to each other, so
  that window attention is a reshape and one call a window size;
- that order and the rotary angles depend on the grid alone and are computed once a grid;
- the patch embedding is a matrix product (a stride equal to the kernel makes the convolution one).
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F

from rdt2.errors import ObservationError
from rdt2.vlm.ops import recomputed, rms_norm, rotate

if TYPE_CHECKING:
    from collections.abc import Callable

    from jaxtyping import Float, Int
    from torch import Tensor, nn


class Layout(NamedTuple):
    """What a grid of patches determines: patch order, its inverse over image tokens, windows, angles."""

    order: Tensor  # (n,) patch of each place in window order
    inverse: Tensor  # (n / 4,) place of each image token
    windows: tuple[tuple[int, int], ...]  # (number, patches) of each window size, in this order
    cos: Tensor  # (n, head_dim) in window order
    sin: Tensor


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # what a policy made first, training in the same process may use
def layout(
    rows: int, columns: int, *, merge: int, window: int, head_dim: int, theta: float, device: str = "cpu"
) -> Layout:
    """Window order and rotary angles of a still picture of ``rows`` x ``columns`` patches.

    Patches arrive in blocks of ``merge`` x ``merge`` (see :mod:`rdt2.vlm.images`); a window is ``window`` x
    ``window`` blocks, smaller at the right and lower edges. Half of each head's frequencies turn with the
    patch's row and half with its column.
    """
    h, w, unit = rows // merge, columns // merge, merge * merge
    tokens = torch.arange(h * w).view(h, w)
    windows = [
        tokens[top : top + window, left : left + window].reshape(-1)
        for top in range(0, h, window)
        for left in range(0, w, window)
    ]
    sizes = sorted({len(each) for each in windows}, reverse=True)
    token_order = torch.cat([each for size in sizes for each in windows if len(each) == size])
    order = (token_order[:, None] * unit + torch.arange(unit)).reshape(-1)

    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    place = torch.stack([row, column], -1).view(h, merge, w, merge, 2).transpose(1, 2).reshape(-1, 2)[order]
    frequency = 1.0 / theta ** (torch.arange(0, head_dim // 2, 2, dtype=torch.float) / (head_dim // 2))
    angle = (place[..., None].float() * frequency).flatten(1).repeat(1, 2)  # (n, head_dim)
    return Layout(
        order=order.to(device),
        inverse=token_order.argsort().to(device),
        windows=tuple((sum(len(each) == size for each in windows), size * unit) for size in sizes),
        cos=angle.cos().to(device),
        sin=angle.sin().to(device),
    )


def run_block(
    block: Any, x: Float[Tensor, "b n d"], windows: tuple[tuple[int, int], ...], where: Layout
) -> Float[Tensor, "b n d"]:
    """One whole block over pictures of one size; patches attend to those of their window."""
    x = x + _attention(block.attn, rms_norm(block.norm1, x), windows, where)
    return x + block.mlp(rms_norm(block.norm2, x))


def _attention(
    attention: Any, x: Float[Tensor, "b n d"], windows: tuple[tuple[int, int], ...], where: Layout
) -> Float[Tensor, "b n d"]:
    b, n, d = x.shape
    heads = attention.num_heads
    qk, v = attention.qkv(x).view(b, n, 3, heads, d // heads).split((2, 1), 2)
    # In float32, as the published tower does.
    q, k = rotate(qk.float(), where.cos[:, None, None], where.sin[:, None, None]).to(v.dtype).unbind(2)
    v = v.squeeze(2)
    out, start = [], 0
    for number, size in windows:
        piece = slice(start, start + number * size)
        qw, kw, vw = (t[:, piece].reshape(b * number, size, heads, -1).transpose(1, 2) for t in (q, k, v))
        out.append(F.scaled_dot_product_attention(qw, kw, vw).transpose(1, 2).reshape(b, number * size, d))
        start += number * size
    return attention.proj(out[0] if len(out) == 1 else torch.cat(out, 1))


def encode_pictures(
    visual: nn.Module,
    pixel_values: Float[Tensor, "patches 1176"],
    grid_thw: Int[Tensor, "b 3"],
    *,
    checkpointing: bool = False,
    run: Callable[..., Tensor] = run_block,
) -> Float[Tensor, "tokens d"]:
    """Image tokens of all pictures, one after the other, as the language model reads them.

    Args:
        visual: transformers' loaded Qwen2.5-VL vision tower.
        pixel_values: patches of all pictures in order.
        grid_thw: (1, rows, columns) of each picture, in patches.
        checkpointing: keep only the input of every block for the backward pass, which computes the rest again.
        run: what blocks go through: :func:`run_block`, or that compiled.

    Raises:
        ObservationError: pixel values and grids do not belong together, or a grid is a video's.
    """
    grids = [tuple(grid) for grid in grid_thw.tolist()]
    lengths = [rows * columns for _, rows, columns in grids]
    if any(frames != 1 for frames, _, _ in grids) or sum(lengths) != len(pixel_values):
        raise ObservationError(
            f"expected {sum(lengths)} patches of still pictures for the grids {grids}, got "
            f"{len(pixel_values)}; make both with the same processor"
        )
    if len(set(grids)) == 1:
        return _same_size(visual, pixel_values, grids[0], checkpointing, run).flatten(0, 1)
    pictures = pixel_values.split(lengths)
    tokens: dict[int, Tensor] = {}
    for grid in dict.fromkeys(grids):
        members = [i for i, each in enumerate(grids) if each == grid]
        together = torch.cat([pictures[i] for i in members])
        encoded = _same_size(visual, together, grid, checkpointing, run)
        tokens.update(zip(members, encoded, strict=True))
    return torch.cat([tokens[i] for i in range(len(grids))])


def _same_size(
    visual: Any, pixel_values: Tensor, grid: tuple[int, ...], checkpointing: bool, run: Callable[..., Tensor]
) -> Float[Tensor, "b tokens d"]:
    config, merge = visual.config, visual.spatial_merge_size
    heads = config.num_heads
    _, rows, columns = grid
    where = layout(
        rows,
        columns,
        merge=merge,
        window=config.window_size // merge // config.patch_size,
        head_dim=config.hidden_size // heads,
        theta=_theta(config),
        device=str(pixel_values.device),
    )
    weight = visual.patch_embed.proj.weight
    x = F.linear(pixel_values.to(weight.dtype), weight.flatten(1)).view(
        -1, rows * columns, config.hidden_size
    )
    x = x[:, where.order]
    whole = ((1, rows * columns),)
    for index, block in enumerate(visual.blocks):
        windows = whole if index in config.fullatt_block_indexes else where.windows
        if checkpointing and torch.is_grad_enabled():
            x = recomputed(run, block, x, windows, where)
        else:
            x = run(block, x, windows, where)
    return visual.merger(x).view(len(x), -1, config.out_hidden_size)[:, where.inverse]


def _theta(config: object) -> float:
    parameters = getattr(config, "rope_parameters", None) or {}
    return float(parameters.get("rope_theta", 10000.0))
