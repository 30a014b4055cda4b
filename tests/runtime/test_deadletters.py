"""Dead letters through a parking topic that was trimmed, carried and checkpointed."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nexus import Context, Event, InvalidEvent, Nexus, Park, Retry
from nexus.errors import UnknownGroup
from nexus.runtime import deadletters, upkeep
from nexus.runtime.deadletters import NotDead
from nexus.testing.clock import VirtualClock


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def test_a_dead_letter_survives_checkpoints_and_is_carried_when_the_start_is_trimmed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_AFTER", 8)
    monkeypatch.setattr(upkeep, "CARRY_BEHIND", 16)
    bus = Nexus("memory://", settings={"topics": {"events": {"partitions": 1}}, "settle_interval": "5ms"})
    healed = False
    handled: list[str] = []

    @bus.on("order.*", group="g", retry=Retry(2, base_s=0.0))
    async def handle(event: Event[Any], context: Context) -> Park | None:
        if event.key == "bad" and not healed:
            raise ValueError("no")
        if event.key == "flaky" and context.attempt == 1:
            return Park(0.0)
        handled.append(event.data)
        return None

    async with bus:
        await bus.publish("order.bad", "lost and found", key="bad")
        stats = bus.consumer("g").stats
        await until(lambda: stats.dead == 1)
        for number in range(60):
            await bus.publish("order.flaky", number, key="flaky")
            await until(lambda number=number: number in handled)
        await until(lambda: bus.consumer("g")._partitions["events", 0].trimmed_to > 4)
        letter = await bus.dead_letters.first("g")
        assert letter.event.data == "lost and found"
        assert letter.attempts == 2
        assert [attempt.error.splitlines()[0] for attempt in letter.history] == ["ValueError: no"] * len(letter.history)
        first = (await bus.backend.describe("events.g.park")).first[0]
        assert first > 4, "the start is gone, and the letter is not"
        healed = True
        assert await bus.dead_letters.requeue(letter)
        assert not await bus.dead_letters.requeue(letter), "the second of two requeues comes too late"
        await until(lambda: "lost and found" in handled)
        assert await bus.dead_letters.all("g") == []


async def test_ids_that_name_nothing_are_not_found() -> None:
    bus = Nexus("memory://", settings={})
    bus.on("order.*", group="g")(_ignore)
    async with bus:
        for id in ("g/events/0/1", "g/events/99/1", "g/nothing/0/1", "x/events/0/0", "nonsense", "a/b/c/d"):
            with pytest.raises(NotDead):
                await bus.dead_letters.get(id)


async def _ignore(event: Event[Any]) -> None: ...


async def test_commands_are_answered_right_while_others_look() -> None:
    bus = Nexus("memory://", settings={})

    @bus.on("order.*", group="g", retry=Retry(1), on_dead="skip")
    async def handle(event: Event[Any]) -> None:
        raise ValueError("no")

    async with bus:
        for number in range(40):
            await bus.publish("order.placed", number, key=str(number % 4))
        await until(lambda: bus.consumer("g").stats.dead == 40)
        async with asyncio.timeout(10):
            while len(letters := await bus.dead_letters.all("g")) < 40:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        answers = await asyncio.gather(
            *(bus.dead_letters.discard(letter) for letter in letters), *(bus.dead_letters.all("g") for _ in range(20))
        )
        assert answers[:40] == [True] * 40
        assert await bus.dead_letters.all("g") == []


@pytest.mark.parametrize("scheme", ["memory", "sqlite"])
async def test_a_dead_letter_survives_the_retention_of_its_topic(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is dead is kept by value, in a topic without limits of age or size that only its owner trims."""
    monkeypatch.setattr(upkeep, "CHECKPOINT_AFTER", 8)
    monkeypatch.setattr(upkeep, "CARRY_BEHIND", 16)
    url = "memory://" if scheme == "memory" else f"sqlite:///{quote(str(tmp_path))}/nexus.db"
    topic = {"partitions": 1, "retention_size": "1MiB", "retention_age": "1s"}
    bus = Nexus(url, settings={"topics": {"events": topic}, "settle_interval": "5ms"})
    healed = False
    handled: list[str] = []
    body = b'{"lost": 1.000000000000000000001,  "found":\t[]}'

    @bus.on("order.*", group="g", retry=Retry(2, base_s=0.0), on_dead="skip")
    async def handle(event: Event[Any], context: Context) -> Park | None:
        if event.type == "order.bad" and not healed:
            raise ValueError("no")
        if event.type == "order.flaky" and context.attempt == 1:
            return Park(0.0)
        handled.append(event.id)
        return None

    async with bus:
        bad = bus.event("order.bad", body, key="bad", datacontenttype="application/json")
        place = await bus.publish(bad)
        await until(lambda: bus.consumer("g").stats.dead == 1)
        for number in range(40):
            flaky = bus.event("order.flaky", number, key="flaky")
            await bus.publish(flaky)
            await until(lambda flaky=flaky: flaky.id in handled)
        await until(lambda: bus.consumer("g")._partitions["events", 0].trimmed_to > 4)

        async def first() -> int:
            await bus.publish("order.large", "x" * 500_000, key="large")
            return (await bus.backend.describe("events")).first[0]

        async with asyncio.timeout(20):
            while await first() <= place.position:  # each backend trims in its own time
                pass
        (letter,) = await bus.dead_letters.all("g")
        assert (letter.event.body, letter.attempts) == (body, 2)
        assert "Traceback" in letter.error
        healed = True
        assert await bus.dead_letters.requeue_many([letter]) == [True]
        await until(lambda: bad.id in handled)


