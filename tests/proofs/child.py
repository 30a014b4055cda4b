"""A process of the proofs: publishes, consumes or both on one store, and writes down what it did.

`python -m tests.proofs.child FOLDER ROLE [OPTION=VALUE…]`. Each line of ``log-*.jsonl`` is written with one call, so a
kill loses whole lines at most.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import apsw

from nexus import Context, Event, Nexus, Overloaded, Receipt, Retry, UnknownOutcome
from nexus.errors import BackendError, Unavailable

KEYS = 40


class Log:
    """Lines that survive the death of the process."""

    def __init__(self, folder: Path, name: str) -> None:
        self._file = os.open(folder / f"log-{name}.jsonl", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line, separators=(",", ":")).encode() + b"\n")


class FenceStore:
    """A store of the handlers' own that refuses the writes of a former owner by ``context.fence``."""

    def __init__(self, folder: Path) -> None:
        self._db = apsw.Connection(str(folder / "fence.db"))
        self._db.set_busy_timeout(10_000)
        self._db.execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF")
        self._db.execute("CREATE TABLE IF NOT EXISTS fence (p INTEGER PRIMARY KEY, fence INTEGER)")
        self._db.execute("CREATE TABLE IF NOT EXISTS write (p INTEGER, fence INTEGER, at INTEGER, accepted INTEGER)")

    def write(self, partition: int, fence: int, position: int) -> bool:
        self._db.execute("BEGIN IMMEDIATE")
        known = self._db.execute("SELECT fence FROM fence WHERE p = ?", (partition,)).get or 0
        accepted = fence >= known
        if accepted:
            self._db.execute("INSERT OR REPLACE INTO fence VALUES (?, ?)", (partition, fence))
        self._db.execute("INSERT INTO write VALUES (?, ?, ?, ?)", (partition, fence, position, accepted))
        self._db.execute("COMMIT")
        return accepted


def bus_in(folder: Path, **settings: Any) -> Nexus:
    """A bus on the store that ``url.txt`` in the folder names, or on a SQLite file there."""
    named = folder / "url.txt"
    url = named.read_text() if named.exists() else f"sqlite:///{folder / 'bus.db'}"
    return Nexus(url, settings=settings)


def incarnation() -> str:
    return f"{os.getpid()}-{time.monotonic_ns()}"


async def publish(bus: Nexus, folder: Path, log: Log, rate: float) -> None:
    """Publish per key in order, each event after the receipt of the one before; for ever."""
    me = incarnation()

    async def one_key(key: int) -> None:
        for number in range(sys.maxsize):
            name = f"{me}/{number}"
            event = bus.event("proof.step", {"n": number, "by": me}, key=f"key-{key}", id=f"{name}/{key}")
            receipt = await publish_until_acknowledged(bus, event, log)
            log.write(acked=receipt.id, key=f"key-{key}", p=receipt.partition, at=receipt.position)
            await asyncio.sleep(KEYS / rate)

    await asyncio.gather(*(one_key(key) for key in range(KEYS)))


async def publish_until_acknowledged(bus: Nexus, event: Event[Any], log: Log) -> Receipt:
    """Publish under one id until somebody says that it is stored, as any careful program does."""
    while True:
        try:
            return await bus.publish(event)
        except (BackendError, Overloaded, UnknownOutcome) as error:
            log.write(refused=event.id, why=str(error), t=time.monotonic())
            await asyncio.sleep(0.2)


def consume(bus: Nexus, log: Log, store: FenceStore, *, work_s: float = 0.0, fail: bool = False) -> None:
    """Write every delivery down; a tenth of the keys fails the first attempt of each seventh event, and is parked."""
    me = incarnation()

    @bus.on(
        "proof.**", group="proof", start="earliest", retry=Retry(8, base_s=0.05, cap_s=0.2), hold_s=0.02, workers=64
    )
    async def handle(event: Event[Any], context: Context) -> None:
        if work_s:
            await asyncio.sleep(work_s)
        store.write(context.partition, context.fence, context.position)
        wrong = fail and event.key is not None and event.key.endswith("7") and context.attempt == 1
        log.write(
            did=event.id, key=event.key, p=context.partition, at=context.position, attempt=context.attempt,
            fence=context.fence, who=me, t=time.monotonic(), ok=not wrong,
        )  # fmt: skip
        if wrong:
            raise ValueError("the first attempt of this key fails")


async def main() -> None:
    # Stopped from outside it might stop while it holds the lock of the handlers' own store, and everybody with it.
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, os.kill, os.getpid(), signal.SIGSTOP)
    logging.getLogger("nexus.delivery").setLevel(logging.ERROR)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(name)s %(message)s")
    folder, role = Path(sys.argv[1]), sys.argv[2]
    options = dict(option.split("=", 1) for option in sys.argv[3:])
    name = options.get("name", incarnation())
    log = Log(folder, name)
    began = time.monotonic()
    while True:
        bus = bus_in(folder, settle_interval="50ms")
        if "consume" in role:
            consume(
                bus, log, FenceStore(folder), work_s=float(options.get("work_s", 0)), fail=options.get("fail") == "1"
            )
        try:
            await bus.start()
            break
        except Unavailable as error:  # whoever runs programs starts them again
            logging.warning("not started: %s", error)
    log.write(started=name, t=began, ready=time.monotonic())
    if "publish" in role:
        await publish(bus, folder, log, float(options.get("rate", 500)))
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
