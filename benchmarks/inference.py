"""How fast and lean the policies are, beside the naive baseline (see naive.py) in the same run.

    python benchmarks/inference.py --preset mid --json inference.json

Presets `tiny`, `mid` and `full` have random weights: nothing measured here depends on them. `demo` is the
committed models on pictures of the simulated cell. `full` is the published 7B shape
and needs a GPU; beside its figures stands the floor: what the card's own speed at matrix products and at copying,
measured in the same run, would take for the operations and the bytes. `--compile` adds the compiled policies, with
the one-step expert (UltraFast) among them. Medians; naive and lean take turns, so that other work on the machine
slows both.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from naive import NaivePrompt, Stages, naive_fm, naive_vq
from rdt2.action import NUM_TOKENS
from rdt2.expert import Expert, ExpertConfig
from rdt2.normalizer import LinearNormalizer
from rdt2.packed import pack_linears
from rdt2.policy import CompiledFMPolicy, CompiledVQPolicy, FMPolicy, VQPolicy, load_policy
from rdt2.policy.load import DEMOS
from rdt2.tokenizer import ActionTokenizer, CNNConfig, TokenizerConfig
from rdt2.vlm import TinyConfig, VLMProcessor, answer, load_vlm, text
from rdt2.vlm.images import ImageProcessor
from rdt2.vlm.model import empty_vlm
from rdt2.vlm.tiny import initialize, model_config, train_tokenizer

INSTRUCTIONS = ("Pick up the apple.", "Press the button.", "Put the cup in the bowl with the left hand.")
STAGES = ("preprocess", "vision", "prefill", "expert", "decode", "codec", "total")
TOLERANCE = 1e-4  # of normalised actions, in float32


@dataclass(frozen=True)
class Preset:
    """Shapes of the three models."""

    vlm: TinyConfig
    expert: ExpertConfig
    tokenizer: TokenizerConfig
    vocab_size: int | None = None  # rows of embedding and head; None for what the text tokenizer needs
    full_attention: tuple[int, ...] = (2,)


PUBLISHED = {"rope_theta": 1e6, "window_size": 112, "max_pixels": 12845056}
PRESETS = {
    "tiny": Preset(TinyConfig(), ExpertConfig.tiny(), TokenizerConfig.tiny()),
    "mid": Preset(
        TinyConfig(
            hidden_size=512,
            num_layers=28,
            num_heads=4,
            num_kv_heads=2,
            intermediate_size=2048,
            vision_depth=8,
            vision_hidden_size=320,
            vision_num_heads=4,
            vision_intermediate_size=856,
            **PUBLISHED,
        ),
        ExpertConfig(hidden_size=512, num_heads=4, num_kv_heads=2),
        TokenizerConfig(cnn_config=CNNConfig(hidden_size=64, output_size=256)),
        vocab_size=151936,
        full_attention=(3, 7),
    ),
    "full": Preset(
        TinyConfig(
            hidden_size=3584,
            num_layers=28,
            num_heads=28,
            num_kv_heads=4,
            intermediate_size=18944,
            vision_depth=32,
            vision_hidden_size=1280,
            vision_num_heads=16,
            vision_intermediate_size=3420,
            **PUBLISHED,
        ),
        ExpertConfig(),
        TokenizerConfig(),
        vocab_size=152064,
        full_attention=(7, 15, 23, 31),
    ),
}


@dataclass(frozen=True)
class Models:
    """One set of weights for both sides."""

    vlm: Any  # as transformers has it; where the lean policies change theirs, they have a copy
    expert: Expert  # as published
    fm: FMPolicy
    vq: VQPolicy
    scenes: list[tuple[np.ndarray, str]]  # pictures (384, 768, 3) with an instruction each


def random_models(preset: Preset, device: torch.device, dtype: torch.dtype) -> Models:
    """Models of a shape with random weights."""
    from transformers import Qwen2_5_VLForConditionalGeneration

    codes = preset.tokenizer.num_embeddings
    words = train_tokenizer(INSTRUCTIONS, num_embeddings=codes)
    config = model_config(preset.vlm, words)
    config.vision_config.fullatt_block_indexes = list(preset.full_attention)
    config.text_config.vocab_size = preset.vocab_size or config.text_config.vocab_size
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    with device:
        vlm: Any = Qwen2_5_VLForConditionalGeneration(config).eval()
        expert = Expert(preset.expert)
    torch.set_default_dtype(before)
    initialize(vlm)
    processor = VLMProcessor(words, ImageProcessor(max_pixels=preset.vlm.max_pixels))
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        # Other rows score 0 and lose, so that `generate` writes action tokens, as trained models do.
        head = vlm.lm_head.weight
        head[: processor.vocab_size - codes] = 0
        head[processor.vocab_size :] = 0
        for name, parameter in expert.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(0.0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(1.0 if "norm" in name else 0.0)
    torch.manual_seed(0)
    lean = {"vlm": vlm, "expert": copy.deepcopy(expert).freeze_for_inference(preset.expert.steps, 1)}
    if device.type == "cpu":  # as load_policy does
        lean["vlm"] = copy.deepcopy(vlm)
        pack_linears(lean["vlm"].model)
        pack_linears(lean["expert"])
    parts = {"vlm": lean["vlm"], "processor": processor, "normalizer": identity_normalizer()}
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (len(INSTRUCTIONS), 12, 24, 3), dtype=np.uint8)
    return Models(
        vlm=vlm,
        expert=expert.eval(),
        fm=FMPolicy(expert=lean["expert"], **parts),
        vq=VQPolicy(tokenizer=ActionTokenizer(preset.tokenizer).to(device), **parts),
        scenes=list(zip(coarse.repeat(32, 1).repeat(32, 2), INSTRUCTIONS, strict=True)),
    )


def first_views(scenes: int) -> list[tuple[np.ndarray, str]]:
    """What two UR5e see at the start of episodes: left | right, (384, 768, 3) uint8 RGB, and the sentence."""
    from rdt2.sim import Cell, make_scene, task_for

    views = []
    for seed in range(scenes):
        scene = make_scene("pick", seed)
        with Cell("ur5e", scene) as cell:
            picture = np.concatenate([cell.render("left"), cell.render("right")], axis=1)
        views.append((picture, task_for(scene).instruction))
    return views


def demo_models(device: torch.device, dtype: torch.dtype, scenes: int = 5) -> Models:
    """The committed models, and what they see at the start of episodes."""
    views = first_views(scenes)
    vq = load_policy("demo-vq", temperature=0, device=device, dtype=dtype)
    fm = load_policy("demo-fm", device=device, dtype=dtype)
    assert isinstance(vq, VQPolicy)
    assert isinstance(fm, FMPolicy)
    expert = Expert.from_pretrained(DEMOS / "expert", dtype=dtype, device=device)
    whole = FMPolicy(vlm=vq.vlm, processor=fm.processor, expert=fm.expert, normalizer=fm.normalizer)
    vlm = load_vlm(DEMOS / "vlm", dtype=dtype, device=device)
    return Models(vlm=vlm, expert=expert, fm=whole, vq=vq, scenes=views)


def identity_normalizer() -> LinearNormalizer:
    """Leaves actions as they are."""
    one = torch.ones(20)
    return LinearNormalizer(one, 0 * one, -one, one)


# ---------------------------------------------------------------------------------------------- measuring


def lean_fm(
    policy: FMPolicy, picture: np.ndarray, instruction: str, noise: torch.Tensor
) -> tuple[torch.Tensor, dict[str, float]]:
    """A normalised chunk and the seconds of each stage; of a compiled policy, prefill includes vision."""
    stages = Stages(policy.device)
    with patch.object(text, "encode_pictures", stages.timed("vision", text.encode_pictures)):
        (chunk,) = policy.predict_pictures([picture], [instruction], noise=noise)
    seconds = {
        "preprocess": chunk.timing["prompt"],
        **stages.seconds,
        "prefill": chunk.timing["vlm"] - stages.seconds.get("vision", 0.0),
        "expert": chunk.timing["expert"],
        "total": chunk.timing["total"],
    }
    return policy.normalizer.normalize(torch.from_numpy(chunk.values.copy()))[None], seconds


def lean_vq(policy: VQPolicy, picture: np.ndarray, instruction: str) -> tuple[torch.Tensor, dict[str, float]]:
    """Action tokens (1, 27) and the seconds of each stage; of a compiled policy, decode is all that the VLM does."""
    stages = Stages(policy.device)
    read = stages.timed("prefill", answer.Answer.__init__)
    with (
        patch.object(text, "encode_pictures", stages.timed("vision", text.encode_pictures)),
        patch.object(answer.Answer, "__init__", lambda self, *args, **kwargs: read(self, *args, **kwargs)),
    ):
        (chunk,) = policy.predict_pictures([picture], [instruction])
    seconds = {
        "preprocess": chunk.timing["prompt"],
        **stages.seconds,
        "decode": chunk.timing["vlm"] - sum(stages.seconds.values()),
        "codec": chunk.timing["decode"],
        "total": chunk.timing["total"],
    }
    return torch.from_numpy(chunk.tokens.copy())[None], seconds


def medians(runs: list[dict[str, float]]) -> dict[str, float]:
    """Median seconds of each stage."""
    return {stage: statistics.median(run[stage] for run in runs) for stage in STAGES if stage in runs[0]}


def working_memory(device: torch.device, function: Callable[[], object]) -> int | None:
    """Bytes that a call takes at most beside what is there already; None where the system does not say."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        return torch.cuda.max_memory_allocated(device) - before
    try:
        Path("/proc/self/clear_refs").write_text("5")  # Linux: forget the highest resident size so far
    except OSError:
        return None
    before = _status("VmRSS")
    function()
    return _status("VmHWM") - before


