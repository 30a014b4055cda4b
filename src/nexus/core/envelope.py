"""What makes an event valid, and when two events are the same.

The limits are here and nowhere else; a backend may only be stricter about the body's size.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec

from nexus.core.pattern import validate_type
from nexus.errors import InvalidEvent, PayloadTooLarge
from nexus.event import JSON, Event, is_json

ID_LIMIT_CHARS = 512
SOURCE_LIMIT_CHARS = 1_024
KEY_LIMIT_BYTES = 1_024
TENANT_LIMIT_CHARS = 128
EXTENSIONS_LIMIT = 64
EXTENSIONS_LIMIT_BYTES = 16 * 1024
DEPTH_LIMIT = 200

_EXTENSION_NAME = re.compile(r"[a-z0-9]{1,64}\Z")  # CloudEvents 1.0.2 §3.1: lower-case letters and digits
_RESERVED = frozenset(Event.__struct_fields__) | {
    "specversion", "data", "data_base64", "partitionkey", "nexustenant", "sequence", "recordedtime"
}  # fmt: skip


_valid_types: dict[str, None] = {}
_TYPES_LIMIT = 4_096


def validate(event: Event[Any], max_body_bytes: int) -> None:
    """Raise `InvalidEvent` with the attribute at fault if the event breaks a rule; else do nothing."""
    _check_text("id", event.id, ID_LIMIT_CHARS)
    _check_text("source", event.source, SOURCE_LIMIT_CHARS)
    if getattr(event.time, "tzinfo", None) is not UTC:
        _check_time("time", event.time)
    _validate_optional(event)
    validate_given(event, max_body_bytes)


def validate_given(event: Event[Any], max_body_bytes: int) -> None:
    """`validate` what a publisher gives at least: type, key and body. For events whose rest the bus has made."""
    if event.type not in _valid_types:
        validate_type(event.type)
        if len(_valid_types) >= _TYPES_LIMIT:
            _valid_types.clear()
        _valid_types[event.type] = None
    key = event.key
    if key is not None and len(_utf8("key", key)) > KEY_LIMIT_BYTES:
        raise InvalidEvent(f"key is longer than {KEY_LIMIT_BYTES} bytes")
    if event.body.__class__ is not bytes:
        raise InvalidEvent(f"body must be bytes, not {type(event.body).__name__}", hint="make events with `bus.event`")
    if len(event.body) > max_body_bytes:
        raise PayloadTooLarge(
            f"payload of {len(event.body):,} bytes is over the limit of {max_body_bytes:,}",
            hint="store the payload elsewhere and publish where it is in `dataref`",
        )


def _validate_optional(event: Event[Any]) -> None:
    if event.tenant is not None:
        _check_text("tenant", event.tenant, TENANT_LIMIT_CHARS)
    if event.subject is not None:
        _check_text("subject", event.subject, SOURCE_LIMIT_CHARS)
    if event.correlationid is not None:
        _check_text("correlationid", event.correlationid, SOURCE_LIMIT_CHARS)
    if event.causationid is not None:
        _check_text("causationid", event.causationid, SOURCE_LIMIT_CHARS)
    if event.datacontenttype is not JSON:
        _check_text("datacontenttype", event.datacontenttype, SOURCE_LIMIT_CHARS)
    if event.dataschema is not None:
        _check_text("dataschema", event.dataschema, SOURCE_LIMIT_CHARS)
    if event.expirytime is not None:
        _check_time("expirytime", event.expirytime)
    if event.traceparent is not None:
        _check_text("traceparent", event.traceparent, SOURCE_LIMIT_CHARS)
    if event.tracestate is not None:
        _check_text("tracestate", event.tracestate, SOURCE_LIMIT_CHARS)
    if event.extensions:
        _check_extensions(event.extensions)


def _utf8(name: str, value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"{name} has an unpaired surrogate at character {error.start}") from error
    except AttributeError as error:
        raise InvalidEvent(f"{name} must be text, not {type(value).__name__}") from error


def _check_text(name: str, value: str, limit: int) -> None:
    if value.__class__ is str and 0 < len(value) <= limit and value.isprintable():
        return
    _utf8(name, value)
    if not value:
        raise InvalidEvent(f"{name} is empty")
    if len(value) > limit:
        raise InvalidEvent(f"{name} has {len(value):,} characters; the limit is {limit:,}")
    raise InvalidEvent(f"{name} has a control character")


def _check_time(name: str, value: datetime) -> None:
    if not isinstance(value, datetime):
        raise InvalidEvent(f"{name} must be a datetime, not {type(value).__name__}")
    if value.tzinfo is None:
        raise InvalidEvent(f"{name} {value.isoformat()} has no offset", hint="use an aware datetime, such as UTC")
    try:
        value.astimezone(UTC)
    except OverflowError:
        raise InvalidEvent(f"{name} {value.isoformat()} is outside the years 1 to 9999 in UTC") from None


def _check_extensions(extensions: Mapping[str, str | int | bool]) -> None:
    if len(extensions) > EXTENSIONS_LIMIT:
        raise InvalidEvent(f"{len(extensions)} extension attributes; the limit is {EXTENSIONS_LIMIT}")
    total = 0
    for name, value in extensions.items():
        if not isinstance(name, str) or not _EXTENSION_NAME.match(name):
            raise InvalidEvent(
                f"extension attribute {name!r} is not allowed",
                hint="names have 1 to 64 lower-case letters or digits",
            )
        if name in _RESERVED:
            raise InvalidEvent(f"{name!r} is an attribute of its own, not an extension")
        if not isinstance(value, str | int | bool):
            raise InvalidEvent(f"extension attribute {name!r} is a {type(value).__name__}, not text, int or bool")
        total += len(name) + len(_utf8(name, str(value)))
    if total > EXTENSIONS_LIMIT_BYTES:
        raise InvalidEvent(f"extension attributes take {total:,} bytes; the limit is {EXTENSIONS_LIMIT_BYTES:,}")


def same_content(first: Event[Any], second: Event[Any]) -> bool:
    """Tell whether two events with one (source, id) are one fact published twice.

    Time, trace and causation are left out: they belong to the act of publishing, not to the fact.
    """
    return (
        first.body == second.body
        and first.type == second.type
        and first.key == second.key
        and first.tenant == second.tenant
        and first.subject == second.subject
        and first.datacontenttype == second.datacontenttype
    )


def content_hash(event: Event[Any]) -> int:
    """A number that is the same in this process for all that `same_content` holds for."""
    return hash((event.body, event.type, event.key, event.tenant, event.subject, event.datacontenttype))


_encoder = msgspec.json.Encoder()


def encode_payload(payload: object) -> tuple[bytes, str]:
    """Return body bytes and media type of a payload: None is no body, bytes stay as they are, all else is JSON.

    Raises `InvalidEvent` for what JSON cannot say exactly: NaN, infinities, integers beyond 64 bits, unknown types.
    """
    if payload is None:
        return b"", JSON
    if payload.__class__ is dict:  # the commonest payload takes the shortest way; errors take the other
        try:
            body: bytes = _encoder.encode(payload)
        except Exception:
            return _encode_json(payload), JSON
        if b"null" not in body:
            return body, JSON
    if isinstance(payload, bytes | bytearray | memoryview):
        return bytes(payload), "application/octet-stream"
    return _encode_json(payload), JSON


def _encode_json(payload: object) -> bytes:
    try:
        dump_json = getattr(payload, "model_dump_json", None)  # pydantic, without importing it
        body: bytes = dump_json().encode() if dump_json is not None else _encoder.encode(payload)
        if b"null" in body:  # msgspec and pydantic write NaN and infinities as null
            _refuse_not_finite(payload if dump_json is None else payload.model_dump())  # type: ignore[attr-defined]
    except RecursionError as error:
        raise InvalidEvent("payload is nested too deep") from error
    except InvalidEvent:
        raise
    except Exception as error:
        raise InvalidEvent(f"payload cannot be written as JSON: {error}") from error
    return body


def _refuse_not_finite(payload: object) -> None:
    for value in _leaves(msgspec.to_builtins(payload)):
        if isinstance(value, float) and not math.isfinite(value):
            raise InvalidEvent(f"payload has {value}, which JSON cannot say")


def _leaves(value: object) -> list[object]:
    found: list[object] = []
    todo = [value]
    while todo:
        item = todo.pop()
        if isinstance(item, dict):
            todo.extend(item.values())
        elif isinstance(item, list | tuple | set):
            todo.extend(item)
        else:
            found.append(item)
    return found


def check_json(text: bytes) -> None:
    """Raise `InvalidEvent` unless ``text`` is JSON that every reader understands alike (RFC 7493, I-JSON).

    Refused: bad UTF-8, duplicate keys, NaN and infinities, more than 200 levels. Numbers stay as they were written.
    """
    depth = deepest = 0
    for char in re.sub(rb'"(?:[^"\\]|\\.)*"', b"", text):
        if char in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in b"]}":
            depth -= 1
    if deepest > DEPTH_LIMIT:
        raise InvalidEvent(f"payload is nested {deepest:,} levels deep; the limit is {DEPTH_LIMIT}")
    try:
        json.loads(text.decode(), object_pairs_hook=_no_duplicates, parse_constant=_no_constant)
    except InvalidEvent:
        raise
    except UnicodeDecodeError as error:
        raise InvalidEvent(f"payload is not UTF-8 at byte {error.start}") from error
    except ValueError as error:
        raise InvalidEvent(f"payload is not JSON: {error}") from error


def _no_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    made = dict(pairs)
    if len(made) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise InvalidEvent(f"payload has the key {twice!r} twice in one object")
    return made


def _no_constant(name: str) -> None:
    raise InvalidEvent(f"payload has {name}, which JSON cannot say")


_FROM_CLOUDEVENT = {"partitionkey": "key", "nexustenant": "tenant"}
_TO_CLOUDEVENT = {name: cloud for cloud, name in _FROM_CLOUDEVENT.items()}


def from_cloudevent(text: bytes, time: datetime | None = None) -> Event[Any]:
    """Read an event in CloudEvents' JSON format, strictly. Raises `InvalidEvent` naming the attribute at fault.

    ``time`` stands for one that is not given; with None it is missed.
    """
    check_json(text)
    raw = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    if "data" in raw and "data_base64" in raw:
        raise InvalidEvent("both data and data_base64 are given")
    if bytes(raw.pop("specversion", b'"1.0"')) != b'"1.0"':
        raise InvalidEvent("specversion is not 1.0")
    content = raw.pop("datacontenttype", None)
    media = msgspec.json.decode(content, type=str) if content is not None else JSON
    body = b""
    if "data" in raw:
        body = bytes(raw.pop("data"))
        if not is_json(media):
            body = _text_body(body, media)
    elif "data_base64" in raw:
        body = msgspec.json.decode(raw.pop("data_base64"), type=bytes)
        if is_json(media):
            check_json(body)
    fields: dict[str, Any] = {}
    extensions: dict[str, Any] = {}
    for name, value in raw.items():
        if not _EXTENSION_NAME.match(name):
            raise InvalidEvent(f"attribute {name!r} is not allowed", hint="lower-case letters and digits only")
        field = _FROM_CLOUDEVENT.get(name, name)
        decoded = msgspec.json.decode(value)
        if field in ("time", "expirytime"):
            decoded = _parse_time(field, decoded)
        elif field in Event.__struct_fields__ and not isinstance(decoded, str):
            raise InvalidEvent(f"{name} must be text")
        (fields if field in Event.__struct_fields__ else extensions)[field] = decoded
    if time is not None:
        fields.setdefault("time", time)
    missing = {"id", "source", "type", "time"} - fields.keys()
    if missing:
        raise InvalidEvent(f"attribute {sorted(missing)[0]!r} is missing")
    return Event(**fields, body=body, datacontenttype=media, extensions=extensions or None)


def _text_body(body: bytes, media: str) -> bytes:
    text = msgspec.json.decode(body)
    if not isinstance(text, str):
        raise InvalidEvent(f"datacontenttype says {media}, and data is JSON", hint="leave datacontenttype out for JSON")
    return text.encode()


def _parse_time(name: str, value: object) -> datetime:
    try:
        time = msgspec.convert(value, datetime)
    except msgspec.ValidationError as error:
        raise InvalidEvent(f"{name} is not an RFC 3339 time: {value!r}") from error
    _check_time(name, time)
    return time


def to_cloudevent(event: Event[Any]) -> bytes:
    """Write an event in CloudEvents' JSON format."""
    out: dict[str, Any] = {"specversion": "1.0"}
    for name in Event.__struct_fields__:
        value = getattr(event, name)
        if value is not None and name not in ("body", "extensions"):
            out[_TO_CLOUDEVENT.get(name, name)] = value
    out.update(event.extensions or {})
    if event.body:
        if is_json(event.datacontenttype):
            out["data"] = msgspec.Raw(event.body)
        else:
            out["data_base64"] = event.body
    return _encoder.encode(out)
