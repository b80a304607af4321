"""How the layers of a VLM run: plainly, or compiled for whoever asked for it.

What a layer does between its matrix products (norms, rotary angles, gates) is bound by memory; compiled, it passes
over memory once. Layers are compiled one by one and share the code, which takes seconds where a whole model takes
minutes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from rdt2.compiling import Backend, Compiled
from rdt2.vlm import text, vision


class Layers(NamedTuple):
    """The functions that all layers of a kind go through: what whoever runs a VLM may choose."""

    text: Callable[..., Any] = text.run_layer
    vision: Callable[..., Any] = vision.run_block


PLAIN = Layers()


def compile_layers(backend: Backend = "inductor", *, dynamic: bool | None = None) -> Layers:
    """Layers that run through ``torch.compile``; the first step of each shape takes longer, and results differ by
    rounding.

    Args:
        backend: of ``torch.compile``; "inductor" needs a C++ compiler on a CPU.
        dynamic: True compiles code for any batch and length at once; None as ``torch.compile`` has it.
    """
    return Layers(*(Compiled(function, backend=backend, dynamic=dynamic) for function in PLAIN))
