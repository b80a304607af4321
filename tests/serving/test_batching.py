"""The line in front of a policy: batches, order, bounds and deadlines, with an engine whose time is known."""

from __future__ import annotations

import asyncio
import time

import pytest
from standing_in import observation, still

from rdt2.action import ActionChunk
from rdt2.errors import ServingError
from rdt2.serving.batching import Pace, Queue
from rdt2.serving.requests import Request

CHUNK = ActionChunk(still)


class Fixed:
    """Takes `base` seconds a batch and `each` a request."""

    slots, ready_in, restarts, about, hang_seconds = 1, 0.0, 0, {}, 60.0

    def __init__(self, base=0.03, each=0.0, slots=1, measured=None):
        self.base, self.each, self.slots = base, each, slots
        self.measured = measured or {1: base + each, 8: base + 8 * each}
        self.batches = []

    async def compute(self, requests, seeds):
        self.batches.append([request.seed for request in requests])
        await asyncio.sleep(self.base + self.each * len(requests))
        return [CHUNK] * len(requests)


def request(number, deadline=None):
    return Request(observation(), seed=number, deadline=deadline)


def run(scenario, engine, **options):
    async def whole():
        queue = Queue(engine, max_batch=options.pop("max_batch", 8), **options)
        try:
            return await scenario(queue)
        finally:
            await queue.close()

    return asyncio.run(whole())


async def asked(queue, number, deadline=None):
    return await queue.ask(request(number, deadline), time.monotonic())


def test_a_request_waits_for_the_one_being_computed_and_for_its_own():
    engine = Fixed(0.1)

    async def scenario(queue):
        first = asyncio.create_task(asked(queue, 0))
        await asyncio.sleep(0.005)
        return await asyncio.gather(first, *(asked(queue, number) for number in range(1, 6)))

    answers = run(scenario, engine)
    assert engine.batches == [[0], [1, 2, 3, 4, 5]]
    assert [answer.batch for answer in answers] == [1, 5, 5, 5, 5, 5]


def test_the_line_is_taken_in_order_and_batches_are_bounded():
    engine = Fixed(0.005)

    async def scenario(queue):
        await asyncio.gather(*(asked(queue, number) for number in range(10)))

    run(scenario, engine, max_batch=4)
    assert [number for batch in engine.batches for number in batch] == list(range(10))
    assert max(map(len, engine.batches)) == 4


def test_all_are_served_as_often():
    engine = Fixed(0.002)

    async def scenario(queue):
        until = time.monotonic() + 0.3
        counts = [0] * 6

        async def client(number):
            while time.monotonic() < until:
                await asked(queue, number)
                counts[number] += 1

        await asyncio.gather(*(client(number) for number in range(6)))
        return counts

    counts = run(scenario, engine, max_batch=2)
    assert min(counts) > 0
    assert max(counts) / min(counts) < 1.2


def test_a_full_line_refuses_and_says_how_long_it_is():
    async def scenario(queue):
        waiting = []
        for number in range(4):
            waiting.append(asyncio.create_task(asked(queue, number)))
            await asyncio.sleep(0.002)
        with pytest.raises(ServingError, match="3 requests wait already") as told:
            await asked(queue, 9)
        await asyncio.gather(*waiting)
        return told.value

    error = run(scenario, Fixed(0.1), max_batch=1, max_queue=3)
    assert error.reason == "busy"
    assert 0.2 < error.queue_seconds <= 0.4


def test_what_cannot_be_answered_in_time_is_refused_at_once_and_computed_never():
    engine = Fixed(0.4)

    async def scenario(queue):
        first = asyncio.create_task(asked(queue, 0))
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        with pytest.raises(
            ServingError, match=r"the deadline is 0\.6 s, waiting takes about 0\.[23]"
        ) as told:
            await asked(queue, 1, deadline=0.6)
        assert time.perf_counter() - began < 0.2
        in_time = await asked(queue, 2, deadline=5)
        await first
        return told.value, in_time

    error, in_time = run(scenario, engine)
    assert error.reason == "late"
    assert 0.2 < error.queue_seconds < 0.4
    assert in_time.seed == 2
    assert engine.batches == [[0], [2]]


def test_a_batch_is_no_larger_than_its_deadlines_allow():
    """Three together take 325 ms, two 225: the first has 300."""
    engine = Fixed(0.025, each=0.1)

    async def scenario(queue):
        return await asyncio.gather(
            asked(queue, 0, deadline=0.3), *(asked(queue, number) for number in range(1, 4))
        )

    assert len(run(scenario, engine)) == 4
    assert len(engine.batches[0]) == 2


