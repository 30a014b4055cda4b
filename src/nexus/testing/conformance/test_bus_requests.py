"""Request and reply, and the life of a request: requested, started, success or failed."""

from __future__ import annotations

import asyncio
from typing import Any

from nexus.core.outcome import DeadLetter
from nexus.core.retry import Retry
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.requests import NoReply
from nexus.runtime.subscription import Publish
from nexus.testing.conformance._bus import Buses, Recorder, bus_case

ASK = "shop:quote:v1:requested"


async def _types(bus: Any, request: str) -> list[str]:
    """Types of what was published because of a request, in the order of its partition."""
    tail = bus.tail(start="earliest", follow=False)
    return [seen.stored.event.type async for seen in tail if seen.stored.event.causationid == request]


@bus_case
async def test_a_request_is_answered_by_what_its_handler_returns(buses: Buses) -> None:
    async def answer(event: Event[Any], context: Context) -> Any:
        return Publish("quote.given", event.data * 2)

    recorder = Recorder(answer)
    await buses.run(recorder)
    asker = buses.make()
    await asker.start(consume=False)
    replies = await asyncio.gather(
        *(asker.request("quote.asked", number, key=f"key-{number % 4}", replies=["quote.*"]) for number in range(20))
    )
    assert [reply.data for reply in replies] == [number * 2 for number in range(20)]
    assert {reply.type for reply in replies} == {"quote.given"}


@bus_case
async def test_without_an_answer_the_request_ends_in_time_and_stands(buses: Buses) -> None:
    recorder = Recorder()
    bus = await buses.run(recorder)
    try:
        await bus.request("quote.asked", 1, key="k", timeout_s=3.0)  # a broker may take some of it to store it
    except NoReply:
        pass
    else:
        raise AssertionError("somebody answered")
    await recorder.until_done(1)


@bus_case
async def test_the_life_of_a_request_is_published_in_order_and_each_stage_once(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        if context.attempt < 3:
            raise ValueError("not yet")
        return {"total": event.data}

    recorder = Recorder(act)
    bus = buses.make()
    bus.on(
        "shop:*:v1:requested", group=buses.group, start="earliest", lifecycle=True,
        retry=Retry(5, base_s=0.0, cap_s=0.0),
    )(recorder.handle)  # fmt: skip
    await bus.start()
    reply = await bus.request(ASK, 7, key="k")
    assert (reply.type, reply.data, reply.key) == ("shop:quote:v1:success", {"total": 7}, "k")
    assert await _types(bus, reply.causationid or "") == ["shop:quote:v1:started", "shop:quote:v1:success"]


@bus_case
async def test_a_request_that_is_given_up_has_failed_and_is_a_dead_letter(buses: Buses) -> None:
    async def act(event: Event[Any], context: Context) -> Any:
        if event.data == 1:
            return DeadLetter("no_such_thing")
        raise ValueError("never")

    recorder = Recorder(act)
    bus = buses.make()
    bus.on(ASK, group=buses.group, start="earliest", lifecycle=True, retry=Retry(1))(recorder.handle)
    await bus.start()
    first, second = await asyncio.gather(bus.request(ASK, 1, key="a"), bus.request(ASK, 2, key="b"))
    assert (first.type, first.data["reason"]) == ("shop:quote:v1:failed", "no_such_thing")
    assert (second.type, second.data["error"]) == ("shop:quote:v1:failed", "ValueError: never")
    letters = await buses.until_dead(bus, 2)
    assert {letter.event.id for letter in letters} == {first.causationid, second.causationid}
