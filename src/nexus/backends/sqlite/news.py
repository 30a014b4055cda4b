"""News from and to other processes, by datagrams on Unix sockets beside the file.

After each commit the writer sends one small datagram to every other open store: the ids of the topics that grew, and
0 for what concerns groups. Nothing depends on it but speed; whoever misses one looks at the file within 250 ms.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterable

from nexus.backends.sqlite.files import Presence

LOOK_EVERY_S = 0.25
_HELLO = b"hello"
_DATAGRAM_TOPICS = 200


class News:
    """The socket of this store, and the addresses of the others."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._socket: socket.socket | None = None
        self._others: list[str] = []
        self._looked_at = 0.0

    def open(self) -> None:
        """Bind, and say hello to the others, so that they send here from now on."""
        with contextlib.suppress(OSError):  # without sockets the look every 250 ms remains
            made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
            try:
                made.bind(self._presence.socket_path())
            except OSError:
                made.close()
                raise
            self._socket = made
        self.find_others()
        self._send(_HELLO)

    def listen(self, loop: asyncio.AbstractEventLoop, on_news: Callable[[set[int]], None]) -> None:
        """Call ``on_news`` on the loop with the numbers of topics (0: groups) that others wrote to."""
        if self._socket is not None:
            loop.add_reader(self._socket.fileno(), self._receive, on_news)

    def _receive(self, on_news: Callable[[set[int]], None]) -> None:
        topics: set[int] = set()
        for _ in range(64):  # a bound, so that a flood does not keep the loop here; the rest comes with the next turn
            try:
                data = self._socket.recv(4096) if self._socket is not None else b""
            except OSError:
                break
            if data == _HELLO:
                self.find_others()
                continue
            with contextlib.suppress(ValueError):
                topics.update(int(number) for number in data.split())
        if topics:
            on_news(topics)

    def poll(self, on_news: Callable[[set[int]], None]) -> None:
        """Take news that lie waiting here: an append elsewhere that returned has sent its own before."""
        if self._others:
            self._receive(on_news)

    def find_others(self) -> None:
        """Look who is there."""
        self._looked_at = time.monotonic()
        self._others = self._presence.others()

    def tell(self, topics: Iterable[int]) -> None:
        """Tell the others, from the writer thread."""
        if time.monotonic() - self._looked_at > LOOK_EVERY_S:
            self.find_others()
        if self._others:
            numbers = sorted(topics)
            for start in range(0, len(numbers), _DATAGRAM_TOPICS):
                self._send(" ".join(map(str, numbers[start : start + _DATAGRAM_TOPICS])).encode())

    def _send(self, data: bytes) -> None:
        if self._socket is None:
            return
        for name in self._others:
            # Gone, not yet bound, or full: then it has news waiting, or will look by itself.
            with contextlib.suppress(OSError):
                self._socket.sendto(data, self._presence.socket_path(name))

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Stop listening, on the loop. Idempotent."""
        if self._socket is not None:
            loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None
            with contextlib.suppress(OSError):
                os.unlink(self._presence.socket_path())
