"""What servers log: whole lines of JSON, and nobody waits for whoever reads them."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

LOGS = """
import logging
from rdt2.serving import logs
logs.WAITING, logs.ENDING = {waiting}, 20.0
logs.log_to_stderr()
log = logging.getLogger("rdt2.serving.some")
for number in range(3000):
    log.info("event %d", number, extra={{"number": number, "words": 100 * "x"}})
print("logged", flush=True)
try:
    raise ValueError("wrong")
except ValueError:
    log.exception("failed", extra={{"device": "left arm"}})
"""


def logged(waiting):
    """What is on stderr after all was logged while nobody read it."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(
        [sys.executable, "-c", LOGS.format(waiting=waiting)], **pipes, text=True
    ) as process:
        end = threading.Timer(60, process.kill)
        end.start()
        try:
            assert process.stdout.readline() == "logged\n"  # more than a pipe holds
            lines = [json.loads(line) for line in process.stderr]
            assert process.wait(20) == 0
        finally:
            end.cancel()
            process.kill()
    return lines


def test_a_stderr_that_nobody_reads_holds_up_nobody_and_all_is_read_in_the_end():
    """Regression: whoever logged, and then all others who did, waited for the reader of a pipe that was full."""
    lines = logged(waiting=10_000)
    assert [line["number"] for line in lines[:-1]] == list(range(3000))
    assert lines[0].keys() == {"time", "level", "event", "number", "words"}
    assert (lines[0]["level"], lines[0]["event"]) == ("info", "event 0")
    failed = lines[-1]
    assert (failed["level"], failed["event"], failed["device"]) == ("error", "failed", "left arm")
    assert failed["traceback"].startswith("Traceback")
    assert failed["traceback"].endswith("ValueError: wrong")


def test_what_nobody_reads_is_dropped_in_the_end():
    lines = logged(waiting=100)
    assert 100 <= len(lines) < 3000
    assert [line["number"] for line in lines[:100]] == list(range(100))
