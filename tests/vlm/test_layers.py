"""Layers that run compiled, for whoever asked."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace

import numpy as np
import torch
from torch._dynamo.testing import CompileCounter

from rdt2.compiling import Compiled
from rdt2.training.vq import VQModule
from rdt2.vlm import PLAIN, compile_layers, generate_actions, prefill, text, vision

TEXTS = ["Pick up the red cube with the left hand.", "Press the blue button."]
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


def test_layers_are_compiled_for_who_asked(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> None:
    plain = text.run_layer, vision.run_block
    backend = CompileCounter()
    run = compile_layers(backend)
    assert (text.run_layer, vision.run_block) == plain == tuple(PLAIN)
    batch = tiny.processor.prompt(pictures, TEXTS)
    with torch.no_grad():
        expected = prefill(tiny.model, batch, (0, 2))
        tokens, _ = generate_actions(tiny.model, batch, tiny.processor, num_tokens=3)
        assert backend.frame_count == 0
        ours = prefill(tiny.model, batch, (0, 2), run=run)
        frames = backend.frame_count
        assert frames >= 2  # a layer of each kind
        found, _ = generate_actions(tiny.model, batch, tiny.processor, num_tokens=3, run=run)
    assert backend.frame_count == frames, "the same layers find what was compiled"
    torch.testing.assert_close(ours.keys, expected.keys, **CLOSE)
    torch.testing.assert_close(ours.values, expected.values, **CLOSE)
    assert torch.equal(found, tokens)


def test_training_runs_its_own_layers(tiny: SimpleNamespace, pictures: list[np.ndarray]) -> None:
    backend = CompileCounter()
    tokens = np.random.default_rng(1).integers(0, 1024, (2, 27))
    batch = tiny.processor.training(pictures, TEXTS, tokens)
    losses, gradients = [], []
    for run, checkpointing in (
        (PLAIN, False),
        (compile_layers(backend), False),
        (compile_layers(backend), True),
    ):
        module = VQModule(
            copy.deepcopy(tiny.model), tiny.processor, checkpointing=checkpointing, run=run
        ).train()
        loss, _ = module(batch, None)
        loss.backward()
        losses.append(loss.item())
        gradients.append(module.vlm.model.visual.blocks[0].attn.qkv.weight.grad)
        assert (backend.frame_count == 0) == (run is PLAIN)
    for loss, gradient in zip(losses[1:], gradients[1:], strict=True):
        np.testing.assert_allclose(loss, losses[0], rtol=1e-5)
        torch.testing.assert_close(gradient, gradients[0], rtol=1e-3, atol=1e-6)


def test_a_compiled_function_travels_to_other_processes() -> None:
    """Where workers are spawned, stages are pickled with the layers that they hold."""
    ours = pickle.loads(pickle.dumps(compile_layers("eager")))
    assert all(isinstance(function, Compiled) for function in ours)
    copied = copy.deepcopy(ours)
    assert copied.text is not ours.text
