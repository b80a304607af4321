# %% [markdown]
# # A new robot in 60 lines
#
# An arm is one variable: its links, where it stands, where it waits. This one is the UR10e, from its maker's
# Denavit-Hartenberg table, in the looks of the UR5e, stretched. Copied to `src/rdt2/robot/models/ur10e.py` it is the
# arm `ur10e`; without that its name is `new_arm:ARM`. `--robot ur10e` wants a robot that has two of them, too: a copy
# of `configs/robots/cell_ur5e.yaml` in the same folder, called `cell_ur10e.yaml`, with that name, and this model and
# base for each arm. The `base` below is the left arm's place, and y is negative for the right one. The yaml wants each
# as a 4x4 matrix, `rdt2.robot.models.base_pose("ur10e", "left")`: no turn, and the place in the last column.
# Safety keeps clear of what is described here, in the cell and on a real robot; what speaks with a real one is another
# file, its driver ([new_arm_driver.py](new_arm_driver.py)).

# %%
from dataclasses import replace
from math import pi

from rdt2.robot.models import ARM_MODELS

UR5E = ARM_MODELS["ur5e"]
ORIGINS = (
    (0, 0, 0.1807),
    (0, 0, 0),
    (-0.6127, 0, 0),
    (-0.57155, 0, 0.17415),
    (0, -0.11985, 0),
    (0, 0.11655, 0),
)
LENGTHS = 1, 0.6127 / 0.425, 0.57155 / 0.3922, 1, 1, 1  # of the tubes, in those of the UR5e
SPEEDS = 2 * pi / 3, 2 * pi / 3, pi, pi, pi, pi
TORQUES, MASSES = (330, 330, 150, 56, 56, 56), (7.369, 13.051, 3.989, 2.1, 1.98, 0.615)


def _stretched(shape, by):
    start, end = ((x * by, y, z) for x, y, z in (shape.start, shape.end))
    return replace(shape, start=start, end=end)


ARM = replace(
    UR5E,
    name="ur10e",
    links=tuple(
        replace(
            link, position=origin, speed=speed, torque=torque, mass=mass,
            shapes=tuple(_stretched(shape, by) for shape in link.shapes),
        )
        for link, origin, by, speed, torque, mass in zip(
            UR5E.links, ORIGINS, LENGTHS, SPEEDS, TORQUES, MASSES, strict=True
        )
    ),
    base=(-0.70, 0.36, 0.20),
    home={"right": (2.88, -1.33, 2.10, -2.29, -1.38, 2.89), "left": (0.26, -1.81, -2.10, -0.85, 1.38, 0.26)},
)  # fmt: skip

# %% [markdown]
# Two of them in the cell. The model that drives them has never seen an arm, and none of these least of all.

# %%
if __name__ == "__main__":
    import argparse
    import sys
    from pathlib import Path

    import matplotlib.pyplot as plt

    from rdt2.control import LoopConfig, run_episode
    from rdt2.policy import load_policy
    from rdt2.robot.models import base_pose
    from rdt2.sim import Cell, Monitor, make_scene, task_for
    from rdt2.sim.cell import cell_settings

    parser = argparse.ArgumentParser(
        description="The built-in model drives two arms that are described here."
    )
    parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
    parser.add_argument("--seconds", type=float, default=15.0, help="of the episode at most")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONPATH=examples does the same
    scene = make_scene("pick", seed=3)
    changes = {"name": "two_ur10e", "safety.table_height": scene.table_height}
    for side in ("right", "left"):
        changes[f"arms.{side}.model"] = "new_arm:ARM"
        changes[f"arms.{side}.base"] = base_pose("new_arm:ARM", side)
    settings, task = cell_settings("ur5e").changed(changes), task_for(scene)
    with Cell.of(settings, scene) as cell:
        result = run_episode(
            cell.robot(),
            load_policy("demo-fm"),
            task.instruction,
            settings=settings,
            monitor=Monitor(cell, task),
            config=LoopConfig(execute_steps=6, latency=0.1),
            max_seconds=options.seconds,
        )
        plt.imsave(options.out / "new_arm.png", cell.render("front"))
    print(f"{task.instruction} {result.ending} after {result.seconds:.1f} s")
    print(f"held back: {', '.join(sorted({each.what for each in result.slowed})) or 'nothing'}")
    print(f"picture: {options.out / 'new_arm.png'}")
