"""How threads stand to others."""

from __future__ import annotations

import os
import threading

import pytest

from rdt2.threads import AHEAD, PREFERRED, ahead_together, hurry, prefer, preferring_what_starts


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


@pytest.mark.skipif(not hasattr(os, "getpriority"), reason="needs a system with priorities")
def test_all_threads_of_the_process_go_ahead_together() -> None:
    """Regression: a recorder that was preempted while it held Python's lock held up the servo for 15 ms."""
    over, found = threading.Event(), list[int]()
    older = threading.Thread(target=over.wait)
    older.start()

    def niceness(thread: threading.Thread) -> int:
        return os.getpriority(os.PRIO_PROCESS, thread.native_id or 0)

    def preferred() -> None:
        prefer()
        found.append(niceness(threading.current_thread()))

    before = niceness(older)
    with ahead_together():
        within = niceness(older)
        younger = threading.Thread(target=preferred)
        younger.start()
        younger.join()
    assert within in (AHEAD, before), "permitted, or left as it was"
    assert found[0] <= within, "a driver's thread that asks to be preferred falls back behind nobody"
    assert niceness(older) == niceness(threading.main_thread()) == before
    over.set()
    older.join()


@pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="needs a system with such priorities")
def test_this_thread_and_another_one_are_hurried(monkeypatch) -> None:
    hurried: list[int] = []
    monkeypatch.setattr(os, "sched_setscheduler", lambda thread, *_: hurried.append(thread))
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()
    hurry()
    hurry(thread)
    over.set()
    thread.join()
    assert hurried == [threading.get_native_id(), thread.native_id]
