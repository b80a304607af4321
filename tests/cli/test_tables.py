"""Tables on a terminal of 80 columns: no figure is broken, left stands above right."""

from __future__ import annotations

import io
import types
from dataclasses import replace

import numpy as np
import pytest
from made_up_episodes import record, settings
from recorded import make_recording
from rich.console import Console

import rdt2
from rdt2.action import ActionChunk
from rdt2.cli import demo, predict, reset, run, serve, tokenizer
from rdt2.cli.main import main
from rdt2.devices.known import known_drivers
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


@pytest.fixture
def printed(monkeypatch, capsys):
    """What a command prints on a terminal of 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def run(*words) -> str:
        main(words)
        text = capsys.readouterr().out
        assert max(map(len, text.splitlines())) <= 80
        assert "…" not in text
        return text

    return run


def test_the_doctors_findings_fit(printed, monkeypatch):
    found = types.SimpleNamespace(
        state="optional", name="arms: franky", found="the driver of Franka Research 3, without its library",
        mend="pip install 'rdt2[fr3]'    # wheels are there for Linux on x86_64, Python 3.10 to 3.13",
    )  # fmt: skip
    monkeypatch.setattr("rdt2.doctor.examine", lambda hub: [found])
    monkeypatch.setattr("rdt2.doctor.summary", lambda findings: {})
    assert "pip install 'rdt2[fr3]'" in printed("doctor", "--offline")


def test_drivers_fit_also_where_nothing_is_installed(printed, monkeypatch):
    """No option is broken, nor what there is to install."""
    rows = known_drivers()
    text = printed("device", "list")
    assert all(name in text for row in rows for name in row.driver.options.model_fields)
    bare = [replace(row, missing=("minimalmodbus", "pyserial", "pymodbus")) for row in rows]
    monkeypatch.setattr("rdt2.devices.known.known_drivers", lambda: bare)
    text = printed("device", "list")
    for row in rows:
        assert all(name in text for name in row.driver.options.model_fields), row.name
        assert f"'rdt2[{row.extra}]'" in text


def test_recordings_fit(printed, tmp_path):
    pytest.importorskip("mcap")
    (path,) = make_recording(tmp_path / ("a-long-name-of-a-folder-in-which-a-robot-keeps-its-recordings"))
    assert path.name in printed("data", "recordings", str(path.parent))


def test_a_tokenizers_layout_fits(printed):
    text = printed(
        "tokenizer", "inspect", "--tokenizer", str(rdt2.__path__[0] + "/checkpoints/demo/tokenizer")
    )
    assert "pos [0, 18], rot [18, 24], grip [24, 27]" in text
