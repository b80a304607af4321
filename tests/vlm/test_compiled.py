"""Layers that run compiled."""

from __future__ import annotations

import pytest

from rdt2.vlm import compile_layers, text, vision


def test_layers_are_compiled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = text.run_layer, vision.run_block
    monkeypatch.setattr(text, "run_layer", plain[0])  # both are put back after the test
    monkeypatch.setattr(vision, "run_block", plain[1])
    compile_layers()
    compiled = text.run_layer, vision.run_block
    assert compiled[0] is not plain[0]
    assert compiled[1] is not plain[1]
    compile_layers()
    assert (text.run_layer, vision.run_block) == compiled
