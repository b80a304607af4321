"""The layers of all VLMs of this process, compiled.

What a layer does between its matrix products (norms, rotary angles, gates) is bound by memory; compiled, it passes
over memory once. Layers are compiled one by one and share the code, which takes seconds where a whole model takes
minutes.
"""

from __future__ import annotations

import torch

from rdt2.vlm import text, vision


def compile_layers() -> None:
    """From now on text and vision layers run through ``torch.compile``; the first step of each shape takes longer.

    Needs a C++ compiler on a CPU. Results differ by rounding.
    """
    if not hasattr(text.run_layer, "get_compiler_config"):  # compiled functions have it
        text.run_layer = torch.compile(text.run_layer)
        vision.run_block = torch.compile(vision.run_block)
