"""How threads stand to others."""

from __future__ import annotations

import os
import threading

import pytest

from rdt2.threads import PREFERRED, preferring_what_starts


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="needs a system with priorities")
def test_what_starts_within_is_preferred_and_nothing_after() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    def of_a_thread() -> int:
        found = list[int]()
        thread = threading.Thread(target=lambda: found.append(niceness()))
        thread.start()
        thread.join()
        return found[0]

    before = niceness()
    with preferring_what_starts():
        within = niceness()
        assert within in (PREFERRED, before), "permitted, or left as it was"
        assert of_a_thread() == within
    assert niceness() == of_a_thread() == before
