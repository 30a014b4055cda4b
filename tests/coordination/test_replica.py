"""A journal comes to the same fold wherever it was cut off, whatever snapshots stand in it, and whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nexus.clock import SYSTEM_CLOCK
from nexus.coordination import replica
from nexus.coordination.replica import Replica
from nexus.errors import NexusError, PayloadTooLarge, Unavailable
from nexus.event import Event
from nexus.spi.backend import Appended, Slice, Stored, TopicSpec, Want
from nexus.spi.log import Log, LogCapabilities, LogState


class Say(msgspec.Struct, frozen=True, tag="say"):
    word: int
    weight: bytes = b""


class Snapshot(msgspec.Struct, frozen=True, tag="snapshot"):
    through: int
    words: list[int]


decoder = msgspec.msgpack.Decoder(Say | Snapshot)


class Words:
    """A fold that shows every record that is missing, out of order, or folded in twice."""

    def __init__(self) -> None:
        self.words: list[int] = []

    def apply(self, record: Say, at: float) -> int:
        self.words.append(record.word)
        return len(self.words)

    def snapshot(self, through: int) -> Snapshot:
        return Snapshot(through, list(self.words))

    def restore(self, snapshot: Snapshot) -> None:
        self.words = list(snapshot.words)


class Paper(Log):
    """A journal in memory, whose broker cuts it off or fails in the middle of a reader's pages."""

    def __init__(self, *, trim: bool = True, page: int = 1_000, body: int = 1 << 20, kept: int = 1 << 40) -> None:
        """``body``: what an event takes at most; ``kept``: bytes of bodies beyond which the oldest go."""
        self.name = "paper"
        self.capabilities = LogCapabilities("none", True, trim, body)
        self.kept = kept
        self.events: list[Event[object]] = []
        self.first = 0
        self.page = page
        self.before_read: Callable[[int], None] = lambda number: None
        """Called before each page, with its number."""
        self.reads = 0
        self.handed_out = 0
        self.created: list[TopicSpec] = []
        self.snapshots: list[tuple[int, int]] = []
        """Where they stand, and where the records begin that are not in them."""

    async def create(self, topic: TopicSpec) -> None:
        self.created.append(topic)

    async def describe(self, topic: str) -> LogState:
        return LogState((self.first,), (len(self.events),), 0, "memory")

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        if any(len(event.body) > self.capabilities.max_body_bytes for _, event in batch):
            raise PayloadTooLarge("an event is over the limit")
        self.events += [event for _, event in batch]
        while sum(len(event.body) for event in self.events[self.first :]) > self.kept:
            self.first += 1
        return [Appended(0, len(self.events) - len(batch) + at) for at in range(len(batch))]

    async def read(self, wants: Sequence[Want], max_bytes: int, *, fresh: bool) -> list[Slice]:
        self.reads += 1
        self.before_read(self.reads)
        (want,) = wants
        start = max(want.position, self.first)
        end = min(len(self.events), start + self.page)
        self.handed_out += end - start
        events = [Stored(at, 0.0, 1, self.events[at]) for at in range(start, end)]
        trimmed = self.first if want.position < self.first else None
        return [Slice(want.topic, 0, events, max(start, end), end < len(self.events), trimmed)]

    async def trim(self, topic: str, partition: int, before: int) -> None:
        if self.capabilities.trim:
            self.first = max(self.first, before)


def follower(log: Paper, folded: Callable[[Any, Any], None] = lambda record, answer: None) -> Replica[Words]:
    return Replica(
        log, "journal", Words(), decoder.decode, msgspec.msgpack.encode, Snapshot, SYSTEM_CLOCK, folded
    )  # fmt: skip


def filled(log: Paper, lags: Sequence[int | None]) -> list[int]:
    """Write a record for each None, and else a snapshot that was made so many places ago; return the words."""
    writer = follower(log)
    words: dict[int, int] = {}
    for lag in lags:
        at = len(log.events)
        if lag is None:
            words[at] = at
            log.events.append(writer._event(Say(at)))
        else:
            through = max(-1, at - 1 - lag)
            log.events += writer._events(Snapshot(through, [word for place, word in words.items() if place <= through]))
            log.snapshots.append((at, through + 1))
    return list(words.values())