def _status(field: str) -> int:
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) * 1024


def size(*modules: torch.nn.Module, dtype: torch.dtype | None = None) -> int:
    """Bytes of parameters and buffers; dtype for modules without storage that are to be loaded in it."""
    tensors = [t for m in modules for t in (*m.parameters(), *m.buffers())]
    return sum(t.numel() * (dtype.itemsize if dtype and t.is_meta else t.itemsize) for t in tensors)


# ---------------------------------------------------------------------------------------------- comparing


def compare_fm(models: Models, policy: FMPolicy, repeats: int) -> dict[str, Any]:
    """A flow-matching policy against the baseline."""
    prompt, device = NaivePrompt(models.fm.processor), models.fm.device
    noise = torch.randn(1, 24, 20, generator=torch.Generator().manual_seed(0))
    naive_runs, lean_runs, difference = [], [], 0.0
    for number in range(-1, repeats):  # the first is a warm-up
        picture, instruction = models.scenes[number % len(models.scenes)]
        expected, slow = naive_fm(
            models.vlm, prompt, models.expert, picture, instruction, noise.to(device), steps=policy.steps
        )
        ours, fast = lean_fm(policy, picture, instruction, noise)
        difference = max(difference, float((ours - expected.float().cpu()).abs().max()))
        if number >= 0:
            naive_runs.append(slow)
            lean_runs.append(fast)
    layers = max(policy.expert.config.selected_layers) + 1
    lean_vlm = empty_vlm(copy.deepcopy(policy.vlm.config), layers=layers)
    dtype = next(policy.vlm.parameters()).dtype
    scene = models.scenes[0]
    return {
        **ratio(naive_runs, lean_runs),
        "max_difference": difference,
        "weights_bytes": {
            "naive": size(models.vlm, models.expert),
            "lean": size(lean_vlm, policy.expert, dtype=dtype),
        },
        "working_bytes": {
            "naive": working_memory(
                device,
                lambda: naive_fm(
                    models.vlm, prompt, models.expert, *scene, noise.to(device), steps=policy.steps
                ),
            ),
            "lean": working_memory(device, lambda: lean_fm(policy, *scene, noise)),
        },
    }


