"""What a topic is called on the server: one stream, one subject for each partition.

    topic orders.eu of the store shop     stream shop_orders_eu     partition 3: shop.log.orders_eu.3

Streams may not hold dots, wildcards, slashes or spaces, so a dot is written ``_``; what else is not a letter, a digit
or ``-`` is written as its UTF-8 bytes in hexadecimal, ``=5F`` for ``_`` itself. The way back is exact.

>>> encode("orders.eu"), encode("my_topic")
('orders_eu', 'my=5Ftopic')
>>> decode(encode("größe/ü *>"))
'größe/ü *>'
"""

from __future__ import annotations

import re

from nexus.errors import SettingsError

_MOST = 180
"""Characters of an encoded name: a stream's name is also that of a directory, which takes 255 with its prefix."""
_PLAIN = re.compile(r"[A-Za-z0-9.-]*")
_OTHER = re.compile(r"[^A-Za-z0-9.-]")
_ESCAPED = re.compile(r"(?:=[0-9A-F]{2})+")


def encode(topic: str) -> str:
    """The topic's name as a stream and a subject may hold it. Raises `SettingsError` when it gets too long."""
    text = topic
    if not _PLAIN.fullmatch(topic):
        text = _OTHER.sub(lambda found: "".join(f"={byte:02X}" for byte in found[0].encode()), topic)
    if not 0 < len(text) <= _MOST:
        raise SettingsError(f"a topic on NATS has a name of 1 to {_MOST} characters when encoded, not {len(text)}")
    return text.replace(".", "_")


def decode(text: str) -> str:
    """The topic's name again."""
    plain = text.replace("_", ".")
    return (
        _ESCAPED.sub(lambda found: bytes.fromhex(found[0].replace("=", "")).decode(), plain) if "=" in text else plain
    )


class Names:
    """The names of one topic of one store."""

    __slots__ = ("floors", "news", "partition", "stream", "subjects", "topic")

    def __init__(self, prefix: str, topic: str) -> None:
        encoded = encode(topic)
        self.topic = topic
        self.stream = f"{prefix}_{encoded}"
        self.subjects = f"{prefix}.log.{encoded}.*"
        self.partition = f"{prefix}.log.{encoded}.".encode()
        """Followed by its number: the subject of a partition."""
        self.floors = f"{prefix}.log.{encoded}.floors"
        """Subject of the record that says below which positions events were forgotten."""
        self.news = f"{prefix}.news.{encoded}"
        """Subject on which appends are told; nothing is stored there."""

    def subject(self, partition: int) -> str:
        """The subject of a partition."""
        return f"{self.partition.decode()}{partition}"


def all_subjects(prefix: str) -> str:
    """What all partitions of all topics of a store match."""
    return f"{prefix}.log.>"


def topic_of(prefix: str, stream: str) -> str | None:
    """The topic that a stream is; None if it is none of this store."""
    return decode(stream[len(prefix) + 1 :]) if stream.startswith(f"{prefix}_") else None
