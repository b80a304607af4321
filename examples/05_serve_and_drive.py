# %% [markdown]
# # Serve and drive
#
# The policy computes in one process, here or on a machine with a GPU; the robot asks it over the network. This starts a
# server, asks it, drives two simulated arms with it, and shows what the network costs.

# %%
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from rdt2.control import LoopConfig, run_episode
from rdt2.observation import Observation
from rdt2.policy import load_policy
from rdt2.sim import Cell, Monitor, make_scene, task_for
from rdt2.sim.cell import cell_settings

parser = argparse.ArgumentParser(description="A policy as a service, and arms that ask it.")
parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
parser.add_argument("--policy", default="demo-fm", help="what is served")
parser.add_argument("--questions", type=int, default=10, help="so many are timed")
parser.add_argument("--seconds", type=float, default=10.0, help="so long the arms drive")
options = parser.parse_args(None if "__file__" in globals() else [])
options.out.mkdir(parents=True, exist_ok=True)

# %% [markdown]
# In a terminal of its own this is `rdt2 serve --policy demo-fm`. The server's log has a JSON object a line; with
# `--port 0` it says which port it took.

# %%
command = [sys.executable, "-m", "rdt2.cli.main", "serve", "--policy", options.policy, "--port", "0"]
server = subprocess.Popen([*command, "--log-level", "info"], stderr=subprocess.PIPE, text=True)
port = None
for line in server.stderr:
    if line.startswith("{") and (event := json.loads(line))["event"] == "listening":
        port = event["port"]
        break
    print(line, end="")
if port is None:
    sys.exit("the server did not start: see above")

# %% [markdown]
# From here on nothing differs from a policy that was loaded: `load_policy` takes the address, so does `--policy` of
# every command. What takes time is told by each chunk.

# %%
scene = make_scene("pick", seed=5)
task, settings = task_for(scene), cell_settings("ur5e").changed({"safety.table_height": scene.table_height})
try:
    with load_policy(f"ws://127.0.0.1:{port}") as policy, Cell.of(settings, scene) as cell:
        observation = Observation(cell.render("left"), cell.render("right"), task.instruction)
        trips, computed = [], []
        for number in range(options.questions):
            began = time.perf_counter()
            (chunk,) = policy.predict([observation], seed=number)
            trips.append(1000 * (time.perf_counter() - began))
            computed.append({name: 1000 * seconds for name, seconds in chunk.timing.items()})
        print(f"a question takes {np.median(trips):.1f} ms; of these:")
        for stage in computed[0]:
            print(f"  {stage:16} {np.median([each[stage] for each in computed]):7.1f} ms")

        # the loop that drives robots; simulated time goes on by 0.1 s for each thought
        result = run_episode(
            cell.robot(),
            policy,
            task.instruction,
            settings=settings,
            monitor=Monitor(cell, task),
            config=LoopConfig(execute_steps=6, latency=0.1),
            max_seconds=options.seconds,
        )
        after = cell.render("front")
finally:
    server.terminate()
    server.communicate()
print(f"{task.instruction} {result.ending} after {result.seconds:.1f} s and {len(result.cycles)} chunks")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
left.plot(trips, "o-", label="the whole question")
left.plot([each["total"] for each in computed], "o-", label="total, as the chunk says")
left.set(title="a question and its answer", xlabel="question", ylabel="ms", ylim=(0, None))
left.legend()
right.imshow(after)
right.set_title(task.instruction, fontsize=9)
right.axis("off")
figure.savefig(options.out / "05_serve_and_drive.png", dpi=80)
print(f"picture: {options.out / '05_serve_and_drive.png'}")
