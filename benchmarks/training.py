"""What a training step costs, against a naive baseline on the same weights, data and optimizer.

    python benchmarks/training.py --preset mid --json training.json

Two steps are measured, each side in a process of its own so that its peak memory is its own:

expert  the flow-matching expert beside the frozen VLM. Naive: transformers' whole VLM with logits at every
        position, of whose cache the expert reads its layers.
vq      all weights of the VLM learn to write action tokens, with gradient_checkpointing=true: a third more time for
        much less memory. Naive: transformers' forward, which computes the loss from logits over the whole vocabulary
        at every position.

Written are `expert.ratio` and `vq.ratio` (how many times faster, medians), and `vq.memory_ratio` (peak memory as
a share of the naive one's). Both sides must give the same first loss, or nothing is written.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

ANSWER = 29  # 27 action tokens, <|quad_end|>, end of turn
TEXT = (15, 20)  # tokens before and after the picture
LOSS_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Preset:
    """Shapes of one benchmark."""

    text: dict[str, int]
    vision: dict[str, int]
    patches: tuple[int, int]
    """Rows and columns of a picture."""
    full_attention: tuple[int, ...]
    """Vision blocks in which all patches of a picture see each other."""
    expert_hidden: int
    expert_layers: int
    """The expert reads the VLM's first layers, one a block."""


PRESETS = {
    "tiny": Preset(
        text={"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 512, "vocab_size": 2048},
        vision={"depth": 3, "hidden_size": 128, "num_heads": 4, "intermediate_size": 256, "window_size": 84},
        patches=(12, 24), full_attention=(2,), expert_hidden=256, expert_layers=4,
    ),
    "mid": Preset(
        text={"hidden_size": 512, "num_hidden_layers": 28, "num_attention_heads": 4, "num_key_value_heads": 2,
              "intermediate_size": 2048, "vocab_size": 151936},
        vision={"depth": 8, "hidden_size": 320, "num_heads": 4, "intermediate_size": 856, "window_size": 112},
        patches=(28, 54), full_attention=(3, 7), expert_hidden=512, expert_layers=14,
    ),
}  # fmt: skip


# --------------------------------------------------------------------------------------- what is measured


def build_vlm(preset: Preset) -> Any:
    """A Qwen2.5-VL of this shape with random float32 weights, the same in every process."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    heads, hidden = preset.text["num_attention_heads"], preset.text["hidden_size"]
    time_share = hidden // heads // 8  # a quarter of the rotary pairs; rows and columns share the rest
    place_share = (hidden // heads // 2 - time_share) // 2
    vocabulary = preset.text["vocab_size"]
    config = Qwen2_5_VLConfig(
        text_config={
            **preset.text,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [time_share, place_share, place_share],
            },
        },
        vision_config={
            **preset.vision,
            "out_hidden_size": hidden,
            "patch_size": 14,
            "fullatt_block_indexes": list(preset.full_attention),
        },
        image_token_id=vocabulary - 1,
        video_token_id=vocabulary - 2,
        vision_start_token_id=vocabulary - 3,
        tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    return Qwen2_5_VLForConditionalGeneration(config).float().train()


def build_batch(preset: Preset, rows: int, *, answer: bool) -> dict[str, Tensor]:
    """Random pictures and tokens of the lengths that RDT2's prompts have, with labels on the answer if asked."""
    generator = torch.Generator().manual_seed(1)
    height, width = preset.patches
    image_tokens = height * width // 4
    length = sum(TEXT) + image_tokens + (ANSWER if answer else 0)
    image_id = preset.text["vocab_size"] - 1
    ids = torch.randint(0, preset.text["vocab_size"] - 3, (rows, length), generator=generator)
    ids[:, TEXT[0] - 1] = image_id - 2
    ids[:, TEXT[0] : TEXT[0] + image_tokens] = image_id
    batch = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image_id).long(),
        "pixel_values": torch.randn(rows * height * width, 1176, generator=generator),
        "image_grid_thw": torch.tensor([[1, height, width]] * rows),
    }
    if answer:
        labels = torch.full_like(ids, -100)
        labels[:, -ANSWER:] = ids[:, -ANSWER:]
        batch["labels"] = labels
    return batch


def vq_step(preset: Preset, rows: int, side: str) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    """The loss of one step, and what it trains."""
    from rdt2.vlm import training_loss

    model, batch = build_vlm(preset), build_batch(preset, rows, answer=True)
    trained = list(model.parameters())
    if side == "naive":
        return lambda: model(**batch, use_cache=False).loss, trained
    return lambda: training_loss(model, batch, checkpointing=True)[0], trained


