"""Events as records: nothing is lost on the way, and whatever else is there is handed on as a foreign event."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import msgspec
import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from nexus.backends.kafka.binding import to_record, to_stored
from nexus.core.envelope import to_cloudevent
from nexus.event import Event

RECORDED_MS = 1_764_000_000_123

texts = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)
maybe = st.none() | texts
times = st.datetimes(
    min_value=datetime(1970, 1, 2),
    max_value=datetime(2200, 1, 1),
    timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30)), timezone(timedelta(hours=-11))]),
)
extensions = st.dictionaries(
    st.from_regex(r"x[a-z0-9]{0,8}", fullmatch=True),
    st.booleans() | st.integers(-(2**31), 2**31 - 1) | texts,
    min_size=1,
    max_size=4,
)
events = st.builds(
    Event,
    id=texts, source=texts, type=texts, time=times, key=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    body=st.binary(max_size=50), tenant=maybe, subject=maybe, correlationid=maybe, causationid=maybe,
    datacontenttype=st.sampled_from(["application/json", "text/plain", "application/octet-stream"]),
    dataschema=maybe, expirytime=st.none() | times, traceparent=maybe, tracestate=maybe,
    extensions=st.none() | extensions,
)  # fmt: skip


def record(key: bytes | None, value: bytes | None, headers: Any, offset: int = 7) -> Message:
    return Message(
        topic="kafka-name", partition=3, offset=offset, key=key, value=value, headers=headers,
        timestamp=(2, RECORDED_MS),
    )  # fmt: skip


def as_read(key: bytes | None, value: bytes | None, headers: Any) -> Event[Any]:
    return to_stored(record(key, value, headers), "orders").event


@given(events)
def test_an_event_comes_back_as_it_was(event: Event[Any]) -> None:
    key, headers, size = to_record(event)
    sent = [(name, value if isinstance(value, bytes) else None) for name, value in headers]
    stored = to_stored(record(key, event.body, sent), "orders")
    assert stored.event == event
    assert {name: type(value) for name, value in (stored.event.extensions or {}).items()} == {
        name: type(value) for name, value in (event.extensions or {}).items()
    }
    assert (stored.position, stored.recorded_at, stored.size) == (7, RECORDED_MS / 1_000, size)


def test_the_record_is_what_the_binding_says() -> None:
    event = Event("1", "/shop", "order.placed", datetime(2026, 1, 1, tzinfo=UTC), "k", b"{}", subject="ü")
    key, headers, _ = to_record(event)
    assert key == b"k"
    assert dict(headers) == {
        "ce_specversion": b"1.0", "ce_id": b"1", "ce_source": b"/shop", "ce_type": b"order.placed",
        "ce_time": b"2026-01-01T00:00:00Z", "ce_partitionkey": b"k", "ce_subject": "ü".encode(),
        "content-type": b"application/json",
    }  # fmt: skip


@given(events)
def test_structured_mode_is_read_too(event: Event[Any]) -> None:
    event = msgspec.structs.replace(event, datacontenttype="application/octet-stream")  # any bytes are such a body
    value = to_cloudevent(event)
    for media in (b"application/cloudevents+json", b"application/cloudevents+json; charset=utf-8"):
        found = as_read(None, value, [("content-type", media)])
        assert (found.id, found.source, found.type, found.time, found.key) == (
            event.id, event.source, event.type, event.time, event.key,
        )  # fmt: skip


@given(
    st.none() | st.binary(max_size=20),
    st.none() | st.binary(max_size=40),
    st.none()
    | st.lists(
        st.tuples(
            st.sampled_from(
                ["ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_nexustypes", "ce_n", "ce_expirytime",
                 "content-type", "ce_partitionkey", "other", ""]
            ),
            st.none() | st.sampled_from([b"1.0", b"application/cloudevents+json", b"n=i", b"2026-01-01T00:00:00Z"])
            | st.binary(max_size=10),
        ),
        max_size=10,
    ),
)  # fmt: skip
def test_whatever_is_in_a_record_it_is_an_event(key: bytes | None, value: bytes | None, headers: Any) -> None:
    stored = to_stored(record(key, value, headers), "orders")
    assert stored.position == 7
    assert stored.event.id
    assert stored.event.time.tzinfo is not None


def test_a_foreign_record_says_where_it_is() -> None:
    found = as_read(b"key", b"\x00\x01", [("trace", b"1")])
    assert (found.type, found.source, found.id) == ("nexus.foreign.record", "kafka:///orders/3", "7")
    assert (found.key, found.body, found.datacontenttype) == ("key", b"\x00\x01", "application/octet-stream")
    assert found.time == datetime.fromtimestamp(RECORDED_MS / 1_000, UTC)


def test_a_foreign_record_may_have_nothing_at_all() -> None:
    found = as_read(None, None, None)
    assert (found.type, found.key, found.body) == ("nexus.foreign.record", None, b"")


COMPLETE = {
    "ce_specversion": b"1.0",
    "ce_id": b"1",
    "ce_source": b"/other",
    "ce_type": b"order.placed",
    "ce_time": b"2026-01-01T00:00:00Z",
    "content-type": b"application/json",
}


@pytest.mark.parametrize(
    "broken",
    [
        {"ce_specversion": b"0.3"}, {"ce_id": b""}, {"ce_id": b"\xff"}, {"ce_source": None}, {"ce_type": b""},
        {"ce_time": b"yesterday"}, {"ce_time": b"2026-01-01T00:00:00"}, {"ce_partitionkey": b"\xff"},
        {"ce_expirytime": b"x"}, {"ce_nexustypes": b"n=i", "ce_n": b"many"},
        {"content-type": b"application/cloudevents+json"},
    ],
)  # fmt: skip
def test_a_record_that_claims_to_be_an_event_and_is_none_is_a_foreign_one(broken: dict[str, Any]) -> None:
    assert as_read(None, b"{}", list((COMPLETE | broken).items())).type == "nexus.foreign.record"
    assert as_read(None, b"{}", list(COMPLETE.items())).type == "order.placed"


def test_an_event_without_a_time_has_that_of_its_record() -> None:
    headers = [(name, value) for name, value in COMPLETE.items() if name != "ce_time"]
    assert as_read(None, b"{}", headers).time == datetime.fromtimestamp(RECORDED_MS / 1_000, UTC)


def test_an_event_without_a_media_type_is_json() -> None:
    headers = [(name, value) for name, value in COMPLETE.items() if name != "content-type"]
    assert as_read(None, b"{}", headers).datacontenttype == "application/json"


@pytest.mark.parametrize(
    ("key", "header", "expected"),
    [(b"r", None, "r"), (b"r", b"p", "p"), (None, b"p", "p"), (b"", None, ""), (b"", b"", ""), (None, None, None)],
)
@pytest.mark.parametrize("extra", [{}, {"ce_other": b"x"}])
def test_the_key_is_the_attribute_or_else_that_of_the_record(
    key: bytes | None, header: bytes | None, expected: str | None, extra: dict[str, bytes]
) -> None:
    headers = COMPLETE | extra | ({} if header is None else {"ce_partitionkey": header})
    assert as_read(key, b"{}", list(headers.items())).key == expected


@pytest.mark.parametrize("body", [b"[]", b"1", b'{"body": "x", "id": "1"}'])
def test_json_in_structured_mode_that_is_no_event_is_a_foreign_record(body: bytes) -> None:
    message = record(None, body, [("content-type", b"application/cloudevents+json")])
    assert to_stored(message, "orders").event.type == "nexus.foreign.record"
