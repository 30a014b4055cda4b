"""Attributes as texts: every event comes back, and what is no event is told apart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.attributes import foreign, from_structured, from_texts, to_texts
from nexus.event import JSON, Event

TEXT = st.text(min_size=1, max_size=20)
TIMES = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=30))]))
EXTENSIONS = st.dictionaries(
    st.from_regex(r"x[a-z0-9]{1,9}", fullmatch=True), TEXT | st.integers(-(2**31), 2**31) | st.booleans(), max_size=4
)
EVENTS = st.builds(
    Event,
    id=TEXT,
    source=TEXT,
    type=TEXT,
    time=TIMES,
    key=st.none() | st.text(max_size=5),
    body=st.binary(max_size=20),
    tenant=st.none() | TEXT,
    subject=st.none() | TEXT,
    correlationid=st.none() | TEXT,
    causationid=st.none() | TEXT,
    datacontenttype=st.sampled_from([JSON, "text/plain"]),
    dataschema=st.none() | TEXT,
    expirytime=st.none() | TIMES,
    traceparent=st.none() | TEXT,
    tracestate=st.none() | TEXT,
    extensions=EXTENSIONS.map(lambda found: found or None),
)


@given(EVENTS)
def test_every_event_comes_back(event: Event) -> None:
    back = from_texts(to_texts(event), event.body)
    assert back == event
    assert back is not None
    assert {n: type(v) for n, v in (back.extensions or {}).items()} == {
        n: type(v) for n, v in (event.extensions or {}).items()
    }


def test_extensions_that_are_texts_need_no_types() -> None:
    event = Event(id="1", source="/a", type="t", time=datetime(2026, 1, 1, tzinfo=UTC), extensions={"color": "red"})
    assert "nexustypes" not in to_texts(event)
    assert from_texts(to_texts(event), b"") == event


def test_what_another_program_wrote_needs_only_what_cloudevents_demands() -> None:
    texts = {"specversion": "1.0", "id": "1", "source": "/other", "type": "order.placed"}
    event = from_texts(texts, b"body")
    assert event is not None
    assert (event.time, event.datacontenttype, event.key) == (datetime(1970, 1, 1, tzinfo=UTC), JSON, None)
    more = from_texts(texts | {"color": "red", "partitionkey": "k"}, b"")
    assert more is not None
    assert (more.extensions, more.key) == ({"color": "red"}, "k")


@pytest.mark.parametrize(
    "changed",
    [
        {"specversion": "0.3"}, {"id": ""}, {"source": ""}, {"type": ""}, {"time": "yesterday"},
        {"time": "2026-01-01T00:00:00"}, {"partitionkey": "k", "x": "y", "nexustypes": "x=i"},
    ],
)  # fmt: skip
def test_what_is_no_event_is_told_apart(changed: dict[str, str]) -> None:
    texts = to_texts(Event(id="1", source="/a", type="t", time=datetime(2026, 1, 1, tzinfo=UTC)))
    assert from_texts(texts | changed, b"") is None


def test_a_foreign_record_is_an_event_named_by_its_place() -> None:
    event = foreign("kafka:///orders/3", 17, 1.5, "k", b"\x00", None)
    assert (event.id, event.source, event.key, event.body) == ("17", "kafka:///orders/3", "k", b"\x00")
    assert event.datacontenttype == "application/octet-stream"
    assert event.time == datetime.fromtimestamp(1.5, UTC)


def test_a_record_in_structured_mode_has_its_own_time_or_that_of_its_recording() -> None:
    text = b'{"specversion": "1.0", "id": "1", "source": "/a", "type": "t", "data": {"n": 1}}'
    event = from_structured(text, 1.5)
    assert event is not None
    assert (event.time, event.data) == (datetime.fromtimestamp(1.5, UTC), {"n": 1})
    dated = from_structured(text[:-1] + b', "time": "2026-01-01T00:00:00Z"}', 1.5)
    assert dated is not None
    assert dated.time == datetime(2026, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"1", b'{"id": 1}', b'{"body": "x", "id": "1"}', b"\xff"])
def test_a_record_in_structured_mode_that_is_no_event_is_told_apart(body: bytes) -> None:
    assert from_structured(body, 0.0) is None
