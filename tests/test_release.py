"""What a forge, a registry and Docker read: everything they name is there."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement

import rdt2
from rdt2.cli.main import parse
from rdt2.doctor import PYTHON

ROOT = Path(__file__).resolve().parents[1]
IMAGES = sorted((ROOT / "docker").glob("*.Dockerfile"))
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PROJECT = (ROOT / "pyproject.toml").read_text("utf-8")


def instructions(image: Path) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, continued lines joined, comments gone."""
    lines = "\n".join(line for line in image.read_text("utf-8").splitlines() if not line.startswith("#"))
    return [
        (name.upper(), rest.strip())
        for name, rest in re.findall(r"^(\w+)\s+(.*)$", lines.replace("\\\n", " "), re.M)
    ]


def last(image: Path, name: str) -> str:
    return [rest for word, rest in instructions(image) if word == name][-1]


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_copies_what_is_there_and_may_be_copied(image: Path) -> None:
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    copied = [
        rest.split()[:-1] for name, rest in instructions(image) if name == "COPY" and "--from" not in rest
    ]
    for name in (name for names in copied for name in names):
        assert (ROOT / name).exists(), name
        assert name in let_in
    assert not any(name == "ADD" for name, _ in instructions(image))
    for extra in re.search(r'"\.\[([\w,]+)\]"', image.read_text("utf-8"))[1].split(","):
        assert re.search(rf"^{extra} = \[", PROJECT, re.M), extra


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_starts_a_command_that_there_is(image: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start, options = json.loads(last(image, "ENTRYPOINT")), json.loads(last(image, "CMD"))
    if start[0] == "sh":
        start = re.search(r"exec (.*?) \\?\"\$@", start[2])[1].replace("$RDT2_HOST", "192.168.0.5").split()
    assert start.pop(0) == "rdt2"
    command = parse([*start, *options])
    assert last(image, "EXPOSE") == str(command.port)
    assert f"{command.port}" in last(image, "HEALTHCHECK")
    key = Path(getattr(command, "api_key_file", None) or command.spec.api_key_file)
    assert key == Path("/run/secrets/rdt2_key")


@pytest.mark.parametrize("image", IMAGES, ids=lambda path: path.stem)
def test_an_image_runs_as_no_root_and_holds_no_secret(image: Path) -> None:
    after = [name for name, _ in instructions(image)]
    assert last(image, "USER") == "rdt2"
    assert "RUN" not in after[len(after) - after[::-1].index("USER") :]
    assert not re.search(r"^(ENV|ARG) .*(KEY|TOKEN|PASSWORD|SECRET)", image.read_text("utf-8"), re.M | re.I)


def steps(workflow: dict[str, Any]) -> list[str]:
    return [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_runs_targets_and_files_that_are_there(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text("utf-8"))
    assert workflow["permissions"] == {"contents": "read"}
    said = "\n".join(steps(workflow))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M))
    assert set(re.findall(r"make ([\w-]+)", said)) <= targets
    for image in workflow["jobs"].get("images", {"strategy": {"matrix": {"image": []}}})["strategy"][
        "matrix"
    ]["image"]:
        assert ROOT / f"docker/{image}.Dockerfile" in IMAGES


def test_ci_runs_the_readme_and_the_wheel_on_every_python() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    (low, high) = PYTHON
    versions = [f"3.{minor}" for minor in range(low[1], high[1] + 1)]
    for job in ("test", "wheel"):
        assert workflow["jobs"][job]["strategy"]["matrix"]["python"] == versions
    assert f'requires-python = ">=3.{low[1]},<3.{high[1] + 1}"' in PROJECT
    for version in versions:
        assert f'"Programming Language :: Python :: {version}"' in PROJECT
    said = "\n".join(steps(workflow))
    for command in re.findall(r"^make \w+", (ROOT / "README.md").read_text("utf-8"), re.M):
        assert command in said, command


def test_ci_installs_the_wheel_where_there_is_no_repository() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    *_, install, tried = workflow["jobs"]["wheel"]["steps"]
    assert "pip install dist/*.whl" in install["run"]
    assert "no-deps" not in install["run"]
    assert tried["working-directory"] == "${{ runner.temp }}"
    command, *_ = tried["run"].splitlines()
    assert parse(shlex.split(command)[1:]).offline


