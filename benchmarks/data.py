"""Loading speed against a naive loader in the same run: webdataset, PIL decoding, augmentation in Python, as the
published training scripts have them.

    python benchmarks/data.py --json data.json

Both read the same 2,000 samples of 384 x 768 JPEG with one worker and a shuffle buffer of 1,000, each in a fresh
process; the naive loader is a torch DataLoader. Figures are samples a second after the first batch, seconds to the
first batch, and the largest resident memory of the process that loads.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
SHUFFLE = 1000
SENTENCE = "Pick up the cup."


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=2000, help="samples that are decoded")
    parser.add_argument("--augmented", type=int, default=512, help="samples that are augmented, too")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if min(options.samples, options.augmented) < 3 * BATCH:
        parser.error(f"take at least {3 * BATCH} samples")
    with tempfile.TemporaryDirectory() as folder:
        write_shards(Path(folder), options.samples)
        figures: dict[str, Any] = {}
        for name, count, augment in (
            ("decode", options.samples, False),
            ("augment", options.augmented, True),
        ):
            naive = in_a_process(measure_naive, folder, count, augment)
            ours = in_a_process(measure_ours, folder, count, augment)
            figures[name] = {
                "ratio": ours["samples_per_s"] / naive["samples_per_s"],
                "samples_per_s": ours["samples_per_s"],
                "naive_samples_per_s": naive["samples_per_s"],
                "first_batch_s": ours["first_batch_s"],
                "naive_first_batch_s": naive["first_batch_s"],
                "memory_mb": ours["memory_mb"],
                "naive_memory_mb": naive["memory_mb"],
            }
    figures["first_batch_s"] = max(figures[name]["first_batch_s"] for name in ("decode", "augment"))
    figures["memory_mb"] = max(figures[name]["memory_mb"] for name in ("decode", "augment"))
    show(figures)
    if options.json is not None:
        from rdt2.evaluation.files import write_json

        write_json(options.json, figures)


def show(figures: dict[str, Any]) -> None:
    """Print one table."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="one worker, 384 x 768 JPEG", title_justify="left")
    for name in ("", "samples/s", "naive", "ratio", "first batch (s)", "naive", "memory (MB)", "naive"):
        table.add_column(name, justify="right" if name else "left")
    for name in ("decode", "augment"):
        row = figures[name]
        table.add_row(
            name,
            f"{row['samples_per_s']:.0f}",
            f"{row['naive_samples_per_s']:.0f}",
            f"{row['ratio']:.1f}",
            f"{row['first_batch_s']:.2f}",
            f"{row['naive_first_batch_s']:.2f}",
            f"{row['memory_mb']:.0f}",
            f"{row['naive_memory_mb']:.0f}",
        )
    Console().print(table)


# ------------------------------------------------------------------------------------------------------- data


def write_shards(folder: Path, count: int) -> None:
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
    with ShardWriter(folder, samples_per_shard=max(1, count // 8)) as writer:
        for number in range(count):
            writer.write(
                picture=jpegs[number % len(jpegs)],
                action=action,
                instruction=SENTENCE,
                tokens=np.zeros(27),
                meta={"episode": number // 100},
            )


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


def measure_ours(folder: str, count: int, augment: bool) -> dict[str, float]:
    """This project's stream, with its default shuffling."""
    import cv2

    from rdt2.data import StreamingData
    from rdt2.data.augmentation import ImageCorruption

    cv2.setNumThreads(1)  # one worker is one core, as in the naive loader
    began = time.perf_counter()
    corruption = ImageCorruption(seed=0) if augment else None
    data = StreamingData(folder, batch_size=BATCH, shuffle=SHUFFLE, workers=1, corruption=corruption)
    figures = timed(iter(data), began, count)
    return {**figures, "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def measure_naive(folder: str, count: int, augment: bool) -> dict[str, float]:
    """webdataset's own decoding in a DataLoader of one worker process, which sends PIL pictures, as the published
    training scripts have it.
    """
    import torch
    import webdataset as wds

    torch.set_num_threads(1)
    began = time.perf_counter()
    shards = [str(path) for path in sorted(Path(folder).glob("*.tar"))]
    dataset = wds.WebDataset(shards, shardshuffle=len(shards)).repeat().shuffle(SHUFFLE, initial=SHUFFLE)
    dataset = dataset.decode("pil").map(_naive_augmented if augment else _naive_sample)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, num_workers=1, collate_fn=list)
    figures = timed(iter(loader), began, count)
    return {**figures, "memory_mb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024}


def timed(batches: Iterator[Any], began: float, count: int) -> dict[str, float]:
    """Seconds to the first batch, and samples a second of those that follow."""
    next(batches)
    first = time.perf_counter()
    following = count // BATCH - 1
    for _ in range(following):
        next(batches)
    seconds = time.perf_counter() - first
    del batches
    return {"first_batch_s": first - began, "samples_per_s": following * BATCH / seconds}


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
