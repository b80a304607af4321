"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

# Of what is started in the background SIGINT is ignored, under nohup SIGHUP, and so they would be in every process that
# a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

SHARED = Path(os.environ.get("RDT2_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden tensors and real recordings that lives beside the checkout."""
    if not (SHARED / "golden").is_dir():
        pytest.skip(
            f"no golden tensors at {SHARED} (set RDT2_SHARED to the folder that has golden/ and real/)"
        )
    return SHARED


@pytest.fixture(scope="session")
def golden(shared: Path) -> Path:
    """The golden tensors computed with the reference."""
    return shared / "golden"


@pytest.fixture(scope="session")
def real(shared: Path) -> Path:
    """The real recording: two shards and the published normalizer."""
    if not (shared / "real").is_dir():
        pytest.skip(f"no real recording at {shared / 'real'}")
    return shared / "real"


@pytest.fixture(scope="module")
def browser():
    """A Chromium without a window. For tests marked realtime: while it is open no other event loop can run."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="the extra 'browser' is not installed")
    with sync_api.sync_playwright() as playwright:
        places = [*map(shutil.which, ("chromium", "google-chrome")), playwright.chromium.executable_path]
        place = next((place for place in places if place and os.path.exists(place)), None)
        if place is None:
            pytest.skip("no Chromium is installed: bash scripts/browser.sh .venv/bin/python")
        opened = playwright.chromium.launch(
            executable_path=place,
            args=["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
        )
        yield opened
        opened.close()
