"""GPU memory of fine-tuning at the published 7B shape, calculated and, on a GPU, measured.

    python benchmarks/memory.py --json memory.json                  # calculated
    python benchmarks/memory.py --device cuda --json memory.json    # and the peak of three steps with random weights

Modes, each as its preset in configs/training has it, with so many samples at a time:

expert       the flow-matching expert in float32 beside the frozen VLM in bfloat16
expert_int8  the same with quantize=int8
lora         low-rank adapters beside the whole VLM in bfloat16
qlora        the same beside 4-bit weights

Calculated are weights, gradients and AdamW's two moments; activations come on top. Other presets are the shapes of
inference.py.
"""

from __future__ import annotations

import argparse
import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from inference import INSTRUCTIONS, PRESETS, Preset
from rdt2.expert import Expert
from rdt2.training.adapters import TARGETS, add_adapters, quantise
from rdt2.training.config import ExpertTraining, VQTraining
from rdt2.training.expert import ExpertModule, FrozenVLM
from rdt2.training.vq import VQModule
from rdt2.vlm import VLMProcessor
from rdt2.vlm.images import ImageProcessor
from rdt2.vlm.memory import resident_bytes
from rdt2.vlm.model import empty_vlm
from rdt2.vlm.quantize import Quantization, fill_layer, quantize_layers
from rdt2.vlm.tiny import model_config, train_tokenizer

BATCHES = {"expert": 8, "expert_int8": 8, "lora": 8, "qlora": 4}
STEPS = 3
CODES = 1024


def empty(preset: Preset, words: Any, *, layers: int | None = None) -> Any:
    """The VLM of a shape without storage, or its first layers."""
    config = model_config(preset.vlm, words)
    config.vision_config.fullatt_block_indexes = list(preset.full_attention)
    config.text_config.vocab_size = preset.vocab_size or config.text_config.vocab_size
    return empty_vlm(config, layers=layers)


def filled(vlm: Any, device: torch.device, quantized: frozenset[str] = frozenset()) -> Any:
    """The VLM with random bfloat16 weights on the device, one at a time, as a checkpoint is loaded."""
    for name, parameter in list(vlm.named_parameters()):
        value = torch.empty(parameter.shape, dtype=torch.bfloat16, device=device).normal_(0.0, 0.02)
        owner, _, leaf = name.rpartition(".")
        if name in quantized:
            fill_layer(vlm.get_submodule(owner), value)
        else:
            setattr(vlm.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))
    return vlm.to(device)


def build(
    mode: str, preset: Preset, processor: VLMProcessor, device: torch.device
) -> tuple[nn.Module, float]:
    """What trains, and the bytes of what is frozen beside it; on the meta device without storage."""
    words, bare = processor.tokenizer, device.type == "meta"
    if mode.startswith("expert"):
        expert = Expert(preset.expert)
        expert = expert if bare else Expert.from_config(expert.config, seed=0).to(device)
        layers = expert.config.selected_layers
        vlm = empty(preset, words, layers=max(layers) + 1)
        kind: Quantization | None = "int8" if mode == "expert_int8" else None
        quantized = quantize_layers(vlm, kind) if kind else frozenset()
        frozen = resident_bytes(vlm, dtype=torch.bfloat16, quantized=quantized, quantize=kind)
        vlm = vlm if bare else filled(vlm, device, quantized)
        return ExpertModule(
            expert, FrozenVLM(vlm, layers, precision="bf16", cache=None), ExpertTraining()
        ), frozen
    config = VQTraining(adapter="qlora" if mode == "qlora" else "lora", gradient_checkpointing=True)
    vlm = empty(preset, words)
    small = {
        f"{name}.weight" for name, _ in vlm.named_modules() if mode == "qlora" and re.fullmatch(TARGETS, name)
    }
    frozen = resident_bytes(vlm, dtype=torch.bfloat16, quantized=small, quantize="int4")
    if not bare:
        vlm = filled(vlm, device)
        if mode == "qlora":
            quantise(vlm, device=device, compute=torch.bfloat16)
    return VQModule(add_adapters(vlm, config, base="random"), processor, checkpointing=True), frozen


def calculated(mode: str, preset: Preset, processor: VLMProcessor) -> float:
    """Bytes of weights, gradients and AdamW's moments."""
    module, frozen = build(mode, preset, processor, torch.device("meta"))
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    if mode.startswith("expert"):  # weights that no gradient reaches are read and saved with the others
        frozen += 4 * sum(p.numel() for p in module.parameters() if not p.requires_grad)
    return frozen + trained * 4 * 4  # in float32: weight, gradient, two moments


def step(
    mode: str, preset: Preset, processor: VLMProcessor, device: torch.device, rows: int
) -> Callable[[], float]:
    """A whole training step on so many random samples; gives its loss."""
    module = build(mode, preset, processor, device)[0].train()
    rng = np.random.default_rng(0)
    pictures = list(rng.integers(0, 256, (rows, 384, 768, 3), dtype=np.uint8))
    sentences = [INSTRUCTIONS[i % len(INSTRUCTIONS)] for i in range(rows)]
    if mode.startswith("expert"):
        batch = {**processor.prompt(pictures, sentences), "actions": torch.randn(rows, 24, 20)}
    else:
        batch = processor.training(pictures, sentences, torch.randint(0, CODES, (rows, 27)))
    batch = {name: value.to(device) for name, value in batch.items()}
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-5, fused=True)
    generator = torch.Generator().manual_seed(0)

    def take() -> float:
        with torch.autocast(device.type, torch.bfloat16):
            loss, _ = module(batch, generator)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach())

    return take


def measured(mode: str, preset: Preset, processor: VLMProcessor, device: torch.device) -> dict[str, float]:
    """Bytes that PyTorch held at most during three steps, and the seconds of the last."""
    take = step(mode, preset, processor, device, BATCHES[mode])
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats(device)
    for _ in range(STEPS):
        begin.record()
        take()
        end.record()
    torch.cuda.synchronize(device)
    return {
        "peak_gb": torch.cuda.max_memory_allocated(device) / 1e9,
        "step_s": begin.elapsed_time(end) / 1e3,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=PRESETS, default="full", help="shape of the models")
    parser.add_argument("--device", default="cpu", help="cuda measures as well")
    parser.add_argument("--modes", nargs="+", choices=BATCHES, default=list(BATCHES))
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    device, preset = torch.device(options.device), PRESETS[options.preset]
    words = train_tokenizer(INSTRUCTIONS, num_embeddings=CODES)
    processor = VLMProcessor(words, ImageProcessor(max_pixels=preset.vlm.max_pixels))
    results: dict[str, Any] = {"preset": options.preset, "device": "cpu", "torch": torch.__version__}
    if device.type == "cuda":
        results["device"] = torch.cuda.get_device_name(device)
    print(f"{'':14}{'batch':>6}{'calculated':>12}{'peak':>8}{'step':>8}")
    for mode in options.modes:
        figures: dict[str, float] = {
            "batch": BATCHES[mode],
            "calculated_gb": calculated(mode, preset, processor) / 1e9,
        }
        if device.type == "cuda":
            figures |= measured(mode, preset, processor, device)
            gc.collect()
            torch.cuda.empty_cache()
        results[mode] = figures
        peak = f"{figures['peak_gb']:8.1f}{figures['step_s']:8.2f}" if "peak_gb" in figures else ""
        print(f"{mode:14}{BATCHES[mode]:6}{figures['calculated_gb']:12.3g}{peak}", flush=True)
    print("GB; seconds")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
