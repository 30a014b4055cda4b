"""The connection of a store: it comes back by itself, and a question asked on it is asked again until it is answered.

While it is down nothing is sent and nothing is kept to be sent. Whoever waits for an answer is told at once that it
will not come (`Down`), waits for the connection (`until_up`), and decides itself what to send again.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from nexus.backends.nats.client import Arrival, client_class, connect_options
from nexus.backends.nats.codec import status
from nexus.backends.nats.settings import Settings
from nexus.errors import BackendError, Closed, ReadOnly, SettingsError, Unavailable

log = logging.getLogger("nexus.nats")

A = TypeVar("A")

Arrived = tuple[bytes, bytes] | None
"""Headers and body of an answer; None when the connection went down before it came."""

ANSWER_S = 5.0
"""The longest to wait for one answer before the question is asked again."""
AGAIN_S = 0.05
"""The pause before a question is asked again that the server could not answer yet."""
NO_RESPONDERS = 503


class Down(Exception):
    """The connection went down, or no answer came: nobody knows what became of what was sent."""


class ApiError(msgspec.Struct, frozen=True):
    """What the server answers when it does not do something."""

    code: int = 0
    err_code: int = 0
    description: str = ""

    @property
    def passes(self) -> bool:
        """Whether it is about the server's state of the moment: a leader is being elected, JetStream starts."""
        return (self.code == 503 and self.err_code not in FULL) or self.err_code in _PASSING


_PASSING = frozenset({10008, 10009, 10118, 10211})
FULL = frozenset({10023, 10028, 10047, 10052, 10077})
"""Codes of the errors that say there is no space left."""
SUBJECTS = 1_000
"""How many subjects that may not be published to are remembered."""
_FORBIDDEN = re.compile(r'permissions violation for publish to "([^"]+)"')


class Answer(msgspec.Struct):
    """An answer of JetStream, as far as it is needed."""

    error: ApiError | None = None


class Refused(BackendError):
    """The server does not do what it was asked."""

    code = "NXS-4009"

    def __init__(self, what: str, error: ApiError) -> None:
        super().__init__(f"{what}: {error.description} ({error.err_code})")
        self.error = error


