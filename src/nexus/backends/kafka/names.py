"""Names: a topic of Nexus is a topic of Kafka, under a name that Kafka's own tools can take and show.

Kafka takes letters, digits, ``.``, ``_`` and ``-``, and refuses a topic whose name differs from another one only in
``.`` and ``_``, since its metrics cannot tell them apart. So ``_`` is never written: it is ``-u``. A ``-`` is ``--``,
and any other character is ``-x`` and two hexadecimal digits for each byte of its UTF-8.

>>> to_kafka("nexus", "orders.eu-west_1/ü")
'nexus.orders.eu--west-u1-x2f-xc3-xbc'
>>> from_kafka("nexus", "nexus.orders.eu--west-u1-x2f-xc3-xbc")
'orders.eu-west_1/ü'
"""

from __future__ import annotations

import re

from nexus.errors import SettingsError

LIMIT = 249
"""Characters of a name in Kafka."""

_ODD = re.compile(r"[^A-Za-z0-9.]")
_ESCAPES = re.compile(r"-(?:(-)|(u)|((?:x[0-9a-f]{2})(?:-x[0-9a-f]{2})*))")


def to_kafka(prefix: str, name: str) -> str:
    """Kafka's name of a topic. Raises `SettingsError` when it is longer than Kafka takes."""
    try:
        kafka_name = f"{prefix}.{_ODD.sub(_escape, name)}"
    except UnicodeEncodeError as error:
        raise SettingsError(f"topic {name!r} is not valid text: {error.reason}") from error
    if len(kafka_name) > LIMIT:
        raise SettingsError(f"topic {name!r} is {len(kafka_name)} characters in Kafka; {LIMIT} are the most")
    return kafka_name


def from_kafka(prefix: str, kafka_name: str) -> str | None:
    """The name that Nexus gives a topic of Kafka; None if it is not a topic of this store."""
    start = f"{prefix}."
    if not kafka_name.startswith(start):
        return None
    written = kafka_name[len(start) :]
    try:
        name = _ESCAPES.sub(_restore, written)
        return name if to_kafka(prefix, name) == kafka_name else None
    except (UnicodeDecodeError, SettingsError):
        return None


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    if character == "-":
        return "--"
    if character == "_":
        return "-u"
    return "".join(f"-x{byte:02x}" for byte in character.encode())


def _restore(match: re.Match[str]) -> str:
    if match[1]:
        return "-"
    if match[2]:
        return "_"
    return bytes.fromhex(match[3].replace("-", "").replace("x", "")).decode()
