"""Other programs on the same topics, with the plain client: they read our events and we read what they wrote."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import msgspec
from confluent_kafka import Consumer, Message, Producer
from tests.backends.kafka.kafka_help import append, bootstrap, event, make, numbered, opened, read_all


def _consume(topic: str, count: int) -> list[Message]:
    consumer = Consumer(
        {"bootstrap.servers": bootstrap(), "group.id": f"{topic}.other", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe([topic])
    found: list[Message] = []
    while len(found) < count:
        message = consumer.poll(20)
        assert message is not None, f"{len(found)} of {count} records came"
        assert message.error() is None
        found.append(message)
    consumer.close()
    return found


def _produce(topic: str, records: list[dict[str, Any]], **config: Any) -> None:
    producer = Producer({"bootstrap.servers": bootstrap()} | config)
    if "transactional.id" in config:
        producer.init_transactions(20)
        producer.begin_transaction()
    for record in records:
        producer.produce(topic, partition=0, **record)
    if "transactional.id" in config:
        if config["client.id"] == "aborts":
            producer.flush(20)
            producer.abort_transaction(20)
        else:
            producer.commit_transaction(20)
    assert producer.flush(20) == 0


async def test_another_program_reads_our_events_as_cloudevents() -> None:
    async with opened() as log:
        await make(log)
        sent = [
            event(id="1", key="k", body=b'{"total":3}', subject="order/1", extensions={"region": "eu", "number": 7}),
            event(id="2", key=None, body=b"", time=datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)),
            event(id="3", key="", body=b"\xff", datacontenttype="application/octet-stream"),
        ]
        await append(log, "orders", 0, sent)
        found = await asyncio.to_thread(_consume, f"{log.settings.prefix}.orders", 3)
        assert [(each.key(), each.value()) for each in found] == [(b"k", b'{"total":3}'), (None, b""), (b"", b"\xff")]
        headers = [dict(each.headers() or []) for each in found]
        assert headers[0] == {
            "ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/shop", "ce_type": b"order.placed",
            "ce_time": b"2026-01-01T00:00:00Z", "ce_partitionkey": b"k", "ce_subject": b"order/1",
            "ce_region": b"eu", "ce_number": b"7", "ce_nexustypes": b"number=i", "content-type": b"application/json",
        }  # fmt: skip
        assert "ce_partitionkey" not in headers[1]
        assert headers[2]["content-type"] == b"application/octet-stream"


async def test_we_read_events_of_another_program_in_both_modes_and_records_that_are_none() -> None:
    binary = {
        "ce_specversion": "1.0", "ce_id": "b", "ce_source": "/other", "ce_type": "t", "ce_time": "2026-01-01T00:00:00Z",
        "content-type": "text/plain", "ce_tag": "x",
    }  # fmt: skip
    structured = {
        "specversion": "1.0", "id": "s", "source": "/other", "type": "t", "time": "2026-01-01T00:00:00Z",
        "data": {"total": 3},
    }  # fmt: skip
    async with opened() as log:
        await make(log)
        records: list[dict[str, Any]] = [
            {"key": "k", "value": b"text", "headers": binary},
            {
                "value": msgspec.json.encode(structured),
                "headers": {"content-type": "application/cloudevents+json; charset=UTF-8"},
            },
            {"key": "plain", "value": b"{}"},
            {"value": None},
            {"value": b"claims", "headers": {"ce_specversion": "1.0", "ce_id": "no source"}},
        ]
        await asyncio.to_thread(_produce, f"{log.settings.prefix}.orders", records)
        found = [stored.event for stored in await read_all(log, "orders", 0)]
        assert [(each.id, each.source, each.key) for each in found] == [
            ("b", "/other", "k"), ("s", "/other", None), ("2", "kafka:///orders/0", "plain"),
            ("3", "kafka:///orders/0", None), ("4", "kafka:///orders/0", None),
        ]  # fmt: skip
        assert (found[0].body, found[0].datacontenttype, found[0].extensions) == (b"text", "text/plain", {"tag": "x"})
        assert found[1].data == {"total": 3}
        assert [each.type for each in found[2:]] == ["nexus.foreign.record"] * 3


async def test_what_a_transaction_took_back_is_never_read_and_its_marks_are_gaps() -> None:
    async with opened() as log:
        await make(log)
        name = f"{log.settings.prefix}.orders"
        await append(log, "orders", 0, numbered(2))
        for outcome in ("aborts", "commits", "aborts"):
            config = {"transactional.id": f"{name}-{outcome}", "client.id": outcome}
            await asyncio.to_thread(_produce, name, [{"value": outcome.encode()}] * 2, **config)
        found = await read_all(log, "orders", 0)
        assert [stored.event.body for stored in found] == [b"0", b"1", b"commits", b"commits"]
        assert found[3].position == found[2].position + 1
        assert found[2].position > 2  # at least the mark of the transaction that was taken back
        position = (await log.describe("orders")).end[0]
        assert await append(log, "orders", 0, numbered(1, 2)) == [position]
        assert [stored.event.body for stored in await read_all(log, "orders", 0, position)] == [b"2"]
