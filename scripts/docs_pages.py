"""Gathers the pages of the site: docs/, and beside it what lies elsewhere in the repository and belongs to it.

A hook of mkdocs (mkdocs.yml). Pages are written to be read where code is read, so their links are those between files
of the repository; here they become links between pages of the site, and a file that is no page (a yaml) comes along.
A link to what is not there is left as it is, and mkdocs, which is strict, refuses it.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path, PurePosixPath
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
GATHERED = ROOT / "build" / "docs"
ELSEWHERE = {
    "README.md": "index.md",
    "README.zh-CN.md": "index.zh.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
    **{
        f"benchmarks/results/{path.name}": f"results/{path.name}"
        for path in ROOT.glob("benchmarks/results/*.md")
    },
}
EXAMPLES = {
    f"examples/{path.name}": f"examples/{path.stem}.md"
    for path in ROOT.glob("examples/*.py")
    if path.read_text(encoding="utf-8").startswith("# %% [markdown]")
}
LINK = re.compile(r"(\]\()([^)\s#]+)((?:#[^)\s]*)?\))")
LANGUAGE = re.compile(r"^\[(?:English|中文|中文说明)\]\([^)]*\)\n\n", flags=re.M)
"""The line with the page in the other language, for which the site has a menu."""
BLOCK = re.compile(r"^```.*?^```$", flags=re.M | re.S)


def on_config(config: Any) -> Any:
    """Build from the gathered pages."""
    gather(GATHERED)
    config.docs_dir = str(GATHERED)
    return config


def gather(out: Path) -> None:
    """Write all pages and what they show into a folder of its own, made anew."""
    shutil.rmtree(out, ignore_errors=True)
    pages = {
        str(path.relative_to(ROOT)): str(path.relative_to(ROOT / "docs")) for path in ROOT.glob("docs/**/*")
    }
    pages = {source: page for source, page in pages.items() if (ROOT / source).is_file()}
    pages |= ELSEWHERE | EXAMPLES
    for source, page in pages.items():
        (out / page).parent.mkdir(parents=True, exist_ok=True)
        if page.endswith(".md"):
            (out / page).write_text(linked(source, pages, out), encoding="utf-8")
            if page.startswith("reference/"):
                (out / page).with_suffix(".zh.md").write_text(_chinese_reference(page), encoding="utf-8")
        else:
            shutil.copyfile(ROOT / source, out / page)


def _as_page(source: str, script: str) -> str:
    """A script in cells: what it says as text, its code as code, and the pictures it made at the end."""
    parts = []
    for cell in re.split(r"^# %%", script, flags=re.M)[1:]:
        kind, _, body = cell.partition("\n")
        if "[markdown]" in kind:
            parts.append(re.sub(r"^# ?", "", body, flags=re.M).strip())
        else:
            parts.append(f"```python\n{body.strip()}\n```")
    parts.insert(1, f"`python {source}`")
    pictures = sorted((ROOT / "docs" / "images").glob(f"{PurePosixPath(source).stem}*"))
    return (
        "\n\n".join([*parts, *(f"![what it draws](../docs/images/{path.name})" for path in pictures)]) + "\n"
    )


def _chinese_reference(page: str) -> str:
    """The page that stands for one of docstrings, which are English and stand in one place."""
    address = f"../../../{page.removesuffix('.md')}/"
    title = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()[0]
    return f'{title}\n\n文档字符串只有英文：<a href="{address}">打开英文参考页</a>。\n'


def linked(source: str, pages: dict[str, str], out: Path) -> str:
    """The text of a page, with the links that it has on the site; code stays as it is."""
    here = PurePosixPath(pages[source]).parent

    def there(match: re.Match[str]) -> str:
        before, target, after = match.groups()
        if re.match(r"[a-z]+:", target):
            return match[0]
        file = os.path.normpath(PurePosixPath(source).parent / target)
        page = pages.get(file)
        if page is None and (ROOT / file).is_file() and not file.startswith(".."):
            page = f"files/{file}"
            (out / page).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / file, out / page)
        if page is None:
            return match[0]
        page = re.sub(
            r"\.zh\.md$", ".md", page
        )  # each language has its own tree, and in it this is the page's name
        return f"{before}{os.path.relpath(page, here)}{after}"

    text = (ROOT / source).read_text(encoding="utf-8")
    text = _as_page(source, text) if source in EXAMPLES else LANGUAGE.sub("", text, count=1)
    kept, parts = BLOCK.findall(text), BLOCK.split(text)
    parts = [LINK.sub(there, part) for part in parts]
    return "".join(part + block for part, block in zip(parts, [*kept, ""], strict=True))
