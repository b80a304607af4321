"""The drawings of docs/how_it_works.md and docs/data_formats.md, from the package's own constants and models.

    python scripts/figures.py docs/images              # all of them, half a minute
    python scripts/figures.py docs/images --only chunk rotation

What runs a model or the cell is drawn from what came out of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle

import rdt2
from rdt2 import pose
from rdt2.action import (
    ACTION_DIM,
    ARMS,
    FPS,
    HORIZON,
    NUM_TOKENS,
    POSITION_DIMS,
    ROTATION_DIMS,
    WIDTH_DIMS,
    arm_slice,
)

COLOURS = {"right": "#c2571a", "left": "#1a6fb0"}
PARTS = {"position": "#8fbf9f", "rotation": "#e3c26a", "width": "#c9a3d6"}
AXES = {"x": "#c0392b", "y": "#2e8b57", "z": "#2a5db0"}
GREY = "#5b6570"
DEMO = Path(rdt2.__file__).parent / "checkpoints" / "demo"
Draw = Callable[[], Figure]

matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "rdt2", "font.size": 10})


def blank(width: float, height: float, *, across: float, down: float) -> tuple[Figure, Any]:
    """An empty sheet (inches) whose coordinates run from 0 to `across`, and downwards from 0 to `down`."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.add_subplot()
    axes.set(xlim=(0, across), ylim=(down, 0))
    axes.axis("off")
    return figure, axes


def box(
    axes: Any, x: float, y: float, width: float, height: float, text: str, colour: str, *, size: float = 9
) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor=colour, edgecolor="white", linewidth=1))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=size)


def arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], *, colour: str = GREY) -> None:
    axes.add_patch(
        FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color=colour, linewidth=1.2)
    )


# ------------------------------------------------------------------------------------------- data formats


def spans() -> list[tuple[str, str, int, int]]:
    """(arm, part, first column, last column) of a chunk, read from rdt2.action."""
    found = []
    for arm in ARMS:
        own = range(*arm_slice(arm).indices(ACTION_DIM))
        for part, columns in (
            ("position", POSITION_DIMS),
            ("rotation", ROTATION_DIMS),
            ("width", WIDTH_DIMS),
        ):
            mine = [column for column in columns if column in own]
            found.append((arm, part, mine[0], mine[-1]))
    return found


def chunk() -> Figure:
    """The 24 x 20 numbers of a chunk, and what is in which column."""
    figure, axes = blank(9, 3.6, across=ACTION_DIM + 3.4, down=HORIZON / 3 + 3)
    top, height = 2.4, HORIZON / 3
    for _, part, first, last in spans():
        columns = f"{first}" if first == last else f"{first}..{last}"
        box(axes, 3 + first, top, last - first + 1, height, "", PARTS[part])
        middle = 3 + (first + last + 1) / 2
        axes.text(middle, top - 0.35, columns, ha="center", fontsize=9)
        text = {
            "position": "position\nx y z (m)",
            "rotation": "rotation\nfirst two columns of R",
            "width": "width\n(m)",
        }
        axes.text(middle, top + height / 2, text[part], ha="center", va="center", fontsize=9,
                  rotation=90 if part == "width" else 0)  # fmt: skip
    for arm in ARMS:
        own = arm_slice(arm)
        axes.plot([3 + own.start + 0.1, 3 + own.stop - 0.1], [top - 1.0] * 2, color=COLOURS[arm], linewidth=3)
        axes.text(3 + (own.start + own.stop) / 2, top - 1.3, f"{arm} arm: columns {own.start}..{own.stop - 1}",
                  ha="center", color=COLOURS[arm])  # fmt: skip
    for row in (0, 1, HORIZON - 1):
        y = top + (row + 0.5) * height / HORIZON
        axes.text(
            2.8,
            y + (0.12 if row == 1 else 0),
            f"row {row}: {(row + 1) / FPS:.3f} s",
            ha="right",
            va="center",
            fontsize=7,
        )
    axes.text(2.8, top + height / 2, f"{HORIZON} rows\nat {FPS:g} Hz", ha="right", va="center", fontsize=9)
    return figure


