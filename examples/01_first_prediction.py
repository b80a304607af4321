# %% [markdown]
# # First prediction
#
# Two wrist pictures and a sentence become 0.8 seconds of motion of both arms. The model is the small one that comes
# with the package; the pictures are of the simulated cell. Then the same pictures, and another sentence.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rdt2.action import FPS, SIDES
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.sim import Cell, make_scene

parser = argparse.ArgumentParser(
    description="One prediction of the built-in model, and what another word changes."
)
parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
parser.add_argument("--policy", default="demo-fm", help="any policy: a folder, a file, a hub id")
options = parser.parse_args(None if "__file__" in globals() else [])
options.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# A scene is drawn from a seed: what lies on the table, which hand is asked for. Each arm's wrist camera takes one
# picture, RGB, 384 x 384.

# %%
scene = make_scene("pick", seed=3)
with Cell("ur5e", scene) as cell:
    left, right = cell.render("left"), cell.render("right")
print("on the table:", ", ".join(item.name for item in scene.objects))

# %% [markdown]
# A policy is asked with `Observation`s and answers with `ActionChunk`s. The seed is of the noise that flow matching
# starts from; without one every call draws fresh noise.

# %%
policy = load_policy(options.policy)
target, other = scene.objects[0].name, scene.objects[1].name
sentences = [f"Pick up the {target} with the left hand.", f"Pick up the {other} with the right hand."]
chunks = policy.predict([Observation(left, right, sentence) for sentence in sentences], seed=[0, 0])

# %% [markdown]
# Nothing executes a chunk that is not valid. A chunk is (24, 20): at 30 Hz, row 0 the next step, right arm then left
# arm; for each the position (m), the first two columns of the rotation matrix, and the gripper's width (m). Poses are
# relative to where that gripper was when the picture was taken.

# %%
for sentence, chunk in zip(sentences, chunks, strict=True):
    chunk.require_valid()
    print(f"\n{sentence}  {chunk.values.shape}, {1000 * chunk.timing['total']:.0f} ms for both")
    for arm in SIDES:
        last = chunk.relative_poses(arm)[-1]
        turn = np.degrees(np.arccos(np.clip((np.trace(last[:3, :3]) - 1) / 2, -1, 1)))
        way = 1000 * np.linalg.norm(last[:3, 3])
        print(
            f"  {arm:5} hand: {way:4.0f} mm and {turn:3.0f} degrees in 0.8 s, opening {chunk.widths(arm)[-1]:.3f} m"
        )

# %%
figure, ((pictures, room), (first, second)) = plt.subplots(2, 2, figsize=(10, 6), layout="constrained")
pictures.imshow(np.concatenate([left, right], axis=1))
pictures.set_title("what the model sees: left | right")
pictures.axis("off")
seconds = np.arange(1, 25) / FPS
for arm, colour in zip(SIDES, ("#1a6fb0", "#c2571a"), strict=True):
    for chunk, dash, sentence in zip(chunks, ("-", "--"), ("first", "second"), strict=True):
        room.plot(seconds, chunk.widths(arm), dash, color=colour, label=f"{arm}, {sentence} sentence")
room.set(title="opening of the grippers", xlabel="s", ylabel="m", ylim=(0, 0.1))
room.legend(fontsize=7)
for axes, sentence, chunk in zip((first, second), sentences, chunks, strict=True):
    for arm, colour in zip(SIDES, ("#1a6fb0", "#c2571a"), strict=True):
        way = 1000 * np.linalg.norm(chunk.relative_poses(arm)[:, :3, 3], axis=1)
        axes.plot(seconds, way, color=colour, label=f"{arm} hand")
    axes.set(title=sentence, xlabel="s", ylabel="mm from here", ylim=(0, 350))
    axes.legend()
figure.savefig(options.out / "01_first_prediction.png", dpi=80)
print(f"\npicture: {options.out / '01_first_prediction.png'}")
