"""What the tests of the NATS log share: a log on a store of its own, a server of its own, events, and waiting."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import urllib.request
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

from nats.aio.client import Client

from nexus.backends.nats import NatsLog
from nexus.brokers import nats as brokers
from nexus.event import Event
from nexus.spi.backend import Slice, Stored, TopicSpec, Want
from nexus.testing.backends import broker_url

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MANY = 1 << 30


def address() -> str:
    """Where the server for tests is, as a client is told: that of ``NEXUS_NATS_SERVERS``, else one that is started."""
    hosts = broker_url("nats").removeprefix("nats://").rstrip("/")
    return ",".join(f"nats://{host}" for host in hosts.split(","))


def url(prefix: str, options: str = "", servers: str = "") -> str:
    hosts = ",".join(server.removeprefix("nats://") for server in (servers or address()).split(","))
    return f"nats://{hosts}/?prefix={prefix}{'&' + options if options else ''}"


def new_prefix() -> str:
    return f"t{uuid4().hex[:12]}"


def event(id: object, body: bytes = b'{"n":1}', source: str = "/test", **more: Any) -> Event[Any]:
    return Event(id=str(id), source=source, type="order.placed", time=NOON, key=str(id), body=body, **more)


@asynccontextmanager
async def opened(
    *topics: TopicSpec, prefix: str = "", options: str = "", servers: str = "", keep: bool = False
) -> AsyncIterator[NatsLog]:
    """An open log on a store of its own, which is removed in the end."""
    log = NatsLog(url(prefix or new_prefix(), options, servers))
    await log.open()
    try:
        for topic in topics:
            await log.create(topic)
        yield log
        if not keep:
            await removed(log)
    finally:
        await log.close()


async def removed(log: NatsLog) -> None:
    async with plain(",".join(log.settings.servers)) as client:
        for topic in await log.topics():
            await api(client, f"STREAM.DELETE.{log._names_of(topic).stream}")


@asynccontextmanager
async def plain(servers: str = "") -> AsyncIterator[Client]:
    """A program that knows nothing of Nexus."""
    client = Client()
    await client.connect((servers or address()).split(","))
    try:
        yield client
    finally:
        await client.close()


async def api(client: Client, what: str, request: object = None) -> dict[str, Any]:
    payload = b"" if request is None else json.dumps(request).encode()
    answer = json.loads((await client.request(f"$JS.API.{what}", payload, timeout=5)).data)
    assert "error" not in answer, answer
    return answer


async def read(log: NatsLog, topic: str, partition: int = 0, position: int = 0, count: int = 10_000) -> Slice:
    (answer,) = await log.read([Want(topic, partition, position, count)], MANY, fresh=True)
    return answer


async def all_of(log: NatsLog, topic: str, partition: int = 0) -> list[Stored]:
    """Everything in a partition, page after page."""
    found: list[Stored] = []
    position = 0
    while True:
        answer = await read(log, topic, partition, position, 1_000)
        found += answer.events
        position = answer.next
        if not answer.more:
            return found


async def ids(log: NatsLog, topic: str, partition: int = 0) -> list[str]:
    return [stored.event.id for stored in await all_of(log, topic, partition)]


async def until(true: Callable[[], Any], deadline_s: float = 10.0) -> None:
    """Wait for a condition that other tasks bring about."""
    async with asyncio.timeout(deadline_s):
        while not true():  # noqa: ASYNC110 - what is waited for has no event of its own
            await asyncio.sleep(0.005)


class Server:
    """A server of its own, by pid, that may be killed and started again on its data."""

    def __init__(self, directory: Path, settings: str = "") -> None:
        self._directory = directory
        self._settings = settings
        with socket.socket() as first, socket.socket() as second:
            first.bind(("127.0.0.1", 0))
            second.bind(("127.0.0.1", 0))
            self.port: int = first.getsockname()[1]
            self.monitor_port: int = second.getsockname()[1]
        self.address = f"nats://127.0.0.1:{self.port}"
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        binary = await asyncio.to_thread(lambda: brokers.find(print).tool)
        self._directory.mkdir(parents=True, exist_ok=True)
        configuration = self._directory / "nats.conf"
        configuration.write_text(
            f"listen: 127.0.0.1:{self.port}\nhttp: 127.0.0.1:{self.monitor_port}\n"
            f"{self._settings or self.jetstream()}\n"
        )
        with (self._directory / "log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(binary, "-c", configuration, stdout=log, stderr=log)
        async with asyncio.timeout(20):
            while not await asyncio.to_thread(self._is_healthy):  # noqa: ASYNC110 - another process has no event
                await asyncio.sleep(0.02)

    def jetstream(self, more: str = "") -> str:
        return f'jetstream {{ store_dir: "{self._directory}/data" {more} }}'

    def _is_healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.monitor_port}/healthz", timeout=1) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    async def stop(self, how: signal.Signals = signal.SIGKILL) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(how)
            await process.wait()

    async def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        status = Path(f"/proc/{self._process.pid}/stat")
        await until(lambda: status.read_text().rpartition(")")[2].split()[0] == "T")  # it takes a moment

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@asynccontextmanager
async def served(directory: Path, settings: Callable[[Server], str] | None = None) -> AsyncIterator[Server]:
    server = Server(directory)
    if settings is not None:
        server._settings = settings(server)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
