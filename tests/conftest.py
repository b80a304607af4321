"""Fixtures shared by all tests."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest

# Of what is started in the background SIGINT is ignored, under nohup SIGHUP, and so they would be in every process that
# a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

sys.path.insert(0, str(Path(__file__).parent))
import machine  # noqa: E402

STOOD_STILL = 20.0
"""Milliseconds without a core after which a test that is judged by the clock has judged the machine."""
BEGAN, WATCH = pytest.StashKey[float](), pytest.StashKey["machine.Watch"]()

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


def pytest_collection_modifyitems(config, items) -> None:
    if (
        any(item.get_closest_marker("realtime") for item in items)
        and "not realtime" not in config.option.markexpr
    ):
        config.stash[WATCH] = machine.Watch()


def pytest_unconfigure(config) -> None:
    if watch := config.stash.get(WATCH, None):
        watch.close()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item) -> None:
    item.stash[BEGAN] = time.monotonic()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A test of the clock that fails in its last try too is left out where the machine itself stood still meanwhile."""
    report = yield
    watch = item.config.stash.get(WATCH, None)
    last = getattr(item, "execution_count", 1) > (item.config.getoption("reruns", None) or 0)
    if watch and last and report.failed and item.get_closest_marker("realtime"):
        lost = watch.lost(item.stash[BEGAN])
        if lost > STOOD_STILL:
            why = f"this machine stood still for {lost:.0f} ms: nothing can be judged by its clock"
            report.outcome, report.longrepr = (
                "skipped",
                (str(item.path), item.location[1] or 0, f"Skipped: {why}"),
            )
    return report
