"""What a program may publish, and in which order it is stored."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from nexus import Event, InvalidEvent, Nexus


@pytest.mark.parametrize("seconds", [float("nan"), 1e300, "5"])
def test_a_time_to_expire_that_is_none_is_refused(seconds: Any) -> None:
    with pytest.raises(InvalidEvent, match="is no time"):
        Nexus("memory://").event("x", expires_in_s=seconds)


async def test_a_body_that_is_no_bytes_is_refused_before_it_is_stored() -> None:
    async with Nexus("memory://") as bus:
        for body in ("text", bytearray(b"1"), None):
            wrong: Event[Any] = Event("id1", "/s", "x", datetime.now(UTC), "k", body=body)  # type: ignore[arg-type]
            with pytest.raises(InvalidEvent, match="body must be bytes"):
                await bus.publish(wrong)


async def test_a_time_that_utc_cannot_say_is_refused() -> None:
    async with Nexus("memory://") as bus:
        east, west = timezone(timedelta(hours=14)), timezone(timedelta(hours=-14))
        for at in (datetime(1, 1, 1, tzinfo=east), datetime(9999, 12, 31, 23, tzinfo=west)):
            with pytest.raises(InvalidEvent, match="outside the years"):
                await bus.publish("x", time=at)


async def test_publishers_that_do_not_wait_for_each_other_keep_their_order() -> None:
    topics = {"topics": {"orders": {"patterns": ["**"], "partitions": 1}}}
    async with Nexus("memory://", settings=topics) as bus:
        receipts = await asyncio.gather(*(bus.publish("a.b", n, key="k") for n in range(1000)))
        assert [receipt.position for receipt in receipts] == list(range(1000))