def cuts(log: Paper) -> list[int]:
    """Where the journal may begin: a snapshot above reaches back to it."""
    places = range(1, len(log.events))
    return [0, *(cut for cut in places if any(at >= cut and begin >= cut for at, begin in log.snapshots))]


journals = st.lists(st.one_of(st.none(), st.none(), st.integers(0, 4)), max_size=40)


@settings(max_examples=200, deadline=None)
@given(journals, st.data())
def test_the_fold_is_the_same_from_wherever_the_journal_begins(lags: list[int | None], data: st.DataObject) -> None:
    log = Paper(trim=data.draw(st.booleans(), "trim"), page=data.draw(st.integers(1, 6), "page"))
    with pytest.MonkeyPatch.context() as patch:
        if data.draw(st.booleans(), "in parts"):
            log.capabilities = msgspec.structs.replace(log.capabilities, max_body_bytes=50)
            patch.setattr(replica, "_ATTRIBUTES_BYTES", 45)
        words = filled(log, lags)
    log.capabilities = msgspec.structs.replace(log.capabilities, max_body_bytes=1 << 20)
    where = cuts(log)
    log.first = data.draw(st.sampled_from(where), "cut off")
    later = data.draw(st.dictionaries(st.integers(1, 12), st.sampled_from(where), max_size=2), "cut off at pages")
    failing = data.draw(st.sets(st.integers(1, 12), max_size=3), "failing at pages")

    def before_read(number: int) -> None:
        log.first = max(log.first, later.get(number, 0))
        if number in failing:
            raise Unavailable("the broker is away")

    log.before_read = before_read

    async def run() -> None:
        one = follower(log)
        for _ in range(len(failing) + 1):
            try:
                await one.refresh()
                break
            except Unavailable:
                continue
        assert one.fold.words == words
        assert await one.submit(Say(-1)) == len(words) + 1

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(replica, "SNAPSHOT_EVERY", data.draw(st.integers(1, 8), "distance"))
        patch.setattr(replica, "_FOLD_EVENTS", data.draw(st.integers(1, 4), "folded in at once"))
        asyncio.run(run())


@pytest.mark.parametrize("lag", [0, 3])
async def test_a_snapshot_that_does_not_reach_back_far_enough_is_passed_over(lag: int) -> None:
    log = Paper(page=1)
    words = filled(log, [None, None, None, None, lag, 0])
    log.first = 3
    one = follower(log)
    await one.refresh()
    assert one.fold.words == words


async def test_a_journal_that_is_cut_again_while_a_snapshot_is_looked_for_is_begun_again() -> None:
    log = Paper(page=1)
    words = filled(log, [None, None, None, None, 3, 0])
    log.first = 1

    def cut(number: int) -> None:
        log.first = 3 if number > 1 else 1  # the snapshot that reached back no longer does

    log.before_read = cut
    one = follower(log)
    await one.refresh()
    assert one.fold.words == words


async def test_a_reader_that_is_cancelled_folds_nothing_in_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "_FOLD_EVENTS", 2)
    log = Paper(page=7)
    words = filled(log, [None] * 30)
    for turns in range(20):
        one = follower(log)
        reading = asyncio.create_task(one.refresh())
        for _ in range(turns):
            await asyncio.sleep(0)
        reading.cancel()
        await asyncio.wait([reading])
        await one.refresh()
        assert one.fold.words == words


async def test_a_long_journal_is_begun_near_its_end() -> None:
    log = Paper(trim=False)
    every = replica.SNAPSHOT_EVERY
    words = filled(log, ([None] * every + [0]) * 20)
    one = follower(log)
    await one.refresh()
    assert one.fold.words == words
    assert log.handed_out <= 3 * every


async def test_a_long_journal_without_snapshots_near_its_end_is_read_from_the_beginning() -> None:
    log = Paper(trim=False)
    words = filled(log, [None] * 5 * replica.SNAPSHOT_EVERY)
    one = follower(log)
    await one.refresh()
    assert one.fold.words == words


async def test_others_have_their_turn_while_a_journal_is_read() -> None:
    log = Paper()
    words = filled(log, [None] * 5_000)
    at_once = most = 0

    def folded(record: Any, answer: Any) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)

    one = follower(log, folded)
    reading = asyncio.create_task(one.refresh())
    while not reading.done():
        at_once = 0
        await asyncio.sleep(0)
    assert one.fold.words == words
    assert most <= replica._FOLD_EVENTS