def compare_vq(models: Models, policy: VQPolicy, repeats: int) -> dict[str, Any]:
    """A policy that writes tokens, against the baseline."""
    prompt, device = NaivePrompt(models.vq.processor), models.vq.device
    naive_runs, lean_runs, equal = [], [], 0
    for number in range(-1, repeats):
        scene = models.scenes[number % len(models.scenes)]
        expected, slow = naive_vq(models.vlm, policy.tokenizer, prompt, *scene)
        ours, fast = lean_vq(policy, *scene)
        if number >= 0:
            equal += torch.equal(ours, expected.cpu())
            naive_runs.append(slow)
            lean_runs.append(fast)
    return {
        **ratio(naive_runs, lean_runs),
        "equal": equal,
        "repeats": repeats,
        "weights_bytes": {
            "naive": size(models.vlm, policy.tokenizer),
            "lean": size(policy.vlm, policy.tokenizer),
        },
        "working_bytes": {
            "naive": working_memory(
                device, lambda: naive_vq(models.vlm, policy.tokenizer, prompt, *models.scenes[0])
            ),
            "lean": working_memory(device, lambda: lean_vq(policy, *models.scenes[0])),
        },
    }


def compare_compiled(models: Models, repeats: int) -> dict[str, Any]:
    """The compiled policies, each against the baseline that takes as many Euler steps."""
    parts = {"vlm": models.fm.vlm, "processor": models.fm.processor, "normalizer": models.fm.normalizer}
    results = {}
    for name, steps in (("fm_compiled", models.fm.steps), ("ultrafast_compiled", 1)):
        policy, seconds = built(lambda n=steps: CompiledFMPolicy(expert=models.fm.expert, steps=n, **parts))
        results[name] = {**compare_fm(models, policy, repeats), "compile_s": seconds}
    parts = {"vlm": models.vq.vlm, "processor": models.vq.processor, "normalizer": models.vq.normalizer}
    writer, seconds = built(lambda: CompiledVQPolicy(tokenizer=models.vq.tokenizer, **parts))
    results["vq_compiled"] = {**compare_vq(models, writer, repeats), "compile_s": seconds}
    return results


