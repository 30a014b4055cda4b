"""Connections to the nodes, made when they are needed and made again when they were lost.

What concerns a stream goes to the node of its leader: only there its end is known for certain. A broker that names one
node only is spoken to at the address that was given, so that it may stand behind another name.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, TypeVar

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.connection import Connection, ConnectionLost, Refused, connect, tls_context
from nexus.backends.rabbitmq.settings import Settings
from nexus.errors import Closed, ReadOnly, Unavailable, UnknownTopic

log = logging.getLogger("nexus.rabbitmq")

Role = Literal["write", "read"]
"""Chunks come on connections of their own, so that confirms and answers do not wait behind them."""
CONNECTIONS = 4
"""Connections to one node in one role, at most."""
_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.02, 0.5
_PLACES = 10_000

A = TypeVar("A")


class Full(Exception):
    """Every connection to the node carries as much as it can."""


class Links:
    """All connections of one store."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._context = tls_context(settings)
        self._connections: dict[tuple[tuple[str, int], Role], list[Connection]] = {}
        self._opening: dict[tuple[tuple[str, int], Role], asyncio.Lock] = {}
        self._places: dict[str, frames.Member] = {}
        self._closed = False
        self._lost: set[tuple[tuple[str, int], Role]] = set()

    async def close(self) -> None:
        """Close all connections. Idempotent."""
        self._closed = True
        connections = [one for many in self._connections.values() for one in many]
        self._connections.clear()
        await asyncio.gather(*(connection.close() for connection in connections))

    async def any(self) -> Connection:
        """Return a connection to some node. Raises `ConnectionLost`."""
        for connections in self._connections.values():
            for connection in connections:
                if connection.alive:
                    return connection
        addresses = list(self.settings.addresses)
        random.shuffle(addresses)
        for address in addresses[:-1]:
            try:
                return await self._connection(address, "write", lambda connection: True)
            except ConnectionLost as error:
                log.info("RabbitMQ: %s", error)
        return await self._connection(addresses[-1], "write", lambda connection: True)

    async def place(self, stream: str) -> frames.Member:
        """Say where a stream is. Raises `UnknownTopic`, and `Refused` while it has no leader."""
        known = self._places.get(stream)
        if known is not None:
            return known
        return (await self.look([stream]))[0]

    async def look(self, streams: Sequence[str]) -> list[frames.Member]:
        """Ask the broker where streams are. Raises as `place`."""
        connection = await self.any()
        body = len(streams).to_bytes(4, "big") + b"".join(map(frames.text, streams))
        told = frames.read_metadata(await connection.raw_request(frames.METADATA, body))
        found = []
        for stream in streams:
            member = told[stream]
            if member.code == frames.NO_STREAM:
                raise UnknownTopic(f"no stream {stream!r}", hint="create the topic first")
            if member.code != frames.OK or member.leader is None:
                raise Refused(frames.NOT_AVAILABLE if member.code == frames.OK else member.code, stream)
            if member.nodes == 1:
                member = frames.Member(member.code, connection.address, member.replicas, 1)
            if stream not in self._places and len(self._places) >= _PLACES:
                del self._places[next(iter(self._places))]
            self._places[stream] = member
            found.append(member)
        return found

    def moved(self, stream: str) -> None:
        """Forget where a stream is."""
        self._places.pop(stream, None)

    async def to(self, stream: str, role: Role, fits: Callable[[Connection], bool]) -> Connection:
        """Return a connection to the stream's leader that has room, as ``fits`` says. Raises `Full` if none has."""
        leader = (await self.place(stream)).leader
        assert leader is not None
        return await self._connection(leader, role, fits)

    async def _connection(self, address: tuple[str, int], role: Role, fits: Callable[[Connection], bool]) -> Connection:
        key = address, role
        async with self._opening.setdefault(key, asyncio.Lock()):
            if self._closed:
                raise Closed("the store is closed")
            known = self._connections.get(key, [])
            alive = [connection for connection in known if connection.alive]
            if len(alive) < len(known):
                self._lost.add(key)
            self._connections[key] = alive
            for connection in alive:
                if fits(connection):
                    return connection
            if len(alive) >= CONNECTIONS:
                raise Full
            try:
                made = await connect(address, self.settings, self._context)
            except ConnectionLost:
                self._places.clear()  # whoever led there may be led elsewhere now
                raise
            if key in self._lost:
                self._lost.discard(key)
                log.info("connected to RabbitMQ at %s:%d again, to %s", *address, role)
            made.moved = self.moved
            alive.append(made)
            if self._links_closed():
                await made.close()
                raise Closed("the store is closed")
            return made

    def _links_closed(self) -> bool:
        return self._closed

    async def attempt(self, about: str, work: Callable[[], Awaitable[A]], *, stream: str | None = None) -> A:
        """Do something that may be repeated, again and again while the broker cannot be reached, for ``timeout_s``.

        Raises `Unavailable`, `UnknownTopic` and `ReadOnly`.
        """
        pause_s = _FIRST_PAUSE_S
        last: Exception | None = None
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                while True:
                    try:
                        return await work()
                    except ConnectionLost as error:
                        last = error
                    except Refused as error:
                        last = error
                        if error.code == frames.NO_STREAM:
                            raise UnknownTopic(f"RabbitMQ: {error}", hint="create the topic first") from error
                        if error.code == frames.ACCESS_REFUSED:
                            raise ReadOnly(f"RabbitMQ: {error}", hint="give the user the permission") from error
                    if stream is not None:
                        self.moved(stream)
                    await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
                    pause_s = min(2 * pause_s, _LAST_PAUSE_S)
        except TimeoutError as error:
            raise Unavailable(
                f"RabbitMQ: {about}: {last or 'no answer'}", hint="look whether the broker runs and has a leader"
            ) from error