def test_links_to_others_are_looked_at_each_week() -> None:
    """The rest of them by tests/test_docs.py."""
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text("utf-8"))
    links = workflow["jobs"]["links"]
    assert links["if"] == "github.event_name == 'schedule'"
    (pages,) = [step["with"]["args"] for step in links["steps"] if "with" in step]
    found = {path for pattern in re.findall(r"'(.*?)'", pages) for path in ROOT.glob(pattern)}
    assert {ROOT / "README.md", ROOT / "docs/hy_embodied.zh.md", ROOT / "benchmarks/results/data.md"} <= found
    assert workflow[True]["schedule"]  # yaml reads the key `on` so


def test_a_release_is_trusted_and_has_no_password() -> None:
    text = (ROOT / ".github/workflows/release.yml").read_text("utf-8")
    publish = yaml.safe_load(text)["jobs"]["publish"]
    assert publish["permissions"] == {"id-token": "write"}
    assert publish["environment"] == "pypi"
    assert "secrets." not in text


def test_the_extra_all_brings_what_users_may_want() -> None:
    extras = PROJECT.split("[project.optional-dependencies]\n")[1].split("\n[")[0]
    names = set(re.findall(r"^([\w-]+) = \[", extras, re.M))
    (everything,) = re.findall(r'^all = \["([^"]+)"', extras, re.M)
    assert Requirement(everything).extras == names - {"all", "dev", "docs", "browser"}


@pytest.mark.parametrize("extra", ["sim", "ur", "fr3"])
def test_who_moves_arms_has_what_the_guard_needs(extra) -> None:
    """Regression: the documented install for real arms had no ruckig, and every command ended in a traceback."""
    (line,) = re.findall(rf"^{extra} = \[(.+)\]$", PROJECT, re.M)
    assert {"ruckig", "numba", "mujoco"} <= {
        Requirement(each).name for each in re.findall(r'"([^"]+)"', line)
    }


def test_how_to_cite_is_of_the_format() -> None:
    """The keys that Citation File Format 1.2.0 requires, and how a person is written there."""
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= set(citation)
    assert citation["version"] == rdt2.__version__
    paper = citation["preferred-citation"]
    assert {"type", "title", "authors"} <= set(paper)
    assert all(set(author) <= {"family-names", "given-names"} for author in paper["authors"])
    assert paper["title"] in (ROOT / "README.md").read_text("utf-8")


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("*.yml")), ids=lambda path: path.stem
)
def test_issue_forms_can_be_shown(path: Path) -> None:
    form = yaml.safe_load(path.read_text("utf-8"))
    if path.stem == "config":
        assert set(form) <= {"blank_issues_enabled", "contact_links"}
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [part["id"] for part in form["body"]]
    assert len(ids) == len(set(ids))
    assert all(part["attributes"]["label"] for part in form["body"])


def test_the_changelog_is_for_users() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert len(text.splitlines()) < 80
    assert re.search(r"^## \[\d+\.\d+\.\d+\] - (unreleased|\d{4}-\d{2}-\d{2})$", text, re.M)
    assert not re.search(r"\bgoals?\b", text)  # ours, not those of who reads it


def test_setting_up_says_what_it_does_and_is_quiet_in_logs(tmp_path: Path) -> None:
    tools = tmp_path / "venv/bin"
    tools.mkdir(parents=True)
    for name in ("python", "uv"):
        (tools / name).write_text(f"#!/bin/sh\n[ {name} = python ] || echo uv $@\n")
        (tools / name).chmod(0o755)
    done = subprocess.run(
        ["bash", str(ROOT / "scripts/setup.sh"), sys.executable, str(tools.parent), "sim"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stderr.startswith(f"installing into {tools.parent}: PyTorch")
    assert done.stdout.startswith("uv pip install --quiet ")
    assert done.stdout.rstrip().endswith("--editable .[sim]")


def test_make_setup_ends_with_what_to_do_next() -> None:
    asked = [
        subprocess.run(
            ["make", "-n", "-o", ".venv/.installed", goal], cwd=ROOT, capture_output=True, text=True
        ).stdout
        for goal in ("setup", "demo")
    ]
    assert ["ready: . .venv/bin/activate; rdt2 doctor" in each for each in asked] == [True, False]
