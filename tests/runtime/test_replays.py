"""Replays that were over, that cannot begin, and that somebody waits for."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from nexus import Closed, Context, Event, HandlerError, Nexus, NexusError, Retry, Selection, SettingsError
from nexus.core.control import EndReplay, Reopen
from nexus.errors import FilterError, UnknownGroup, UnknownTopic


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


class Failing:
    """A bus with a group whose handler fails in replays while ``bad``."""

    def __init__(self, url: str, *, on_dead: Any = "skip") -> None:
        self.bad = True
        self.got: list[tuple[str | None, int]] = []
        self.bus = Nexus(url, settings={"settle_interval": "5ms"})
        self.bus.on("a.*", group="g", start="earliest", retry=Retry(1), on_dead=on_dead)(self.handle)

    async def handle(self, event: Event[int], context: Context) -> None:
        if context.replay and self.bad:
            raise ValueError("no")
        self.got.append((context.replay, event.data))

    async def publish(self, count: int) -> None:
        for number in range(count):
            await self.bus.publish("a.x", number, key=f"k{number}")
        await until(lambda: len(self.got) == count)
        self.got.clear()


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_dead_letter_of_a_replay_that_is_over_is_handled_when_it_is_requeued(
    store: str, tmp_path: Path
) -> None:
    url = "memory://over" if store == "memory" else f"sqlite:///{tmp_path}/replays.db"
    failing, operator = Failing(url), Nexus(url)
    bus = failing.bus
    async with bus, operator, asyncio.timeout(30):
        await failing.publish(9)
        id = await bus.replays.start(Selection(), group="g")
        assert (await bus.replays.wait(id)).dead == 9
        await until(lambda: f"replay-{id}" not in bus._consumers)
        failing.bad = False
        letters = await operator.dead_letters.all()
        assert await operator.dead_letters.requeue(letters[0])
        assert await operator.dead_letters.requeue_many(letters) == [False] + [True] * 8
        info = await operator.replays.wait(id)
        assert sorted(failing.got) == [(id, number) for number in range(9)], "each once, and marked"
        assert (info.state, info.dead, info.parked) == ("done", 0, 0)
        assert not await operator.dead_letters.requeue(letters[0])
        assert (await operator.replays.wait(id)).state == "done", "also if there was nothing to requeue"
    assert len(failing.got) == 9


async def test_what_dies_again_in_a_replay_that_was_opened_again_is_a_dead_letter_again() -> None:
    failing = Failing("memory://", on_dead="block_key")
    bus = failing.bus
    async with bus, asyncio.timeout(30):
        await failing.publish(3)
        id = await bus.replays.start(Selection(), group="g")
        await bus.replays.wait(id)
        letter = await bus.dead_letters.first(f"replay-{id}")
        assert await bus.dead_letters.requeue(letter)
        assert (await bus.replays.wait(id)).dead == 3
        assert [one.round for one in await bus.dead_letters.all() if one.id == letter.id] == [2]


async def test_of_a_replay_that_was_cancelled_only_what_is_requeued_is_handled() -> None:
    failing = Failing("memory://")
    bus = failing.bus
    async with bus, asyncio.timeout(30):
        await failing.publish(40)
        id = await bus.replays.start(Selection(), group="g", rate=5.0)
        await until(lambda: (consumer := bus._consumers.get(f"replay-{id}")) and consumer.owned)
        letter = await bus.dead_letters.first(f"replay-{id}")
        await bus.replays.cancel(id)
        await until(lambda: f"replay-{id}" not in bus._consumers)
        failing.bad = False
        assert await bus.dead_letters.requeue(letter)
        assert (await bus.replays.wait(id)).state == "cancelled"
        assert failing.got == [(id, letter.event.data)]


async def test_a_letter_that_is_requeued_at_the_moment_of_the_end_is_handled(monkeypatch: pytest.MonkeyPatch) -> None:
    failing = Failing("memory://")
    bus = failing.bus
    async with bus, asyncio.timeout(30):
        await failing.publish(3)
        id = await bus.replays.start(Selection(), group="g")
        await bus.replays.wait(id)
        failing.bad = False
        command = bus.dead_letters._command

        async def ended_in_between(wanted: Any) -> list[bool]:
            """End it as a process does that has read of no command."""
            await bus.control.write(EndReplay(id, "done", seen=bus.control.state.reopened(id)))
            await until(lambda: f"replay-{id}" not in bus._consumers)
            return await command(wanted)

        monkeypatch.setattr(bus.dead_letters, "_command", ended_in_between)
        assert await bus.dead_letters.requeue_many(await bus.dead_letters.all()) == [True] * 3
        await bus.replays.wait(id)
        assert len(failing.got) == 3


async def test_a_dead_letter_that_nobody_would_handle_is_not_requeued() -> None:
    bus = Nexus("memory://")
    bad = True

    @bus.handler("write")
    async def write(event: Event[Any]) -> None:
        if bad:
            raise ValueError("no")

    async with bus, asyncio.timeout(30):
        await bus.publish("a.x", 1, key="k")
        await bus.replays.into(write, Selection(), id="mine", retry=Retry(1))
        await bus.subscriptions.create("audit", "b.*", handler="write")
        await until(lambda: "audit" in bus._consumers)
        letters = await bus.dead_letters.all()
        before = bus.control.state.next
        for refused in (bus.dead_letters.requeue(letters[0]), bus.dead_letters.requeue_many(letters)):
            with pytest.raises(UnknownGroup, match="a function"):
                await refused
        assert bus.control.state.next == before
        assert await bus.dead_letters.all() == letters
        bad = False
        await bus.control.write(Reopen("mine"))
        assert (await bus.replays.into(write, id="mine")).state == "done", "an open one goes on in a function too"


@pytest.fixture
async def stored() -> AsyncIterator[Nexus]:
    """A bus with a group ``g``, and ten events of one key, all handled."""
    bus = Nexus("memory://")
    count = 0

    @bus.on("a.*", group="g", start="earliest")
    async def handle(event: Event[int]) -> None:
        nonlocal count
        count += 1

    async with bus:
        for number in range(10):
            await bus.publish("a.x", number, key="k")
        await until(lambda: count == 10)
        yield bus


AT = 13  # the partition of key k

WRONG: list[tuple[dict[str, Any], dict[str, Any], type[NexusError]]] = [
    ({"ranges": {}}, {}, SettingsError),
    ({"ranges": {"events": {AT: (0, 11)}}}, {}, SettingsError),
    ({"ranges": {"events": {AT: (5, 2)}}}, {}, SettingsError),
    ({"ranges": {"events": {AT: (-1, 2)}}}, {}, SettingsError),
    ({"ranges": {"events": {AT: (0.5, 2)}}}, {}, SettingsError),
    ({"ranges": {"events": {99: (0, 5)}}}, {}, SettingsError),
    ({"ranges": {"events": {0.0: (0, 0)}}}, {}, SettingsError),
    ({"ranges": {"nope": {0: (0, 0)}}}, {}, UnknownTopic),
    ({"topics": ("nope",)}, {}, UnknownTopic),
    ({"patterns": ("a..b",), "ranges": {"events": {AT: (0, 5)}}}, {}, FilterError),
    ({"patterns": ()}, {}, SettingsError),
    ({"start": "tomorrow"}, {}, SettingsError),
    ({"until": float("nan")}, {}, SettingsError),
    ({"where": "type =="}, {}, FilterError),
    ({"where": ""}, {}, FilterError),
    *(({}, {"rate": rate}, SettingsError) for rate in (float("nan"), float("inf"), 0, -1.0, "fast")),
    *(({}, {"id": id}, SettingsError) for id in ("a/b.c", "", "-", "a" * 94, 7)),
]


@pytest.mark.parametrize(("selection", "options", "error"), WRONG, ids=str)
async def test_what_cannot_be_replayed_is_refused_before_it_is_begun(
    stored: Nexus, selection: dict[str, Any], options: dict[str, Any], error: type[NexusError]
) -> None:
    async def handle(event: Event[Any]) -> None: ...

    assert (await stored.backend.describe("events")).end[AT] == 10
    with pytest.raises(error):
        await stored.replays.start(Selection(**selection), group="g", **options)
    with pytest.raises(error):
        await stored.replays.into(handle, Selection(**selection), **{"id": "r", **options})
    assert (await stored.control.read_on()).replays == {}


async def test_lists_are_as_good_as_tuples(stored: Nexus) -> None:
    lists: dict[str, Any] = {"patterns": ["a.*"], "ranges": {"events": {AT: [2, 5]}}}
    id = await stored.replays.start(Selection(**lists), group="g")
    assert (await stored.replays.wait(id)).total == 3


async def test_a_function_that_is_no_handler_begins_no_replay(stored: Nexus) -> None:
    with pytest.raises(HandlerError):
        await stored.replays.into(lambda: None, Selection(), id="r")
    assert (await stored.control.read_on()).replays == {}


async def test_what_is_no_group_with_handlers_is_no_target(stored: Nexus) -> None:
    await stored.subscriptions.create("audit", "a.*", handler="write")
    await stored.subscriptions.remove("audit")

    async def handle(event: Event[Any]) -> None: ...

    await stored.replays.into(handle, Selection(), id="r")
    for group in ("audit", "replay-r", "nexus-delays", "nobody"):
        with pytest.raises(UnknownGroup):
            await stored.replays.start(Selection(), group=group)
    assert list((await stored.control.read_on()).replays) == ["r"]


async def test_nothing_stored_is_replayed_at_once() -> None:
    async def handle(event: Event[Any]) -> None: ...

    async with Nexus("memory://") as bus, asyncio.timeout(20):
        assert (await bus.replays.into(handle, Selection(), id="r")).state == "done"


async def test_a_replay_into_a_group_does_not_go_on_in_a_function(stored: Nexus) -> None:
    async def handle(event: Event[Any]) -> None: ...

    await stored.replays.start(Selection(), group="g", id="r")
    with pytest.raises(SettingsError, match="goes into group 'g'"):
        await stored.replays.into(handle, id="r")


@pytest.mark.parametrize("store", ["memory", "sqlite"])
async def test_a_replay_into_a_group_keeps_to_the_filter_that_is_in_force_when_it_is_begun(
    store: str, tmp_path: Path
) -> None:
    bus = Nexus("memory://" if store == "memory" else f"sqlite:///{tmp_path}/filter.db")
    got: list[tuple[str | None, int]] = []

    @bus.on("a.*", group="g", where="data != 9")
    async def handle(event: Event[int], context: Context) -> None:
        got.append((context.replay, event.data))

    async with bus, asyncio.timeout(30):
        for number in range(10):
            await bus.publish("a.x", number, key="k")
        await bus.subscriptions.alter("g", where="data >= 5 || data == 1")
        for id, where in (("all", None), ("even", "data == 6 || data == 2 || data == 1")):
            await bus.replays.start(Selection(where=where), group="g", id=id)
        await bus.subscriptions.alter("g", where=None)
        for id in ("all", "even"):
            await bus.replays.wait(id)
    assert sorted(n for replay, n in got if replay == "all") == [1, 5, 6, 7, 8]
    assert sorted(n for replay, n in got if replay == "even") == [1, 6]


async def test_what_waits_for_a_replay_ends_when_the_bus_is_closed() -> None:
    bus = Nexus("memory://")
    never = asyncio.Event()
    begun = 0

    @bus.on("a.*", group="g", start="earliest", ordered=False)
    async def handle(event: Event[int], context: Context) -> None:
        nonlocal begun
        begun += 1
        if context.replay:
            await never.wait()

    bus.settings = msgspec.structs.replace(bus.settings, drain_s=0.01)
    before = asyncio.all_tasks()
    async with asyncio.timeout(20):
        await bus.start()
        await bus.publish("a.x", 1)
        await until(lambda: begun == 1)
        await bus.replays.start(Selection(), group="g", id="r")
        waiting = [
            asyncio.create_task(bus.replays.wait("r")),
            asyncio.create_task(bus.replays.into(handle, Selection(), id="mine")),
        ]
        await until(lambda: begun == 3)
        await bus.close()
        errors = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(error) for error in errors] == [Closed, Closed]
    assert asyncio.all_tasks() == before
