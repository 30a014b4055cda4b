"""A member in a process of its own, for tests that kill, stop and crowd it. Writes what it does as JSON lines.

python sqlite_worker.py consume|stubborn|append URL NAME LOG
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from typing import Any, TextIO

from sqlite_help import event

from nexus.backends.sqlite import SqliteBackend
from nexus.backends.sqlite.files import boot_time
from nexus.spi.backend import Assigned, Cursor, Lost, Member, Revoking, Settlement, Want


class Log:
    """One line per thing done, flushed at once: what is not there was not done."""

    def __init__(self, path: str) -> None:
        self._file: TextIO = open(path, "a", buffering=1)  # noqa: SIM115 - open for the life of the process

    def write(self, what: str, **more: Any) -> None:
        self._file.write(json.dumps({"what": what, "at": boot_time(), **more}) + "\n")


async def consume(store: SqliteBackend, name: str, log: Log) -> None:
    """Handle and settle events of whatever is assigned, for ever."""
    news = asyncio.Event()
    member: Member = await store.claim("workers", ["orders"], name, news.set, "earliest")
    owned: dict[int, tuple[int, int]] = {}  # partition → epoch, position
    while True:
        for change in member.changes():
            p = change.partition
            if isinstance(change, Assigned):
                assert change.cursor is not None
                epoch = max(change.cursor.epoch, change.token) + 1
                log.write("assigned", partition=p, token=change.token, low=change.cursor.low)
                answer = (await member.settle([Settlement("orders", p, Cursor(epoch, change.cursor.low))]))[0]
                if answer == "ok":
                    owned[p] = (epoch, change.cursor.low)
                    log.write("settled", partition=p, epoch=epoch, low=change.cursor.low, after=boot_time())
            elif isinstance(change, Revoking) and p in owned:
                epoch, low = owned.pop(p)
                asked = boot_time()
                answer = (await member.settle([Settlement("orders", p, Cursor(epoch, low), release=True)]))[0]
                log.write("released", partition=p, epoch=epoch, low=low, answer=answer, asked=asked)
            elif isinstance(change, Lost):
                owned.pop(p, None)
                log.write("lost", partition=p, reason=change.reason)
        wants = [Want("orders", p, low, 50) for p, (_, low) in owned.items()]
        slices = [part for part in await member.fetch(wants, 1 << 20) if part.events]
        if not slices:
            news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(news.wait(), 0.2)
            continue
        for part in slices:
            log.write("handled", partition=part.partition, ids=[stored.event.id for stored in part.events])
        asked = boot_time()
        answers = await member.settle(
            [Settlement("orders", part.partition, Cursor(owned[part.partition][0], part.next)) for part in slices]
        )
        for part, answer in zip(slices, answers, strict=True):
            epoch, _ = owned[part.partition]
            if answer == "ok":
                owned[part.partition] = (epoch, part.next)
                log.write("settled", partition=part.partition, epoch=epoch, low=part.next, asked=asked)
            else:
                log.write(answer, partition=part.partition)
                if answer == "fenced":
                    owned.pop(part.partition)


async def stubborn(store: SqliteBackend, name: str, log: Log) -> None:
    """Own what is given, and at each line of input try to settle it with the first epoch."""
    member = await store.claim("workers", ["orders"], name, lambda: None, "earliest")
    first = [change for change in member.changes() if isinstance(change, Assigned)]
    await member.settle([Settlement("orders", a.partition, Cursor(a.token, 0, "mine")) for a in first])
    log.write("owns", partitions=[a.partition for a in first])
    while await asyncio.to_thread(sys.stdin.readline):
        answers = await member.settle([Settlement("orders", a.partition, Cursor(a.token, 7, "late")) for a in first])
        log.write("answers", answers=answers)
        lost: list[int] = []
        deadline = time.monotonic() + 5
        while len(lost) < len(first) and time.monotonic() < deadline:
            lost += [change.partition for change in member.changes() if isinstance(change, Lost)]
            await asyncio.sleep(0.01)
        log.write("lost", partitions=sorted(lost))


async def append(store: SqliteBackend, name: str, log: Log) -> None:
    """Append as fast as it goes, and write down what was acknowledged."""

    async def one(who: int) -> None:
        n = 0
        while True:
            made = event(f"{name}-{who}-{n}", b"x" * (who * 100))
            (place,) = await store.append("orders", [(who % 4, made)])  # type: ignore[list-item]
            log.write("acked", id=made.id, place=[place.partition, place.position])  # type: ignore[union-attr]
            n += 1

    await asyncio.gather(*[one(who) for who in range(8)])


async def main(what: str, url: str, name: str, path: str) -> None:
    store = SqliteBackend(url)
    await store.open()
    work = {"consume": consume, "stubborn": stubborn, "append": append}[what]
    await work(store, name, Log(path))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