async def until_dead(bus: Nexus, count: int, round: int = 1) -> list[deadletters.DeadLetterInfo]:
    async with asyncio.timeout(20):
        while True:
            found = [letter for letter in await bus.dead_letters.all("g") if letter.round == round]
            if len(found) == count:
                return found
            await asyncio.sleep(0.005)


async def test_many_commands_are_answered_each_and_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deadletters, "BATCH_LIMIT", 16)
    monkeypatch.setattr(deadletters, "VIEWS_LIMIT_LETTERS", 20)
    bus = Nexus("memory://", settings={"topics": {"events": {"partitions": 4}}, "settle_interval": "5ms"})
    bodies: dict[str, list[bytes]] = {}

    @bus.on("order.*", group="g", retry=Retry(1))
    async def handle(event: Event[Any]) -> None:
        bodies.setdefault(event.id, []).append(event.body)
        raise ValueError(f"order {event.key} is bad")

    async with bus:
        await bus.publish_many(
            [
                bus.event("order.bad", b'{"n":  %d.0}' % n, key=f"k{n}", datacontenttype="application/json")
                for n in range(100)
            ]
        )
        await until_dead(bus, 100)
        letters = [letter async for letter in bus.dead_letters.each("g")]
        assert len(letters) == 100
        assert len({letter.fingerprint for letter in letters}) == 1
        assert [one async for one in bus.dead_letters.each(error="0" * 12)] == []
        assert sum(len(view.told) for view in bus.dead_letters._views.values()) <= 20 + 100 // 4 * 2
        gone = letters[::10]
        assert all(await bus.dead_letters.discard_many(gone))
        answers = await bus.dead_letters.requeue_many([*letters, letters[1]])
        assert answers == [letter not in gone for letter in letters] + [False]
        again = await until_dead(bus, 90, round=2)
        assert {len(seen) for seen in bodies.values()} == {1, 2}
        assert all(len(set(seen)) == 1 for seen in bodies.values()), "byte for byte"
        assert {(letter.round, len(letter.history)) for letter in again} == {(2, 2)}


async def test_an_edit_holds_through_a_requeue_without_one_and_through_a_carry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(upkeep, "CHECKPOINT_AFTER", 8)
    monkeypatch.setattr(upkeep, "CARRY_BEHIND", 16)
    got: list[str] = []

    def make() -> Nexus:
        url = f"sqlite:///{quote(str(tmp_path / 'bus.db'))}"
        bus = Nexus(url, settings={"topics": {"events": {"partitions": 1}}, "settle_interval": "5ms"})

        @bus.on("order.*", group="g", start="earliest", retry=Retry(1))
        async def handle(event: Event[Any], context: Context) -> Park | None:
            if event.key == "bad":
                got.append(event.data)
                raise ValueError("no")
            if context.attempt == 1:
                return Park(0.0)
            got.append(event.data)
            return None

        return bus

    async def dead(bus: Nexus, times: int) -> Any:
        await until(lambda: sum(data in ("old", "edited") for data in got) == times)
        async with asyncio.timeout(10):
            while not (letters := await bus.dead_letters.all("g")):  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        return letters[0]

    async with make() as bus:
        await bus.publish("order.bad", "old", key="bad")
        await bus.dead_letters.requeue(await dead(bus, 1), data=b'"edited"')
        await bus.dead_letters.requeue(await dead(bus, 2))
        letter = await dead(bus, 3)
        assert letter.edited is not None
        assert (letter.event.data, letter.edited.data) == ("old", "edited")
        for number in range(60):
            await bus.publish("order.flaky", number, key="flaky")
            await until(lambda number=number: number in got)
        await until(lambda: bus.consumer("g")._partitions["events", 0].trimmed_to > 4)
    async with make() as bus:
        await bus.dead_letters.requeue(await dead(bus, 3))
        await dead(bus, 4)
    assert [data for data in got if isinstance(data, str)] == ["old", "edited", "edited", "edited"]


