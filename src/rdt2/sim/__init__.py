"""The simulated cell: table, two arms or hands, grippers with wrist cameras, tasks with language."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rdt2.sim.cell import EMBODIMENTS, Cell
    from rdt2.sim.drawing import make_scene
    from rdt2.sim.scene import Scene
    from rdt2.sim.tasks import Monitor, Task, make_task, swapped, task_for

__all__ = [
    "EMBODIMENTS",
    "Cell",
    "Monitor",
    "Scene",
    "Task",
    "make_scene",
    "make_task",
    "swapped",
    "task_for",
]

_WHERE = {
    "EMBODIMENTS": "cell", "Cell": "cell", "Scene": "scene", "make_scene": "drawing",
    "Monitor": "tasks", "Task": "tasks", "make_task": "tasks", "swapped": "tasks", "task_for": "tasks",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    """Import a part when it is first used, so that `import rdt2.sim` needs nothing installed."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"rdt2.sim.{_WHERE[name]}"), name)
