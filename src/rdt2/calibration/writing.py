"""New values in a robot's yaml: only their text changes, comments stay, and what was there is kept.

    write_changes(path, {"arms.right.latency": 0.052}, by="rdt2 calibrate latency")

The old file is kept beside it. Where a value stands under an anchor that others refer to (`gripper: *gripper`), the
others get a copy of what they had.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rdt2.errors import CalibrationError, ConfigError
from rdt2.files import write_whole
from rdt2.robot.settings import RobotSettings


def write_changes(
    source: str | Path, changes: Mapping[str, Any], *, by: str, copy_to: Path
) -> tuple[Path, Path | None]:
    """Change a robot's file.

    Args:
        source: a path, or the name of a robot that comes with the package: of that a changed copy is made.
        changes: new values by dotted key; matrices as arrays.
        by: the command, for the comment beside what changed.
        copy_to: folder for the changed copy of a robot of the package.

    Returns:
        The file with the new values, and the copy of the old one (None where the file itself was not changed).

    Raises:
        CalibrationError: the new values cannot be put into this file, or no robot could be opened with it any more; it
            is not changed then, and the message has the values. RecordingError: it cannot be written.
    """
    from rdt2.robot.reading import find

    path, target = find(source), written_to(source, copy_to)
    text, stamp = path.read_text(encoding="utf-8"), time.strftime("%Y-%m-%d %H:%M:%S")
    plain = {key: _plain(value) for key, value in changes.items()}
    new = changed_text(text, plain, remark=f"{by}, {stamp}")
    trial = target.with_name(f".{target.stem}.new{target.suffix}")
    write_whole(trial, new)
    try:
        _require_opened(RobotSettings.read(trial), changes)
    except ConfigError as error:
        said = ", ".join(f"{key}: {_flow(value)}" for key, value in plain.items())
        raise CalibrationError(
            f"with these values no robot could be opened by {path}, and it was not changed ({said}): {error}"
        ) from None
    finally:
        trial.unlink()
    if target != path:
        return write_whole(target, new), None
    old = path.with_name(f"{path.name}.before-{time.strftime('%Y%m%d-%H%M%S')}")
    write_whole(old, text)
    return write_whole(target, new), old


def _require_opened(settings: RobotSettings, changes: Mapping[str, Any]) -> None:
    """Raise ConfigError where the driver of a gripper or camera would not take what was changed; nothing connects."""
    from rdt2.devices.opening import open_device

    parts = {tuple(key.split(".")[1:3]) for key in changes if key.startswith("arms.")}
    for side, part in sorted(parts):
        if part in ("gripper", "camera") and settings.kind != "cell":
            open_device(settings, side, part)


def written_to(source: str | Path, copy_to: Path) -> Path:
    """The file that changes of a robot go into: its own; of one that comes with the package a copy in this folder."""
    from rdt2.robot.reading import CONFIGS, find

    path = find(source)
    return copy_to / path.name if path.resolve().parent == CONFIGS.resolve() else path


def changed_text(text: str, changes: Mapping[str, Any], *, remark: str) -> str:
    """A yaml's text with other values by dotted key; keys that are missing are added.

    Raises:
        CalibrationError: the text is of a kind that is not understood.
    """
    expected = yaml.safe_load(text)
    for key, value in changes.items():
        _put(expected, key.split("."), value)
    for key, value in changes.items():
        text = _changed(_unshared(text, key.split(".")), key.split("."), value, remark)
    if yaml.safe_load(text) != expected:
        said = "\n".join(f"  {key}: {_flow(value)}" for key, value in changes.items())
        raise CalibrationError(
            f"this yaml is written in a way that is not understood. Write these values yourself:\n{said}"
        )
    return text


class _Marked(yaml.SafeLoader):
    """Leaves aliases where they stand instead of looking up what they mean."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()
            return yaml.ScalarNode("alias", event.anchor, event.start_mark, event.end_mark)
        anchor = getattr(self.peek_event(), "anchor", None)
        node = super().compose_node(parent, index)
        if node is not None and anchor:
            node.tag = f"anchor {anchor}"
        return node


def _compose(text: str) -> Any:
    loader = _Marked(text)
    try:
        return loader.get_single_node()
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]


def _unshared(text: str, keys: list[str]) -> str:
    """The same where nothing on the way to a key is shared: copies stand where aliases stood."""
    while True:
        root = _compose(text)
        node, names = root, set()
        for key in keys:
            node = _child(node, key)
            if node is None:
                break
            if node.tag == "alias":
                names.add(node.value)
                break
            if node.tag.startswith("anchor "):
                names.add(node.tag.removeprefix("anchor "))
        aliases = [alias for alias in _aliases(root) if alias.value in names]
        if not aliases:
            return text
        # the last first: what stands before it stays where it is
        alias = max(aliases, key=lambda alias: alias.start_mark.index)
        value = _anchored(text, alias.value)
        text = text[: alias.start_mark.index] + _flow(value) + text[alias.end_mark.index :]