def built(make: Callable[[], Any]) -> tuple[Any, float]:
    """What is made, and the seconds it took."""
    began = time.perf_counter()
    return make(), time.perf_counter() - began


def floors(models: Models) -> dict[str, Any]:
    """The least milliseconds of each kind of chunk on this GPU: operations over its speed, or bytes over its bandwidth.

    A weight counts two operations a token and is read once a pass; attention and activations are left out.
    """
    device, language = models.fm.device, models.fm.vlm.model.language_model
    speed, bandwidth = matrix_speed(device), copy_bandwidth(device)
    batch = models.fm.processor.prompt(*([each] for each in models.scenes[0]))
    patches, tokens = len(batch["pixel_values"]), batch["input_ids"].shape[1]
    vision = sum(p.numel() for p in models.fm.vlm.model.visual.parameters())
    layer = sum(p.numel() for p in language.layers[0].parameters())
    expert = sum(p.numel() for p in models.fm.expert.parameters())
    depth = max(models.fm.expert.config.selected_layers)
    itemsize = next(models.fm.vlm.parameters()).itemsize

    def milliseconds(*passes: tuple[int, int, int]) -> float:
        """Of passes (weights, tokens, times)."""
        return 1e3 * sum(
            times * max(2 * weights * count / speed, weights * itemsize / bandwidth)
            for weights, count, times in passes
        )

    prompt = [(vision, patches, 1), (depth * layer, tokens, 1)]
    rows = models.fm.expert.config.num_tokens
    whole = len(language.layers) * layer
    return {
        "matrix_tflops": speed / 1e12,
        "copy_gb_s": bandwidth / 1e9,
        "fm_ms": milliseconds(*prompt, (expert, rows, models.fm.steps)),
        "ultrafast_ms": milliseconds(*prompt, (expert, rows, 1)),
        "vq_ms": milliseconds((vision, patches, 1), (whole, tokens, 1), (whole, 1, NUM_TOKENS - 1)),
    }


