"""The drawings of docs/ are those that scripts/figures.py makes of the package as it is."""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

pytest.importorskip("matplotlib")

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"


def _script():
    spec = importlib.util.spec_from_file_location("figures", ROOT / "scripts" / "figures.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["figures"] = module
    spec.loader.exec_module(module)
    return module


figures = _script()


def texts(file: Path) -> list[str]:
    """What is written in a drawing."""
    root = ElementTree.parse(file).getroot()
    found = ["".join(node.itertext()).strip() for node in root.iter("{http://www.w3.org/2000/svg}text")]
    return sorted(filter(None, found))


@pytest.mark.parametrize("name", [*figures.PLAIN, *figures.RUN])
def test_a_drawing_says_what_the_package_says(name, tmp_path) -> None:
    """As committed; after a change of the package, the built-in model or the cell: make figures."""
    figures.save({**figures.PLAIN, **figures.RUN}[name](), tmp_path / "drawn.svg")
    assert texts(tmp_path / "drawn.svg") == texts(IMAGES / f"{name}.svg")


def test_the_chunk_has_the_columns_of_the_package() -> None:
    said = texts(IMAGES / "chunk.svg")
    assert {"0..2", "3..8", "9", "10..12", "13..18", "19"} <= set(said)


def test_each_drawing_is_shown_and_small() -> None:
    for page in ("data_formats.md", "how_it_works.md"):
        shown = re.findall(r"\]\(images/(\w+)\.svg\)", (ROOT / "docs" / page).read_text("utf-8"))
        assert shown
        assert set(shown) <= {*figures.PLAIN, *figures.RUN}
        assert all((IMAGES / f"{name}.svg").stat().st_size < 200_000 for name in shown)
