"""What training waits for: batches that are ready for the model on its device, against a naive loader in the same run.

    python benchmarks/data.py --json data.json
    python benchmarks/data.py --index 10000000 --json index.json

Both loaders read the same JPEG samples (384 x 768) with one worker process and give what the VLM reads: patches, ids
and masks on the device. Ours is the one of `rdt2 train`; the naive one is webdataset with PIL, augmentation in Python
and transformers' own image processor in a torch DataLoader, as the published training scripts have it. Figures are
samples a second after the first batch, seconds to the first batch, and resident memory of a worker process.

--index: how long a start takes, and how much memory, with that many samples whose indices lie beside their shards.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 16
SHUFFLE = 1000
SENTENCE = "Pick up the cup."
RANKS = 8
SAMPLES_A_SHARD = 20_000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=1200, help="samples that are decoded")
    parser.add_argument("--augmented", type=int, default=512, help="samples that are augmented, too")
    parser.add_argument("--index", type=int, help="measure a start with so many samples instead")
    parser.add_argument("--device", default="cpu", help="where the model is: cpu or cuda")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.index is not None:
        if options.index < 1:
            parser.error("--index takes a number of samples")
        figures = {"index": measure_index(options.index)}
        show_index(figures["index"])
    else:
        if min(options.samples, options.augmented) < 3 * BATCH:
            parser.error(f"take at least {3 * BATCH} samples")
        figures = measure_loaders(options.samples, options.augmented, options.device)
        show(figures)
    if options.json is not None:
        from rdt2.files import write_json

        write_json(options.json, figures)


def measure_loaders(samples: int, augmented: int, device: str) -> dict[str, Any]:
    """All figures of both loaders, and of ours with two workers."""
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder) / "shards", samples)
        write_processor(Path(folder) / "processor")
        for name, count, augment in (("decode", samples, False), ("augment", augmented, True)):
            naive = in_a_process(measure_naive, folder, count, augment, device)
            ours = in_a_process(measure_ours, folder, count, augment, device, 1)
            figures[name] = {
                "ratio": ours["samples_per_s"] / naive["samples_per_s"],
                **ours,
                # Its worker lives on until the process ends: nobody says what memory it had.
                **{f"naive_{key}": naive[key] for key in ("samples_per_s", "first_batch_s")},
            }
        two = in_a_process(measure_ours, folder, augmented, True, device, 2)
    figures["scaling"] = two["samples_per_s"] / figures["augment"]["samples_per_s"]
    for key in ("first_batch_s", "worker_memory_mb"):
        figures[key] = max(figures[name][key] for name in ("decode", "augment"))
    return figures


def show(figures: dict[str, Any]) -> None:
    """Print one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one worker, to what the model reads", title_justify="left")
    for name in ("", "samples/s", "naive", "ratio", "first batch (s)", "naive", "worker (MB)"):
        table.add_column(name, justify="right" if name else "left")
    for name in ("decode", "augment"):
        row = figures[name]
        cells = [f"{row['samples_per_s']:.0f}", f"{row['naive_samples_per_s']:.0f}", f"{row['ratio']:.1f}"]
        cells += [f"{row['first_batch_s']:.2f}", f"{row['naive_first_batch_s']:.2f}"]
        cells.append(f"{row['worker_memory_mb']:.0f}")
        table.add_row(name, *cells)
    Console().print(table)
    Console().print(f"two workers, augmented: {figures['scaling']:.2f} x one")


def show_index(figures: dict[str, float]) -> None:
    """Print one line."""
    print(
        f"{figures['samples']:.0f} samples in {figures['shards']:.0f} shards: started in {figures['start_s']:.2f} s, "
        f"{figures['rank_gb']:.3f} GB a rank, {figures['ranks_gb']:.3f} GB for {RANKS} ranks together"
    )


# ------------------------------------------------------------------------------------------------------- data


