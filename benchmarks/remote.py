"""How fast training data come over a network that takes its time, against the same shards on disk.

    python benchmarks/remote.py --json remote.json

A web server on this machine answers every request 20 ms late. One worker process of the loader of `rdt2 train` reads,
decodes and cuts patches; "augment" corrupts the pictures, too, as training does. Figures are samples a second after the
first batch; the goal is a ratio of 0.8.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data import BATCH, in_a_process, timed, write_processor, write_shards

DELAY_S = 0.020


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=800, help="samples that are read")
    parser.add_argument("--delay", type=float, default=DELAY_S, help="seconds added to every request")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    if options.samples < 3 * BATCH:
        parser.error(f"take at least {3 * BATCH} samples")
    figures = measure(options.samples, options.delay)
    for name, row in figures.items():
        if isinstance(row, dict):
            print(name, " ".join(f"{key} {value:.2f}" for key, value in row.items()))
    if options.json is not None:
        from rdt2.evaluation.files import write_json

        write_json(options.json, figures)


def measure(samples: int, delay: float) -> dict[str, Any]:
    """Samples a second from disk and from the server, and the ratio."""
    figures: dict[str, Any] = {"delay_s": delay, "samples": samples}
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        write_shards(shards, samples)
        write_processor(Path(folder) / "processor")
        os.environ["RDT2_CACHE"] = str(Path(folder) / "cache")
        for name, augment in (("decode", False), ("augment", True)):
            local = in_a_process(measure_loader, folder, str(shards), samples, augment)
            figures[name] = {"local_samples_per_s": local["samples_per_s"]}
            with http_server(shards, delay) as url:
                there = in_a_process(measure_loader, folder, url, samples, augment)
            figures[name] |= {
                "http_samples_per_s": there["samples_per_s"],
                "http_first_batch_s": there["first_batch_s"],
                "http_ratio": there["samples_per_s"] / local["samples_per_s"],
            }
    return figures


def measure_loader(folder: str, source: str, count: int, augment: bool) -> dict[str, float]:
    """The loader of `rdt2 train vq` with one worker, to patches."""
    import torch

    from rdt2.data import TrainingData
    from rdt2.data.augmentation import ImageCorruption
    from rdt2.data.shards.remote import is_url
    from rdt2.training.pictures import PatchCutter
    from rdt2.vlm import VLMProcessor

    torch.set_num_threads(1)
    if is_url(source):
        source = f"{source}/shard-{{000000..{len(list(Path(folder, 'shards').glob('*.tar'))) - 1:06d}}}.tar"
    began = time.perf_counter()
    cutter = PatchCutter(VLMProcessor.from_pretrained(Path(folder) / "processor").images, torch.device("cpu"))
    data = TrainingData(
        source,
        split="all",
        batch_size=BATCH,
        corruption=ImageCorruption(seed=0) if augment else None,
        cut=cutter.while_loading,
    )
    return timed(data.batches(range(count // BATCH), workers=1), began, count, "cpu")


@contextlib.contextmanager
def http_server(folder: Path, delay: float) -> Iterator[str]:
    """The address of a server of a folder that knows ranges and answers late."""
    with served(_serve_files, str(folder), delay) as port:
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def served(serve: Any, folder: str, delay: float) -> Iterator[int]:
    """A server in a process of its own; its port."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    process = multiprocessing.get_context("spawn").Process(
        target=serve, args=(theirs, folder, delay), daemon=True
    )
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve_files(pipe: Any, folder: str, delay: float) -> None:
    class Files(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *_: Any) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer(body=False)

        def do_GET(self) -> None:
            self._answer(body=True)

        def _answer(self, *, body: bool) -> None:
            time.sleep(delay)
            path = Path(folder) / Path(self.path).name
            if not path.is_file():
                self.send_error(404)
                return
            size = path.stat().st_size
            told = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
            first, last = (int(told[1]), min(int(told[2] or size - 1), size - 1)) if told else (0, size - 1)
            self.send_response(206 if told else 200)
            self.send_header("Accept-Ranges", "bytes")
            self.send_header("Content-Length", str(last + 1 - first))
            if told:
                self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
            self.end_headers()
            if body:
                with path.open("rb") as stream:
                    stream.seek(first)
                    self.wfile.write(stream.read(last + 1 - first))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Files)
    pipe.send(server.server_address[1])
    server.serve_forever()


if __name__ == "__main__":
    main()
