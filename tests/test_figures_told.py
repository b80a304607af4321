"""The figures that README, guides and the doctor tell are those that were measured: benchmarks/results."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from rdt2 import doctor

ROOT = Path(__file__).resolve().parent.parent
READMES = ("README.md", "README.zh-CN.md")
GUIDES = ("docs/models.md", "docs/models.zh.md")


def measured(name: str) -> dict[str, Any]:
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text("utf-8"))


def told(page: str, *beginnings: str) -> list[str]:
    """The numbers behind the name of the one row that begins so, in either language."""
    lines = (ROOT / page).read_text("utf-8").splitlines()
    (found,) = [line for line in lines if line.startswith(tuple(f"| {each}" for each in beginnings))]
    cells = re.sub(r"\]\([^)]*\)", "", found).split("|", 2)[2]
    return re.findall(r"(?<![\w.])\d+(?:\.\d+)?", cells)


def gb(*counts: float) -> list[str]:
    return [f"{count / 1e9:.1f}" for count in counts]


@pytest.mark.parametrize("page", READMES)
def test_memory_in_the_readme(page) -> None:
    held = measured("inference-full-h200")
    expected = [
        count
        for kind in ("fm", "vq")
        for count in gb(held[kind]["weights_bytes"]["lean"], held[kind]["working_bytes"]["lean"])
    ]
    assert told(page, "RDT2-FM, RDT2-VQ, inference", "RDT2-FM、RDT2-VQ 推理")[:4] == expected
    counted = measured("precision")["int8"]
    assert told(page, "the same with `quantize=int8`", "同上，`quantize=int8`") == [
        f"{counted[kind]:.1f}" for kind in ("fm_gb", "vq_gb")
    ]
    demo = f"{measured('demo_memory')['peak_gb']:.1f}"
    assert told(page, "the demo |", "演示 |")[0] == demo


@pytest.mark.parametrize("page", GUIDES)
def test_memory_of_each_precision(page) -> None:
    lines = (ROOT / page).read_text("utf-8").splitlines()
    names = {"bfloat16": "bfloat16", '`quantize="int8"`': "int8", '`quantize="int4"`': "int4"}
    for name, setting in {**names, "`offload=6`": "offload 6"}.items():
        counted = measured("precision")[setting]
        assert f"| {name} | {counted['fm_gb']:.1f} GB | {counted['vq_gb']:.1f} GB |" in lines


@pytest.mark.parametrize("page", READMES)
def test_what_happens_when_a_device_fails(page) -> None:
    """Every fault, in the order of the benchmark."""
    found = [row for row in measured("device_faults").values() if "acted_ms" in row]
    after = (
        (ROOT / page).read_text("utf-8").split("(benchmarks/results/device_faults.md)")[1].split("\n\n")[1]
    )
    rows = [line.split("|")[2:4] for line in after.splitlines()[2:]]
    told = [[cell.strip() for cell in row] for row in rows]
    assert told == [
        ["" if row[key] is None else str(row[key]) for key in ("acted_ms", "still_ms")] for row in found
    ]


@pytest.mark.parametrize("page", [*READMES, "docs/model_card.md", "docs/model_card.zh.md"])
@pytest.mark.parametrize(
    ("beginnings", "row"),
    [
        (("RDT2-FM, *pick*, UR5e |", "RDT2-FM，*pick*，UR5e |"), "FM pick UR5e"),
        (("RDT2-FM, *pick and place*, UR5e", "RDT2-FM，*pick and place*，UR5e"), "FM place UR5e"),
    ],
)
def test_success_of_the_demo(page, beginnings, row) -> None:
    found = measured("success")[row]
    low, high = (f"{100 * each:.0f}" for each in found["success_interval"])
    figures = [str(found["success"]), str(found["episodes"]), low, high]
    assert " ".join(figures) in " ".join(told(page, *beginnings))


def test_the_doctor_tells_the_same_memory() -> None:
    counted = measured("precision")["bfloat16"]
    said = Path(doctor.__file__).read_text("utf-8")
    assert f"RDT2-FM {counted['fm_gb']:.1f} GB, of RDT2-VQ {counted['vq_gb']:.1f} GB" in said
    assert measured("demo_memory")["peak_gb"] < doctor.MEMORY_GB
