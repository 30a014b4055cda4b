"""Appending: what is answered, what is stored, in which order, and what is the same event."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone

import msgspec
import pytest

from nexus.errors import Closed, IdConflict, PayloadTooLarge, UnknownTopic
from nexus.event import Event
from nexus.testing.conformance._world import World, bodies, case, ids, read_all, taken


@case
async def test_each_event_is_answered_in_its_place(world: World) -> None:
    topic = await world.topic(partitions=4)
    places = [2, 0, 3, 0, 2, 1, 1, 3]
    answers = await world.backend.append(topic, [(place, world.event()) for place in places])
    assert [answer.partition for answer in taken(answers)] == places
    assert not any(answer.duplicate for answer in taken(answers))


@case
async def test_answers_name_the_positions_that_reads_give(world: World) -> None:
    topic = await world.topic(partitions=2)
    answers = await world.append(topic, 1, world.events(20))
    given = [answer.position for answer in answers]
    found = [stored.position for stored in await read_all(world.backend, topic, 1)]
    assert given == (found if world.backend.capabilities.positions_on_append else [None] * 20)


@case
async def test_positions_rise(world: World) -> None:
    topic = await world.topic(partitions=1)
    for count in (1, 50, 3):
        await world.append(topic, 0, world.events(count))
    positions = [stored.position for stored in await read_all(world.backend, topic, 0)]
    assert positions == sorted(set(positions))
    assert len(positions) == 54


@case
async def test_order_within_a_call_is_kept(world: World) -> None:
    topic = await world.topic(partitions=3)
    batch = [(number % 3, world.event(body=b"%d" % number)) for number in range(300)]
    taken(await world.backend.append(topic, batch))
    for partition in range(3):
        assert await bodies(world.backend, topic, partition) == [b"%d" % n for n in range(300) if n % 3 == partition]


@case
async def test_order_from_call_to_call_is_kept(world: World) -> None:
    topic = await world.topic(partitions=1)
    events = world.events(30)
    for event in events:
        await world.append(topic, 0, [event])
    assert await ids(world.backend, topic, 0) == [event.id for event in events]


@case
async def test_concurrent_calls_keep_their_order(world: World) -> None:
    topic = await world.topic(partitions=2)
    await _append_concurrently(world, topic, [world.backend])


@case
async def test_concurrent_calls_of_several_backends_keep_their_order(world: World) -> None:
    topic = await world.topic(partitions=2)
    await _append_concurrently(world, topic, [world.backend, await world.open(), await world.open()])


async def _append_concurrently(world: World, topic: str, backends: list) -> None:  # type: ignore[type-arg]
    calls = [[(number % 2, world.event(body=b"%d" % call)) for number in range(40)] for call in range(24)]
    answers = await asyncio.gather(
        *(backends[number % len(backends)].append(topic, call) for number, call in enumerate(calls))
    )
    for answer in answers:
        taken(answer)
    for partition in range(2):
        stored = await read_all(world.backend, topic, partition)
        assert len(stored) == 20 * len(calls)
        for number, call in enumerate(calls):
            found = [each.event.id for each in stored if each.event.body == b"%d" % number]
            assert found == [e.id for place, e in call if place == partition]


@case
async def test_what_was_appended_can_be_read_at_once(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    for number in range(20):
        await world.append(topic, 0, [world.event(body=b"%d" % number)])
        assert (await bodies(world.backend, topic, 0))[-1] == b"%d" % number
        assert (await bodies(other, topic, 0))[-1] == b"%d" % number


@case
async def test_an_empty_batch_is_answered_with_nothing(world: World) -> None:
    assert await world.backend.append(await world.topic(), []) == []


@case
async def test_every_attribute_comes_back_as_it_was(world: World) -> None:
    topic = await world.topic(partitions=1)
    zone = timezone(timedelta(hours=5, minutes=30))
    full: Event[object] = Event(
        id="id ü 漢 🎉",
        source="/shop?a=b#c",
        type="order.placed:v1",
        time=datetime(2026, 2, 3, 4, 5, 6, 789_012, tzinfo=zone),
        key="key/🎉",
        body=bytes(range(256)),
        tenant="tenant",
        subject="subject",
        correlationid="correlation",
        causationid="cause",
        datacontenttype="application/octet-stream",
        dataschema="https://schemas/1",
        expirytime=datetime(2027, 1, 1, tzinfo=UTC),
        traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        tracestate="a=b",
        extensions={"text": "ü", "number": -(2**31), "yes": True, "no": False, "zero": 0, "one": 1},
    )
    bare = world.event("bare")
    await world.append(topic, 0, [full, bare])
    stored = [each.event for each in await read_all(world.backend, topic, 0)]
    assert stored == [full, bare]
    assert {name: type(value) for name, value in (stored[0].extensions or {}).items()} == {
        "text": str, "number": int, "yes": bool, "no": bool, "zero": int, "one": int
    }  # fmt: skip
    assert isinstance(stored[0].body, bytes)


@case
async def test_an_empty_key_is_not_the_absence_of_a_key(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, [world.event(key=""), world.event(key=None)])
    assert [each.event.key for each in await read_all(world.backend, topic, 0)] == ["", None]


@case
async def test_an_event_of_another_zone_keeps_its_instant(world: World) -> None:
    topic = await world.topic(partitions=1)
    times = [datetime(2026, 1, 1, 12, tzinfo=timezone(timedelta(hours=hours))) for hours in (-11, 0, 14)]
    await world.append(topic, 0, [world.event(time=time) for time in times])
    assert [each.event.time for each in await read_all(world.backend, topic, 0)] == times


@case
async def test_recorded_times_are_now_and_do_not_fall(world: World) -> None:
    topic = await world.topic(partitions=1)
    before = world.clock.now()
    for _ in range(5):
        await world.append(topic, 0, world.events(3))
        await world.until_later()
    recorded = [each.recorded_at for each in await read_all(world.backend, topic, 0)]
    assert recorded == sorted(recorded)
    assert before - 0.01 <= recorded[0] < recorded[-1] <= world.clock.now() + 0.01


@case
async def test_sizes_count_the_body(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, [world.event(body=b"x" * size) for size in (0, 10_000)])
    small, large = await read_all(world.backend, topic, 0)
    assert small.size > 0
    assert large.size >= 10_000


@case
async def test_the_largest_body_is_taken(world: World) -> None:
    topic = await world.topic(partitions=1)
    body = b"0123456789abcdef" * (world.backend.capabilities.max_body_bytes // 16)
    await world.append(topic, 0, [world.event(body=body), world.event("after")])
    stored = await read_all(world.backend, topic, 0)
    assert stored[0].event.body == body
    assert stored[1].event.id == "after"


@case
async def test_a_body_too_large_refuses_the_whole_call(world: World) -> None:
    topic = await world.topic(partitions=1)
    body = bytes(world.backend.capabilities.max_body_bytes + 1)
    with pytest.raises(PayloadTooLarge):
        await world.append(topic, 0, [world.event(), world.event(body=body), world.event()])
    assert await ids(world.backend, topic, 0) == []


@case
async def test_an_unknown_topic_refuses_the_whole_call(world: World) -> None:
    with pytest.raises(UnknownTopic):
        await world.backend.append(world.name("nothing"), [(0, world.event())])
    assert world.name("nothing") not in await world.backend.topics()


@case
async def test_the_same_event_again_is_a_duplicate_with_its_first_place(world: World) -> None:
    topic = await world.topic(partitions=2)
    event = world.event(body=b"1", key="k")
    (first,) = await world.append(topic, 1, [event])
    await world.append(topic, 1, world.events(3))
    for _ in range(3):
        (again,) = await world.append(topic, 1, [event])
        assert again == msgspec.structs.replace(first, duplicate=True)
    assert len(await ids(world.backend, topic, 1)) == 4


@case
async def test_a_duplicate_within_one_call_is_stored_once(world: World) -> None:
    topic = await world.topic(partitions=1)
    one, two = world.events(2)
    answers = await world.append(topic, 0, [one, two, one, one, two])
    assert [answer.duplicate for answer in answers] == [False, False, True, True, True]
    assert [answer.position for answer in answers[2:]] == [answers[at].position for at in (0, 0, 1)]
    assert await ids(world.backend, topic, 0) == [one.id, two.id]


@case
async def test_a_duplicate_is_found_in_whichever_partition_it_is(world: World) -> None:
    topic = await world.topic(partitions=3)
    event = world.event()
    (first,) = await world.append(topic, 2, [event])
    (again,) = await world.append(topic, 0, [event])
    assert (again.partition, again.position, again.duplicate) == (2, first.position, True)
    assert await ids(world.backend, topic, 0) == []


@case
async def test_a_duplicate_is_found_by_whoever_has_the_memory_of_it(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    event = world.event()
    (first,) = await world.append(topic, 0, [event])
    (again,) = taken(await other.append(topic, [(0, event)]))
    assert again.duplicate == world.one_memory
    assert await ids(world.backend, topic, 0) == [event.id] * (1 if world.one_memory else 2)
    (third,) = await world.append(topic, 0, [event])
    assert (third.position, third.duplicate) == (first.position, True)


@case
async def test_one_event_appended_by_many_at_once_is_stored_once_for_each_memory(world: World) -> None:
    topic = await world.topic(partitions=1)
    backends = [world.backend, await world.open()]
    event = world.event()
    answers = await asyncio.gather(*(backends[n % 2].append(topic, [(0, event)]) for n in range(20)))
    copies = 1 if world.one_memory else 2
    assert sorted(taken(answer)[0].duplicate for answer in answers) == [False] * copies + [True] * (20 - copies)
    assert await ids(world.backend, topic, 0) == [event.id] * copies


@case
async def test_the_same_id_of_another_source_is_another_event(world: World) -> None:
    topic = await world.topic(partitions=1)
    answers = await world.append(topic, 0, [world.event("1", source="/a"), world.event("1", source="/b", body=b"2")])
    assert not any(answer.duplicate for answer in answers)


@case
async def test_the_same_event_in_another_topic_is_another_event(world: World) -> None:
    event = world.event()
    for topic in (await world.topic("a"), await world.topic("b")):
        (answer,) = await world.append(topic, 0, [event])
        assert not answer.duplicate


@case
async def test_source_and_id_are_not_confused_when_run_together(world: World) -> None:
    topic = await world.topic(partitions=1)
    pairs = [("/a", "b/c"), ("/a/b", "c"), ("/a b", "c"), ("/a", "b c")]
    answers = await world.append(topic, 0, [world.event(id, source=source) for source, id in pairs])
    assert not any(answer.duplicate for answer in answers)


@case
async def test_published_again_with_another_time_and_trace_it_is_the_same_event(world: World) -> None:
    topic = await world.topic(partitions=1)
    await world.append(topic, 0, [world.event("1", body=b"1")])
    again = world.event("1", body=b"1", time=datetime(2027, 1, 1, tzinfo=UTC), traceparent="00-1", causationid="c")
    (answer,) = await world.append(topic, 0, [again])
    assert answer.duplicate


@pytest.mark.parametrize(
    "changed",
    [
        {"body": b"other"}, {"type": "order.changed"}, {"key": "other"}, {"key": None}, {"tenant": "other"},
        {"subject": "other"}, {"datacontenttype": "text/plain"},
    ],
    ids=lambda changed: f"{next(iter(changed))}-{next(iter(changed.values()))}",
)  # fmt: skip
@pytest.mark.parametrize("trimmed", [False, True], ids=["kept", "trimmed"])
def test_other_content_under_the_same_id_is_a_conflict(
    nexus_backend_url: str, changed: dict[str, str], trimmed: bool
) -> None:
    @case
    async def run(world: World) -> None:
        topic = await world.topic(partitions=1)
        same = {"body": b"1", "key": "k", "tenant": "t", "subject": "s"}
        await world.append(topic, 0, [world.event("1", **same)])
        if trimmed:
            await world.backend.trim(topic, 0, (await world.backend.describe(topic)).end[0])
        answers = await world.backend.append(topic, [(0, world.event("1", **same | changed))])
        assert [type(answer) for answer in answers] == [IdConflict]
        assert await ids(world.backend, topic, 0) == ([] if trimmed else ["1"])

    run(nexus_backend_url)


@case
async def test_one_conflict_among_a_hundred_leaves_the_others(world: World) -> None:
    topic = await world.topic(partitions=4)
    await world.append(topic, 3, [world.event("taken", body=b"first")])
    events = world.events(100)
    events[41] = world.event("taken", body=b"second")
    answers = await world.backend.append(topic, [(number % 4, event) for number, event in enumerate(events)])
    assert [number for number, answer in enumerate(answers) if isinstance(answer, IdConflict)] == [41]
    found = [await ids(world.backend, topic, partition) for partition in range(4)]
    found[3].remove("taken")
    assert found == [[e.id for n, e in enumerate(events) if n % 4 == p and n != 41] for p in range(4)]


@case
async def test_the_first_event_stands_after_a_conflict(world: World) -> None:
    topic = await world.topic(partitions=1)
    first = world.event("1", body=b"first")
    answers = await world.backend.append(topic, [(0, first), (0, world.event("1", body=b"second")), (0, first)])
    assert isinstance(answers[1], IdConflict)
    assert taken([answers[2]])[0].duplicate
    assert await bodies(world.backend, topic, 0) == [b"first"]


@case
async def test_a_journal_takes_the_same_event_again(world: World) -> None:
    topic = await world.topic(partitions=1, dedup=False)
    event = world.event()
    answers = await world.append(topic, 0, [event, event])
    answers += await world.append(topic, 0, [event, msgspec.structs.replace(event, body=b"other")])
    assert not any(answer.duplicate for answer in answers)
    assert len(await ids(world.backend, topic, 0)) == 4


@case
async def test_cancelled_calls_store_all_or_nothing_and_in_order(world: World) -> None:
    topic = await world.topic(partitions=1)
    sent: list[list[str]] = []
    for number in range(40):
        call = world.events(5)
        sent.append([event.id for event in call])
        task = asyncio.create_task(world.append(topic, 0, call))
        for _ in range(number % 5):
            await asyncio.sleep(0)
        if number % 2:
            task.cancel()
        await asyncio.wait([task])
    last = world.events(1)
    await world.append(topic, 0, last)
    found = await ids(world.backend, topic, 0)
    expected = [id for call in sent if call[0] in found for id in call]
    assert found == [*expected, last[0].id]
    assert all(call[0] in found for number, call in enumerate(sent) if number % 2 == 0)


@case
async def test_calls_cancelled_while_others_wait_keep_the_order_of_the_others(world: World) -> None:
    topic = await world.topic(partitions=1)
    calls = [world.events(3) for _ in range(30)]
    tasks = [asyncio.create_task(world.append(topic, 0, call)) for call in calls]
    await asyncio.sleep(0)
    for task in tasks[::3]:
        task.cancel()
    await asyncio.wait(tasks)
    found = await ids(world.backend, topic, 0)
    expected = [event.id for call in calls if call[0].id in found for event in call]
    assert found == expected
    assert all(calls[number][0].id in found for number in range(30) if number % 3)


@case
async def test_a_thousand_small_calls_at_once_are_all_stored(world: World) -> None:
    topic = await world.topic(partitions=4)
    events = world.events(1_000)
    await asyncio.gather(*(world.append(topic, number % 4, [event]) for number, event in enumerate(events)))
    for partition in range(4):
        assert await ids(world.backend, topic, partition) == [event.id for event in events[partition::4]]


@case
async def test_a_closed_backend_takes_no_event(world: World) -> None:
    topic = await world.topic(partitions=1)
    other = await world.open()
    await other.close()
    with pytest.raises(Closed):
        await other.append(topic, [(0, world.event())])
    assert await ids(world.backend, topic, 0) == []
