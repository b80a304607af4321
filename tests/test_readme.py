"""The README's first snippet runs as it stands, in both languages."""

from __future__ import annotations

import re

import pytest


@pytest.mark.parametrize("name", ["README.md", "README.zh.md"])
def test_the_first_snippet_runs(name, request, capsys):
    text = (request.config.rootpath / name).read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", text, flags=re.S)[0]
    exec(compile(snippet, name, "exec"), {})
    assert capsys.readouterr().out.split("\n")[:2] == ["(24, 20)", "(24, 4, 4)"]