def rotation() -> Figure:
    """A rotation matrix, and which six of its numbers are kept, in which order."""
    from scipy.spatial.transform import Rotation

    matrix = Rotation.from_rotvec([0.4, -0.3, 0.9]).as_matrix()
    six = pose.matrix_to_rot6d(matrix)
    places = [
        next((r, c) for r in range(3) for c in range(3) if np.isclose(matrix[r, c], value)) for value in six
    ]
    figure, axes = blank(8, 2.6, across=16, down=5.2)
    for row in range(3):
        for column in range(3):
            kept = (row, column) in places
            box(axes, 0.5 + 1.6 * column, 1 + 1.2 * row, 1.55, 1.15, f"{matrix[row, column]:.2f}",
                (PARTS["rotation"], "#f0dba0")[column] if kept else "#e6e8ea")  # fmt: skip
    axes.text(2.9, 0.5, "R, a rotation matrix", ha="center")
    arrow(axes, (5.6, 2.8), (6.6, 2.8))
    for index, (row, column) in enumerate(places):
        box(
            axes,
            7 + 1.4 * index,
            2.2,
            1.35,
            1.15,
            f"{six[index]:.2f}",
            (PARTS["rotation"], "#f0dba0")[column],
        )
        axes.text(7.67 + 1.4 * index, 1.8, f"r{row}{column}", ha="center", fontsize=8, color=GREY)
    identity = " ".join(f"{value:g}" for value in pose.matrix_to_rot6d(np.eye(3)))
    axes.text(11.2, 4.2, f"column 0, then column 1; identity = {identity}", ha="center", fontsize=9)
    return figure


def frames() -> Figure:
    """Where the frames are: the cell's, both hands' where they wait, and a chunk relative to one of them."""
    from rdt2.sim import Cell, make_scene
    from rdt2.sim.recording import demonstrate, open_episode

    with Cell("handheld", make_scene("pick", seed=3)) as cell:
        hands = {arm: cell.site_pose(cell.names.policy[arm]) for arm in ARMS}
    with open_episode("pick", 5, np.random.default_rng(0), perturbed=0) as (cell, task, manner):
        episode = demonstrate(cell, task, manner)
    figure = Figure(figsize=(9.5, 4.4))
    figure.subplots_adjust(left=0.06, right=0.97, bottom=0.06, top=0.95, wspace=0.12)
    for place, (title, elevation, azimuth) in enumerate(
        (("from behind", 22, -155), ("from above", 89, -180))
    ):
        axes = figure.add_subplot(1, 2, place + 1, projection="3d")
        triad(axes, np.eye(4), "cell")
        for arm in ARMS:
            triad(axes, hands[arm], f"{arm} gripper")
        path = pose.absolute(
            hands[task.hand],
            pose.relative(episode.poses[task.hand][0], episode.poses[task.hand][: HORIZON + 1]),
        )
        axes.plot(*path[:, :3, 3].T, ".-", color=GREY, markersize=3, linewidth=1)
        axes.set(xlabel="x forward (m)", ylabel="y left (m)", zlabel="z up (m)", title=title)
        axes.set(xlim=(-0.4, 0.4), ylim=(-0.4, 0.4), zlim=(0, 0.5))
        axes.set_box_aspect((0.8, 0.8, 0.5))
        axes.view_init(elevation, azimuth)
        if elevation > 80:  # where heights cannot be seen
            axes.set(zticks=[], zlabel="")
    return figure


def triad(axes: Any, where: np.ndarray, name: str) -> None:
    for column, colour in enumerate(AXES.values()):
        axes.plot(
            *zip(where[:3, 3], where[:3, 3] + 0.12 * where[:3, column], strict=True),
            color=colour,
            linewidth=2,
        )
    axes.text(*(where[:3, 3] + [0, 0, 0.03]), name, fontsize=8)


# ------------------------------------------------------------------------------------------- how it works


def tokens() -> Figure:
    """The tokenizer's three parts and the place of each of the 27 tokens."""
    import torch

    from rdt2.tokenizer import PART_COLUMNS, ActionTokenizer, TokenizerConfig
    from rdt2.tokenizer.config import STRIDE

    with torch.device("meta"):
        tokenizer = ActionTokenizer(TokenizerConfig())
    colours = dict(zip(PART_COLUMNS, PARTS.values(), strict=True))
    names = {"pos": "position", "rot": "rotation", "grip": "width"}
    steps = HORIZON // STRIDE
    figure, axes = blank(9.5, 4.2, across=NUM_TOKENS + 1, down=11.4)
    x = 0.5
    for part, columns in PART_COLUMNS.items():
        books, where = tokenizer.config.n_codebooks[part], tokenizer.part_slices[part]
        width = where.stop - where.start
        middle = x + width / 2
        box(axes, x, 0.4, width - 0.1, 1.2, f"{names[part]}: {HORIZON} x {len(columns)}", colours[part])
        arrow(axes, (middle, 1.7), (middle, 2.4))
        box(axes, x, 2.5, width - 0.1, 1.2, f"encoder\n{HORIZON} -> {steps} steps", "#dfe5ea", size=8)
        arrow(axes, (middle, 3.8), (middle, 4.5))
        for book in range(books):
            left = x + book * (width - 0.1) / books
            box(axes, left, 4.6, (width - 0.1) / books, 1.2, f"c{book}", "#dfe5ea", size=8)
        arrow(axes, (middle, 5.9), (middle, 6.6))
        for number in range(where.start, where.stop):
            step, book = divmod(number - where.start, books)
            box(axes, 0.5 + number, 6.7, 0.9, 1.2, f"{number}", colours[part], size=8)
            axes.text(
                0.95 + number, 8.3, f"t{step}\nc{book}", ha="center", va="center", fontsize=6.5, color=GREY
            )
        axes.text(
            middle, 9.6, f"tokens {where.start}..{where.stop - 1}\n{books} x {steps}", ha="center", fontsize=8
        )
        x += width
    every = (
        f"{tokenizer.num_tokens} tokens of 0..{tokenizer.num_embeddings - 1}; inside a part time runs slowest"
    )
    axes.text(0.5, 11.0, every, fontsize=9)
    return figure