async def test_who_waits_for_a_dead_letter_gets_one_of_a_topic_that_the_group_came_to_later(
    nexus_clock: VirtualClock,
) -> None:
    settings = {"topics": {"later": {"patterns": ["b.*"]}}}
    first, second = (Nexus("memory://later", clock=nexus_clock, settings=settings) for _ in range(2))

    async def handle(event: Event[Any]) -> None:
        raise ValueError("no")

    first.on("a.x", group="g", retry=Retry(1))(handle)
    second.on("b.*", group="g", retry=Retry(1))(handle)
    async with first:
        waiting = asyncio.create_task(first.dead_letters.first("g"))
        await nexus_clock.sleep(5.0)
        async with second:
            await first.publish("b.x", 1)
            letter = await waiting
    assert (letter.topic, letter.event.data) == ("later", 1)


@pytest.mark.parametrize("command", ["requeue", "discard"])
async def test_a_command_that_nobody_could_read_is_refused_before_it_is_written(command: str) -> None:
    async with _one_dead() as bus:
        letter = await bus.dead_letters.first("g")
        for wrong in (None, 5, "\udcff"):
            with pytest.raises(InvalidEvent, match="cannot be written"):
                await getattr(bus.dead_letters, command)(letter, who=wrong)
        assert (await bus.backend.describe("events.g.park")).end[0] == 2, "a claim and the letter"


async def test_what_is_no_record_is_passed_over_by_all_who_read(caplog: pytest.LogCaptureFixture) -> None:
    name = "memory://no-record"
    async with _one_dead(name) as bus:
        await bus.dead_letters.first("g")
        foreign: Event[Any] = Event("f", "/other", "x", datetime.now(UTC), body=b"hello")
        await bus.backend.append("events.g.park", [(0, foreign)])
        assert len(await bus.dead_letters.all("g")) == 1
        assert await bus.dead_letters.discard(await bus.dead_letters.first("g"))
        await bus.publish("order.bad", 2, key="bad")
        assert (await bus.dead_letters.first("g")).event.data == 2
    assert "record at position 2 is passed over" in caplog.text
    async with _one_dead(name, publish=False) as bus:
        await bus.publish("order.bad", 3, key="k")
        await until(lambda: bus.consumer("g").stats.dead == 1)
        assert [letter.event.data for letter in await bus.dead_letters.all("g")] == [2, 3]


async def test_a_letter_of_a_group_that_was_removed_is_not_requeued_for_nobody() -> None:
    bus = Nexus("memory://")

    @bus.handler("write", retry=Retry(1))
    async def write(event: Event[Any]) -> None:
        raise ValueError("no")

    async with bus:
        await bus.subscriptions.create("audit", "order.*", handler="write", start="earliest")
        await bus.publish("order.bad")
        await until(lambda: "audit" in bus._consumers and bus.consumer("audit").stats.dead == 1)
        letter = await bus.dead_letters.first("audit")
        await bus.subscriptions.remove("audit")
        with pytest.raises(UnknownGroup, match="was removed"):
            await bus.dead_letters.requeue(letter)


@contextlib.asynccontextmanager
async def _one_dead(url: str = "memory://", *, publish: bool = True) -> AsyncIterator[Nexus]:
    bus = Nexus(url, settings={"topics": {"events": {"partitions": 1}}})

    @bus.on("order.*", group="g", retry=Retry(1), on_dead="skip")
    async def handle(event: Event[Any]) -> None:
        raise ValueError("no")

    async with bus:
        if publish:
            await bus.publish("order.bad", 1, key="bad")
        yield bus
