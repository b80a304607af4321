# %% [markdown]
# # A new task
#
# A task is one variable: what stands on the table, how it is asked for, and when it is done. This one is picking with
# manners: the named hand lifts its object by 5 cm and holds it for a second, and no other object has been moved.
# Copied to `src/rdt2/sim/tasks/tidy.py` it is the task `tidy` of every command but `rdt2 data record`, whose scripted
# demonstrator knows pick, place and press; a package of your own names it as an entry point of the group `rdt2.tasks`;
# and without either its name in Python is `new_task:TASK`. A new task is demonstrated by a person, who types take:
#
#     rdt2 run --robot cell_ur5e --task tidy --seed 100 --record recordings --pilot keyboard --dashboard
#     rdt2 data convert recordings data/tidy --from recording --marks corrections

# %%
from rdt2.sim.objects import graspable
from rdt2.sim.tasks import TaskKind

LIFT, MOVED = 0.05, 0.01


def _tidily_up(watch) -> bool:
    """Asked 30 times a second; `watch` knows what is touched, how high the target is, and the whole cell."""
    cell, target = watch.cell, watch.task.target
    others = [item for item in cell.scene.objects if item.name != target]
    moved = [abs(cell.object_pose(item.name)[:2, 3] - item.position).max() for item in others]
    return watch.height >= LIFT and watch.task.hand in watch.holders and max(moved) < MOVED


TASK = TaskKind(
    stream=71,  # a number that no other task has: scenes follow from it
    sentence="Pick up the {target} with the {hand} hand.",
    about="object",
    draw=graspable,
    reached=_tidily_up,
    seconds=1.0,
)

# %% [markdown]
# Scenes, evaluation, films and the arms' loop know it now.

# %%
if __name__ == "__main__":
    import argparse
    import sys
    from pathlib import Path

    import matplotlib.pyplot as plt

    from rdt2.evaluation.cell import evaluate_cell
    from rdt2.sim import Cell, make_scene

    parser = argparse.ArgumentParser(description="What the built-in model makes of a task that is new.")
    parser.add_argument("--out", type=Path, default=Path("reports/examples"), help="folder for the picture")
    parser.add_argument("--episodes", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=15.0, help="of an episode at most")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path(__file__).parent))  # PYTHONPATH=examples does the same
    scene = make_scene("new_task:TASK", seed=1)
    with Cell("ur5e", scene) as cell:
        plt.imsave(options.out / "new_task.png", cell.render("front"))
    result = evaluate_cell(
        "demo-fm", "ur5e", "new_task:TASK", episodes=options.episodes, seed=2, max_seconds=options.seconds
    )
    for record in result.records:
        print(f"{'done' if record.success else 'not done':8} {record.instruction} ({record.reason})")
    print(f"{result.success} of {result.episodes}\npicture: {options.out / 'new_task.png'}")
