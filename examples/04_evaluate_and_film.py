# %% [markdown]
# # Evaluate and film
#
# How often does a policy do what it is told? Episodes in the simulated cell say, with the interval that so few of them
# leave, and a page shows each of them in film. A control says whether the policy looks at all: the same scenes, black
# pictures.

# %%
import argparse
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rdt2.evaluation.cell import evaluate_cell, loop_config, run_trial
from rdt2.evaluation.page import Page
from rdt2.evaluation.scenes import draw_trials
from rdt2.policy import load_policy

parser = argparse.ArgumentParser(description="Count what a policy achieves, and film it.")
parser.add_argument(
    "--out", type=Path, default=Path("reports/examples"), help="folder for pictures and the page"
)
parser.add_argument("--policy", default="demo-fm", help="any policy: a folder, a file, a hub id")
parser.add_argument("--robot", default="ur5e", help="ur5e, fr3, handheld, or a yaml")
parser.add_argument("--task", default="pick", help="pick, place, press")
parser.add_argument("--episodes", type=int, default=4)
parser.add_argument("--seconds", type=float, default=15.0, help="of an episode at most")
options = parser.parse_args(None if "__file__" in globals() else [])
options.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# Scenes follow from task, seed and number: every policy meets the same ones, and none of them was in training.
# Simulated time stands still while the policy thinks, and goes on by 0.1 s for each thought, so a slow machine gives
# the same result.

# %%
policy = load_policy(options.policy)
page = Page(options.out / "04_evaluate_and_film.html", film="all")
asked = {"episodes": options.episodes, "seed": 8, "max_seconds": options.seconds}
result = evaluate_cell(policy, options.robot, options.task, **asked, page=page)
page.write(result)
for record in result.records:
    print(
        f"{'done' if record.success else 'not done':8} {record.seconds:5.1f} s  {record.instruction}  {record.reason}"
    )
print(f"{result.success} of {result.episodes}: {result.success_rate} with the 95 % interval")
print(f"the named hand on the named object: {result.followed} of {result.episodes}")

# %%
blind = evaluate_cell(policy, options.robot, options.task, **asked, blind=True)
print(f"with black pictures: {blind.success} of {blind.episodes}")

# %% [markdown]
# A film of your own is a recorder: the loop calls it 30 times a second, and after every prediction. This one keeps a
# picture now and then.


# %%
class Strip:
    """So many pictures of the front camera, one a second."""

    def __init__(self, cell):
        self.cell, self.pictures, self.times = cell, [], []

    def on_cycle(self, observation, chunk, time):
        """A chunk was predicted."""

    def on_frame(self, moment):
        """Called 30 times a second."""
        if moment.since >= len(self.pictures):
            self.pictures.append(self.cell.render("front", size=(320, 240)))
            self.times.append(moment.since)


strips = []
(trial,) = draw_trials(options.task, 1, seed=8)
record, _ = run_trial(
    trial,
    policy,
    options.robot,
    config=loop_config(),
    max_seconds=options.seconds,
    watch=lambda cell: strips.append(Strip(cell)) or strips[-1],
)
(strip,) = strips

# %%
shown = np.unique(np.linspace(0, len(strip.pictures) - 1, 6).astype(int))
figure, grid = plt.subplots(
    1, len(shown), figsize=(2.6 * len(shown), 2.4), layout="constrained", squeeze=False
)
figure.suptitle(record.instruction)
for axes, number in zip(grid[0], shown, strict=True):
    axes.imshow(strip.pictures[number])
    axes.set_title(f"{strip.times[number]:.0f} s", fontsize=9)
    axes.axis("off")
figure.savefig(options.out / "04_evaluate_and_film.png", dpi=80)
print(f"films: {page.path}\npicture: {options.out / '04_evaluate_and_film.png'}")
