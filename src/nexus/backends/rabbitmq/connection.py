"""One connection to one node: logged in, with answers matched to requests, and dead for good once it is lost.

What a connection carries, publishers and subscriptions, is told of frames and of the loss; who needs another
connection asks `nexus.backends.rabbitmq.links` for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import struct
from collections.abc import Callable
from typing import Protocol

from nexus.backends.rabbitmq import frames
from nexus.backends.rabbitmq.settings import Settings
from nexus.errors import SettingsError

log = logging.getLogger("nexus.rabbitmq")

FRAME_LIMIT_BYTES = 1 << 28
"""Longer frames are no chunks; a connection that announces one is given up."""
_CLOSE_S = 1.0


class ConnectionLost(Exception):
    """The connection broke, or was never made; what was under way on it has an unknown end."""


class Refused(Exception):
    """The broker answered with an error."""

    def __init__(self, code: int, about: str) -> None:
        super().__init__(f"{about}: {frames.REASONS.get(code, f'code {code}')}")
        self.code = code


class Publisher(Protocol):
    """What is told of confirms."""

    stream: str

    def confirmed(self, numbers: tuple[int, ...]) -> None: ...

    def refused(self, number: int, code: int) -> None: ...

    def lost(self) -> None: ...


class Subscription(Protocol):
    """What is told of chunks."""

    stream: str

    def deliver(self, data: bytes) -> None: ...

    def lost(self) -> None: ...


class Connection(asyncio.Protocol):
    """See the module. Made by `connect`."""

    SLOTS = 200
    """Publishers, and subscriptions, that one connection takes; the protocol has a byte for each."""

    def __init__(self, address: tuple[str, int], settings: Settings) -> None:
        self.address = address
        self.frame_max = 1 << 20
        self.publishers: dict[int, Publisher] = {}
        self.subscriptions: dict[int, Subscription] = {}
        self.moved: Callable[[str], None] = lambda stream: None
        """Called with the stream whose leader or replica is gone."""
        self.alive = False
        self._closing = False
        self.version = ""
        """Of the broker."""
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._number = 0
        self._tune: asyncio.Future[bytes] = self._loop.create_future()
        self._heard_at = self._loop.time()
        self._beat: asyncio.TimerHandle | None = None
        self._gone: asyncio.Future[None] = self._loop.create_future()

    # -- life -----------------------------------------------------------------------------------------------------

    async def log_in(self) -> None:
        """Say who we are. Raises `Refused` and `ConnectionLost`; `SettingsError` for a wrong password or host."""
        about_us = frames.pairs({"product": "Nexus", "connection_name": "nexus"})
        self.version = frames.Body(await self.request(frames.PEER_PROPERTIES, about_us)).pairs().get("version", "")
        await self.request(frames.SASL_HANDSHAKE, b"")
        login = b"\0%b\0%b" % (self._settings.user.encode(), self._settings.password.encode())
        try:
            await self.request(
                frames.SASL_AUTHENTICATE, frames.text("PLAIN") + len(login).to_bytes(4, "big") + login, "login"
            )
            tuned = frames.Body(await self._tune)
            self.frame_max = tuned.number(4) or self.frame_max
            offered = tuned.number(4)
            heartbeat = max(1, round(self._settings.heartbeat_s))
            heartbeat = min(heartbeat, offered) if offered else heartbeat
            self.send(frames.frame(frames.TUNE, struct.pack(">II", self.frame_max, heartbeat)))
            await self.request(frames.OPEN, frames.text(self._settings.vhost), f"virtual host {self._settings.vhost!r}")
        except Refused as error:
            if error.code in (8, 9, 11, frames.VHOST_ACCESS):
                raise SettingsError(f"RabbitMQ: {error}", hint="look at the user, its password and the host") from error
            raise
        self._keep_alive(heartbeat)

    def _keep_alive(self, heartbeat_s: float) -> None:
        if self._loop.time() - self._heard_at > 2 * heartbeat_s:
            log.warning("RabbitMQ at %s:%d is silent; the connection is given up", *self.address)
            self.abort()
        elif self.alive:
            self.send(frames.frame(frames.HEARTBEAT, b""))
            self._beat = self._loop.call_later(heartbeat_s / 2, self._keep_alive, heartbeat_s)

    async def close(self) -> None:
        """Say good-bye, at most for a second. Idempotent."""
        self._closing = True
        if self.alive:
            with contextlib.suppress(ConnectionLost, Refused, TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await self.request(frames.CLOSE, struct.pack(">H", 1) + frames.text("closed"))
        if self._transport is not None:
            self._transport.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_CLOSE_S):
                    await asyncio.shield(self._gone)
            self._transport.abort()

    def abort(self) -> None:
        """Drop the connection at once; whoever does it has said why."""
        self._closing = True
        if self._transport is not None:
            self._transport.abort()

    # -- sending --------------------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send a frame; on a lost connection nothing happens, its users have been told."""
        if self.alive and self._transport is not None:
            self._transport.write(data)

    async def request(self, command: int, body: bytes, about: str = "request") -> bytes:
        """Send a request; return what its answer says after the code. Raises `Refused` and `ConnectionLost`."""
        answer = await self.raw_request(command, body)
        code = int.from_bytes(answer[:2], "big")
        if code != frames.OK:
            raise Refused(code, about)
        return answer[2:]

    async def raw_request(self, command: int, body: bytes) -> bytes:
        """As `request`, for answers without a code."""
        if not self.alive:
            raise ConnectionLost(f"no connection to {self.address[0]}:{self.address[1]}")
        self._number = (self._number + 1) & 0x7FFFFFFF
        number = self._number
        waiting = self._waiting[number] = self._loop.create_future()
        self.send(frames.frame(command, number.to_bytes(4, "big") + body))
        try:
            answer: bytes = await waiting
            return answer
        finally:
            self._waiting.pop(number, None)

    def tell(self, command: int, body: bytes, answered: Callable[[], None] = lambda: None) -> None:
        """Send a request whose answer nobody awaits; ``answered`` is called when it is there, or never will be."""
        if not self.alive:
            answered()
            return
        self._number = (self._number + 1) & 0x7FFFFFFF
        number = self._number
        waiting = self._waiting[number] = self._loop.create_future()

        def done(waiting: asyncio.Future[bytes]) -> None:
            self._waiting.pop(number, None)
            if not waiting.cancelled():
                waiting.exception()
            answered()

        waiting.add_done_callback(done)
        self.send(frames.frame(command, number.to_bytes(4, "big") + body))

    # -- receiving ------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self.alive = True

    def data_received(self, data: bytes) -> None:
        self._heard_at = self._loop.time()
        buffer = self._buffer
        buffer += data
        at, size = 0, len(buffer)
        while size - at >= 4:
            length = int.from_bytes(buffer[at : at + 4], "big")
            if length > FRAME_LIMIT_BYTES or length < 4:
                log.error("RabbitMQ at %s:%d announced a frame of %d bytes", *self.address, length)
                self.abort()
                return
            if size - at - 4 < length:
                break
            self._receive(bytes(buffer[at + 4 : at + 4 + length]))
            at += 4 + length
        del buffer[:at]

    def _receive(self, data: bytes) -> None:
        command = int.from_bytes(data[:2], "big")
        if command == frames.CONFIRM:
            publisher = self.publishers.get(data[4])
            if publisher is not None:
                publisher.confirmed(struct.unpack_from(f">{(len(data) - 9) // 8}Q", data, 9))
        elif command == frames.DELIVER:
            subscription = self.subscriptions.get(data[4])
            if subscription is not None:
                subscription.deliver(data)
        elif command == frames.PUBLISH_ERROR:
            publisher = self.publishers.get(data[4])
            for at in range(9, len(data) - 9, 10):
                if publisher is not None:
                    publisher.refused(*struct.unpack_from(">QH", data, at))
        elif command == frames.METADATA_UPDATE:
            body = frames.Body(data[4:])
            body.number(2)
            self._moved(body.text())
        elif command == frames.TUNE:
            if not self._tune.done():
                self._tune.set_result(data[4:])
        elif command == frames.CLOSE:
            body = frames.Body(data[8:])
            log.warning("RabbitMQ closes the connection: code %d, %s", body.number(2), body.text())
            self.send(frames.frame(frames.CLOSE | frames.ANSWER, data[4:8] + struct.pack(">H", 1)))
            if self._transport is not None:
                self._transport.close()
        elif command & frames.ANSWER and command != frames.CREDIT | frames.ANSWER:
            waiting = self._waiting.get(int.from_bytes(data[4:8], "big"))
            if waiting is not None and not waiting.done():
                waiting.set_result(data[8:])

    def _moved(self, stream: str) -> None:
        """The broker has forgotten all that is on this stream here."""
        self.moved(stream)
        lost: list[Publisher | Subscription] = []
        for number, publisher in list(self.publishers.items()):
            if publisher.stream == stream:
                lost.append(self.publishers.pop(number))
        for number, subscription in list(self.subscriptions.items()):
            if subscription.stream == stream:
                lost.append(self.subscriptions.pop(number))
        for user in lost:
            user.lost()

    def connection_lost(self, error: Exception | None) -> None:
        if self.alive and not self._closing:
            log.warning(
                "the connection to RabbitMQ at %s:%d is lost: %s", *self.address, error or "closed by the broker"
            )
        self.alive = False
        if self._beat is not None:
            self._beat.cancel()
        lost = ConnectionLost(f"the connection to {self.address[0]}:{self.address[1]} is lost: {error or 'closed'}")
        for waiting in [self._tune, *list(self._waiting.values())]:
            if not waiting.done():
                waiting.set_exception(lost)
                waiting.exception()  # seen, whether or not somebody still waits
        users: list[Publisher | Subscription] = [*self.publishers.values(), *self.subscriptions.values()]
        self.publishers.clear()
        self.subscriptions.clear()
        for user in users:
            user.lost()
        if not self._gone.done():
            self._gone.set_result(None)

    # -- slots ----------------------------------------------------------------------------------------------------

    def free_publisher(self) -> int | None:
        """Return a publisher's id that is not in use."""
        return next((number for number in range(self.SLOTS) if number not in self.publishers), None)

    def free_subscription(self) -> int | None:
        """Return a subscription's id that is not in use."""
        return next((number for number in range(self.SLOTS) if number not in self.subscriptions), None)


def tls_context(settings: Settings) -> ssl.SSLContext | None:
    """Make what TLS needs, if it is on. Raises `SettingsError` for files that cannot be used."""
    if not settings.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=settings.ca)
        if settings.cert and settings.key:
            context.load_cert_chain(settings.cert, settings.key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"TLS to RabbitMQ: {error}", hint="look at the files of ca, cert and key") from error
    return context


async def connect(address: tuple[str, int], settings: Settings, context: ssl.SSLContext | None) -> Connection:
    """Make a connection and log in. Raises `ConnectionLost`, and `SettingsError` for what will not get better."""
    connection = Connection(address, settings)
    try:
        async with asyncio.timeout(settings.connect_s):
            await asyncio.get_running_loop().create_connection(lambda: connection, *address, ssl=context)
            await connection.log_in()
    except (OSError, TimeoutError, Refused, ConnectionLost) as error:
        connection.abort()
        raise ConnectionLost(f"no connection to {address[0]}:{address[1]}: {error or 'it took too long'}") from error
    except BaseException:
        connection.abort()
        raise
    return connection