def matrix_speed(device: torch.device, size: int = 8192, repeats: int = 10) -> float:
    """Operations a second of a bfloat16 matrix product of random numbers."""
    a, b = torch.randn(2, size, size, device=device, dtype=torch.bfloat16)
    return 2 * size**3 / _seconds(lambda: a @ b, repeats)


def copy_bandwidth(device: torch.device, size: int = 2**31, repeats: int = 10) -> float:
    """Bytes a second, read and written, of a copy within the device."""
    a, b = torch.empty(2, size, device=device, dtype=torch.uint8)
    return 2 * size / _seconds(lambda: b.copy_(a), repeats)


def _seconds(function: Callable[[], object], repeats: int) -> float:
    function()
    torch.cuda.synchronize()
    began = time.perf_counter()
    for _ in range(repeats):
        function()
    torch.cuda.synchronize()
    return (time.perf_counter() - began) / repeats


def ratio(naive: list[dict[str, float]], lean: list[dict[str, float]]) -> dict[str, Any]:
    """Medians of both, and of how many times the lean one is faster."""
    slow, fast = medians(naive), medians(lean)
    return {"ratio": slow["total"] / fast["total"], "naive": slow, "lean": fast}


def table(results: dict[str, Any]) -> str:
    """What is printed: milliseconds of each stage, memory, ratio."""
    lines = [f"{'':26}" + "".join(f"{stage:>11}" for stage in STAGES) + f"{'weights':>11}{'working':>11}"]
    for kind in ("fm", "vq", "fm_compiled", "ultrafast_compiled", "vq_compiled"):
        for side in ("naive", "lean") if kind in results else ():
            result = results[kind]
            cells = [
                f"{1000 * result[side][stage]:11.1f}" if stage in result[side] else f"{'':11}"
                for stage in STAGES
            ]
            for name in ("weights_bytes", "working_bytes"):
                count = result.get(name, {}).get(side)
                cells.append(f"{count / 1e6:11.1f}" if count is not None else f"{'':11}")
            lines.append(f"{kind + ' ' + side:26}" + "".join(cells))
        if kind in results:
            lines.append(f"{kind} ratio {results[kind]['ratio']:.2f}")
    return "\n".join([*lines, "stages in ms, memory in MB"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", choices=[*PRESETS, "demo"], default="tiny")
    parser.add_argument("--repeats", type=int, default=7, help="medians are of so many; at least 7 to report")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "float16"], help="default: as load_policy")
    parser.add_argument("--threads", type=int, help="of torch; default: its own choice")
    parser.add_argument("--compile", action="store_true", help="the compiled policies as well")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    device = torch.device(options.device)
    if options.preset == "full" and device.type != "cuda":
        parser.error("the preset full needs a GPU: --device cuda")
    if options.repeats < 1:
        parser.error("--repeats must be 1 or more")
    if options.threads:
        torch.set_num_threads(options.threads)
    kind = options.dtype or ("bfloat16" if device.type == "cuda" else "float32")
    dtype = getattr(torch, kind)

    demo = options.preset == "demo"
    models = demo_models(device, dtype) if demo else random_models(PRESETS[options.preset], device, dtype)
    results = {
        "preset": options.preset,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": kind,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": options.repeats,
        "fm": compare_fm(models, models.fm, options.repeats),
        "vq": compare_vq(models, models.vq, options.repeats),
    }
    if device.type == "cuda":
        results["floor"] = floors(models)
    if options.compile:
        results |= compare_compiled(models, options.repeats)
    print(table(results))
    for name, value in results.get("floor", {}).items():
        print(f"floor {name}: {value:.1f}")
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(results, indent=2) + "\n")
    difference, (equal, count) = results["fm"]["max_difference"], (results["vq"]["equal"], options.repeats)
    print(f"largest difference of a chunk {difference:.1e}; tokens equal in {equal} of {count}")
    if dtype == torch.float32 and (difference > TOLERANCE or equal < count):
        sys.exit("the results differ from the baseline's: the figures are worth nothing")


if __name__ == "__main__":
    main()
