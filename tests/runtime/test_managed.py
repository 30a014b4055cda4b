"""What the control topic calls for: a wish that cannot be carried out holds no other up."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from nexus import Closed, Context, Event, HandlerError, Nexus, NexusError, Selection
from nexus.core.control import Create
from nexus.core.filter import compile_filter
from nexus.runtime import managed
from nexus.testing.clock import VirtualClock


async def test_a_group_that_cannot_be_made_does_not_keep_the_next_from_being_consumed(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus = Nexus("memory://")
    got = asyncio.Event()

    @bus.handler("write")
    async def write(event: Event[Any]) -> None:
        got.set()

    async with bus, asyncio.timeout(10):
        with caplog.at_level(logging.WARNING, "nexus.control"):
            await bus.control.write(Create("bad", ("a.*",), "write", "earliest", "type =="))
            await bus.subscriptions.create("good", "a.*", handler="write", start="earliest")
            await bus.publish("a.b")
            await got.wait()
        assert "cannot be done" in caplog.text


async def test_who_has_no_handler_for_a_group_leaves_it_to_others(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Nexus("memory://")
    left = asyncio.Event()
    monkeypatch.setattr(managed.log, "info", lambda text, *_: left.set() if "left to others" in text else None)
    bus.on("never.*", group="other")(_nothing)
    async with bus, asyncio.timeout(10):
        await bus.subscriptions.create("audit", "a.*", handler="write")
        await left.wait()
        with pytest.raises(NexusError):
            bus.consumer("audit")


async def test_a_bus_keeps_to_the_groups_and_the_backend_that_it_was_told_to_use(tmp_path: Path) -> None:
    bus = Nexus("memory://")
    got: asyncio.Queue[str] = asyncio.Queue()
    bus.on("a.*", group="wanted", start="earliest")(_nothing)
    bus.on("a.*", group="other", start="earliest")(_nothing)

    @bus.handler("write")
    async def write(event: Event[Any]) -> None:
        got.put_nowait(event.id)

    bus.use_backend(f"sqlite:///{tmp_path}/mine.db")
    bus.use_groups(["wanted"])
    async with bus, asyncio.timeout(10):
        await bus.publish("a.b")
        await bus.subscriptions.create("audit", "a.*", handler="write", start="earliest")
        assert await bus.backend.groups() == ["wanted"]
        with pytest.raises(Closed):
            bus.use_backend("memory://")
        with pytest.raises(Closed):
            bus.use_groups(["other"])
    assert (tmp_path / "mine.db").exists()
    assert got.empty()


async def test_a_group_that_was_created_and_that_code_names_is_as_the_code_says_everywhere(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = f"sqlite:///{tmp_path}/both.db"
    got: list[tuple[str, int]] = []
    bus, other = Nexus(url), Nexus(url)

    @bus.on("a.*", group="billing", start="earliest")
    async def code(event: Event[Any]) -> None:
        got.append(("code", event.data))

    async def write(event: Event[Any]) -> None:
        got.append(("created", event.data))

    bus.handler("write")(write)
    other.handler("write")(write)
    async with other, asyncio.timeout(20):
        await other.subscriptions.create("billing", "x.*", handler="write")
        await until(lambda: "billing" in other._consumers)
        with caplog.at_level(logging.WARNING, "nexus.control"):
            async with bus:
                own = bus.consumer("billing")
                await until(lambda: "billing" not in other._consumers)
                for number in range(6):
                    await other.publish("a.x", number, key=f"k{number}")
                await until(lambda: len(got) == 6)
                assert bus.consumer("billing") is own
        assert caplog.text.count("code names it") == 1
    assert sorted(got) == [("code", number) for number in range(6)]


async def test_a_group_that_is_created_anew_between_two_looks_is_as_it_was_created_last() -> None:
    bus, operator = Nexus("memory://anew"), Nexus("memory://anew")
    got: list[tuple[str, str]] = []

    @bus.handler("one")
    async def one(event: Event[Any]) -> None:
        got.append(("one", event.type))

    @bus.handler("two")
    async def two(event: Event[Any]) -> None:
        got.append(("two", event.type))

    async with bus, operator:
        groups = operator.subscriptions
        await groups.create("g", "a.*", handler="one")
        await groups.create("m", "m.*", handler="typo")
        await until(lambda: "g" in bus._managed._running and "m" in bus._managed._refused)
        before = bus.consumer("g")
        for name, pattern, handler in (("g", "b.*", "two"), ("m", "c.*", "one")):
            await groups.remove(name)
            await groups.create(name, pattern, handler=handler)
        await until(lambda: {"g", "m"} <= bus._managed._running.keys() and bus.consumer("g") is not before)
        for type in ("a.x", "b.x", "m.x", "c.x"):
            await operator.publish(type)
        await until(lambda: len(got) == 2)
    assert sorted(got) == [("one", "c.x"), ("two", "b.x")]


async def test_a_removal_that_waits_for_a_handler_holds_up_nothing_but_its_own_name() -> None:
    bus = Nexus("memory://")
    begun, go_on = threading.Event(), threading.Event()
    got: list[str] = []

    @bus.handler("slow")
    def slow(event: Event[Any]) -> None:
        begun.set()
        assert go_on.wait(20)
        got.append("slow")

    @bus.handler("quick")
    async def quick(event: Event[Any]) -> None:
        got.append(event.type)

    async with bus, asyncio.timeout(30):
        groups = bus.subscriptions
        await groups.create("a", "a.*", handler="slow", start="earliest")
        await bus.publish("a.x")
        await until(begun.is_set)
        await groups.remove("a")
        await groups.create("b", "b.*", handler="quick", start="earliest")
        await groups.create("a", "c.*", handler="quick")
        await bus.publish("b.x")
        await until(lambda: got == ["b.x"])
        assert list(bus._managed._running) == ["b"], "two consumers of a name would be one member"
        go_on.set()
        await until(lambda: "a" in bus._managed._running)
        await bus.publish("c.x")
        await until(lambda: got == ["b.x", "slow", "c.x"])


async def test_a_bus_that_is_closed_waits_for_what_drains_since_it_was_removed() -> None:
    bus = Nexus("memory://")
    begun, go_on = threading.Event(), threading.Event()

    @bus.handler("slow")
    def slow(event: Event[Any]) -> None:
        begun.set()
        assert go_on.wait(20)

    async with asyncio.timeout(30):
        await bus.start()
        await bus.subscriptions.create("a", "a.*", handler="slow", start="earliest")
        await bus.publish("a.x")
        await until(begun.is_set)
        await bus.subscriptions.remove("a")
        await until(lambda: bus._managed.ending)
        closing = asyncio.create_task(bus.close())
        await until(lambda: bus._state == "closing")
        assert not closing.done()
        go_on.set()
        await closing
        assert not bus._managed.ending
        assert bus._consumers == {}


@pytest.mark.parametrize("kind", ["created", "replay"])
async def test_what_was_created_and_fails_is_begun_anew(
    kind: str, caplog: pytest.LogCaptureFixture, nexus_clock: VirtualClock, nexus_bus: Nexus
) -> None:
    bus = nexus_bus
    got: list[str | None] = []

    async def boom(member: object) -> bool:
        raise RuntimeError("what nobody planned")

    @bus.handler("write")
    async def write(event: Event[Any], context: Context) -> None:
        got.append(context.replay)

    async with bus:
        for number in range(100):
            await bus.publish("a.x", number)
        await bus.subscriptions.create("audit", "a.*", handler="write")
        await bus.replays.start(Selection(), group="audit", id="r", rate=0.1)
        name, replay = ("audit", None) if kind == "created" else ("replay-r", "r")
        await nexus_clock.sleep_until(lambda: name in bus._managed._running)
        before = bus.consumer(name)
        before._fetcher.fetch = boom  # type: ignore[method-assign]
        before._wake.set()
        await nexus_clock.sleep_until(lambda: name in bus._managed._running and bus.consumer(name) is not before)
        got.clear()
        await bus.publish("a.x")
        await nexus_clock.sleep_until(lambda: replay in got)
    assert "begun anew in 1 s: RuntimeError('what nobody planned')" in caplog.text


async def test_a_group_is_consumed_once_by_a_bus() -> None:
    bus = Nexus("memory://")
    bus.on("a.*", group="g")(_nothing)
    async with bus:
        own = bus.consumer("g")
        with pytest.raises(HandlerError, match="already"):
            await anext(bus.subscribe("a.*", group="g"))
        assert bus.consumer("g") is own


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.005)


async def _nothing(event: Event[Any]) -> None: ...


@pytest.mark.parametrize("key", ["plain", 'ä"x', "it's", "a\\b", "tab\tx", "new\nline", "\u2028", "\U0001f600", "\x00"])
def test_any_key_can_be_selected(key: str) -> None:
    wanted = Event("1", "/s", "t", datetime.now(UTC), key)
    where = compile_filter(Selection(key=key, correlationid=None).filter() or "")
    assert where.matches(wanted)
    assert not where.matches(Event("1", "/s", "t", datetime.now(UTC), key + "."))


def test_a_correlation_selects_the_event_that_began_it_too() -> None:
    where = compile_filter(Selection(correlationid="c", where="type == 't'").filter() or "")
    assert where.matches(Event("c", "/s", "t", datetime.now(UTC)))
    assert where.matches(Event("2", "/s", "t", datetime.now(UTC), correlationid="c"))
    assert not where.matches(Event("2", "/s", "u", datetime.now(UTC), correlationid="c"))
