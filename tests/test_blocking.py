"""The bus for programs without a loop: from many threads, and before and after its time."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from nexus import BlockingNexus, Closed
from nexus.runtime.publisher import Receipt


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads take turns as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


def test_publishing_outside_of_with_says_closed() -> None:
    bus = BlockingNexus("memory://")
    event = bus.event("order.placed")
    with pytest.raises(Closed, match="not open"):
        bus.publish(event)
    with bus:
        assert bus.publish(event).id == event.id
    with pytest.raises(Closed, match="not open"):
        bus.publish("order.placed")
    with pytest.raises(Closed, match="not open"):
        bus.publish_many([event])


def test_ids_made_in_many_threads_are_distinct(hasty: None) -> None:
    with BlockingNexus("memory://") as bus, ThreadPoolExecutor(8) as threads:

        def ids(publishes: bool) -> list[str]:
            if publishes:
                return [bus.publish("order.placed").id for _ in range(200)]
            return [bus.event("order.placed").id for _ in range(5_000)]

        made = [id for part in threads.map(ids, [False, True] * 4) for id in part]
    assert len(made) == len(set(made)) == 4 * 5_200


def test_who_publishes_while_the_bus_closes_has_a_receipt_or_is_told(hasty: None) -> None:
    told: list[Closed] = []
    receipts: list[Receipt] = []

    def publish(bus: BlockingNexus, started: threading.Event) -> None:
        try:
            while True:
                receipts.append(bus.publish("order.placed"))
                started.set()
        except Closed as closed:
            told.append(closed)

    for _ in range(10):
        with BlockingNexus("memory://") as bus:
            begun = [threading.Event() for _ in range(4)]
            threads = [threading.Thread(target=publish, args=(bus, event), daemon=True) for event in begun]
            for thread in threads:
                thread.start()
            for event in begun:
                assert event.wait(10)
        for thread in threads:
            thread.join(10)
            assert not thread.is_alive()
    assert len(told) == 40
    assert len({receipt.id for receipt in receipts}) == len(receipts)
