# %% [markdown]
# # Train on 20 minutes of simulated data
#
# Demonstrations of two handheld grippers are recorded, a flow-matching expert learns from them on the frozen VLM that
# comes with the package, and is compared with staying still on episodes that it never saw. This is RDT2-FM's
# fine-tuning, small: your own recordings go through the same calls (`rdt2 data convert` makes shards of them).

# %%
import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt

import rdt2
from rdt2.data import check_shards, fit_normalizer
from rdt2.evaluation.shards import evaluate_shards
from rdt2.policy import load_policy
from rdt2.sim.recording import record_dataset
from rdt2.training.cli import run_training

VLM = Path(rdt2.__file__).parent / "checkpoints" / "demo" / "vlm"

# %% [markdown]
# `--size full` records some 20 minutes of motion and trains for 2000 steps: some 40 minutes on two cores. `small` shows
# only that all of it runs.

# %%
SIZES = {
    "full": {"episodes": 375, "stride": 3, "steps": 2000, "batch_size": 16, "samples": 256},
    "small": {"episodes": 2, "stride": 20, "steps": 2, "batch_size": 2, "samples": 4},
}
parser = argparse.ArgumentParser(description="Record, train, measure.")
parser.add_argument(
    "--out", type=Path, default=Path("reports/examples/training"), help="folder for all of it"
)
parser.add_argument("--size", choices=SIZES, default="full", help="small: seconds, to see that it runs")
options = parser.parse_args(None if "__file__" in globals() else [])
size = SIZES[options.size]
data, run = options.out / "data", options.out / "expert"

# %% [markdown]
# What is recorded already is not recorded again. The check says what training would not: frames that jump, sentences
# that are missing, grippers that never close.

# %%
recorded = record_dataset(data, size["episodes"], seed=11, stride=size["stride"], episodes_per_shard=5)
minutes = recorded.samples * size["stride"] / 30 / 60
print(f"{recorded.episodes} episodes, {recorded.samples} samples, {minutes:.1f} minutes of motion")
print(check_shards(data).table())

# %% [markdown]
# The demo's expert wants a normalizer of mean and standard deviation: by limits, positions would hardly count beside
# gripper widths. A run belongs in a folder of its own; begun again with `resume=True` it goes on where it was.

# %%
fit_normalizer(data, mode="mean_std").save_pretrained(options.out / "normalizer")
settings = {
    "vlm": VLM,
    "normalizer": options.out / "normalizer",
    "compile": "false",
    "steps": size["steps"],
    "batch_size": size["batch_size"],
    "warmup_steps": min(50, size["steps"] // 2),
    "evaluate_every": max(1, size["steps"] // 4),
    "evaluate_samples": size["samples"],
    "log_every": max(1, size["steps"] // 100),
    "held_out": 0.1,
    "trackers": "[]",
}
trained = run_training(
    "expert",
    config="expert_tiny",
    overrides=[f"{name}={value}" for name, value in settings.items()],
    data=data,
    out=run,
    resume=True,
)
print(f"\n{trained.steps} steps in {trained.seconds:.0f} s; on held-out samples:")
print(", ".join(f"{name} {value:.3g}" for name, value in trained.metrics.items()))

# %% [markdown]
# The model of a run lies in its published layout and is a policy, together with the VLM it was trained on.

# %%
policy = load_policy(trained.model, vlm=VLM)
result = evaluate_shards(policy, data, name="trained here", held_out=0.1, limit=size["samples"])
for name, errors in {result.policy: result.errors, **result.baselines}.items():
    print(f"{name:14} position {errors.position_mm:6.1f} mm, rotation {errors.rotation_deg:5.1f} degrees")

# %%
lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
print("logged:", sorted(lines[-1]))
figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
axes.plot(
    [line["step"] for line in lines if "loss" in line], [line["loss"] for line in lines if "loss" in line]
)
axes.set(title="flow-matching loss", xlabel="step", ylabel="mean squared error of the velocity", yscale="log")
figure.savefig(options.out / "03_train_on_simulated_data.png", dpi=80)
print(f"picture: {options.out / '03_train_on_simulated_data.png'}")
print(f"try it: rdt2 evaluate cell --policy {trained.model} --vlm {VLM}")
