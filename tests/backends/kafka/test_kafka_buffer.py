"""What is read ahead of one partition: each event once, in order, from any place on, within the budget."""

from __future__ import annotations

from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from nexus.backends.kafka.buffer import Budget, Buffer
from nexus.spi.backend import Want


def records(offsets: list[int], size: int = 10) -> list[Message]:
    return [Message(topic="t", partition=0, offset=at, value=b"x" * size, timestamp=(2, 0)) for at in offsets]


offsets = st.lists(st.integers(0, 60), unique=True).map(sorted)


@given(offsets, st.integers(0, 30), st.integers(1, 8), st.integers(0, 400), st.data())
def test_whatever_the_pages_each_event_comes_once_and_in_order(
    all_offsets: list[int], start: int, max_events: int, max_bytes: int, data: st.DataObject
) -> None:
    buffer = Buffer("orders", 0, start)
    waiting = records(all_offsets)
    found: list[int] = []
    position = start
    while waiting or buffer.messages:
        if waiting:
            count = data.draw(st.integers(1, len(waiting)))
            buffer.add(waiting[:count])
            waiting = waiting[count:]
        answer = buffer.take(Want("orders", 0, position, max_events), Budget(max_bytes), buffer.head)
        assert len(answer.events) <= max_events
        assert answer.next >= position
        assert answer.more == bool(buffer.messages)
        assert len(answer.events) <= 1 or sum(stored.size for stored in answer.events) <= max_bytes
        found += [stored.position for stored in answer.events]
        position = answer.next
    assert found == [at for at in all_offsets if at >= start]
    assert buffer.size_bytes == 0


@given(offsets, st.integers(0, 70))
def test_what_is_below_the_wished_place_is_left_out(all_offsets: list[int], position: int) -> None:
    buffer = Buffer("orders", 0, 0)
    if all_offsets:
        buffer.add(records(all_offsets))
    answer = buffer.take(Want("orders", 0, position, 100), Budget(1 << 20), 0)
    assert [stored.position for stored in answer.events] == [at for at in all_offsets if at >= position]
    assert answer.next == max([position, *(at + 1 for at in all_offsets)])


def test_one_budget_serves_several_partitions_and_gives_the_first_event_at_least() -> None:
    buffers = [Buffer("orders", number, 0) for number in range(3)]
    for buffer in buffers[1:]:
        buffer.add(records([0, 1, 2], 1_000))
    budget = Budget(1)
    answers = [buffer.take(Want("orders", buffer.partition, 0, 9), budget, buffer.head) for buffer in buffers]
    assert [(len(answer.events), answer.more) for answer in answers] == [(0, False), (1, True), (0, True)]


def test_an_end_that_is_not_reached_is_more() -> None:
    buffer = Buffer("orders", 0, 0)
    buffer.add(records([0, 1]))
    assert buffer.take(Want("orders", 0, 0, 9), Budget(1 << 20), 5).more
    buffer.reach(5)  # the rest are marks of transactions
    answer = buffer.take(Want("orders", 0, 2, 9), Budget(1 << 20), 5)
    assert (answer.next, answer.more) == (5, False)
