"""An event's attributes as named texts: the binary content mode of CloudEvents, for brokers with headers.

Each attribute becomes one text under its CloudEvents name; a binding puts its own prefix before it (``ce_`` on Kafka,
``ce-`` on NATS, ``cloudEvents:`` on AMQP). The body stays as it is. Extension attributes that are numbers or truth
values are named in one more attribute, ``nexustypes``, since texts alone would not tell (CloudEvents 1.0.2 §3.1.1).

>>> from datetime import UTC, datetime
>>> event = Event(id="1", source="/shop", type="order.placed", time=datetime(2013, 1, 1, tzinfo=UTC), key="o-1")
>>> texts = to_texts(event)
>>> texts["partitionkey"], texts["time"]
('o-1', '2013-01-01T00:00:00Z')
>>> from_texts(texts, b"") == event
True
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from nexus.core.envelope import from_cloudevent
from nexus.errors import InvalidEvent
from nexus.event import JSON, Event

_OPTIONAL = {
    "key": "partitionkey",
    "tenant": "nexustenant",
    "subject": "subject",
    "correlationid": "correlationid",
    "causationid": "causationid",
    "dataschema": "dataschema",
    "traceparent": "traceparent",
    "tracestate": "tracestate",
}
_TYPES = "nexustypes"
_KNOWN = frozenset(
    {"specversion", "id", "source", "type", "time", "datacontenttype", "expirytime", _TYPES, *_OPTIONAL.values()}
)


def to_texts(event: Event[Any]) -> dict[str, str]:
    """Return the attributes of an event, all but its body."""
    texts = {
        "specversion": "1.0",
        "id": event.id,
        "source": event.source,
        "type": event.type,
        "time": _time_to_text(event.time),
        "datacontenttype": event.datacontenttype,
    }
    if event.key is not None:
        texts["partitionkey"] = event.key
    if event.expirytime is not None:
        texts["expirytime"] = _time_to_text(event.expirytime)
    for field, name in _OPTIONAL.items():
        value = getattr(event, field)
        if value is not None:
            texts[name] = value
    if event.extensions:
        kinds = []
        for name, extension in event.extensions.items():
            if isinstance(extension, bool):
                texts[name] = "true" if extension else "false"
                kinds.append(f"{name}=b")
            elif isinstance(extension, int):
                texts[name] = str(extension)
                kinds.append(f"{name}=i")
            else:
                texts[name] = extension
        if kinds:
            texts[_TYPES] = ",".join(kinds)
    return texts


def from_texts(texts: Mapping[str, str], body: bytes, recorded_at: float = 0.0) -> Event[Any] | None:
    """Return the event that the texts and the body are; None if they are no CloudEvents 1.0 event.

    An event without a time, which CloudEvents allows, has that at which it was recorded (seconds since 1970).
    """
    get = texts.get
    id, source, type = get("id"), get("source"), get("type")
    if get("specversion") != "1.0" or not id or not source or not type:
        return None
    try:
        time = _time_of_text(texts["time"]) if "time" in texts else datetime.fromtimestamp(recorded_at, UTC)
        expirytime = _time_of_text(texts["expirytime"]) if "expirytime" in texts else None
        extensions = None
        others = texts.keys() - _KNOWN
        if others:
            kinds = dict(kind.split("=", 1) for kind in texts.get(_TYPES, "").split(",") if kind)
            extensions = {name: _typed(texts[name], kinds.get(name)) for name in others}
    except ValueError:
        return None
    return Event(
        id,
        source,
        type,
        time,
        get("partitionkey"),
        body,
        get("nexustenant"),
        get("subject"),
        get("correlationid"),
        get("causationid"),
        get("datacontenttype") or JSON,
        get("dataschema"),
        expirytime,
        get("traceparent"),
        get("tracestate"),
        extensions,
    )


def from_structured(body: bytes, recorded_at: float) -> Event[Any] | None:
    """Return the event that a record in structured mode (CloudEvents' JSON format) is; None if it is none.

    A time that is missing is taken from ``recorded_at``, as `from_texts` does.
    """
    try:
        return from_cloudevent(body, datetime.fromtimestamp(recorded_at, UTC))
    except (InvalidEvent, msgspec.MsgspecError, TypeError, ValueError):  # whatever anybody may have written there
        return None


def foreign(
    place: str, position: int, recorded_at: float, key: str | None, body: bytes, datacontenttype: str | None
) -> Event[Any]:
    """Make an event of a record that is none: something another program wrote there.

    ``place`` says where, as a URI such as ``kafka:///orders/3``; it is the source, and the position there is the id.
    """
    return Event(
        str(position),
        place,
        "nexus.foreign.record",
        datetime.fromtimestamp(recorded_at, UTC),
        key,
        body,
        datacontenttype=datacontenttype or "application/octet-stream",
    )


def _typed(text: str, kind: str | None) -> str | int | bool:
    if kind == "i":
        return int(text)
    return text == "true" if kind == "b" else text


def _time_to_text(time: datetime) -> str:
    text = time.isoformat()
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _time_of_text(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    if time.tzinfo is None:
        raise ValueError(text)
    return time
