"""Tables on a terminal of 80 columns: no figure is broken, left stands above right."""

from __future__ import annotations

import io
import types

import numpy as np
import pytest
from made_up_episodes import record, settings
from rich.console import Console

from rdt2.action import ActionChunk
from rdt2.cli import demo, predict, reset, run, serve, tokenizer
from rdt2.evaluation.compare import compare
from rdt2.evaluation.report import SummaryRow
from rdt2.evaluation.results import CellEvaluation
from rdt2.evaluation.statistics import Rate


def far() -> ActionChunk:
    values = np.zeros((24, 20), np.float32)
    values[:, [3, 7, 13, 17]] = 1
    values[:, 0], values[:, 10] = -0.3125, 0.25
    values[:, [9, 19]] = 0.088
    return ActionChunk(values, timing={})


def evaluation(**changes) -> CellEvaluation:
    made = settings(scenes__tasks=["pick", "place"], **changes)
    records = [record(k, k % 2 == 0, task=["pick", "place"][k % 2]) for k in range(12)]
    return CellEvaluation(made, episodes_each=6, records=records, wall_seconds=10)


def tables():
    yield predict._table(far()), ["-312.5", "250.0", "88.0"]
    rows = [SummaryRow("press", Rate.of(18, 20), Rate.of(20, 20), 12.3)]
    yield demo._table(rows, "demo-fm on two UR5e arms"), ["18/20", "70 to 97 %", "12.3 s"]
    yield evaluation().table(), ["did what the sentence says", "61 to 100 %"]
    other = evaluation(policy__policy="runs/some/long/run/fm.json", loop__mode="synchronous")
    yield compare(evaluation(), other).table("results/first.json", "results/second.json"), ["[-24, +24]"]
    move = np.array([-0.123, 0.1, 0.5])
    seen = [
        types.SimpleNamespace(side=side, step=24, move=move, turn=0.5, width=0.088, made=move)
        for side in ("right", "left")
    ]
    yield run._table(types.SimpleNamespace(rows=lambda: seen), "cell_ur5e"), ["-123, 100, 500", "28.6"]
    way = types.SimpleNamespace(joints={"right": np.zeros((2, 2)), "left": -np.ones((2, 2))})
    yield reset._table(way, "cell_ur5e"), ["-57.3"]
    errors = types.SimpleNamespace(
        position_mm=np.full((24, 2), 12.34), position_axis_mm=np.full((24, 2, 3), 10.12),
        rotation_degrees=np.full((24, 2), 1.23), grip_mm=np.full((24, 2), 3.45),
    )  # fmt: skip
    yield tokenizer.reconstruction_table(errors, title="4000 chunks of data/pick"), ["12.34", "10.12", "3.45"]
    yield serve._table({"round_trip": {"median": 1234.5, "p99": 2.0, "max": 3.0}}, 20), ["1234.50"]


@pytest.mark.parametrize(("table", "figures"), list(tables()))
def test_a_table_fits_80_columns(table, figures):
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    text = stream.getvalue()
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    for figure in figures:
        assert figure in text
    if "│ left" in text:
        assert text.index("│ left") < text.index("│ right")