class Connection:
    """A connection to the servers of a store."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._client: Any = None
        self._numbers = itertools.count(1)
        self._waiting: dict[bytes, asyncio.Future[Arrived]] = {}
        self._subjects: dict[int, str] = {}
        self._asked: dict[str, asyncio.Future[Arrived]] = {}
        self._forbidden: set[str] = set()
        self._up = asyncio.Event()
        self._closed = False
        self._error: BaseException | None = None
        self._refused: asyncio.Future[None] | None = None
        self._inbox = b""
        self.on_up: list[Callable[[], None]] = []
        """Called when the connection is back, with all subscriptions in place."""
        self.on_down: list[Callable[[], None]] = []

    @property
    def up(self) -> bool:
        return self._up.is_set()

    @property
    def max_payload(self) -> int:
        """Largest message that the server takes, headers included."""
        return int(self._client.max_payload)

    @property
    def version(self) -> tuple[int, int]:
        """Of the server, the first two numbers."""
        words = str(self._client.info.get("version", "0.0")).split(".")
        return int(words[0]), int(words[1])

    @property
    def known_servers(self) -> list[str]:
        """Addresses of the servers of the cluster, as far as the one at the other end tells them."""
        return list(self._client.info.get("connect_urls") or ())

    async def open(self) -> None:
        """Connect. Raises `Unavailable`, or `SettingsError` when the server does not let this user in."""
        client = self._client = client_class()()
        self._refused = asyncio.get_running_loop().create_future()
        connecting = asyncio.create_task(
            client.connect(
                **connect_options(self._settings),
                error_cb=self._on_error,
                disconnected_cb=self._on_down,
                reconnected_cb=self._on_back,
            )
        )
        try:
            done, _ = await asyncio.wait(
                {connecting, self._refused},
                timeout=self._settings.connect_s,
                return_when=asyncio.FIRST_COMPLETED,
            )
        finally:
            if not connecting.done():
                connecting.cancel()
        if connecting in done and connecting.exception() is None:
            self._inbox = client.new_inbox().encode() + b"."
            self._up.set()
            self.listen(self._inbox.decode() + "*", self._on_answer)
            return
        error = (connecting.exception() if connecting in done else None) or self._error
        await client.close()
        servers = ", ".join(self._settings.servers)
        if self._refused.done():
            raise SettingsError(f"{servers} does not let this user in: {error}") from error
        raise Unavailable(f"{servers} cannot be reached: {error or 'no answer'}") from error

    async def close(self) -> None:
        """Let go. Idempotent."""
        self._closed = True
        self._up.clear()
        self._fail_waiting()
        if self._client is not None:
            await self._client.close()

    # -- what the client says --------------------------------------------------------------------------------------

    async def _on_error(self, error: Exception) -> None:
        self._error = error
        text = str(error).lower()
        if self._refused is not None and not self._refused.done() and ("authoriz" in text or "authentic" in text):
            self._refused.set_result(None)
        if match := _FORBIDDEN.search(text):
            # The server does not answer what its user may not ask: nobody needs to wait for it.
            if len(self._forbidden) >= SUBJECTS:
                self._forbidden.clear()
            self._forbidden.add(match[1])
            waiting = self._asked.get(match[1])
            if waiting is not None and not waiting.done():
                waiting.set_result(None)
        log.debug("nats: %s", error or type(error).__name__)

    async def _on_down(self) -> None:
        if not self._up.is_set():
            return
        log.warning("the connection to NATS is down: %s", self._error)
        self._up.clear()
        self._fail_waiting()
        for tell in self.on_down:
            tell()

    async def _on_back(self) -> None:
        if self._closed:
            return
        log.warning("the connection to NATS is up again")
        self._forbidden.clear()
        lines = [f"SUB {subject} {number}\r\n" for number, subject in self._subjects.items()]
        self._client.send("".join(lines).encode())
        self._up.set()
        for tell in self.on_up:
            tell()

    def _fail_waiting(self) -> None:
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_result(None)

    # -- sending and listening -------------------------------------------------------------------------------------

    def send(self, data: bytes) -> None:
        """Send lines of the protocol at once. Raises `Down` while the connection is down."""
        if not self._up.is_set():
            raise Down("the connection is down")
        self._client.send(data)

    async def drain(self) -> None:
        """Wait while the system takes what was sent, so that memory stays bounded."""
        try:
            await self._client.drain()
        except OSError as error:
            raise Down(str(error)) from error

    def listen(self, subject: str, arrival: Arrival) -> int:
        """Have ``arrival`` called with all messages on a subject, now and after each reconnect."""
        number: int = self._client.new_number()
        self._client.arrivals[number] = arrival
        self._subjects[number] = subject
        if self._up.is_set():
            self._client.send(f"SUB {subject} {number}\r\n".encode())
        return number

    def leave(self, number: int) -> None:
        """Stop listening. Idempotent."""
        if self._subjects.pop(number, None) is None:
            return
        self._client.arrivals.pop(number, None)
        if self._up.is_set():
            self._client.send(b"UNSUB %d\r\n" % number)

    def new_inbox(self) -> str:
        """A subject that nobody else uses, for a subscription of its own."""
        return f"{self._inbox.decode()[:-1]}-{next(self._numbers)}"

    def expect(self) -> tuple[bytes, asyncio.Future[Arrived]]:
        """A reply subject, and what will arrive there."""
        token = b"%d" % next(self._numbers)
        future: asyncio.Future[Arrived] = asyncio.get_running_loop().create_future()
        self._waiting[token] = future
        return self._inbox + token, future

    def forget(self, reply: bytes) -> None:
        """Do not wait for an answer any more."""
        self._waiting.pop(reply[len(self._inbox) :], None)

    def _on_answer(self, subject: bytes, reply: bytes, headers: bytes, data: bytes) -> None:
        future = self._waiting.pop(subject[len(self._inbox) :], None)
        if future is not None and not future.done():
            future.set_result((headers, data))

    async def until_up(self, deadline: float) -> None:
        """Wait for the connection. Raises `Unavailable` at the deadline (of the loop's clock), or `Closed`."""
        if self._up.is_set():
            return
        if self._closed:
            raise Closed("the store was closed")
        try:
            async with asyncio.timeout_at(deadline):
                await self._up.wait()
        except TimeoutError:
            raise self.unavailable() from self._error

    def unavailable(self, why: str = "") -> Unavailable:
        """The error of a call whose time is over."""
        return Unavailable(f"NATS cannot be reached: {why or self._error or 'no answer'}")

    async def ask(self, subject: str, payload: bytes, answer_s: float = ANSWER_S) -> tuple[bytes, bytes]:
        """Ask once; return the headers and the body of the answer. Raises `Down`."""
        reply, future = self.expect()
        self._asked[subject.lower()] = future
        try:
            self.send(b"PUB %s %s %d\r\n%s\r\n" % (subject.encode(), reply, len(payload), payload))
            async with asyncio.timeout(answer_s):
                arrived = await future
        except TimeoutError:
            raise Down("no answer came") from None
        finally:
            self.forget(reply)
            if self._asked.get(subject.lower()) is future:
                del self._asked[subject.lower()]
        if arrived is None:
            self.check_allowed(subject)
            raise Down("the connection went down")
        return arrived

    def check_allowed(self, subject: str) -> None:
        """Raise `ReadOnly` if the server said that this user may not publish there."""
        if subject.lower() in self._forbidden:
            raise ReadOnly(
                f"NATS does not let this user publish to {subject}", hint="nexus doctor tells what is needed"
            )

    async def api(self, what: str, request: object, kind: type[A], deadline: float | None = None) -> A:
        """Ask JetStream until it answers. Only for what may be asked twice.

        Raises `Refused` for what it does not do, `ReadOnly` for what this user may not ask, `Unavailable` at the
        deadline.
        """
        loop = asyncio.get_running_loop()
        deadline = deadline if deadline is not None else loop.time() + self._settings.timeout_s
        payload = msgspec.json.encode(request) if request is not None else b""
        why = ""
        while True:
            if self._closed:
                raise Closed("the store was closed")
            await self.until_up(deadline)
            try:
                headers, data = await self.ask(
                    f"$JS.API.{what}", payload, min(ANSWER_S, max(deadline - loop.time(), AGAIN_S))
                )
                if status(headers)[0] != NO_RESPONDERS:
                    error = decode(data, Answer).error
                    if error is None:
                        return decode(data, kind)
                    if not error.passes:
                        raise Refused(what, error)
                    why = error.description
                else:
                    why = "JetStream does not answer; is it enabled?"
            except Down as error:
                why = str(error)
            if loop.time() >= deadline:
                raise self.unavailable(why) from self._error
            await asyncio.sleep(AGAIN_S)


def decode(data: bytes, kind: type[A]) -> A:
    """Decode an answer of the server."""
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise BackendError(f"an answer of NATS cannot be read: {error}") from error
