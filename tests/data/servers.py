"""Servers of shards for tests: a web server that knows ranges and breaks when told so, and moto's S3."""

from __future__ import annotations

import contextlib
import http.server
import logging
import re
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest


class Ranges(http.server.SimpleHTTPRequestHandler):
    """Knows ranges. The class is one server's, so that what is set on it and counted is, too."""

    breaks = 0
    """Answers that break off in the middle."""
    down = False
    """Connections are closed without an answer."""
    delay_s = 0.0
    asked: Counter[str]
    """How often each file was asked for, HEAD apart."""

    def log_message(self, *_: object) -> None:
        pass

    def handle_one_request(self) -> None:
        if self.down:
            self.close_connection = True
            return
        super().handle_one_request()

    def do_GET(self) -> None:
        time.sleep(self.delay_s)
        path = Path(self.translate_path(self.path))
        type(self).asked[path.name] += 1
        match = re.match(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if match is None or not path.is_file():
            super().do_GET()
            return
        begin, end = int(match[1]), min(int(match[2]) + 1, path.stat().st_size)
        with path.open("rb") as stream:
            stream.seek(begin)
            part = stream.read(end - begin)
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{path.stat().st_size}")
        self.end_headers()
        if path.name == "shard-000003.tar" and self.breaks > 0:
            type(self).breaks -= 1
            part = part[: len(part) // 2]
        self.wfile.write(part)


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    """As web servers have: with 5, some of 16 requests at once are dropped, and come back late."""


@contextlib.contextmanager
def web_server(folder: Path, handler: type[http.server.SimpleHTTPRequestHandler]) -> Iterator[str]:
    """The address of a web server of a folder."""

    def make(*arguments: object) -> http.server.SimpleHTTPRequestHandler:
        return handler(*arguments, directory=str(folder))  # type: ignore[arg-type]

    with _Server(("127.0.0.1", 0), make) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}"
        httpd.shutdown()


def ranges() -> type[Ranges]:
    """A handler of its own."""
    return type("Handler", (Ranges,), {"asked": Counter()})


@contextlib.contextmanager
def s3_service(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of moto's S3, which the environment names, with credentials that it takes."""
    pytest.importorskip("s3fs", reason="reading from S3 needs the extra 'remote'")
    server = pytest.importorskip("moto.server", reason="S3 without Amazon")
    import s3fs

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service = server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    service.start()
    address = "http://{}:{}".format(*service.get_host_and_port())
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "someone",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    tell_s3(address, "reset")
    tell_s3(address, "reset-auth", "inf")
    yield address
    s3fs.S3FileSystem.clear_instance_cache()
    service.stop()


def tell_s3(address: str, what: str, text: str = "") -> None:
    """Have moto forget all (reset), or let so many requests pass that no user made (reset-auth)."""
    plain = {"Content-Type": "text/plain"}
    with urllib.request.urlopen(
        urllib.request.Request(f"{address}/moto-api/{what}", text.encode(), plain), timeout=10
    ):
        pass
