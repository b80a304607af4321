"""What is packed holds what the code reads."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest


def test_the_source_package_has_the_configs_where_the_code_reads_them(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """A wheel is made from it. configs is a link: packed once, the files stood there alone."""
    sdist = pytest.importorskip("hatchling.builders.sdist")
    root = request.config.rootpath
    (package,) = sdist.SdistBuilder(str(root)).build(directory=str(tmp_path))
    with tarfile.open(package) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    for file in (root / "src/rdt2/configs").rglob("*.yaml"):
        assert str(file.relative_to(root)) in names
        assert f"configs/{file.relative_to(root / 'src/rdt2/configs')}" in names