def models() -> Figure:
    """What goes into the VLM and the expert, with the published sizes."""
    from rdt2.expert import ExpertConfig
    from rdt2.observation import IMAGE_SIZE

    config = ExpertConfig()
    layers, last = config.depth, max(config.selected_layers)
    figure, axes = blank(9.5, 4.4, across=20, down=9.4)
    box(axes, 0.3, 0.6, 4.6, 1.5, f"left | right\n{IMAGE_SIZE} x {2 * IMAGE_SIZE} RGB, JPEG", "#dfe5ea")
    box(axes, 0.3, 2.4, 4.6, 1.1, '"Pick up the apple."', "#dfe5ea")
    arrow(axes, (5.0, 1.4), (6.0, 1.9))
    arrow(axes, (5.0, 2.9), (6.0, 2.6))
    box(axes, 6.1, 0.6, 4.4, 2.9, f"VLM\nlayers 0..{last}\nread the prompt once", PARTS["position"])
    arrow(axes, (10.6, 2.05), (11.6, 2.05))
    box(axes, 11.7, 0.6, 4.2, 2.9, f"KV cache\nof {layers} layers", PARTS["rotation"])
    box(axes, 11.7, 5.2, 4.2, 2.9, f"expert\n{layers} blocks,\n{config.num_tokens} tokens", PARTS["width"])
    arrow(axes, (13.8, 3.6), (13.8, 5.1))
    axes.text(14.0, 4.4, f"block i reads layer i, {config.steps} times", fontsize=8.5, va="center")
    box(axes, 6.1, 5.9, 4.4, 1.5, f"noise {HORIZON} x {ACTION_DIM}", "#dfe5ea")
    arrow(axes, (10.6, 6.65), (11.6, 6.65))
    arrow(axes, (16.0, 6.65), (16.6, 6.65))
    box(axes, 16.7, 5.9, 3.1, 1.5, f"chunk\n{HORIZON} x {ACTION_DIM}", PARTS["position"])
    box(
        axes,
        0.3,
        5.2,
        4.6,
        2.9,
        f"RDT2-VQ instead:\nall layers write\n{NUM_TOKENS} tokens, which the\ntokenizer decodes",
        "#eef1f3",
    )
    axes.text(0.3, 9.0, f"one second holds {FPS:g} rows; a chunk {HORIZON / FPS:g} s", fontsize=9)
    return figure


def observed() -> tuple[Any, Any]:
    """The demo's FM policy and one observation of the cell."""
    from rdt2.observation import Observation
    from rdt2.policy import load_policy
    from rdt2.sim import Cell, make_scene, task_for

    scene = make_scene("pick", seed=3)
    with Cell("ur5e", scene) as cell:
        return load_policy("demo-fm", draws=1), Observation(
            cell.render("left"), cell.render("right"), task_for(scene).instruction
        )


def flow() -> Figure:
    """From noise to a chunk in one Euler step and in five, on the demo model."""
    import torch

    from rdt2.observation import picture
    from rdt2.policy.base import draw_noise
    from rdt2.vlm import prefill

    policy, observation = observed()
    expert = type(policy.expert).from_pretrained(Path(DEMO, "expert"))
    batch = policy.processor.prompt([picture(observation)], [observation.instruction])
    draws, column = 12, arm_slice("left").start + 2
    noise = draw_noise(1, 0, draws=draws).float()
    with torch.inference_mode():
        cond = expert.prepare(prefill(policy.vlm, batch, layers=expert.config.selected_layers))
        ways = {steps: path_of(expert, cond, noise, steps) for steps in (1, 5)}
        finest = expert.sample(cond, noise=noise, steps=50)
        error = {
            steps: policy_mm(policy, expert.sample(cond, noise=noise, steps=steps), finest)
            for steps in (1, 2, 3, 5, 10, 20)
        }
    figure = Figure(figsize=(9.5, 3.2), layout="constrained")
    one, five, errors = figure.subplots(1, 3)
    for axes, (steps, way) in zip((one, five), ways.items(), strict=True):
        for draw in range(draws):
            axes.plot(
                np.arange(steps + 1) / steps,
                way[:, draw, HORIZON - 1, column],
                ".-",
                linewidth=0.8,
                color=COLOURS["left"],
            )
        axes.set(
            title=f"{steps} Euler step(s), {draws} draws",
            xlabel="t: noise 0, data 1",
            ylabel="left hand, z at 0.8 s\n(normalised)",
        )
    errors.plot(list(error), list(error.values()), "o-", color=COLOURS["right"])
    errors.set(
        title="distance to 50 steps",
        xlabel="Euler steps",
        ylabel="mm, mean of both arms",
        xscale="log",
        ylim=(0, None),
    )
    errors.set_xticks(list(error), [str(steps) for steps in error])
    errors.minorticks_off()
    return figure


