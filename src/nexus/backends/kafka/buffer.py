"""What was read of one partition and is not handed on yet: records in order, from a place up to another.

Pure: filled with the client's messages by whoever reads, emptied by `take`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

from confluent_kafka import Message

from nexus.backends.kafka.binding import RECORD_BYTES, to_stored
from nexus.spi.backend import Slice, Stored, Want

MESSAGE_BYTES = 256
"""What a record is taken to need in memory besides its body."""


class Budget:
    """How many bytes an answer may still hold. The first event is always given."""

    __slots__ = ("left", "used")

    def __init__(self, max_bytes: int) -> None:
        self.left = max_bytes
        self.used = False


class Buffer:
    """Records of one partition, all that there are from ``start`` up to ``head``."""

    __slots__ = ("events", "head", "messages", "partition", "size_bytes", "start", "topic", "trimmed")

    def __init__(self, topic: str, partition: int, start: int) -> None:
        self.topic = topic
        self.partition = partition
        self.start = start
        self.head = start
        self.messages: deque[Message] = deque()
        self.size_bytes = 0
        self.trimmed: int | None = None
        """Where the partition begins, if that was found to be above the wished place."""

    def add(self, messages: Sequence[Message]) -> int:
        """Take records that follow; those below ``start`` are left out. Return how many were taken."""
        last: Any = messages[-1].offset()
        if last < self.start:
            return 0
        first: Any = messages[0].offset()
        if first < self.start:
            start = self.start
            messages = [message for message in messages if message.offset() >= start]  # type: ignore[operator]
        self.messages.extend(messages)
        self.size_bytes += sum(map(len, messages)) + MESSAGE_BYTES * len(messages)
        self.head = last + 1
        return len(messages)

    def reach(self, head: int) -> None:
        """Know that there is nothing more below ``head``."""
        self.head = max(self.head, head)

    def covers(self, position: int) -> bool:
        """Whether what is wanted from ``position`` on is here, or will be what comes next."""
        return self.start <= position <= self.head

    def skip(self, position: int) -> None:
        """Forget what is below ``position``."""
        messages = self.messages
        while messages and messages[0].offset() < position:  # type: ignore[operator]
            self._drop()
        self.start = max(self.start, position)
        self.head = max(self.head, self.start)

    def _drop(self) -> None:
        self.size_bytes -= len(self.messages.popleft()) + MESSAGE_BYTES

    def take(self, want: Want, budget: Budget, end: int) -> Slice:
        """Hand on what is wanted, within the budget; ``end`` is where the partition is known to end."""
        self.skip(want.position)
        found: list[Stored] = []
        messages, left = self.messages, budget.left
        while messages and len(found) < want.max_events:
            if budget.used and left < RECORD_BYTES:
                break
            stored = to_stored(messages[0], self.topic)
            if stored.size > left and budget.used:
                break
            budget.used = True
            left -= stored.size
            self._drop()
            found.append(stored)
        budget.left = left
        if messages:
            if found:
                self.start = found[-1].position + 1
        else:
            self.start = self.head
        more = bool(messages) or self.head < end
        return Slice(self.topic, self.partition, found, self.start, more, self.trimmed)
