"""What holds for every source file, whatever is in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))
MODELS = {"tokenizer", "vlm", "expert"}

ERRORS = {
    node.name
    for node in ast.walk(ast.parse((ROOT / "src/rdt2/errors.py").read_text("utf-8")))
    if isinstance(node, ast.ClassDef)
}
# An array without a shape in its annotation, and how a docstring says one: (n, 4, 4), (3,), (). An axis is
# a number, a letter, or one of these words: any word would make a shape of (left, right), and of a call().
SHAPELESS = re.compile(r"(?:(?:np\.)?ndarray|(?:torch\.)?Tensor)")
_AXIS = r"(?:\d+|\d?[a-z](?:/2)?|\.\.\.|in|out|count|columns|height|width|end - start)"
SHAPE = re.compile(rf"(?<![\w`])\((?:{_AXIS},(?: ?{_AXIS},?)*)?\)|\bscalar\b")
MEASURED = re.compile(
    r"poses?|widths?|joints|velocity|times?|stamps?|tcp|positions?|offset|speed|acceleration|latency"
)
# A lone s that is no possessive.
UNIT = re.compile(
    r"(?<!['’])\b(?:m|mm|metres?|millimetres?|m/s|rad|rad/s|radians?|degrees?|seconds?|s|ms|milliseconds?|Hz|N|pixels?|px|us|kg|tokens)\b"
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_no_file_is_longer_than_a_sitting():
    """500 lines, and 400 in the rooms of the models, which are read from top to bottom."""
    long = {}
    for path in SOURCES:
        most = 400 if path.relative_to(ROOT / "src/rdt2").parts[0] in MODELS else 500
        if (lines := len(path.read_text("utf-8").splitlines())) > most:
            long[str(path.relative_to(ROOT))] = f"{lines} lines, at most {most}"
    assert not long, "split them by meaning"


@cache
def public() -> list[tuple[str, Function, str]]:
    """Where it is, each public function and method, and what is said of it: by itself and its class."""

    def inside(body: list[ast.stmt], before: str, said: str) -> Iterator[tuple[str, Function, str]]:
        for node in body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                about = f"{said}\n{ast.get_docstring(node) or ''}"
                yield from inside(node.body, f"{before}{node.name}.", about)
            elif isinstance(node, Function) and (node.name == "__init__" or not node.name.startswith("_")):
                yield f"{before}{node.name}", node, f"{said}\n{ast.get_docstring(node) or ''}"

    found = []
    for path in SOURCES:
        where = path.relative_to(ROOT / "src")
        if any(part.startswith("_") and part != "__init__.py" for part in where.parts):
            continue
        module = ast.parse(path.read_text("utf-8"))
        found += inside(module.body, f"{where}: ", "")
    return found


def raised(function: Function) -> set[str]:
    """Errors of ours that it raises itself and does not catch."""
    found, left = set(), list(function.body)
    while left:
        node = left.pop()
        if isinstance(node, (*Function.__args__, ast.ClassDef, ast.Lambda)):
            continue
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            found.add(getattr(node.exc.func, "id", ""))
        left += [
            child
            for child in ast.iter_child_nodes(node)
            if not (isinstance(node, ast.Try) and node.handlers and child in node.body)
        ]
    return found & ERRORS


def test_what_a_public_function_raises_is_said():
    silent = {
        name: sorted(missing)
        for name, function, said in public()
        if not name.startswith("rdt2/cli/") and "See `" not in said and "See :" not in said
        if (missing := {error for error in raised(function) if error not in said})
    }
    assert not silent, "say it in 'Raises:'"


def annotated(function: Function) -> list[tuple[str, str]]:
    """Its parameters and annotations, "return" last; members of unions apart."""
    arguments = [*function.args.posonlyargs, *function.args.args, *function.args.kwonlyargs]
    pairs = [(each.arg, each.annotation) for each in arguments] + [("return", function.returns)]
    return [(name, part) for name, told in pairs if told for part in ast.unparse(told).split(" | ")]


def test_the_shape_of_every_array_is_said():
    silent = [
        name
        for name, function, said in public()
        if any(SHAPELESS.fullmatch(told) for _, told in annotated(function))
        and not (
            SHAPE.search(said) or "Callable[" in ast.unparse(function.args)
        )  # the shape that is called for
    ]
    assert not silent, "annotate it with jaxtyping, or say it in words: (n, 4, 4)"


def of_module(name: str) -> str:
    """What the head of a module says: units that hold in all of it, but no amounts (100 ms), which are of one thing."""
    module = (ROOT / "src" / name.split(":")[0]).read_text("utf-8")
    return re.sub(r"\d[ /]\S+", "", ast.get_docstring(ast.parse(module)) or "")


def test_the_unit_of_every_measure_is_said():
    silent = [
        name
        for name, function, said in public()
        if any(
            MEASURED.fullmatch(argument) and re.search("[Ff]loat|ndarray|Tensor", told)
            for argument, told in annotated(function)
        )
        and not UNIT.search(said + of_module(name))
    ]
    assert not silent, "metres, radians, seconds, pixels ..."


@pytest.mark.parametrize(
    ("said", "shape"),
    [
        ("of (n, 4, 4)", True),
        ("a mask (n,)", True),
        ("one number, ()", True),
        ("RGB (of both)", False),
        ("24 x 20", False),
        ("both hands (left, right)", False),
        ("as of `close()`", False),
    ],
)
def test_how_a_shape_is_found(said: str, shape: bool) -> None:
    assert bool(SHAPE.search(said)) == shape


@pytest.mark.parametrize(
    ("said", "unit"), [("at 0.1 m/s", True), ("late by 2 s", True), ("the arm's and the tool’s pose", False)]
)
def test_how_a_unit_is_found(said: str, unit: bool) -> None:
    assert bool(UNIT.search(said)) == unit


def test_class_variables_say_their_type():
    """Python 3.10 evaluates no bare ClassVar, and no command could be parsed there."""
    bare = [
        f"{path.name}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).split(".")[-1] == "ClassVar"
    ]
    assert not bare