def path_of(expert: Any, cond: Any, noise: Any, steps: int) -> np.ndarray:
    """(steps + 1, draws, 24, 20): the chunk after each step of `expert.sample`."""
    x, seen = noise, [noise]
    for modulations in expert.tabulate(steps).split(1)[:steps]:
        x = x + expert.denoise(x, modulations, cond) / steps
        seen.append(x)
    return np.stack([each.numpy() for each in seen])


def policy_mm(policy: Any, chunks: Any, finest: Any) -> float:
    first, second = (policy.normalizer.denormalize(each).numpy() for each in (chunks, finest))
    apart = [np.linalg.norm((first - second)[..., arm_slice(arm)][..., :3], axis=-1) for arm in ARMS]
    return 1000 * float(np.mean(apart))


def timeline() -> Figure:
    """When pictures are taken, chunks computed and driven: an episode of the cell, as the loop recorded it."""
    from rdt2.control import LoopConfig, run_episode
    from rdt2.policy import load_policy
    from rdt2.sim import Cell, make_scene, task_for
    from rdt2.sim.cell import cell_settings

    scene = make_scene("pick", seed=3)
    settings = cell_settings("ur5e").changed({"safety.table_height": scene.table_height})
    every = 9
    with Cell.of(settings, scene) as cell:
        result = run_episode(
            cell.robot(), load_policy("demo-fm"), task_for(scene).instruction, settings=settings,
            config=LoopConfig(execute_steps=every, latency=0.13), max_seconds=1.6,
        )  # fmt: skip
    camera = settings.arms["right"].camera.latency
    figure = Figure(figsize=(9.5, 3.0), layout="constrained")
    axes = figure.add_subplot()
    *cycles, _ = result.cycles[:5]  # of the last it is not known what was driven
    taken_over = [cycle.time + cycle.delay for cycle in result.cycles[1:5]]
    for row, (cycle, until) in enumerate(zip(cycles, taken_over, strict=True)):
        ready = cycle.time + cycle.delay
        axes.barh(
            row,
            camera,
            left=cycle.time,
            height=0.6,
            color="#b8c2cc",
            label="the picture's way here" if not row else None,
        )
        axes.barh(
            row,
            cycle.delay - camera,
            left=cycle.time + camera,
            height=0.6,
            color=PARTS["rotation"],
            label="inference" if not row else None,
        )
        axes.barh(
            row,
            until - ready,
            left=ready,
            height=0.6,
            color=COLOURS["left"],
            label="driven" if not row else None,
        )
        axes.barh(
            row,
            cycle.time + HORIZON / FPS - until,
            left=until,
            height=0.6,
            color="#d6e4f0",
            label="predicted, never driven" if not row else None,
        )
    axes.set(xlabel="s since the episode began", ylim=(len(cycles) - 0.4, -0.6))
    axes.set(yticks=range(len(cycles)), yticklabels=[f"chunk {number}" for number in range(len(cycles))])
    axes.set(title=f"asked again {every} steps into a chunk; camera {1000 * camera:.0f} ms, inference 130 ms")
    axes.legend(loc="lower left", fontsize=8, frameon=False)
    return figure


PLAIN: dict[str, Draw] = {"chunk": chunk, "rotation": rotation, "tokens": tokens, "models": models}
"""Drawn from constants alone."""
RUN: dict[str, Draw] = {"frames": frames, "flow": flow, "timeline": timeline}
"""Drawn from what a model or the cell did."""


def save(figure: Figure, path: Path) -> None:
    """An SVG without a date, so that the same drawing is the same file."""
    figure.savefig(path, metadata={"Date": None, "Creator": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder")
    parser.add_argument(
        "--only", nargs="+", choices=[*PLAIN, *RUN], default=[*PLAIN, *RUN], help="some of them"
    )
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only:
        save({**PLAIN, **RUN}[name](), options.out / f"{name}.svg")
        print(options.out / f"{name}.svg")


if __name__ == "__main__":
    main()
