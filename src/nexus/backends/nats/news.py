"""News: who wants to be woken when a topic has some, and how other processes hear of an append.

After an append an empty message is published on the topic's news subject: at once if the last one was sent more than
2 ms ago, else as soon as that time is over, so that a flood of appends is a trickle of news. Nothing of it is stored.
What a reader receives is news as well.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Sequence

from nexus.backends.nats.connection import Connection, Down
from nexus.backends.nats.names import Names

log = logging.getLogger("nexus.nats")

PAUSE_S = 0.002
"""The shortest time between two messages about one topic."""


class News:
    """The news of a store."""

    def __init__(
        self,
        connection: Connection,
        names_of: Callable[[str], Names],
        on_trim: Callable[[str, int, int], None],
    ) -> None:
        self._connection = connection
        self._names_of = names_of
        self._on_trim = on_trim
        self._me = os.urandom(6).hex().encode()
        self._watchers: dict[str, dict[int, Callable[[], None]]] = {}
        self._listening: dict[str, int] = {}
        self._kept: set[str] = set()
        self._fresh: set[str] = set()
        self._calling = False
        self._told_at: dict[str, float] = {}
        self._late: dict[str, asyncio.TimerHandle] = {}
        self._numbers = 0
        connection.on_up.append(self._on_up)

    # -- hearing ---------------------------------------------------------------------------------------------------

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """See `Log.watch`."""
        self._numbers += 1
        number = self._numbers
        for topic in topics:
            self._watchers.setdefault(topic, {})[number] = wake
            self._listen(topic)

        def stop() -> None:
            for topic in topics:
                watchers = self._watchers.get(topic, {})
                watchers.pop(number, None)
                if not watchers:
                    self._watchers.pop(topic, None)
                    self._leave(topic)

        return stop

    def keep(self, topics: set[str]) -> None:
        """Listen to these topics too, since they are read ahead: whoever has events forgotten says so here."""
        before, self._kept = self._kept, topics
        for topic in topics - before:
            self._listen(topic)
        for topic in before - topics:
            self._leave(topic)

    def follow(self, topic: str) -> None:
        """Listen to one more topic that is read ahead."""
        if topic not in self._kept:
            self._kept.add(topic)
            self._listen(topic)

    def _listen(self, topic: str) -> None:
        if topic not in self._listening:
            self._listening[topic] = self._connection.listen(
                self._names_of(topic).news, lambda _subject, _reply, _headers, data: self._heard(topic, data)
            )

    def _leave(self, topic: str) -> None:
        if topic not in self._watchers and topic not in self._kept and topic in self._listening:
            self._connection.leave(self._listening.pop(topic))

    def _heard(self, topic: str, data: bytes) -> None:
        words = data.split()
        if len(words) == 4 and words[1] == b"trim":
            self._on_trim(topic, int(words[2]), int(words[3]))
        if not words or words[0] != self._me:
            self.arrived(topic)

    def arrived(self, topic: str) -> None:
        """Wake who watches a topic, once for all that arrives in this turn of the loop."""
        if topic in self._watchers:
            self._fresh.add(topic)
            if not self._calling:
                self._calling = True
                asyncio.get_running_loop().call_soon(self._wake)

    def _wake(self) -> None:
        self._calling = False
        topics, self._fresh = self._fresh, set()
        wakes = {
            number: wake for topic in topics for number, wake in self._watchers.get(topic, {}).items()
        }  # each once, also if it watches several
        for number, wake in wakes.items():
            if any(number in watchers for watchers in self._watchers.values()):
                wake()

    def _on_up(self) -> None:
        """Nobody knows what was missed while the connection was down."""
        for topic in self._watchers:
            self.arrived(topic)

    # -- telling ---------------------------------------------------------------------------------------------------

    def tell(self, topic: str) -> None:
        """Tell everybody that a topic has grown."""
        self.arrived(topic)
        if topic in self._late:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = self._told_at.get(topic, 0.0) + PAUSE_S
        if now >= due:
            self._send(topic)
        else:
            self._late[topic] = loop.call_at(due, self._send, topic)

    def tell_trim(self, topic: str, partition: int, lost: int) -> None:
        """Tell everybody that events below a position are forgotten."""
        self._send(topic, b" trim %d %d" % (partition, lost))

    def _send(self, topic: str, more: bytes = b"") -> None:
        late = self._late.pop(topic, None)
        if late is not None:
            late.cancel()
        loop = asyncio.get_running_loop()
        if len(self._told_at) >= 1_024:
            self._told_at.clear()
        self._told_at[topic] = loop.time()
        body = self._me + more
        try:
            self._connection.send(b"PUB %s %d\r\n%s\r\n" % (self._names_of(topic).news.encode(), len(body), body))
        except Down:
            # Who watches is woken anyway when its own connection is back; ours may be down alone.
            log.debug("news of %s wait for the connection", topic)
            self._late[topic] = loop.call_later(0.05, self._send, topic, more)

    def close(self) -> None:
        """Tell what is still to be told, and nothing more."""
        for topic in list(self._late):
            late = self._late[topic]
            late.cancel()
            if self._connection.up:
                self._send(topic)
        self._late.clear()
        self._watchers.clear()
