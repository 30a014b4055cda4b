"""How load is timed: not before it is there, each event counted, at the rate also when answers are late."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from nexus.bench import load
from nexus.bench.load import Backlog, Latency, in_flight, number_of, numbered_body, percentiles


class Clock:
    """A clock that the test moves."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(time, "process_time", lambda: self.now / 1_000)


def test_percentiles_are_in_milliseconds() -> None:
    assert percentiles([number / 1e3 for number in range(100, 0, -1)]) == pytest.approx({"p50_ms": 51, "p99_ms": 100})


def test_the_clock_of_a_backlog_starts_with_a_tenth(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    backlog = Backlog(1_000)
    clock.now += 60  # joining
    backlog.seen(99)
    backlog.seen()
    clock.now += 3
    backlog.seen(900)
    assert backlog.done.is_set()
    assert backlog.left == 0
    assert backlog.figures == pytest.approx({"events": 300, "cpu_us": 10 / 3})
    clock.now += 6
    backlog.finished()
    assert backlog.figures == pytest.approx({"events": 100, "cpu_us": 10})


def test_copies_do_not_move_the_end_of_a_backlog(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    backlog = Backlog(10)
    backlog.seen()
    clock.now += 9
    backlog.seen(9)
    clock.now += 9
    backlog.seen(9)
    assert backlog.figures["events"] == 1


async def test_no_more_than_so_many_are_under_way_and_each_is_published() -> None:
    under_way = most = 0
    published: list[int] = []

    async def publish(number: int) -> None:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0)
        under_way -= 1
        published.append(number)

    figures = await in_flight(2_000, publish)
    assert most == load.IN_FLIGHT
    assert sorted(published[load.WARM :]) == list(range(2_000))  # after the warm-up
    assert set(figures) == {"events", "cpu_us", "p50_ms", "p99_ms"}


async def test_a_late_answer_does_not_hold_up_the_rate_and_counts_from_when_it_was_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = Clock(monkeypatch)
    latency = Latency(10)
    due: dict[int, float] = {}
    all_published = asyncio.Event()

    async def sleep(delay_s: float) -> None:
        clock.now += max(0.0, delay_s)

    monkeypatch.setattr(load.asyncio, "sleep", sleep)

    async def publish(number: int) -> None:
        due[number] = clock.now
        if number == load.WARM + 9:
            all_published.set()
        if number >= load.WARM:
            await all_published.wait()  # the first answers come when the last event is out
        latency.arrived(number)

    figures = await latency.measure(publish)
    span_ms = 9 / load.RATE * 1e3
    assert figures["p99_ms"] == pytest.approx(span_ms)  # of the first event
    assert 0 < figures["p50_ms"] < span_ms


def test_the_number_of_an_event_travels_in_its_payload() -> None:
    body: Any = numbered_body(42)
    assert number_of(body) == 42
