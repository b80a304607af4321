# %% [markdown]
# # The published weights on one GPU
#
# Needs a GPU and the published files, from the hub or from folders. The weights take 8.9 GB for RDT2-FM and 18.3 GB for
# RDT2-VQ in bfloat16; `--quantize int8` makes that 5.3 and 11.2, `--offload 6` leaves six of the VLM's layers in CPU
# memory ([figures](../benchmarks/results/precision.md)). The pictures are your own (`--left`, `--right`), or, to see
# that all runs, of the simulated cell, which these models have never seen. What they answer is drawn; the drawing is
# not shown here, since it takes the published files to make one.

# %%
import argparse
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image

from rdt2.action import FPS, SIDES
from rdt2.observation import Observation, check_instruction, wrist_picture
from rdt2.policy import load_policy

PUBLISHER = "robotics-diffusion-transformer"
parser = argparse.ArgumentParser(description="RDT2-FM, and RDT2-VQ if asked for, on one observation.")
parser.add_argument("--expert", default=f"{PUBLISHER}/RDT2-FM", help="folder or hub id")
parser.add_argument("--vlm", default=f"{PUBLISHER}/RDT2-VQ", help="folder or hub id")
parser.add_argument("--processor", default="Qwen/Qwen2.5-VL-7B-Instruct", help="folder or hub id")
parser.add_argument("--tokenizer", default=f"{PUBLISHER}/RVQActionTokenizer", help="folder or hub id")
parser.add_argument(
    "--normalizer", default=f"{PUBLISHER}/RVQActionTokenizer", help="folder or hub id, or the file"
)
parser.add_argument("--device", default="cuda")
parser.add_argument("--quantize", choices=("int8", "int4"), default=None)
parser.add_argument("--offload", type=int, default=0)
parser.add_argument("--kinds", nargs="+", choices=("fm", "vq"), default=["fm"])
parser.add_argument("--left", type=Path, default=None, help="a picture of the left wrist camera")
parser.add_argument("--right", type=Path, default=None, help="a picture of the right wrist camera")
parser.add_argument("--instruction", default="Pick up the apple.")
parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
options = parser.parse_args(None if "__file__" in globals() else [])
options.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# Pictures of any size are cut as those of training were: the centred square, 384 x 384. The sentence is
# "Verb + object.", as in training.

# %%
if (options.left is None) is not (options.right is None):
    parser.error("one picture, expected --left and --right, or neither")
if options.left is not None and options.right is not None:
    left, right = (wrist_picture(Image.open(path).convert("RGB")) for path in (options.left, options.right))
else:
    from rdt2.sim import Cell, make_scene

    with Cell("handheld", make_scene("pick", seed=3)) as cell:
        left, right = cell.render("left"), cell.render("right")
for warning in check_instruction(options.instruction):
    print(f"instruction: {warning}")
observation = Observation(left, right, options.instruction)

# %% [markdown]
# One policy at a time: two would not fit on a card of 24 GB. The normalizer is read without executing anything in it.

# %%
chunks = {}
shared = {
    name: getattr(options, name) for name in ("processor", "normalizer", "device", "quantize", "offload")
}
for kind in options.kinds:
    began = time.perf_counter()
    if kind == "fm":
        policy = load_policy(options.expert, vlm=options.vlm, **shared)
    else:
        policy = load_policy(options.vlm, tokenizer=options.tokenizer, **shared)
    print(f"{kind}: loaded in {time.perf_counter() - began:.1f} s")
    policy.predict([observation], seed=0)  # the first call warms up
    (chunk,) = policy.predict([observation], seed=0)
    chunk.require_valid()
    chunks[kind] = chunk
    print(f"{kind}:", ", ".join(f"{name} {1000 * seconds:.1f} ms" for name, seconds in chunk.timing.items()))
    if torch.device(options.device).type == "cuda":
        print(f"{kind}: {torch.cuda.max_memory_allocated(options.device) / 1e9:.1f} GB at most")
    del policy
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()

# %%
figure, (picture, *plots) = plt.subplots(
    1, 1 + len(chunks), figsize=(5 + 4 * len(chunks), 3.4), layout="constrained"
)
picture.imshow(np.concatenate([left, right], axis=1))
picture.set_title(options.instruction)
picture.axis("off")
for axes, (kind, chunk) in zip(plots, chunks.items(), strict=True):
    for arm in SIDES:
        way = 1000 * np.linalg.norm(chunk.relative_poses(arm)[:, :3, 3], axis=1)
        axes.plot(np.arange(1, 25) / FPS, way, label=f"{arm} hand")
    axes.set(title=f"RDT2-{kind.upper()}", xlabel="s", ylabel="mm from here")
    axes.legend()
figure.savefig(options.out / "published_weights_on_one_gpu.png", dpi=80)
print(f"picture: {options.out / 'published_weights_on_one_gpu.png'}")