async def test_a_snapshot_that_is_refused_is_told_once_for_each_reason(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replica, "SNAPSHOT_EVERY", 5)
    log = Paper()
    plain = log.append
    error: NexusError = PayloadTooLarge("1,200,000 bytes are over the limit")

    async def refuse(topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        if isinstance(decoder.decode(batch[0][1].body), Snapshot):
            raise error
        return await plain(topic, batch, dedup=dedup)

    log.append = refuse  # type: ignore[method-assign]
    one = follower(log)
    await one.refresh()
    for number in range(20):
        assert await one.submit(Say(number)) == number + 1
    assert caplog.messages == ["journal is not made short, and grows: 1,200,000 bytes are over the limit"]
    error = Unavailable("the broker is away")
    for number in range(20, 40):
        assert await one.submit(Say(number)) == number + 1
    assert caplog.messages[1:] == ["journal is not made short, and grows: the broker is away"]
    assert log.first == 0
    log.append = plain  # type: ignore[method-assign]
    for number in range(40, 60):
        await one.submit(Say(number))
    assert log.first > 0
    assert one.fold.words == list(range(60))


async def test_a_snapshot_that_is_larger_than_an_event_may_be_is_written_in_parts(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(replica, "SNAPSHOT_EVERY", 50)
    log = Paper(body=replica._ATTRIBUTES_BYTES + 50, page=10)
    one, two = follower(log), follower(log)
    for number in range(500):
        await (one, two)[number % 2].submit(Say(number))
    assert sum(event.type == replica.PART_TYPE for event in log.events) > 50
    assert log.first > 300
    late = follower(log)
    await late.refresh()
    await one.refresh()
    assert late.fold.words == one.fold.words == list(range(500))
    assert caplog.messages == []


async def test_parts_of_which_some_are_missing_are_passed_over() -> None:
    pieces = replica.Pieces()
    add = pieces.add
    assert [add(replica.Part("a", number, 3, b"%d" % number)) for number in (0, 1, 2)] == [None, None, b"012"]
    assert [add(replica.Part("b", number, 3, b"")) for number in (1, 2)] == [None, None]
    assert [add(replica.Part("c", number, 3, b"")) for number in (0, 2, 1)] == [None, None, None]
    assert [add(replica.Part("d", number, 2, b"%d" % number)) for number in (0, 0, 1)] == [None, None, b"01"]
    for number in range(100):  # of writers that died
        add(replica.Part(f"e{number}", 0, 2, b""))
    assert len(pieces._pieces) == replica._IN_PARTS


async def test_only_a_broker_that_cannot_forget_on_request_is_asked_to_by_size() -> None:
    for trim, kept in ((True, None), (False, replica.KEPT_BYTES)):
        log = Paper(trim=trim)
        await follower(log).create()
        assert log.created == [TopicSpec("journal", 1, retention_bytes=kept, dedup=False)]


@pytest.mark.parametrize("seed", range(10))
async def test_a_broker_that_forgets_by_size_always_keeps_a_snapshot(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    log = Paper(trim=False, kept=20_000)
    assert replica.KEPT_BYTES >= 8 * replica.SNAPSHOT_BYTES
    monkeypatch.setattr(replica, "SNAPSHOT_BYTES", log.kept // 8)
    plain = log.append

    async def append(topic: str, batch: Sequence[tuple[int, Event[object]]], *, dedup: bool) -> list[Appended]:
        if isinstance(decoder.decode(batch[0][1].body), Snapshot) and random.random() < 0.2:
            raise Unavailable("the broker is away")
        return await plain(topic, batch, dedup=dedup)

    log.append = append  # type: ignore[method-assign]
    writers = [follower(log) for _ in range(3)]
    for number in range(300):
        await random.choice(writers).submit(Say(number, bytes(random.randrange(600))))
        late = follower(log)
        await late.refresh()
        assert late.fold.words == list(range(number + 1))
    assert log.first > 100


async def test_a_journal_whose_beginning_is_lost_says_so(caplog: pytest.LogCaptureFixture) -> None:
    log = Paper()
    filled(log, [None] * 10)
    log.first = 4
    one = follower(log)
    await one.refresh()
    assert one.fold.words == [4, 5, 6, 7, 8, 9]
    assert caplog.messages == ["journal begins at position 4, and no snapshot reaches back to it"]
