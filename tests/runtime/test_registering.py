"""What a program says of its handlers, refused where it would be passed over in silence."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

from nexus import Context, Event, HandlerError, Nexus
from nexus.errors import FilterError


async def handle(event: Event[Any]) -> None: ...


@pytest.mark.parametrize("decorator", ["on", "handler"])
def test_a_decorator_without_brackets_says_so(decorator: str) -> None:
    with pytest.raises(HandlerError, match="was given a function") as caught:
        getattr(Nexus("memory://"), decorator)(handle)
    assert caught.value.hint is not None
    assert f"@bus.{decorator}(" in caught.value.hint


async def test_a_bus_that_runs_takes_no_handler_of_either_kind() -> None:
    async with Nexus("memory://") as bus:
        for register in (lambda: bus.on("a.*"), lambda: bus.handler("write"), lambda: bus.include(Nexus("memory://"))):
            with pytest.raises(HandlerError, match="before it starts"):
                register()


def test_an_empty_filter_does_not_mean_all() -> None:
    with pytest.raises(FilterError):
        Nexus("memory://").on("a", where="")(handle)


@pytest.mark.parametrize(
    "differing", [{"start": "earliest"}, {"lost_cursor": "checkpoint"}, {"on_dead": "skip"}, {"ordered": False}]
)
def test_a_group_that_two_programs_say_differently_is_not_taken(differing: dict[str, Any]) -> None:
    ours, theirs = Nexus("memory://"), Nexus("memory://")
    ours.on("a", group="g")(handle)
    theirs.on("b", group="other")(handle)
    theirs.on("c", group="g", **differing)(handle)
    with pytest.raises(HandlerError, match="registered on both"):
        ours.include(theirs)
    assert list(ours.groups) == ["g"], "nothing was taken"


def test_two_programs_cannot_both_name_a_handler() -> None:
    ours, theirs = Nexus("memory://"), Nexus("memory://")
    for bus in (ours, theirs):
        bus.handler("write")(handle)
    with pytest.raises(HandlerError, match="both have a handler named 'write'"):
        ours.include(theirs)


async def charge(event: Event[int], rate: int) -> None:
    CHARGED.append(("charge", event.data * rate))


def note(sum: int, context: Context, *, book: str) -> None:
    CHARGED.append((book, sum))


class Charger:
    """A handler that keeps something."""

    def __init__(self, rate: int) -> None:
        self.rate = rate

    async def __call__(self, sum: int) -> None:
        CHARGED.append(("Charger", sum * self.rate))


CHARGED: list[tuple[str, int]] = []


async def test_a_partial_is_named_as_its_function_and_an_object_as_its_class() -> None:
    CHARGED.clear()
    bus = Nexus("memory://")
    bus.on("a")(partial(charge, rate=2))
    bus.on("a")(partial(partial(note), book="book"))
    bus.on("a")(Charger(3))
    bus.handler()(Charger(4))
    assert sorted(bus.groups) == ["Charger", "charge", "note"]
    async with bus, asyncio.timeout(20):
        await bus.publish("a", 7)
        while len(CHARGED) < 3:  # noqa: ASYNC110
            await asyncio.sleep(0.002)
    assert sorted(CHARGED) == [("Charger", 21), ("book", 7), ("charge", 14)]


@pytest.mark.parametrize("nothing", [7, partial(charge, event=None), partial(note)])
def test_what_cannot_be_a_handler_is_refused(nothing: Any) -> None:
    with pytest.raises(HandlerError):
        Nexus("memory://").on("a")(nothing)
