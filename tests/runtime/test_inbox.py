"""Second copies: known within the reach, also after a takeover, and never at the cost of an event."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from nexus.backends.memory import MemoryBackend
from nexus.errors import Unavailable
from nexus.event import Event
from nexus.runtime.inbox import REACH_EVENTS, Inbox, inboxes_for
from nexus.spi.backend import TopicSpec


def event(id: object, source: str = "/shop", body: bytes = b"") -> Event[Any]:
    return Event(str(id), source, "order.placed", datetime(2026, 1, 1, tzinfo=UTC), body=body)


def test_an_id_is_known_within_the_reach_and_no_longer() -> None:
    inbox = Inbox()
    assert [inbox.take(event(number)) for number in range(REACH_EVENTS)] == [True] * REACH_EVENTS
    assert not inbox.take(event(0))
    assert inbox.take(event("one more"))
    assert len(inbox) == REACH_EVENTS
    assert inbox.take(event(0)), "it is out of reach by now"


def test_the_same_id_of_another_source_is_another_event() -> None:
    inbox = Inbox()
    assert inbox.take(event(1, "/a"))
    assert inbox.take(event(1, "/b"))


def test_another_event_under_a_known_id_is_handled_and_told_of(caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    assert inbox.take(event(1, body=b"one"))
    assert inbox.take(event(1, body=b"two"))
    assert not inbox.take(event(1, body=b"one"))
    assert "differ; both are handled" in caplog.text


async def test_after_a_takeover_what_came_right_before_is_known() -> None:
    backend = MemoryBackend()
    await backend.open()
    await backend.ensure(TopicSpec("orders", 2, dedup=False))
    # More than one answer holds, so that reading on is needed.
    count = REACH_EVENTS + 20
    events = [event(number, body=b"x" * 50_000) for number in range(count)]
    await backend.append("orders", [(0, one) for one in events])
    full, empty = await inboxes_for(backend, [("orders", 0, count - 5), ("orders", 1, 0)])
    assert (len(full), len(empty)) == (REACH_EVENTS, 0)
    assert not full.take(events[count - 6])
    assert full.take(events[count - 5]), "it is not handled yet"
    await backend.close()


async def test_what_cannot_be_read_is_handled_rather_than_lost() -> None:
    class Away(MemoryBackend):
        async def read(self, wants: Any, max_bytes: int) -> Any:
            raise Unavailable("away")

    (inbox,) = await inboxes_for(Away(), [("orders", 0, 9)])
    assert inbox.take(event(8))
