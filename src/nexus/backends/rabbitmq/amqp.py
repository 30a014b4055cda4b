"""AMQP 1.0 messages: written as far as an event needs it, and read whatever they hold.

Streams keep a message as its sections say, so that every AMQP client of RabbitMQ reads it. This codec knows the few
forms that occur and takes about a third of the time of a general one.

>>> text = encode({"cloudEvents:id": "1"}, "text/plain", b"hi")
>>> decode(text)
Message(application={'cloudEvents:id': '1'}, content_type='text/plain', body=b'hi')
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

_DEPTH = 32
_NAMES_LIMIT = 1_024
_CONTENT_TYPE = 6  # its place in the list of properties
_SECTION_OF_SYMBOL = {
    "amqp:header:list": 0x70,
    "amqp:delivery-annotations:map": 0x71,
    "amqp:message-annotations:map": 0x72,
    "amqp:properties:list": 0x73,
    "amqp:application-properties:map": 0x74,
    "amqp:data:binary": 0x75,
    "amqp:amqp-sequence:list": 0x76,
    "amqp:amqp-value:*": 0x77,
    "amqp:footer:map": 0x78,
}


class Message(msgspec.Struct, frozen=True, gc=False):
    """What is kept of a message."""

    application: dict[str, Any]
    """Its application properties."""
    content_type: str | None
    body: bytes


class Unreadable(ValueError):
    """The bytes are no AMQP 1.0 message."""


# -- writing ----------------------------------------------------------------------------------------------------------


def _text(text: str) -> bytes:
    raw = text.encode()
    size = len(raw)
    return b"\xa1%c%b" % (size, raw) if size < 256 else b"\xb1" + size.to_bytes(4, "big") + raw


_names: dict[str, dict[str, bytes]] = {}
"""By prefix, the names that were written; a prefix is a constant of the program."""


def encode(application: Mapping[str, str], content_type: str, body: bytes, prefix: str = "") -> bytes:
    """Write a message with these application properties, their names after ``prefix``, content type and data."""
    names = _names.setdefault(prefix, {})
    raw = content_type.encode()
    size = len(raw)
    symbol = b"\xa3%c%b" % (size, raw) if size < 256 else b"\xb3" + size.to_bytes(4, "big") + raw
    # Six properties that are null before the content type.
    if size < 240:
        properties = b"\x00\x53\x73\xc0%c\x07\x40\x40\x40\x40\x40\x40%b" % (len(symbol) + 7, symbol)
    else:
        properties = b"\x00\x53\x73\xd0" + struct.pack(">II", len(symbol) + 10, 7) + b"\x40" * 6 + symbol
    parts = []
    for name, value in application.items():
        known = names.get(name)
        if known is None:
            known = _text(prefix + name)
            if len(names) >= _NAMES_LIMIT:
                names.clear()
            names[name] = known
        parts.append(known)
        raw = value.encode()
        size = len(raw)
        parts.append(b"\xa1%c%b" % (size, raw) if size < 256 else b"\xb1" + size.to_bytes(4, "big") + raw)
    pairs = b"".join(parts)
    size = len(body)
    data = b"\xa0%c" % size if size < 256 else b"\xb0" + size.to_bytes(4, "big")
    head = struct.pack(">II", len(pairs) + 4, len(parts))
    return b"".join((properties, b"\x00\x53\x74\xd1", head, pairs, b"\x00\x53\x75", data, body))


# -- reading ----------------------------------------------------------------------------------------------------------


def decode(data: bytes) -> Message:
    """Read a message; a body of other kind than data is given as text or not at all. Raises `Unreadable`."""
    application: dict[str, Any] = {}
    content_type: str | None = None
    body = b""
    at, end = 0, len(data)
    try:
        if not end:
            raise Unreadable("it is empty")
        while at < end:
            if data[at] != 0:
                raise Unreadable(f"byte {at} begins no section")
            if data[at + 1] == 0x53:
                section, at = data[at + 2], at + 3
            else:
                described, at = _value(data, at + 1, 0)
                section = _SECTION_OF_SYMBOL.get(described, -1) if isinstance(described, str) else described
            if section == 0x74:
                application, at = _texts(data, at)
            elif section == 0x75:
                part, at = _value(data, at, 0)
                if not isinstance(part, bytes):
                    raise Unreadable("its data are not bytes")
                body = body + part if body else part
            elif section == 0x73:
                content_type, at = _content_type_of(data, at)
            elif section == 0x77:
                value, at = _value(data, at, 0)
                body = value.encode() if isinstance(value, str) else value if isinstance(value, bytes) else b""
            elif section in (0x70, 0x71, 0x72, 0x76, 0x78):
                _, at = _value(data, at, 0)
            else:
                raise Unreadable(f"it has a section {section!r}")
        if at > end:
            raise Unreadable("it is cut off")
    except (IndexError, KeyError, TypeError, struct.error, ValueError, OverflowError) as error:
        raise error if isinstance(error, Unreadable) else Unreadable(str(error)) from error
    return Message(application, content_type, body)


_content_types: dict[bytes, str | None] = {}
"""By the bytes of the properties: most messages have the same."""


def _content_type_of(data: bytes, at: int) -> tuple[str | None, int]:
    short = data[at : at + 2 + data[at + 1]] if data[at] == 0xC0 else b""
    if short in _content_types:
        return _content_types[short], at + len(short)
    properties, at = _value(data, at, 0)
    found = properties[_CONTENT_TYPE] if len(properties) > _CONTENT_TYPE else None
    content_type = found if isinstance(found, str) else None
    if short:
        if len(_content_types) >= _NAMES_LIMIT:
            _content_types.clear()
        _content_types[short] = content_type
    return content_type, at


def _texts(data: bytes, at: int) -> tuple[dict[str, Any], int]:
    """Read a map; the common case, texts of up to 255 bytes under short names, without a call for each."""
    code = data[at]
    if code == 0xD1:
        size, count = struct.unpack_from(">II", data, at + 1)
        end = at + 5 + size
        at += 9
    elif code == 0xC1:
        end, count = at + 2 + data[at + 1], data[at + 2]
        at += 3
    else:
        raise Unreadable("its application properties are no map")
    found: dict[str, Any] = {}
    if count % 2 or end > len(data):
        raise Unreadable("its application properties are cut off")
    for _ in range(count // 2):
        if data[at] == 0xA1:
            stop = at + 2 + data[at + 1]
            name: Any = data[at + 2 : stop].decode()
            at = stop
        else:
            name, at = _value(data, at, 1)
        if data[at] == 0xA1:
            stop = at + 2 + data[at + 1]
            found[name] = data[at + 2 : stop].decode()
            at = stop
        else:
            found[name], at = _value(data, at, 1)
    if at != end:
        raise Unreadable("its application properties do not end where they say")
    return found, at


_FIXED: dict[int, tuple[struct.Struct, Callable[[Any], Any]]] = {
    code: (struct.Struct(form), convert)
    for code, form, convert in (
        (0x50, ">B", int), (0x51, ">b", int), (0x52, ">B", int), (0x53, ">B", int), (0x54, ">b", int),
        (0x55, ">b", int), (0x56, ">B", bool), (0x60, ">H", int), (0x61, ">h", int), (0x70, ">I", int),
        (0x71, ">i", int), (0x72, ">f", float), (0x73, ">4s", lambda raw: raw.decode("utf-32-be")),
        (0x74, ">4s", bytes), (0x80, ">Q", int), (0x81, ">q", int), (0x82, ">d", float), (0x83, ">q", int),
        (0x84, ">8s", bytes), (0x94, ">16s", bytes), (0x98, ">16s", bytes),
    )
}  # fmt: skip
_CONSTANTS: dict[int, Any] = {0x40: None, 0x41: True, 0x42: False, 0x43: 0, 0x44: 0, 0x45: []}


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    """Read one value of any type; return it and where it ends."""
    if depth > _DEPTH:
        raise Unreadable("it is nested too deep")
    code = data[at]
    at += 1
    if code in _CONSTANTS:
        return _CONSTANTS[code], at
    fixed = _FIXED.get(code)
    if fixed is not None:
        return fixed[1](fixed[0].unpack_from(data, at)[0]), at + fixed[0].size
    if code == 0x00:
        _, at = _value(data, at, depth + 1)
        return _value(data, at, depth + 1)
    kind, wide = code & 0x0F, (code & 0xF0) in (0xB0, 0xD0, 0xF0)
    size = int.from_bytes(data[at : at + 4], "big") if wide else data[at]
    at += 4 if wide else 1
    end = at + size
    if end > len(data):
        raise Unreadable("it is cut off")
    if code & 0xF0 in (0xA0, 0xB0):
        raw = data[at:end]
        if kind not in (0, 1, 3):
            raise Unreadable(f"type {code:#x} is unknown")
        return (raw if kind == 0 else raw.decode() if kind == 1 else raw.decode("ascii")), end
    count = int.from_bytes(data[at : at + 4], "big") if wide else data[at]
    at += 4 if wide else 1
    if code in (0xC0, 0xD0, 0xC1, 0xD1):
        items = []
        for _ in range(count):
            if at >= end:
                raise Unreadable("a list is cut off")
            item, at = _value(data, at, depth + 1)
            items.append(item)
        if at != end:
            raise Unreadable("a list does not end where it says")
        if code & 0x0F == 0:
            return items, end
        return dict(zip(items[::2], items[1::2], strict=True)), end
    if code in (0xE0, 0xF0):  # an array; nothing here needs what is in it
        return None, end
    raise Unreadable(f"type {code:#x} is unknown")
