"""Every message of docs/troubleshooting.md is one that the code prints, and what is easily provoked prints it."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from rdt2.errors import RDT2Error

ROOT = Path(__file__).parents[1]
PAGES = ("troubleshooting.md", "troubleshooting.zh.md")
GAP = "\0"
"""What differs, in a text of the code."""


def _text(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(_text(value) for value in node.values)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _text(node.left) + _text(node.right)
    return GAP


@cache
def code_texts() -> list[str]:
    """All texts of the package, with gaps where values are put in."""
    found = []
    for file in sorted((ROOT / "src/rdt2").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Constant, ast.JoinedStr, ast.BinOp)) and len(text := _text(node)) > 15:
                found.append(" ".join(re.sub(r"\{[\w.]*\}", GAP, text).split()))
    return found


def messages(page: str) -> list[str]:
    """The quoted messages, a paragraph of a text block each."""
    blocks = re.findall(r"```text\n(.*?)```", (ROOT / "docs" / page).read_text("utf-8"), flags=re.S)
    return [" ".join(part.split()) for block in blocks for part in block.split("\n\n")]


def _reads_like(text: str, parts: list[str]) -> bool:
    """Whether a text of the code holds these parts in their order, with a gap between each two."""
    end = 0
    for number, part in enumerate(parts):
        found = text.find(part, end)
        if found < 0 or (number and GAP not in text[end:found]):
            return False
        end = found + len(part)
    return True


@pytest.mark.parametrize("message", messages(PAGES[0]))
def test_the_code_says_it(message) -> None:
    parts = [part.strip(" .:") for part in message.split("...") if part.strip(" .:")]
    assert any(_reads_like(text, parts) for text in code_texts()), "no text of the code reads like this"


def test_both_languages_quote_the_same_messages() -> None:
    assert messages(PAGES[0]) == messages(PAGES[1])
    assert len(messages(PAGES[0])) > 60


def _no_policy() -> None:
    from rdt2.policy import load_policy

    load_policy("no/such_policy")


def _no_gpu() -> None:
    from rdt2.policy import load_policy

    load_policy("demo-fm", device="cuda:99")


def _small_picture() -> None:
    from rdt2.observation import Observation

    Observation(BLACK[:100], BLACK, "Pick up the apple.")


def _no_list() -> None:
    from rdt2.observation import Observation
    from rdt2.policy.questions import checked_observations

    checked_observations(Observation(BLACK, BLACK, "Pick up the apple."))  # type: ignore[arg-type]


def _no_robot() -> None:
    from rdt2.robot.settings import RobotSettings

    RobotSettings.read("ur99")


def _open_to_all() -> None:
    from rdt2.serving.security import required_key

    required_key("0.0.0.0", None, open_to_all=False)


def _no_preset() -> None:
    from rdt2.training.cli import run_training

    run_training("vq", config="no_such_preset", data="data", out="out")


BLACK = np.zeros((384, 384, 3), np.uint8)
PROVOKED = {
    "...: no folder of that name": _no_policy,
    "device is ..., but ": _no_gpu,
    "the ... picture has shape": _small_picture,
    "predict takes a list": _no_list,
    "there is no robot called": _no_robot,
    "--host ... can be reached": _open_to_all,
    "...: no such configuration": _no_preset,
}
"""A few that need nothing: what is done, by the beginning of what is said."""


@pytest.mark.parametrize("beginning", PROVOKED)
def test_it_is_what_a_user_sees(beginning, monkeypatch, tmp_path) -> None:
    monkeypatch.chdir(tmp_path)
    quoted = [message for message in messages(PAGES[0]) if message.startswith(beginning)]
    with pytest.raises(RDT2Error) as raised:
        PROVOKED[beginning]()
    said = " ".join(str(raised.value).split())
    patterns = [".*".join(re.escape(part.strip()) for part in message.split("...")) for message in quoted]
    assert any(re.match(pattern, said) for pattern in patterns), said
