"""Where every peer has to be there (`RDT2_PEERS=all`, as in continuous integration), a test that misses one fails;
elsewhere it is skipped."""

from __future__ import annotations

import os
import re

import pytest

ON_PURPOSE = re.compile("make test-|too busy|two cores")
"""Why tests are skipped although nothing is missing."""


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    outcome = yield
    _require(outcome.get_result())


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    _require(outcome.get_result())


def _require(report) -> None:
    """Make a failure of what was skipped because something is missing."""
    if os.environ.get("RDT2_PEERS") != "all" or not report.skipped or hasattr(report, "wasxfail"):
        return
    *_, reason = report.longrepr
    if not ON_PURPOSE.search(reason):
        report.outcome = "failed"
        report.longrepr = f"{report.nodeid} cannot run here, and RDT2_PEERS=all says that it must. {reason}"