def expert_step(preset: Preset, rows: int, side: str) -> tuple[Callable[[], Tensor], list[nn.Parameter]]:
    """The loss of one step, and what it trains."""
    from rdt2.expert import Expert, ExpertConfig, flow_matching_loss, sample_timesteps
    from rdt2.packed import pack_linears
    from rdt2.vlm import KVCache, prefill

    head = preset.text["hidden_size"] // preset.text["num_attention_heads"]
    layers = tuple(range(preset.expert_layers))
    expert = Expert.from_config(
        ExpertConfig(
            hidden_size=preset.expert_hidden, depth=len(layers), num_heads=preset.expert_hidden // head,
            num_kv_heads=preset.text["num_key_value_heads"], selected_layers=layers,
        ),
        seed=0,
    ).train()  # fmt: skip
    model, batch = build_vlm(preset).eval().requires_grad_(False), build_batch(preset, rows, answer=False)
    if side == "ours":  # what load_vlm(layers=...) leaves
        model.model.language_model.layers = model.model.language_model.layers[: len(layers)]
        del model.lm_head, model.model.language_model.norm
        pack_linears(model)
    generator = torch.Generator().manual_seed(2)
    actions, noise = torch.randn(2, rows, 24, 20, generator=generator).unbind()
    t = sample_timesteps(rows, generator=generator)

    def loss() -> Tensor:
        with torch.no_grad():
            if side == "ours":
                cache = prefill(model, batch, layers)
            else:
                kept = model(**batch, use_cache=True).past_key_values.layers
                cache = KVCache(
                    keys=[kept[i].keys for i in layers],
                    values=[kept[i].values for i in layers],
                    mask=batch["attention_mask"].bool(),
                )
        return flow_matching_loss(expert, expert.prepare(cache), actions, noise=noise, t=t)

    return loss, [p for p in expert.parameters() if p.requires_grad]


STEPS = {"vq": vq_step, "expert": expert_step}


def measure(name: str, side: str, preset: Preset, rows: int, repeats: int) -> dict[str, float]:
    """Run one side: its first loss, the median seconds of a step, and this process's peak memory in GiB."""
    loss_of, trained = STEPS[name](preset, rows, side)
    optimizer = torch.optim.AdamW(trained, lr=1e-5, fused=True)
    losses, seconds = [], []
    for _ in range(1 + repeats):  # the first step allocates the optimizer's state, and is not counted
        began = time.perf_counter()
        loss = loss_of()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seconds.append(time.perf_counter() - began)
        losses.append(float(loss.detach()))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # Linux reports KiB
    return {"loss": losses[0], "seconds": statistics.median(seconds[1:]), "peak_gib": peak}


# ------------------------------------------------------------------------------------------ the comparison


def run_side(name: str, side: str, arguments: argparse.Namespace) -> dict[str, float]:
    """One side in a process of its own."""
    command = [
        sys.executable, __file__, "--preset", arguments.preset, "--batch", str(arguments.batch),
        "--repeats", str(arguments.repeats), "--threads", str(arguments.threads), "--side", name, side,
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{name}, {side}: ended with {done.returncode} (killed for memory is -9); see above.")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    print(f"{name:7s}{side:7s}{figures['seconds']:9.3f} s a step {figures['peak_gib']:7.2f} GiB", flush=True)
    return figures


def compare(name: str, arguments: argparse.Namespace) -> dict[str, float]:
    """Both sides of one step."""
    naive, ours = (run_side(name, side, arguments) for side in ("naive", "ours"))
    difference = abs(ours["loss"] - naive["loss"])
    if difference > LOSS_TOLERANCE * max(1.0, abs(naive["loss"])):
        sys.exit(
            f"{name}: the losses differ, {ours['loss']} and {naive['loss']} (naive): nothing to compare."
        )
    return {
        "ratio": naive["seconds"] / ours["seconds"],
        "memory_ratio": ours["peak_gib"] / naive["peak_gib"],
        "seconds": ours["seconds"],
        "naive_seconds": naive["seconds"],
        "peak_gib": ours["peak_gib"],
        "naive_peak_gib": naive["peak_gib"],
        "loss_difference": difference,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="mid", help="shape of the models")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--batch", type=int, default=4, help="samples a step")
    parser.add_argument("--repeats", type=int, default=3, help="counted steps; the median is taken")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1, help="threads of torch")
    parser.add_argument("--only", choices=STEPS, help="measure one of the two steps")
    parser.add_argument("--side", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.side:
        torch.set_num_threads(arguments.threads)
        name, side = arguments.side
        figures = measure(name, side, PRESETS[arguments.preset], arguments.batch, arguments.repeats)
        print(json.dumps(figures))
        return
    names = [arguments.only] if arguments.only else list(STEPS)
    result: dict[str, Any] = {name: compare(name, arguments) for name in names}
    for name, figures in result.items():
        print(f"{name}: {figures['ratio']:.2f} times as fast, {figures['memory_ratio']:.2f} of the memory")
    result["setting"] = {
        "preset": arguments.preset, "batch": arguments.batch, "repeats": arguments.repeats,
        "threads": arguments.threads, "torch": torch.__version__, "python": platform.python_version(),
        "cpu": platform.processor() or platform.machine(),
    }  # fmt: skip
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        print(f"figures: {arguments.json}")


if __name__ == "__main__":
    main()