def _anchored(text: str, name: str) -> Any:
    """What an anchor stands for."""
    loader = yaml.SafeLoader(text)
    try:
        loader.check_node()
        root = loader.get_node()
        for node in _nodes(_compose(text)):
            if node.tag == f"anchor {name}":
                start = node.start_mark.index
                same = next(
                    each
                    for each in _nodes(root)
                    if each.start_mark.index == start and type(each) is type(node)
                )
                return loader.construct_document(same)
    finally:
        loader.dispose()  # type: ignore[no-untyped-call]
    raise CalibrationError(f"the yaml refers to *{name}, which it does not define.")


def _nodes(node: Any) -> Any:
    yield node
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield from _nodes(value)
    elif isinstance(node, yaml.SequenceNode):
        for value in node.value:
            yield from _nodes(value)


def _aliases(root: Any) -> list[Any]:
    return [node for node in _nodes(root) if node.tag == "alias"]


def _child(node: Any, key: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            if name.value == key:
                return value
    return None


def _changed(text: str, keys: list[str], value: Any, remark: str) -> str:
    node = _compose(text)
    line = node.start_mark
    for depth, key in enumerate(keys):
        child = _child(node, key)
        if not node.flow_style and child is not None:
            line = _name(node, child).start_mark
        if child is None:
            for missing in reversed(keys[depth + 1 :]):
                value = {missing: value}
            added = _added(text, node, key, value, remark)
            if node.flow_style and node.value:
                added = _said(added, line, f"new by {remark}: {'.'.join(keys)}")
            return added
        parent, node = node, child
    name = _name(parent, node)
    start, end = name.start_mark, _end(node)
    said = _comments(text, name.end_mark.index, node)
    old = _shortened(text, node) + (said and f" ({said})")
    if parent.flow_style:  # no comment fits between its braces
        new, what = f"{name.value}: {_flow(value)}", f"{'.'.join(keys)}: {old}"
    else:
        new, what = f"{name.value}:{_block(value, start.column)}", old
    return _said(text[: start.index] + new + text[end:], line, f"before {remark}: {what}")


def _name(parent: Any, child: Any) -> Any:
    """The key that a value stands behind."""
    return next(name for name, each in parent.value if each is child)


def _said(text: str, line: Any, remark: str) -> str:
    """A text with a comment above the line of a mark."""
    return f"{text[: line.index]}# {remark}\n{' ' * line.column}{text[line.index :]}"


def _comments(text: str, start: int, node: Any) -> str:
    """The comments between the end of a key and the end of its value."""
    inside = text[start : _end(node)]
    for each in _nodes(node):  # what is said within quotes is no comment
        if isinstance(each, yaml.ScalarNode):
            begin, end = each.start_mark.index - start, each.end_mark.index - start
            inside = inside[:begin] + " " * (end - begin) + inside[end:]
    return "; ".join(part.strip() for part in re.findall("#(.*)", inside))


def _shortened(text: str, node: Any) -> str:
    """The old value in one line."""
    start = node.start_mark
    old = text[start.index : _end(node)]
    if isinstance(node, yaml.ScalarNode):
        return " ".join(old.split())
    return _flow(yaml.safe_load(" " * start.column + old))


def _added(text: str, node: Any, key: str, value: Any, remark: str) -> str:
    if not isinstance(node, yaml.MappingNode) or not node.value:
        raise CalibrationError(
            f"the yaml has no section for {key}. Write it there yourself: {key}: {_flow(value)}"
        )
    start = node.value[0][0].start_mark
    if node.flow_style:
        return f"{text[: start.index]}{key}: {_flow(value)}, {text[start.index :]}"
    column = " " * start.column
    new = f"# {remark}\n{column}{key}:{_block(value, start.column)}\n{column}"
    return text[: start.index] + new + text[start.index :]


def _end(node: Any) -> int:
    """Where a node's own text ends: marks of blocks stand at what follows."""
    while not isinstance(node, yaml.ScalarNode) and not node.flow_style and node.value:
        node = node.value[-1][1] if isinstance(node, yaml.MappingNode) else node.value[-1]
    return int(node.end_mark.index)


def _put(values: Any, keys: list[str], value: Any) -> None:
    """Copies on the way, so that what is shared changes here only."""
    *parents, last = keys
    for key in parents:
        values[key] = dict(values.get(key) or {})
        values = values[key]
    values[last] = value


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        # 0.1 um, and a millionth of a radian: what is finer is noise
        return (np.round(value, 7) + 0.0).tolist()
    return round(value, 6) if isinstance(value, float) else value


def _block(value: Any, column: int) -> str:
    if isinstance(value, list) and value and isinstance(value[0], list):
        return "".join(f"\n{' ' * (column + 2)}- {_flow(row)}" for row in value)
    return f" {_flow(value)}"


def _flow(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10**6, sort_keys=False)
        .strip()
        .removesuffix("...")
        .strip()
    )
