"""Dead letters through a parking topic that was trimmed, carried and checkpointed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from nexus import Context, Event, Nexus, Park, Retry
from nexus.runtime import upkeep
from nexus.runtime.deadletters import NotDead


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
