"""An event as a NATS message: it comes back, and no value can break out of its header."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nats.aio.client import Client

from nexus.backends.nats.codec import dedup_id, from_message, place_of, status, to_headers
from nexus.errors import InvalidEvent
from nexus.event import Event

words = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)
times = st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(2200, 1, 1), timezones=st.just(UTC))
names = st.from_regex(r"[a-z]{1,6}x", fullmatch=True)
events = st.builds(
    Event,
    id=words, source=words, type=words, time=times, key=st.none() | st.text(st.characters(exclude_categories=["Cs"])),
    body=st.binary(max_size=20), tenant=st.none() | words, subject=st.none() | words, correlationid=st.none() | words,
    causationid=st.none() | words, datacontenttype=words, dataschema=st.none() | words,
    expirytime=st.none() | times, traceparent=st.none() | words, tracestate=st.none() | words,
    extensions=st.none() | st.dictionaries(names, words | st.booleans() | st.integers(-(2**31), 2**31 - 1), min_size=1),
)  # fmt: skip


def decoded(lines: bytes, body: bytes = b"") -> Event[Any]:
    return from_message("n.log.t.0", 7, 1_000.0, b"NATS/1.0\r\n" + lines + b"\r\n", body)


@given(events)
@example(Event("a\r\nNats-Rollup: all", "%0D%0A", '"', datetime(2026, 1, 1, tzinfo=UTC), key="", datacontenttype=" x "))
def test_an_event_comes_back(event: Event[Any]) -> None:
    assert decoded(to_headers(event), event.body) == event


@given(events)
def test_no_value_breaks_out_of_its_line(event: Event[Any]) -> None:
    lines = to_headers(event)
    assert lines.isascii()
    assert lines.endswith(b"\r\n")
    for line in lines[:-2].split(b"\r\n"):
        assert line.startswith((b"ce-", b"content-type: "))
        assert b"\r" not in line
        assert b"\n" not in line
    assert not any(byte in dedup_id(event) for byte in b"\r\n\0")


@given(events)
def test_the_client_of_others_reads_the_same_names(event: Event[Any]) -> None:
    headers = Client._parse_header_lines(to_headers(event))
    assert headers["ce-specversion"] == "1.0"
    assert len(headers) == len({*headers}) == to_headers(event).count(b"\r\n")


@given(words, words, words, words)
@example("/a", "b/c", "/a/b", "c")
@example("/a b", "c", "/a", "b c")
def test_ids_are_the_same_only_for_the_same_source_and_id(s1: str, i1: str, s2: str, i2: str) -> None:
    one, two = (Event(id, source, "t", datetime(2026, 1, 1, tzinfo=UTC)) for source, id in ((s1, i1), (s2, i2)))
    assert (dedup_id(one) == dedup_id(two)) == ((s1, i1) == (s2, i2))


def test_a_long_id_is_recognised_by_a_digest() -> None:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    assert len(dedup_id(Event("x" * 500, "/s", "t", now))) < 70
    assert dedup_id(Event("x" * 500, "/s", "t", now)) != dedup_id(Event("x" * 499 + "y", "/s", "t", now))


def test_an_extension_whose_name_is_no_header_is_refused() -> None:
    with pytest.raises(InvalidEvent):
        to_headers(Event("1", "/s", "t", datetime(2026, 1, 1, tzinfo=UTC), extensions={"a: b\r\nc": "x"}))


def test_values_of_others_are_taken_unencoded_too() -> None:
    event = decoded(
        "ce-specversion: 1.0\r\nCe-Id: 50% \r\nce-source:/s\r\nce-type: größe x\r\n"
        "Content-Type: text/plain\r\n".encode()
    )
    assert (event.id, event.source, event.type, event.datacontenttype) == ("50%", "/s", "größe x", "text/plain")
    assert event.time == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=1_000)  # when it was stored


@pytest.mark.parametrize(
    ("more", "body", "content_type"),
    [
        ({"data": {"a": 1}}, b'{"a":1}', "application/json"),
        ({"data": "x"}, b'"x"', "application/json"),
        ({"data": "x", "datacontenttype": "text/plain"}, b"x", "text/plain"),
        ({"data_base64": "AP8=", "datacontenttype": "a/b"}, b"\x00\xff", "a/b"),
        ({}, b"", "application/json"),
    ],
)
def test_structured_mode_is_read(more: dict[str, Any], body: bytes, content_type: str) -> None:
    members = {"specversion": "1.0", "id": "1", "source": "/s", "type": "t", "time": "2026-01-01T00:00:00Z"}
    members |= {"partitionkey": "k", "number": 3, "yes": True, **more}
    event = decoded(
        b"content-type: application/cloudevents+json; charset=utf-8\r\n",
        json.dumps(members, separators=(",", ":")).encode(),
    )
    assert (event.id, event.key, event.body, event.datacontenttype) == ("1", "k", body, content_type)
    assert event.extensions == {"number": 3, "yes": True}


@given(st.binary(max_size=200), st.binary(max_size=50))
@example(b"ce-id: 1\r\n", b"")
@example(b"ce-specversion: 1.0\r\nce-id: 1\r\nce-source: s\r\nce-type: t\r\nce-time: never\r\n", b"")
@example(b"content-type: application/cloudevents+json\r\n", b"{")
@example(b"content-type: application/cloudevents+json\r\n", b'{"specversion":"1.0","id":"1"}')
@example(
    b"content-type: application/cloudevents+json\r\n",
    b'{"specversion":"1.0","id":1,"source":"s","type":"t","data_base64":3}',
)
@example(b"content-type: application/cloudevents+json\r\n", b"[]")
def test_what_is_no_event_becomes_a_foreign_record(lines: bytes, body: bytes) -> None:
    event = decoded(lines, body)
    assert event.type == "nexus.foreign.record"
    assert (event.id, event.source, event.body) == ("7", "nats:///n.log.t.0", body)


def test_the_server_s_words_are_understood() -> None:
    assert status(b"NATS/1.0 503\r\n\r\n") == (503, "")
    assert status(b"NATS/1.0 408 Request Timeout\r\nNats-Pending-Messages: 8\r\n\r\n") == (408, "Request Timeout")
    assert status(b"NATS/1.0\r\na: b\r\n\r\n") == (0, "")
    assert status(b"") == (0, "")
    assert place_of(b"$JS.ACK.s.c.1.42.7.1795530117177506071.3") == (42, 7, 1795530117177506071, 3)
    assert place_of(b"$JS.ACK.hub.acc.s.c.1.42.7.1795530117177506071.3.x") == (42, 7, 1795530117177506071, 3)


def test_numbers_in_structured_mode_stay_as_they_were_written() -> None:
    body = b'{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"n":123456789012345678901234567890.10}}'
    event = decoded(b"content-type: application/cloudevents+json\r\n", body)
    assert event.body == b'{"n":123456789012345678901234567890.10}'
