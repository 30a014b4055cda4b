"""Bad input at the bus: cases 4, 5, 9, 11, 12 and 18 to 20 of the guarantees, with the outcome stated there.

Cases 1 to 17 at the envelope are in ``tests/core/test_envelope.py``, 48 to 55 in ``tests/config``, 76 to 85 in
``tests/backends/sqlite/test_sqlite_damage.py``, 86 to 92 in ``tests/cli``.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from nexus import Closed, IdConflict, InvalidEvent, Nexus, Receipt
from nexus.spi.backend import Want


@pytest.fixture(params=["memory", "sqlite"])
async def bus(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Nexus]:
    url = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path / 'bus.db'}"
    made = Nexus(url, settings={})
    await made.start()
    yield made
    await made.close()


async def stored(bus: Nexus) -> list[str]:
    wants = [Want("events", partition, 0, 10_000) for partition in range(16)]
    return [one.event.id for part in await bus.backend.read(wants, 1 << 30) for one in part.events]


@pytest.mark.parametrize(
    "attributes",
    [{"type": "order.*"}, {"id": "a\ud800"}, {"data": float("nan")}, {"data": b"x" * 2_000_000}, {"source": "a\nb"}],
)
async def test_what_is_refused_is_not_stored(bus: Nexus, attributes: dict[str, Any]) -> None:
    with pytest.raises(InvalidEvent):
        await bus.publish(**{"type": "order.placed", **attributes})
    assert await stored(bus) == []
    assert isinstance(await bus.publish("order.placed", 1), Receipt), "the bus goes on"


async def test_case_11_same_id_and_content_is_the_first_receipt(bus: Nexus) -> None:
    first = await bus.publish("order.placed", {"n": 1}, id="1", key="k")
    again = await bus.publish("order.placed", {"n": 1}, id="1", key="k")
    assert (again.partition, again.position, again.duplicate) == (first.partition, first.position, True)
    assert await stored(bus) == ["1"]


@pytest.mark.parametrize("other", [{"data": {"n": 2}}, {"type": "order.other"}, {"tenant": "t"}])
async def test_case_12_same_id_and_other_content_is_a_conflict(bus: Nexus, other: dict[str, Any]) -> None:
    good = {"type": "order.placed", "data": {"n": 1}, "id": "1", "key": "k"}
    await bus.publish(**good)
    with pytest.raises(IdConflict) as caught:
        await bus.publish(**{**good, **other})
    assert caught.value.hint is not None
    assert await stored(bus) == ["1"]


async def test_case_18_publish_after_close(bus: Nexus) -> None:
    await bus.close()
    with pytest.raises(Closed):
        await bus.publish("order.placed", 1)
    with pytest.raises(Closed):
        await bus.publish_many([bus.event("order.placed", 1)])
    never = Nexus("memory://", settings={})
    with pytest.raises(Closed, match="not open"):
        await never.publish("order.placed", 1)


async def test_case_19_cancelled_while_publishing_is_stored_once_or_not_at_all(bus: Nexus) -> None:
    ids = [f"id-{number}" for number in range(40)]
    tasks = [asyncio.create_task(bus.publish("order.placed", id, id=id, key="k")) for id in ids]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    acknowledged = {answer.id for answer in answers if isinstance(answer, Receipt)}
    for id in ids:  # the way out of an unknown outcome: publish again with the same id
        await bus.publish("order.placed", id, id=id, key="k")
    there = await stored(bus)
    assert sorted(there) == sorted(ids)
    assert acknowledged >= set(ids[1::2])


async def test_case_20_a_batch_with_one_bad_event_stores_none_and_names_it(bus: Nexus) -> None:
    events = [bus.event("order.placed", number) for number in range(100)]
    events[57] = bus.event("order placed", 57)
    with pytest.raises(InvalidEvent, match="event 57 of 100") as caught:
        await bus.publish_many(events)
    assert caught.value.index == 57
    assert await stored(bus) == []