def test_nothing_is_computed_for_a_client_that_has_gone():
    engine = Fixed(0.3)

    async def scenario(queue):
        first = asyncio.create_task(asked(queue, 0))
        await asyncio.sleep(0.005)
        gone = asyncio.create_task(asked(queue, 1))
        await asyncio.sleep(0.005)
        gone.cancel()
        await asyncio.gather(first, asked(queue, 2))

    run(scenario, engine)
    assert engine.batches == [[0], [2]]


def test_two_policies_compute_two_batches_at_a_time():
    engine = Fixed(0.2, slots=2)

    async def scenario(queue):
        began = time.perf_counter()
        await asyncio.gather(*(asked(queue, number) for number in range(2)))
        return time.perf_counter() - began

    assert run(scenario, engine, max_batch=1) < 0.35


def test_who_waits_when_the_server_stops_is_told():
    async def scenario(queue):
        waiting = [asyncio.create_task(asked(queue, number)) for number in range(2)]
        await asyncio.sleep(0.01)
        await queue.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    errors = run(scenario, Fixed(1.0), max_batch=1)
    assert [error.reason for error in errors] == ["stopping", "stopping"]


def test_the_pace_is_learned():
    pace = Pace({1: 0.1, 8: 0.24})
    assert pace.expected(4) == pytest.approx(0.16)
    assert pace.expected(16) == pytest.approx(0.48)
    for _ in range(50):
        pace.learn(1, 0.2)
    assert pace.expected(1) == pytest.approx(0.2, rel=0.01)
    assert Pace().expected(3) == 0


def test_one_slow_batch_is_no_pace():
    pace = Pace({1: 0.1, 8: 0.24})
    for size in (1, 3, 8):
        pace.learn(size, 5.0)
    assert pace.expected(1) == 0.1
    assert pace.expected(3) == pytest.approx(0.14)
    assert pace.expected(8) == 0.24
    for _ in range(4):
        pace.learn(8, 5.0)
    assert pace.expected(8) == 5.0, "it is that slow"
    for _ in range(15):
        pace.learn(1, 0.1)
    assert pace.expected(8) == 0.24, "nothing so large was computed since: it is to be tried again"


def test_a_policy_that_was_slow_is_asked_again():
    """regression: after one slow batch all who had a deadline were refused for ever, and nothing was learned."""
    engine = Fixed(0.3)

    async def scenario(queue):
        for number in range(2):
            await asked(queue, number)
        engine.base = 0.01
        return [await asked(queue, number, deadline=0.2) for number in range(4)]

    answers = run(scenario, engine)
    assert [answer.seed for answer in answers] == [0, 1, 2, 3]


def test_who_comes_behind_one_that_is_tried_is_refused_all_the_same():
    async def scenario(queue):
        tried = asyncio.create_task(asked(queue, 0, deadline=0.1))
        await asyncio.sleep(0.01)
        began = time.perf_counter()
        with pytest.raises(ServingError, match="no answer in time"):
            await asked(queue, 1, deadline=0.1)
        assert time.perf_counter() - began < 0.05
        with pytest.raises(ServingError, match="no answer in time"):
            await tried

    engine = Fixed(0.4)
    run(scenario, engine)
    assert engine.batches == [[0]]


def test_nothing_is_learned_of_a_batch_that_was_computed_one_by_one():
    class Split(Fixed):
        async def compute(self, requests, seeds):
            await super().compute(requests, seeds)
            return [CHUNK] * (len(requests) - 1) + [ServingError("refused")]

    async def scenario(queue):
        for _ in range(4):
            with pytest.raises(ServingError, match="refused"):
                await asyncio.gather(*(asked(queue, number) for number in range(8)))
        return queue.pace.expected(8), queue.pace.expected(7)

    assert run(scenario, Split(0.01, measured={1: 0.5, 8: 0.5})) == (0.5, 0.5)


def test_a_batch_that_is_overdue_is_expected_to_take_as_long_again():
    """regression: before a policy that hung, the line was said to be empty."""
    engine = Fixed(0.5, measured={1: 0.01, 8: 0.01})

    async def scenario(queue):
        first = asyncio.create_task(asked(queue, 0))
        await asyncio.sleep(0.2)
        assert queue.wait_seconds() == pytest.approx(0.2, abs=0.05)
        with pytest.raises(ServingError, match="no answer in time") as told:
            await asked(queue, 1, deadline=0.1)
        engine.hang_seconds = 0.25
        assert queue.wait_seconds() < 0.06, "then it is given up"
        await first
        return told.value

    assert run(scenario, engine).queue_seconds >= 0.19
