"""How fast training data come over a network that takes its time, against the same shards on disk.

    python benchmarks/remote.py --json remote.json

A web server on this machine and moto's S3 service, each a process of its own that keeps connections, answer every
request 20 ms late. One worker process of the loader of `rdt2 train` reads, decodes and cuts patches; "augment" corrupts
the pictures, too, as training does. Figures are samples a second after the first batch, and milliseconds a sample that
a core was busy with the worker; the goal is a ratio of 0.8. `server_samples_per_s` is what a client that throws the
bytes away gets from each server: no loader can be faster.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import multiprocessing
import os
import re
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data import BATCH, in_a_process, timed, write_processor, write_shards

DELAY_S = 0.020
_SAMPLE = 97_000
"""Bytes of a sample of the benchmark's shards."""
_CONNECTIONS = 16
_PER_SHARD = 32
"""Samples: moto copies a whole object for each range of it, which S3 does not."""


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
            print(name, " ".join(f"{key} {value:.2f}" for key, value in sorted(row.items())))
    if options.json is not None:
        from rdt2.files import write_json

        write_json(options.json, figures)


def measure(samples: int, delay: float) -> dict[str, Any]:
    """Samples a second from disk and from the server, and the ratio."""
    figures: dict[str, Any] = {"delay_s": delay, "samples": samples}
    with tempfile.TemporaryDirectory() as folder:
        shards = Path(folder) / "shards"
        write_shards(shards, samples, shards=max(8, samples // _PER_SHARD))
        write_processor(Path(folder) / "processor")
        os.environ["RDT2_CACHE"] = str(Path(folder) / "cache")
        pattern = f"shard-{{000000..{len(list(shards.glob('*.tar'))) - 1:06d}}}.tar"
        with http_server(shards, delay) as http, s3_server(shards, delay) as s3:
            places = {"local": str(shards), "http": f"{http}/{pattern}", "s3": f"{s3}/{pattern}"}
            for name, augment in (("decode", False), ("augment", True)):
                figures[name] = {}
                for place, source in places.items():
                    row = in_a_process(measure_loader, folder, source, samples, augment)
                    figures[name] |= {f"{place}_{key}": value for key, value in row.items()}
                for place in ("http", "s3"):
                    ratio = figures[name][f"{place}_samples_per_s"] / figures[name]["local_samples_per_s"]
                    figures[name][f"{place}_ratio"] = ratio
            figures["server_samples_per_s"] = {
                "http": in_a_process(
                    measure_server, [f"{http}/{shard.name}" for shard in shards.glob("*.tar")]
                ),
                "s3": in_a_process(
                    measure_server, [signed(f"{s3}/{shard.name}") for shard in shards.glob("*.tar")]
                ),
            }
    return figures


def measure_loader(folder: str, source: str, count: int, augment: bool) -> dict[str, float]:
    """The loader of `rdt2 train vq` with one worker, to patches."""
    import torch

    from rdt2.data import TrainingData
    from rdt2.data.augmentation import ImageCorruption
    from rdt2.training.pictures import PatchCutter
    from rdt2.vlm import VLMProcessor

    torch.set_num_threads(1)
    began = time.perf_counter()
    cutter = PatchCutter(VLMProcessor.from_pretrained(Path(folder) / "processor").images, torch.device("cpu"))
    data = TrainingData(
        source,
        split="all",
        batch_size=BATCH,
        corruption=ImageCorruption(seed=0) if augment else None,
        cut=cutter.while_loading,
    )
    figures = timed(data.batches(range(count // BATCH), workers=1), began, count, "cpu")
    worker = resource.getrusage(resource.RUSAGE_CHILDREN)
    return figures | {"worker_cpu_ms": 1000 * (worker.ru_utime + worker.ru_stime) / count}


def measure_server(addresses: Sequence[str]) -> float:
    """Pieces as large as a sample that a server gives in a second, to sixteen connections."""
    import urllib3

    pool = urllib3.PoolManager(maxsize=_CONNECTIONS)

    def fetch(number: int) -> None:
        begin = _SAMPLE * (number // len(addresses) % 4)
        answer = pool.request(
            "GET",
            addresses[number % len(addresses)],
            headers={"Range": f"bytes={begin}-{begin + _SAMPLE - 1}"},
        )
        if answer.status != 206:
            raise SystemExit(f"{addresses[0]}: answered {answer.status}")

    with ThreadPoolExecutor(_CONNECTIONS) as threads:
        list(threads.map(fetch, range(_CONNECTIONS)))
        began, count = time.perf_counter(), 400
        list(threads.map(fetch, range(count)))
        return count / (time.perf_counter() - began)


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


@contextlib.contextmanager
def s3_server(folder: Path, delay: float) -> Iterator[str]:
    """The address of a bucket with the files of a folder, in a service that answers late; the environment says where
    it is, and whose."""
    with served(_serve_s3, "", delay) as port:
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "benchmark",
            "AWS_SECRET_ACCESS_KEY": "benchmark",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        import boto3

        client = boto3.client("s3")
        client.create_bucket(Bucket="benchmark")
        for file in folder.iterdir():
            client.upload_file(str(file), "benchmark", f"pick/{file.name}")
        yield "s3://benchmark/pick"


def signed(address: str) -> str:
    """The https address that an S3 address is read at."""
    import fsspec

    filesystem, path = fsspec.core.url_to_fs(address)
    return filesystem.sign(path, expiration=3600)


def _serve_s3(pipe: Any, _: str, delay: float) -> None:
    """moto's service with a delay before each answer, behind a server that keeps connections, as S3's does: moto's own
    closes each after its answer."""
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from waitress.server import create_server

    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # that requests wait is what is wanted here
    answer = DomainDispatcherApplication(create_backend_app)

    def late(environ: Any, start_response: Any) -> Any:
        time.sleep(delay)
        return answer(environ, start_response)

    server = create_server(late, listen="127.0.0.1:0", threads=2 * _CONNECTIONS)
    pipe.send(server.effective_port)
    server.run()


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
