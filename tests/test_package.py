"""What is packed is whole: the wheel of the source package runs where there is no repository."""

from __future__ import annotations

import os
import re
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

import rdt2

sdist = pytest.importorskip("hatchling.builders.sdist")
wheel = pytest.importorskip("hatchling.builders.wheel")


@pytest.fixture(scope="module")
def root(request: pytest.FixtureRequest) -> Path:
    return request.config.rootpath


@pytest.fixture(scope="module")
def source(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source package, unpacked."""
    folder = tmp_path_factory.mktemp("source")
    (package,) = sdist.SdistBuilder(str(root)).build(directory=str(folder))
    with tarfile.open(package) as packed:
        packed.extractall(folder, filter="data")
    return folder / f"rdt2-{rdt2.__version__}"


@pytest.fixture(scope="module")
def package(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, made from the source package as whoever downloads that makes it."""
    (path,) = wheel.WheelBuilder(str(source)).build(
        directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"]
    )
    return Path(path)


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel, where the other packages are those of this one, and this repository is not."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin/python"
    install = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-index",
    ]
    subprocess.run([*install, str(package)], check=True, timeout=120)
    (packages,) = folder.glob("lib/python*/site-packages")
    # Their folder alone: what leads from there to this repository (an editable install's .pth) is not followed.
    (packages / "others.pth").write_text("\n".join(site.getsitepackages()))
    return folder


def run(installed: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """A command of the environment, from a folder of its own, without what leads to this repository."""
    told = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    return subprocess.run(
        [str(installed / "bin" / words[0]), *words[1:]],
        cwd=installed, env={**told, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip


def files(root: Path) -> set[str]:
    """What belongs into the package."""
    folder = root / "src"
    return {
        str(path.relative_to(folder))
        for path in (folder / "rdt2").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_source_package_is_complete(source: Path, root: Path) -> None:
    """configs is a link: packed once, its files stood there alone."""
    assert {
        str(path.relative_to(source / "src")) for path in (source / "src").rglob("*") if path.is_file()
    } == (files(root))
    for name in ("README.md", "README.zh-CN.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml"):
        assert (source / name).read_bytes() == (root / name).read_bytes()
    for folder in (
        "tests",
        "docs",
        "examples",
        "benchmarks",
        "configs",
        "packages",
        "requirements",
        "scripts",
    ):
        assert any((source / folder).iterdir()), folder


def test_the_wheel_holds_checkpoints_templates_presets_and_robots(package: Path, root: Path) -> None:
    with zipfile.ZipFile(package) as packed:
        names = {name for name in packed.namelist() if ".dist-info/" not in name}
    assert names == files(root)
    for kind in ("checkpoints/demo/*/model.safetensors", "configs/*/*.yaml", "**/*.html.j2", "py.typed"):
        assert any(Path(name).match(f"rdt2/{kind}") for name in names), kind


def test_the_wheel_is_the_package_that_runs(installed: Path) -> None:
    assert run(installed, "rdt2", "--version").stdout == f"rdt2 {rdt2.__version__}\n"
    where = run(installed, "python", "-c", "import rdt2; print(rdt2.__file__)").stdout
    assert Path(where).is_relative_to(installed)


def test_presets_are_found_without_the_repository(installed: Path) -> None:
    """One that is there is read and accepted: what is missing then is the data."""
    train = ["rdt2", "train", "vq", "--data", ".", "--out", "run", "--set", "tokenizer=nowhere"]
    unknown = run(installed, *train, "--config", "vq_lore")
    assert (unknown.returncode, "vq_lora" in unknown.stderr) == (2, True), unknown.stderr
    known = run(installed, *train, "--config", "vq_lora")
    assert (known.returncode, "no such configuration" in known.stderr) == (2, False), known.stderr


# Nothing is found but what the package says it needs, and what that needs; extras are as if they were not installed.
ALONE = """
import re, sys
from importlib import metadata
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

known, seen, left = set(), set(), ["rdt2"]
while left:
    name = re.sub("[-_.]+", "-", left.pop()).lower()
    if name in seen:
        continue
    seen.add(name)
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        continue  # of other systems
    tops = package.read_text("top_level.txt")
    known |= set(tops.split() if tops else (path.parts[0].partition(".")[0] for path in package.files or ()))
    wants = map(Requirement, package.requires or ())
    left += [each.name for each in wants if not each.marker or each.marker.evaluate({"extra": ""})]

class Alone(PathFinder):
    @classmethod
    def find_spec(cls, module, path=None, target=None):
        found = super().find_spec(module, path, target)
        borrowed = found and "site-packages" in f"{found.origin} {found.submodule_search_locations}"
        return None if borrowed and module.partition(".")[0] not in known else found

sys.meta_path = [Alone if each is PathFinder else each for each in sys.meta_path]
assert "torch" in known and "mujoco" not in known
"""


def test_robots_and_the_demo_are_found_without_the_repository_and_the_extras(installed: Path) -> None:
    """Regression: other packages are borrowed from this environment, so one that is not declared was found, too."""
    read = """
from rdt2.policy import load_policy
from rdt2.robot.settings import RobotSettings
print(*RobotSettings.read("cell_ur5e").sides, type(load_policy("demo-fm")).__name__)
"""
    found = run(installed, "python", "-c", ALONE + read)
    assert sorted(found.stdout.split()) == ["FMPolicy", "left", "right"], found.stderr


def test_the_version_stands_in_one_place(root: Path) -> None:
    assert '\nversion = "' not in (root / "pyproject.toml").read_text("utf-8")
    heading = re.search(r"^## \[?(\d[\w.]*)", (root / "CHANGELOG.md").read_text("utf-8"), flags=re.M)
    assert heading is not None
    assert heading[1] == rdt2.__version__
