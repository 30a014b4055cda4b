"""An event as a NATS message: the CloudEvents NATS binding, binary mode.

Each attribute is a header ``ce-<name>``; a value is percent-encoded where it is not printable ASCII, or a space, a
double quote or a percent sign, as the HTTP binding says, so that no value can end its line. The content type stands
also under ``content-type``, unencoded, where it is plain: some implementations look for it only there. The body is the
body. What other programs wrote is read in binary mode (encoded or not), in structured mode (JSON), or as a foreign
record.
"""

from __future__ import annotations

import re
from hashlib import blake2b
from typing import Any
from urllib.parse import quote, unquote

from nexus.core.attributes import foreign, from_structured, from_texts, to_texts
from nexus.errors import InvalidEvent
from nexus.event import JSON, Event

_SAFE = "!#$&'()*+,/:;=?@[]^`{|}<>\\"
"""Printable ASCII but the space, the double quote and the percent sign (letters, digits and ``_.-~`` are always so)."""
_NAME = re.compile(r"[a-z0-9]+")
_CONTENT_TYPE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
_STRUCTURED = "application/cloudevents"
_LONG_ID = 200
_OWN = "\r\nce-specversion: 1.0\r\nce-id: "
"""How the attributes begin in what `to_headers` writes: then names are in lower case, and nothing is to be trimmed."""
_COMMON = {JSON: f"ce-datacontenttype: {JSON}\r\ncontent-type: {JSON}\r\n"}


def to_headers(event: Event[Any]) -> bytes:
    """The header lines of an event, each with its line end. Raises `InvalidEvent` for a name that cannot be one."""
    texts = to_texts(event)
    content_type = texts.pop("datacontenttype")
    if event.extensions and not all(_NAME.fullmatch(name) for name in event.extensions):
        raise InvalidEvent("the name of an extension is made of lower-case letters and digits")
    together = "".join(texts.values())
    if not _is_plain(together):
        texts = {name: encode(value) for name, value in texts.items()}
    lines = "".join([f"ce-{name}: {value}\r\n" for name, value in texts.items()])
    return (lines + (_COMMON.get(content_type) or _content_type(content_type))).encode("ascii")


def encode(value: str) -> str:
    """Percent-encode as the binding says.

    >>> encode("Euro € 😀"), encode('50% "x"')
    ('Euro%20%E2%82%AC%20%F0%9F%98%80', '50%25%20%22x%22')
    """
    return value if _is_plain(value) else quote(value, safe=_SAFE)


def dedup_id(event: Event[Any]) -> bytes:
    """What the server recognises an event by: source and id, readable where they are short, else a digest.

    >>> dedup_id(Event("b/c", "/a", "t", datetime.now(UTC)))
    b'/a b/c'
    """
    text = f"{encode(event.source)} {encode(event.id)}"
    if len(text) <= _LONG_ID:
        return text.encode("ascii")
    return b"blake2b:" + blake2b(text.encode(), digest_size=24).hexdigest().encode()


def from_message(subject: str, position: int, recorded_at: float, headers: bytes, body: bytes) -> Event[Any]:
    """The event that a stored message is; never an error."""
    content_type = None
    try:
        text = headers.decode()
    except UnicodeDecodeError:
        text = headers.decode("latin-1")
    if _OWN in text and "\r\nce-datacontenttype: " in text and "%" not in text:
        texts = dict([line[3:].split(": ", 1) for line in text.split("\r\n") if line[:3] == "ce-" and ": " in line])
    else:
        texts, content_type = _attributes(text)
    if texts:
        if content_type is not None and "datacontenttype" not in texts:
            texts["datacontenttype"] = content_type
        event = from_texts(texts, body, recorded_at)
    elif content_type is not None and content_type.lower().startswith(_STRUCTURED):
        event = from_structured(body, recorded_at)
    else:
        event = None
    return event or foreign(f"nats:///{subject}", position, recorded_at, None, body, content_type)


def _attributes(text: str) -> tuple[dict[str, str], str | None]:
    """The attributes in header lines as anybody may write them, and the content type."""
    texts: dict[str, str] = {}
    content_type = None
    for line in text.split("\r\n"):
        name, _, value = line.partition(":")
        name, value = name.lower(), value.strip(" \t")
        if name.startswith("ce-"):
            texts[name[3:]] = unquote(value) if "%" in value else value
        elif name == "content-type":
            content_type = value
    return texts, content_type


def _is_plain(text: str) -> bool:
    return text.isascii() and not (" " in text or '"' in text or "%" in text) and (text.isprintable() or not text)


def _content_type(value: str) -> str:
    line = f"ce-datacontenttype: {encode(value)}\r\n"
    plain = _CONTENT_TYPE.fullmatch(value) and not value.lower().startswith(_STRUCTURED)
    return f"{line}content-type: {value}\r\n" if plain else line


def status(headers: bytes) -> tuple[int, str]:
    """The status that the server answers a pull with, and its words; 0 when it is none.

    >>> status(b"NATS/1.0 409 Message Size Exceeds MaxBytes\\r\\nNats-Pending-Messages: 1\\r\\n\\r\\n")
    (409, 'Message Size Exceeds MaxBytes')
    """
    line = headers.partition(b"\r\n")[0]
    if not line.startswith(b"NATS/1.0 "):
        return 0, ""
    number, _, words = line[9:].strip().partition(b" ")
    return (int(number) if number.isdigit() else 0), words.decode("ascii", "replace")


def place_of(reply: bytes) -> tuple[int, int, int, int]:
    """What the reply subject of a delivered message says: position, number of the delivery to this consumer, the
    time it was stored (nanoseconds since 1970), and how many are still to be delivered. Raises `ValueError`."""
    words = reply.split(b".")
    at = 5 if len(words) == 9 else 7  # the newer form has a domain and an account before, and a word behind
    return int(words[at]), int(words[at + 1]), int(words[at + 2]), int(words[at + 3])