def write_shards(folder: Path, count: int, *, shards: int = 8) -> None:
    """Shards of pictures that compress like photographs: noise of all scales, about 90 kB each."""
    from PIL import Image

    from rdt2.data import ShardWriter, encode_jpeg

    random = np.random.default_rng(0)
    jpegs = []
    for _ in range(16):
        picture = np.zeros((384, 768, 3), np.float32)
        for cells, strength in ((4, 60), (16, 30), (64, 15), (192, 8)):
            noise = random.integers(0, 255, (cells, 2 * cells, 3), dtype=np.uint8)
            scaled = Image.fromarray(noise).resize((768, 384), Image.Resampling.BICUBIC)
            picture += strength / 64 * (np.asarray(scaled, np.float32) - 128)
        jpegs.append(encode_jpeg(np.clip(picture + 128, 0, 255).astype(np.uint8)))
    action = np.zeros((24, 20), np.float32)
    action[:, [3, 7, 13, 17]] = 1
    with ShardWriter(folder, samples_per_shard=max(1, count // shards)) as writer:
        for number in range(count):
            writer.write(
                picture=jpegs[number % len(jpegs)],
                action=action,
                instruction=SENTENCE,
                tokens=np.zeros(27),
                meta={"episode": number // 100},
            )


def write_processor(folder: Path) -> None:
    """The demo's small vocabulary, and pictures processed as the published model has them."""
    import rdt2
    from rdt2.vlm import VLMProcessor
    from rdt2.vlm.images import ImageProcessor

    demo = VLMProcessor.from_pretrained(Path(rdt2.__file__).parent / "checkpoints" / "demo" / "vlm")
    VLMProcessor(demo.tokenizer, ImageProcessor()).save_pretrained(folder)


# ---------------------------------------------------------------------------------------------------- measure


def in_a_process(measure: Any, *arguments: Any) -> dict[str, float]:
    """Run a measurement in a fresh process, so that its memory is its own."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_report, args=(theirs, measure, arguments))
    process.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit(f"{measure.__name__} failed; see above.") from None
    finally:
        process.join()


def _report(pipe: Any, measure: Any, arguments: tuple[Any, ...]) -> None:
    pipe.send(measure(*arguments))


def measure_ours(folder: str, count: int, augment: bool, device: str, workers: int) -> dict[str, float]:
    """The loader of `rdt2 train vq`, with its default shuffling."""
    import torch

    from rdt2.data import TrainingData
    from rdt2.data.augmentation import ImageCorruption
    from rdt2.training.loop import keep_freed_memory
    from rdt2.training.pictures import PatchCutter
    from rdt2.vlm import VLMProcessor

    torch.set_num_threads(1)
    keep_freed_memory()  # as training does
    began = time.perf_counter()
    processor = VLMProcessor.from_pretrained(Path(folder) / "processor")
    cutter = PatchCutter(processor.images, torch.device(device))
    data = TrainingData(
        str(Path(folder) / "shards"),
        split="all",
        batch_size=BATCH,
        corruption=ImageCorruption(seed=0) if augment else None,
        cut=cutter.while_loading,
    )

    def ready() -> Iterator[dict[str, Any]]:
        steps = range(count // BATCH)
        for batch in data.batches(steps, workers=workers, pin=device == "cuda"):
            made = processor.training(cutter(batch), batch.instructions, torch.from_numpy(batch.tokens))
            yield {name: value.to(device) for name, value in made.items()}

    return timed(ready(), began, count, device)


def measure_naive(folder: str, count: int, augment: bool, device: str) -> dict[str, float]:
    """webdataset's own decoding and transformers' image processor in a DataLoader of one worker process."""
    import torch
    import webdataset as wds
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    from rdt2.vlm import VLMProcessor
    from rdt2.vlm.images import Patches

    torch.set_num_threads(1)
    began = time.perf_counter()
    processor = VLMProcessor.from_pretrained(Path(folder) / "processor")
    images = Qwen2VLImageProcessorPil.from_pretrained(Path(folder) / "processor")
    shards = [str(path) for path in sorted((Path(folder) / "shards").glob("*.tar"))]

    def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
        made = images([sample["picture"] for sample in samples], return_tensors="pt")
        tokens = torch.from_numpy(np.stack([sample["tokens"] for sample in samples]).astype(np.int64))
        patches = Patches(made["pixel_values"], made["image_grid_thw"])
        return processor.training(patches, [SENTENCE] * len(samples), tokens)

    dataset = wds.WebDataset(shards, shardshuffle=len(shards)).repeat().shuffle(SHUFFLE, initial=SHUFFLE)
    dataset = dataset.decode("pil").map(_naive_augmented if augment else _naive_sample)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=BATCH, num_workers=1, collate_fn=collate, multiprocessing_context="fork"
    )
    ready = ({name: value.to(device) for name, value in batch.items()} for batch in loader)
    return timed(ready, began, count, device)


def timed(batches: Iterator[Any], began: float, count: int, device: str) -> dict[str, float]:
    """Seconds to the first batch, samples a second of those that follow, and the memory of the workers."""
    import torch

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    next(batches)
    wait()
    first = time.perf_counter()
    following = count // BATCH - 1
    for _ in range(following):
        next(batches)
    wait()
    seconds = time.perf_counter() - first
    del batches
    return {
        "samples_per_s": following * BATCH / seconds,
        "first_batch_s": first - began,
        "worker_memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }


# ------------------------------------------------------------------------------------------------- many samples


def measure_index(samples: int) -> dict[str, float]:
    """A start of one rank, and the memory of all ranks of a machine, with indices in place."""
    with tempfile.TemporaryDirectory() as folder:
        shards = write_indices(Path(folder), samples)
        alone = in_a_process(start_of_a_rank, folder, 0, 1)
        context = multiprocessing.get_context("spawn")
        pipes = [context.Pipe() for _ in range(RANKS)]
        ranks = [
            context.Process(target=_rank, args=(theirs, folder, rank))
            for rank, (_, theirs) in enumerate(pipes)
        ]
        for process in ranks:
            process.start()
        together = sum(ours.recv() for ours, _ in pipes)
        for (ours, _), process in zip(pipes, ranks, strict=True):
            ours.send("end")
            process.join()
    return {"samples": samples, "shards": shards, **alone, "ranks_gb": together}


def _rank(pipe: Any, folder: str, rank: int) -> None:
    """Start, wait until all have started, and say how much memory is this rank's, shared pages in parts."""
    before = _proportional_gb()
    data = _started(folder, rank, RANKS)
    pipe.send(_proportional_gb() - before)
    pipe.recv()
    del data


def start_of_a_rank(folder: str, rank: int, world_size: int) -> dict[str, float]:
    """Seconds until the first batch's samples are known, and the memory that this takes, the imports of it included;
    torch is not among them."""
    before = _proportional_gb()
    began = time.perf_counter()
    data = _started(folder, rank, world_size)
    seconds = time.perf_counter() - began
    used = _proportional_gb() - before
    del data
    return {"start_s": seconds, "rank_gb": used}


def _started(folder: str, rank: int, world_size: int) -> Any:
    from rdt2.data import TrainingData

    data = TrainingData(folder, batch_size=64, rank=rank, world_size=world_size)
    numbers, _ = data.samples_of(0)
    assert all(data.index.instruction(int(number)) == SENTENCE for number in numbers)
    return data


def _proportional_gb() -> float:
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1e6
    raise SystemExit("this system does not say how much memory a process has")


def write_indices(folder: Path, samples: int) -> int:
    """Shards of nothing (holes of the right size) whose indices say that there are samples in them."""
    from rdt2.data.shards.index import SUFFIX, ShardPlaces, save_index, signature_of

    rows = min(samples, SAMPLES_A_SHARD)
    sizes = np.tile(np.array([90_000, 2048, 182, 76], np.uint32), (rows, 1))
    starts = np.arange(rows, dtype=np.uint64)[:, None] * np.uint64(100_352)
    places = ShardPlaces(
        offset=starts + np.array([512, 91_136, 93_696, 94_720], np.uint64),
        size=sizes,
        sentence=np.zeros(rows, np.uint32),
        time=np.arange(rows) % 300 / 30,
        key=np.array([f"{row:06d}" for row in range(rows)], "S6").view(np.uint8).reshape(rows, 6),
    )
    shards = -(-samples // rows)
    for number in range(shards):
        tar = folder / f"shard-{number:06d}.tar"
        tar.touch()
        os.truncate(tar, rows * 100_352)
        episodes = [(f"{number}-{first}", min(300, rows - first)) for first in range(0, rows, 300)]
        save_index(
            Path(str(tar) + SUFFIX),
            places,
            shard=signature_of(str(tar)),
            episodes=episodes,
            sentences=["cup"],
        )
    (folder / "instructions.json").write_text(f'{{"cup": "{SENTENCE}"}}')
    return shards


# ------------------------------------------------------------------------------------------- the naive loader


def _naive_sample(sample: dict[str, Any]) -> dict[str, Any]:
    return {
        "picture": sample["image.jpg"],
        "action": sample["action.npy"],
        "tokens": sample["action_token.npy"],
        "meta": sample["meta.json"],
    }


def _naive_augmented(sample: dict[str, Any]) -> dict[str, Any]:
    """A sample whose picture PIL and numpy augment."""
    picture = naive_augmentation(sample["image.jpg"], np.random.default_rng())
    return {**_naive_sample(sample), "picture": picture}


def naive_augmentation(picture: Any, random: np.random.Generator) -> Any:
    """The recipe of the corruption, operation by operation, each of its own library call."""
    from PIL import Image, ImageEnhance, ImageFilter

    strengths = ((ImageEnhance.Brightness, 0.3), (ImageEnhance.Contrast, 0.4), (ImageEnhance.Color, 0.5))
    for enhance, strength in strengths:
        picture = enhance(picture).enhance(random.uniform(1 - strength, 1 + strength))
    hsv = np.array(picture.convert("HSV"))
    hsv[..., 0] += np.uint8(round(255 * random.uniform(-0.03, 0.03)) % 256)
    picture = Image.fromarray(hsv, "HSV").convert("RGB")

    def affine(image: Any) -> Any:
        if random.random() >= 0.5:
            return image
        half = image.width // 2
        out = Image.new("RGB", image.size)
        for left in (0, half):
            part = image.crop((left, 0, left + half, image.height))
            scale, shift = random.uniform(0.98, 1.02), random.uniform(-0.02, 0.02, 2) * half
            part = part.rotate(random.uniform(-2, 2), Image.Resampling.BILINEAR)
            matrix = (1 / scale, 0, shift[0], 0, 1 / scale, shift[1])
            part = part.transform(part.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            out.paste(part, (left, 0))
        return out

    def noise(image: Any) -> Any:
        values = np.array(image, dtype=np.float64)
        sigma = 255 * random.uniform(0, 0.02)
        kind = random.integers(3)
        if kind == 0:
            values += random.normal(0, sigma, values.shape)
        elif kind == 1:
            values += random.laplace(0, sigma / np.sqrt(2), values.shape)
        else:
            values += random.poisson(sigma**2, values.shape) - sigma**2
        return Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))

    def blur(image: Any) -> Any:
        return (
            image.filter(ImageFilter.BoxBlur(int(random.integers(1, 3)))) if random.random() < 0.17 else image
        )

    def jpeg(image: Any) -> Any:
        if random.random() >= 0.4:
            return image
        stream = io.BytesIO()
        image.save(stream, "JPEG", quality=int(random.integers(50, 96)))
        return Image.open(stream).convert("RGB")

    steps = [affine, noise, blur, jpeg]
    for number in random.permutation(len(steps)):
        picture = steps[number](picture)
    return picture


if __name__ == "__main__":
    main()
