"""The layers of all VLMs of this process, compiled.

What a layer does between its matrix products (norms, rotary angles, gates) is bound by memory; compiled, it passes
over memory once. Layers are compiled one by one and share the code, which takes seconds where a whole model takes
minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from rdt2.vlm import text, vision


def compile_layers(backend: str | Callable[..., Any] = "inductor") -> None:
    """From now on text and vision layers run through ``torch.compile``; the first step of each shape takes longer.

    Needs a C++ compiler on a CPU. Results differ by rounding.

    Args:
        backend: of ``torch.compile``. Layers that are compiled already stay as they are.
    """
    for module, name in ((text, "run_layer"), (vision, "run_block")):
        function = getattr(module, name)
        if not is_compiled(function):
            setattr(module, name, torch.compile(function, backend=backend))


def is_compiled(function: Callable[..., Any]) -> bool:
    """Whether a function came out of ``torch.compile``."""
    return hasattr(function, "get_compiler_config")
