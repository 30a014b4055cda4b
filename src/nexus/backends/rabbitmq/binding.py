"""An event as an AMQP message, by the CloudEvents binding for AMQP in binary mode, and back.

Attributes are application properties named ``cloudEvents:<attribute>``; ``datacontenttype`` is the content type; the
body is the data. Read are also ``cloudEvents_`` and ``ce-``, the structured mode, and records that are no events.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from nexus.backends.rabbitmq.amqp import Message, Unreadable, decode, encode
from nexus.core.attributes import foreign, from_structured, from_texts, to_texts
from nexus.event import Event

PREFIX = "cloudEvents:"
_PREFIXES = (PREFIX, "cloudEvents_", "ce-")
_STRUCTURED = "application/cloudevents+json"
_names: dict[str, str] = {}
"""Attribute by property, for the names that were seen; bounded by `_NAMES_LIMIT`."""
_NAMES_LIMIT = 4_096


def to_record(event: Event[Any]) -> bytes:
    """Write an event as a message."""
    texts = to_texts(event)
    content_type = texts.pop("datacontenttype")
    return encode(texts, content_type, event.body, PREFIX)


def from_record(record: bytes, topic: str, partition: int, position: int, recorded_at: float) -> Event[Any]:
    """Read a record, whoever wrote it."""
    try:
        message = decode(record)
    except Unreadable:
        return foreign(_place(topic, partition), position, recorded_at, None, record, None)
    event = _binary(message, recorded_at)
    if event is None and message.content_type and message.content_type.partition(";")[0].strip() == _STRUCTURED:
        event = from_structured(message.body, recorded_at)
    if event is not None:
        return event
    return foreign(_place(topic, partition), position, recorded_at, None, message.body, message.content_type)


def _place(topic: str, partition: int) -> str:
    return f"rabbitmq:///{quote(topic, safe='')}/{partition}"


def _binary(message: Message, recorded_at: float) -> Event[Any] | None:
    texts: dict[str, str] = {}
    for name, value in message.application.items():
        attribute = _names.get(name)
        if attribute is None:
            attribute = _attribute(name)
        if attribute:
            texts[attribute] = value if value.__class__ is str else _as_text(value, attribute)
    if "specversion" not in texts:
        return None
    if message.content_type is not None:
        texts["datacontenttype"] = message.content_type
    elif "datacontenttype" not in texts:
        texts["datacontenttype"] = "application/octet-stream"
    return from_texts(texts, message.body, recorded_at)


def _attribute(name: Any) -> str:
    """Return the attribute that a property is of; empty if it is of none."""
    if not isinstance(name, str):
        return ""
    attribute = next((name[len(prefix) :] for prefix in _PREFIXES if name.startswith(prefix)), "")
    if len(_names) >= _NAMES_LIMIT:
        _names.clear()
    _names[name] = attribute
    return attribute


def _as_text(value: Any, attribute: str) -> str:
    """Write a native value as its text: CloudEvents allows both."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int) and attribute in ("time", "expirytime"):  # an AMQP timestamp: milliseconds
        try:
            return datetime.fromtimestamp(value / 1000, UTC).isoformat()
        except (OverflowError, ValueError, OSError):
            return str(value)
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)
