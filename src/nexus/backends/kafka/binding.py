"""Events as records: the Kafka protocol binding of CloudEvents 1.0.2, in its binary mode.

Each attribute is a header ``ce_<name>``, the media type is ``content-type``, the body is the value. The record's key
is the event's, and so is ``ce_partitionkey``. What is read may be in structured mode too, and may be no event at all:
then it is handed on as a foreign one (`nexus.core.attributes.foreign`).

Reading is the hot path of consumption: the attributes that most events have are taken by name; what has others goes
through `nexus.core.attributes.from_texts`, which knows them all.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

import msgspec
from confluent_kafka import Message

from nexus.core.attributes import foreign, from_structured, from_texts, to_texts
from nexus.event import JSON, Event
from nexus.spi.backend import Stored

RECORD_BYTES = 64
"""What a record takes besides its content, roughly."""
STRUCTURED = b"application/cloudevents+json"

_HEADERS: dict[str, str] = {"datacontenttype": "content-type"}
_HEADERS_LIMIT = 4_096
_from_isoformat = datetime.fromisoformat

Headers = list[tuple[str, str | bytes | None]]


def to_record(event: Event[Any]) -> tuple[bytes | None, Headers, int]:
    """The key and the headers of an event, and the bytes that it takes with its body."""
    key = None if event.key is None else event.key.encode()
    headers: Headers = []
    size = RECORD_BYTES + len(event.body) + (len(key) if key else 0)
    for name, text in to_texts(event).items():
        header = _HEADERS.get(name)
        if header is None:
            header = f"ce_{name}"
            if len(_HEADERS) < _HEADERS_LIMIT:
                _HEADERS[name] = header
        value = text.encode()
        size += len(header) + len(value)
        headers.append((header, value))
    return key, headers, size


def to_stored(message: Message, topic: str) -> Stored:
    """The event of a record of ``topic``, at its place. Never fails: what is no event is a foreign one."""
    headers = message.headers()
    key: Any = message.key()
    body: Any = message.value() or b""
    position: Any = message.offset()
    recorded_at = message.timestamp()[1] / 1_000
    size = RECORD_BYTES + len(body) + (len(key) if key else 0)
    if headers:
        # The keys of the dict are the record's own; a name that is there twice counts once, the last one.
        values: dict[str, Any] = dict(headers)
        for name, value in values.items():
            size += len(name) + (len(value) if value else 0)
        event = _usual(values, key, body) or _any(values, key, body, recorded_at)
        if event is not None:
            return Stored(position, recorded_at, size, event)
    else:
        values = {}
    return Stored(position, recorded_at, size, _foreign(message, topic, values, key, body, recorded_at))


def _usual(values: dict[str, Any], key: Any, body: bytes) -> Event[Any] | None:
    """The event, if it has all that most have and nothing that few have; else None."""
    get = values.get
    try:
        if values["ce_specversion"] != b"1.0":
            return None
        id, source, type = values["ce_id"].decode(), values["ce_source"].decode(), values["ce_type"].decode()
        time = _from_isoformat(values["ce_time"].decode())
        media = values["content-type"]
        known = 6
        tenant = subject = correlationid = causationid = traceparent = tracestate = None
        if (value := get("ce_partitionkey")) is not None:
            key, known = value.decode(), known + 1
        elif key is not None:
            key = key.decode()
        if known < len(values):
            if (value := get("ce_nexustenant")) is not None:
                tenant, known = value.decode(), known + 1
            if (value := get("ce_subject")) is not None:
                subject, known = value.decode(), known + 1
            if (value := get("ce_correlationid")) is not None:
                correlationid, known = value.decode(), known + 1
            if (value := get("ce_causationid")) is not None:
                causationid, known = value.decode(), known + 1
            if (value := get("ce_traceparent")) is not None:
                traceparent, known = value.decode(), known + 1
            if (value := get("ce_tracestate")) is not None:
                tracestate, known = value.decode(), known + 1
            if known < len(values):
                return None
        if not (id and source and type and media) or time.tzinfo is None:
            return None
        if media == b"application/json":
            datacontenttype = JSON
        elif media.startswith(STRUCTURED):
            return None
        else:
            datacontenttype = media.decode()
    except (KeyError, ValueError, AttributeError):  # AttributeError: a header without a value
        return None
    return Event(
        id,
        source,
        type,
        time,
        key,
        body,
        tenant,
        subject,
        correlationid,
        causationid,
        datacontenttype,
        None,
        None,
        traceparent,
        tracestate,
    )


def _any(values: dict[str, Any], key: bytes | None, body: bytes, recorded_at: float) -> Event[Any] | None:
    """The event of any record that is one, in either mode; else None."""
    media = values.get("content-type") or b""
    try:
        if media.lower().startswith(STRUCTURED):
            event = from_structured(body, recorded_at)
        else:
            texts = {name[3:]: value.decode() for name, value in values.items() if value and name.startswith("ce_")}
            if values.get("ce_partitionkey") == b"":
                texts["partitionkey"] = ""
            if media:
                texts["datacontenttype"] = media.decode()
            event = from_texts(texts, body, recorded_at)
        if event is not None and event.key is None and key is not None:
            event = msgspec.structs.replace(event, key=key.decode())
    except ValueError:
        return None
    return event


def _foreign(
    message: Message, topic: str, values: dict[str, Any], key: bytes | None, body: bytes, recorded_at: float
) -> Event[Any]:
    place = f"kafka:///{quote(topic)}/{message.partition()}"
    position: Any = message.offset()
    return foreign(place, position, recorded_at, _text(key), body, _text(values.get("content-type")))


def _text(value: bytes | None) -> str | None:
    """What the bytes say, if they are text."""
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None
