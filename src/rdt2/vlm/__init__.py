"""Qwen2.5-VL the way RDT2 uses it: prompt, truncated prefill, constrained decoding, lean training loss."""

from __future__ import annotations

from rdt2.vlm.decode import generate_actions, sampling_noise
from rdt2.vlm.images import ImageProcessor
from rdt2.vlm.layers import PLAIN, Layers, compile_layers
from rdt2.vlm.loss import LossStats, training_loss
from rdt2.vlm.model import load_vlm, save_vlm
from rdt2.vlm.prefill import KVCache, prefill
from rdt2.vlm.processor import VLMProcessor
from rdt2.vlm.tiny import TinyConfig, create_tiny_vlm

__all__ = [
    "PLAIN",
    "ImageProcessor",
    "KVCache",
    "Layers",
    "LossStats",
    "TinyConfig",
    "VLMProcessor",
    "compile_layers",
    "create_tiny_vlm",
    "generate_actions",
    "load_vlm",
    "prefill",
    "sampling_noise",
    "save_vlm",
    "training_loss",
]
