"""The pages hang together: navigation, languages, links and anchors, snippets, and the site that is made of them."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/results/*.md", "packages/*/README.md")
    for path in ROOT.glob(pattern)
)
GUIDES = [page for page in PAGES if page.startswith(("docs/", "README"))]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.M | re.S)


def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def blocks(page: str, *languages: str) -> list[str]:
    return [body for language, body in FENCED.findall(text(page)) if language in languages]


def prose(page: str) -> str:
    return re.sub(r"`[^`\n]*`", "``", FENCED.sub("", text(page)))


def other_language(page: str) -> str:
    if page.startswith("README"):
        return {"README.md": "README.zh-CN.md", "README.zh-CN.md": "README.md"}[page]
    return page.replace(".zh.md", ".md") if page.endswith(".zh.md") else page.replace(".md", ".zh.md")


def anchors(page: str) -> set[str]:
    """Of the headings, as code forges and the site make them: lower case, without punctuation, Chinese kept."""
    found = set()
    for heading in re.findall(r"^#+ (.+)$", FENCED.sub("", text(page)), flags=re.M):
        words = "".join(c for c in heading.lower() if c in "-_ " or unicodedata.category(c)[0] in "LNM")
        found.add(words.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    wrong = []
    for target, anchor in re.findall(r"\]\(([^)\s#]*)#?([^)\s]*)\)", prose(page)):
        if re.match(r"[a-z]+:", target):
            continue
        file = os.path.normpath(os.path.join(os.path.dirname(page), target)) if target else page
        if not (ROOT / file).is_file():
            wrong.append(f"{target}: no such file")
        elif anchor and anchor not in anchors(file):
            wrong.append(f"{target}#{anchor}: no such heading in {file}, which has {sorted(anchors(file))}")
    assert not wrong


@pytest.mark.parametrize("page", GUIDES)
def test_each_guide_is_there_in_both_languages_and_says_so(page):
    other = other_language(page)
    assert (ROOT / other).is_file()
    assert f"]({os.path.basename(other)})" in "\n".join(text(page).splitlines()[:12])
    english, chinese = (
        FENCED.findall(text(each)) for each in sorted((page, other), key=lambda each: ".zh" in each)
    )
    assert [language for language, _ in english] == [language for language, _ in chinese]


@pytest.mark.parametrize("page", [page for page in GUIDES if ".zh" in page])
def test_chinese_pages_lead_to_chinese_pages(page):
    assert re.search("[一-鿿]", text(page))
    links = re.findall(r"\]\(([^)\s#:]*\.md)#?[^)\s]*\)", prose(page))
    english = [
        target
        for target in links
        if ".zh" not in target
        and target.startswith("docs/") | ("/" not in target and page.startswith("docs/"))
    ]
    assert [target for target in english if not page.endswith(other_language(f"docs/{target}"))] == []


def navigation() -> dict[str, Any]:
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    return yaml.load(text("mkdocs.yml"), Loader)


def pages_of(entry: Any) -> list[str]:
    """Of the navigation: a page, a section of pages, or several of both."""
    if isinstance(entry, str):
        return [entry]
    return [
        page for part in (entry.values() if isinstance(entry, dict) else entry) for page in pages_of(part)
    ]


def script(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_navigation_names_every_page_once_and_nothing_else(tmp_path):
    script("docs_pages").gather(tmp_path)
    pages = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.md")}
    assert sorted(pages_of(navigation()["nav"])) == sorted(page for page in pages if ".zh." not in page)


def referred() -> set[str]:
    """The modules and names that the pages of the reference show."""
    return {
        name
        for page in ROOT.glob("docs/reference/*.md")
        for name in re.findall(r"^::: (\S+)", page.read_text(), re.M)
    }


def test_every_room_is_in_the_reference():
    """But those of commands: what they are made of, and how the demo was."""
    rooms = {path.parent.name for path in ROOT.glob("src/rdt2/*/__init__.py")} - {"cli", "operation", "demo"}
    assert rooms <= {name.split(".")[1] for name in referred()}


def of_examples() -> set[str]:
    """What the examples import of ours: `rdt2.sim.Cell`."""
    return {
        f"{node.module}.{name.name}"
        for path in ROOT.glob("examples/*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rdt2")
        for name in node.names
    }


def test_what_the_examples_import_is_in_the_reference():
    """That it is shown there, see the test that builds the site."""
    assert of_examples()
    told = referred()
    assert {
        name for name in of_examples() if name not in told and name.rpartition(".")[0] not in told
    } == set()


def test_a_warning_fails_the_site():
    settings = navigation()
    assert settings["strict"] is True
    assert set(settings["validation"]["links"].values()) == {"warn"}
    assert "-m mkdocs build" in text("Makefile")


def test_links_become_those_of_the_site(tmp_path):
    """A yaml comes along, code stays as it is, each language leads to its own pages."""
    hook = script("docs_pages")
    hook.gather(tmp_path)
    index = (tmp_path / "index.md").read_text("utf-8")
    assert "](models.md#" in index
    assert "](images/demo.webp)" in index
    assert "](results/precision.md)" in index
    assert "](training.md#" in (tmp_path / "data.zh.md").read_text("utf-8")
    training = (tmp_path / "training.md").read_text("utf-8")
    assert "](files/configs/training/vq_lora.yaml)" in training
    assert (tmp_path / "files/configs/training/vq_lora.yaml").is_file()
    assert "[中文]" not in training


@pytest.mark.parametrize("page", ["docs/architecture.md", "docs/architecture.zh.md"])
def test_every_room_is_on_the_plan(page):
    told = (ROOT / page).read_text("utf-8")
    floors = re.search(
        r"^layers = \[(.*?)^\]", (ROOT / "pyproject.toml").read_text("utf-8"), flags=re.M | re.S
    )
    assert floors is not None
    for room in re.findall(r"\w+", floors[1]):
        assert f"`{room}`" in told


def test_code_in_a_page_stays_as_it_is(tmp_path, monkeypatch):
    hook, block = script("docs_pages"), "```python\nchunks[0](other.md)\n```"
    (tmp_path / "page.md").write_text(f"[a link](other.md)\n\n{block}\n")
    monkeypatch.setattr(hook, "ROOT", tmp_path)
    told = hook.linked("page.md", {"page.md": "here/page.md", "other.md": "other.md"}, tmp_path / "site")
    assert "[a link](../other.md)" in told
    assert block in told


def test_the_site_is_built_without_a_warning(tmp_path):
    for package in ("mkdocs", "material", "mkdocs_static_i18n", "mkdocstrings"):
        pytest.importorskip(package, reason="the site needs pip install -e '.[docs]'")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    for page in ("index.html", "zh/index.html", "zh/training/index.html"):
        assert (tmp_path / "site" / page).is_file()
    reference = "".join(page.read_text("utf-8") for page in tmp_path.glob("site/reference/*/index.html"))
    assert {name for name in of_examples() if f'id="{name}"' not in reference} == set()


def test_the_pictures_of_the_readme_are_made_by_a_command(tmp_path, monkeypatch):
    from PIL import Image

    pytest.importorskip("mujoco")
    monkeypatch.setattr(
        "sys.argv", ["pictures.py", str(tmp_path), "--tasks", "press", "--max-seconds", "0.7"]
    )
    script("pictures").main()
    with Image.open(tmp_path / "demo.webp") as film, Image.open(tmp_path / "chunk.webp") as still:
        assert film.size == (960, 316)
        assert film.n_frames >= 3
        assert still.size == (1368, 456)
    assert all(path.stat().st_size < 1_500_000 for path in (ROOT / "docs/images").iterdir())


def test_an_example_in_cells_becomes_a_page():
    hook = script("docs_pages")
    cells = "# %% [markdown]\n# # First\n#\n# Text.\n\n# %%\nx = 1  # one\n"
    page = hook._as_page("examples/first.py", cells)
    assert page == "# First\n\nText.\n\n`python examples/first.py`\n\n```python\nx = 1  # one\n```\n"


@pytest.mark.parametrize("page", ["docs/hardware.md", "docs/hardware.zh.md"])
@pytest.mark.parametrize(
    ("robot", "section"), [("bimanual_ur5e", "## UR5e"), ("bimanual_fr3", "## Franka Research 3")]
)
def test_the_values_of_a_published_robot_are_those_of_its_yaml(page, robot, section):
    told = text(page).split(f"\n{section}\n")[1].split("\n## ")[0]
    numbers = {float(number) for number in re.findall(r"-?\d+\.?\d*", told)}
    for arm in yaml.safe_load(text(f"configs/robots/{robot}.yaml"))["arms"].values():
        device, tracker = arm["device"], arm["tx_tracker_to_tcp"]
        home = device.get("reset_degrees") or device["reset_radians"]
        tool = [row[3] for row in arm["tool"] if row[3] not in (0, 1)]
        written = [
            device["payload"],
            *device["payload_inertia"],
            *home,
            tracker[1][3],
            tracker[2][3],
            arm["latency"],
        ]
        assert {float(value) for value in [*written, *tool]} <= numbers


def test_what_no_page_may_hold():
    """The project speaks of itself: no path of anybody's machine, nothing that is still to be written."""
    for page in PAGES:
        assert not re.search(r"/(work|tmp|root|home/[a-z]+)/|TODO|FIXME", text(page)), page
