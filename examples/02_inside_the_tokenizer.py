# %% [markdown]
# # Inside the action tokenizer
#
# RDT2-VQ does not write numbers, it writes tokens: 27 for 24 x 20 numbers. This looks at what each of them says, by
# reading fewer of them, and by changing one.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import rdt2
from rdt2.action import FPS, arm_slice
from rdt2.normalizer import LinearNormalizer
from rdt2.sim.recording import demonstrate, open_episode
from rdt2.tokenizer import PART_COLUMNS, ActionTokenizer, evaluate_reconstruction

DEMO = Path(rdt2.__file__).parent / "checkpoints" / "demo"

parser = argparse.ArgumentParser(description="What the 27 tokens of a chunk say.")
parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
parser.add_argument("--tokenizer", default=DEMO / "tokenizer", help="folder or hub id of an action tokenizer")
parser.add_argument("--normalizer", default=DEMO, help="its normalizer, a file or folder")
options = parser.parse_args(None if "__file__" in globals() else [])
options.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# Chunks to look at: somebody who knows where everything is picks something up in the simulated cell. Nothing is drawn,
# so this takes a moment only.

# %%
with open_episode("pick", 5, np.random.default_rng(0), perturbed=0) as (cell, task, manner):
    episode = demonstrate(cell, task, manner)
frames = episode.usable(stride=3)
chunks = np.stack([chunk for _, chunk in episode.chunks(frames)])
print(f"{task.instruction} {len(episode) / FPS:.1f} s, {len(chunks)} chunks {chunks.shape[1:]}")

# %% [markdown]
# Position, rotation and gripper each have an encoder, a stack of codebooks and a decoder of their own. Each encoder
# turns 24 steps into 3, and each codebook names each of these 3 with one token: 3 x (6 + 2 + 1) = 27.

# %%
tokenizer = ActionTokenizer.from_pretrained(options.tokenizer)
normalizer = LinearNormalizer.from_pretrained(options.normalizer)
middle = int(np.argmax(np.linalg.norm(chunks[:, -1, arm_slice(task.hand)][:, :3], axis=1)))
chunk = torch.from_numpy(chunks[middle : middle + 1])
tokens = tokenizer.encode(normalizer.normalize(chunk))
for part, where in tokenizer.part_slices.items():
    books = tokenizer.config.n_codebooks[part]
    print(
        f"\n{part}: {len(PART_COLUMNS[part])} columns, {books} codebook(s); a row a third of the chunk, coarse to fine"
    )
    print(tokens[0, where].reshape(-1, books).numpy())

# %% [markdown]
# Codebooks are residual: the second says what the first left over, and so on. With fewer of them the motion gets
# coarse, never wrong in kind.

# %%
report = evaluate_reconstruction(tokenizer, normalizer, chunks)
print("\nmean position error by codebooks read (mm):", np.round(report.position_mm_by_codebooks, 1))
print({name: round(value, 2) for name, value in report.summary().items()})

# %% [markdown]
# What does one token say? Another first token of the last third moves the end of the chunk; its beginning and the
# other parts stay.

# %%
changed = tokens.clone()
place = tokenizer.part_slices["pos"].stop - tokenizer.config.n_codebooks["pos"]
changed[0, place] = (changed[0, place] + tokenizer.num_embeddings // 2) % tokenizer.num_embeddings
whole, other = (normalizer.denormalize(tokenizer.decode(each)).numpy()[0] for each in (tokens, changed))
difference = 1000 * np.linalg.norm((other - whole)[:, arm_slice(task.hand)][:, :3], axis=1)
print(f"\ntoken {place} changed: {difference[:8].max():.1f} mm in the first third of the chunk,")
print(f"{difference[16:].max():.1f} mm in its last")

# %%
seconds = np.arange(1, 25) / FPS
figure, (levels, one, use) = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
recorded = chunk.numpy()[0]
for level, shade in zip(
    (1, 2, tokenizer.config.n_codebooks["pos"]), ("#f1b48c", "#dd8244", "#8a3d10"), strict=True
):
    decoded = normalizer.denormalize(tokenizer.decode(tokens, levels=level)).numpy()[0]
    levels.plot(
        seconds, 1000 * decoded[:, arm_slice(task.hand)][:, 2], color=shade, label=f"{level} codebook(s)"
    )
levels.plot(seconds, 1000 * recorded[:, arm_slice(task.hand)][:, 2], "k--", label="recorded")
levels.set(title=f"{task.hand} hand, along its fingers", xlabel="s", ylabel="mm")
levels.legend(fontsize=8)
for values, name in ((whole, "as written"), (other, f"token {place} changed")):
    way = 1000 * np.linalg.norm(values[:, arm_slice(task.hand)][:, :3], axis=1)
    one.plot(seconds, way, label=name)
one.set(title="one token changed", xlabel="s", ylabel="mm from here")
one.legend(fontsize=8)
for part, values in report.code_use.items():
    use.plot(range(1, len(values) + 1), 100 * np.array(values), "o-", label=part)
use.set(title=f"codes that {len(chunks)} chunks use", xlabel="codebook", ylabel="%", ylim=(0, 105))
use.legend(fontsize=8)
figure.savefig(options.out / "02_inside_the_tokenizer.png", dpi=80)
print(f"picture: {options.out / '02_inside_the_tokenizer.png'}")
