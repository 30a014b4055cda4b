"""The line of appends that wait: turns, the cancelled, errors, and the end."""

from __future__ import annotations

import asyncio

import pytest

from nexus.backends.rabbitmq.lane import Lane, Waiting
from nexus.errors import Closed, Unavailable
from nexus.testing.clock import make_virtual


class Stand:
    """What a lane is given, and what it did."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.sent: list[int] = []
        self.given_back: list[int] = []
        self.ended = 0
        self.lane = Lane(self.send_now, self.prepare, self.give_room, self.end)

    def send_now(self, call: Waiting) -> asyncio.Future[None] | None:
        if not self.open.is_set():
            return None
        self.sent.append(call.size)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done

    async def prepare(self, call: Waiting) -> None:
        if call.size == 13:
            raise Unavailable("no")
        call.has_room = True
        await self.open.wait()

    def give_room(self, call: Waiting) -> None:
        self.given_back.append(call.size)

    def end(self) -> None:
        self.ended += 1

    def call(self, size: int) -> asyncio.Task[asyncio.Future[None]]:
        return asyncio.create_task(self.lane.send({}, size, 1, 10.0))


async def turns(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_all_that_wait_go_in_their_order_and_the_cancelled_do_not() -> None:
    stand = Stand()
    calls = [stand.call(size) for size in range(5)]
    await turns()
    calls[0].cancel()  # it is first, and holds room
    calls[3].cancel()
    await turns()
    stand.open.set()
    await asyncio.wait(calls)
    await turns()
    assert stand.sent == [1, 2, 4]
    assert stand.given_back == [0]
    assert stand.ended == 1


async def test_an_error_is_that_calls_own() -> None:
    stand = Stand()
    bad, good = stand.call(13), stand.call(1)
    await turns()
    stand.open.set()
    with pytest.raises(Unavailable):
        await bad
    await good
    assert stand.sent == [1]


async def test_who_waits_at_the_end_hears_of_it() -> None:
    stand = Stand()
    calls = [stand.call(size) for size in range(3)]
    await turns()
    await stand.lane.stop()
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, Closed)
    assert stand.sent == []


async def test_what_was_sent_in_the_turn_in_which_its_time_was_over_was_sent() -> None:
    clock = make_virtual(asyncio.get_running_loop())
    stand = Stand()
    sent = stand.call(1)
    loop = asyncio.get_running_loop()
    await turns()
    loop.call_at(loop.time() + 10.0 - 5e-10, stand.open.set)  # timers so near run together
    assert (await sent).done()
    assert stand.sent == [1]
    stand.open.clear()
    never = stand.call(2)
    await clock.sleep(11)
    with pytest.raises(TimeoutError):
        await never
    stand.open.set()
    await turns()
    assert stand.sent == [1], "what nobody waits for is not sent"
