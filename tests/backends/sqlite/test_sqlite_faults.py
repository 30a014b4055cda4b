"""Disks that fail and disks that are full, injected below SQLite and real."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_help import Seen, all_of, event, opened, until

from nexus.backends.sqlite import SqliteBackend
from nexus.backends.sqlite.files import boot_time
from nexus.errors import BackendError, StoreFull, Unavailable, UnknownOutcome
from nexus.spi.backend import Appended, Assigned, Cursor, Lost, Settlement, TopicSpec, Want

ORDERS = TopicSpec("orders", 2)


class Disk:
    """Decides which call fails. Only the threads' writes to files of one ending are counted."""

    def __init__(self) -> None:
        self.fails: Callable[[str, str], type[apsw.Error] | None] = lambda call, name: None
        self.hits = 0

    def touch(self, call: str, name: str) -> None:
        error = self.fails(call, name)
        if error is not None:
            self.hits += 1
            raise error("injected")


class FaultyFile(apsw.VFSFile):
    """A file whose writes and syncs ask the disk first."""

    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self.disk = disk
        self.name = name.filename() if isinstance(name, apsw.URIFilename) else str(name)
        super().__init__("", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802 - SQLite's name
        self.disk.touch("write", self.name)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        self.disk.touch("sync", self.name)
        super().xSync(flags)


class FaultyVfs(apsw.VFS):
    """The usual file system, with a disk that can be told to fail."""

    def __init__(self, name: str, disk: Disk) -> None:
        self.disk = disk
        super().__init__(name, "")

    def xOpen(self, name: Any, flags: list[int]) -> FaultyFile:  # noqa: N802
        self.disk.touch("open", "")
        return FaultyFile(self.disk, name, flags)


@pytest.fixture
def disk() -> Iterator[Disk]:
    made = Disk()
    vfs = FaultyVfs("faulty", made)
    yield made
    vfs.unregister()


def once(call: str, ending: str, error: type[apsw.Error]) -> Callable[[str, str], type[apsw.Error] | None]:
    left = [1]

    def fails(what: str, name: str) -> type[apsw.Error] | None:
        if what == call and name.endswith(ending) and left[0]:
            left[0] -= 1
            return error
        return None

    return fails


def reserve(folder: Path) -> int:
    return os.path.getsize(f"{folder}/bus.db-nexus/reserve")


@pytest.mark.parametrize("call", ["sync", "write"])
async def test_a_failed_disk_call_is_fatal_to_the_connection_and_to_nothing_else(
    tmp_path: Path, disk: Disk, call: str
) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="vfs=faulty") as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        await store.append("orders", [(0, event("before"))])
        for turn in range(5):
            connection = store._store.db
            disk.fails = once(call, "-wal", apsw.IOError)
            results = await asyncio.gather(
                store.append("orders", [(0, event(f"at-{turn}"))]),
                store.append("orders", [(1, event(f"with-{turn}"))]),
                return_exceptions=True,
            )
            assert all(isinstance(result, UnknownOutcome) for result in results)
            assert store._store.db is not connection
            # The same ids again: stored once in the end, whatever had become of them.
            for id, partition in ((f"at-{turn}", 0), (f"with-{turn}", 1)):
                (answer,) = await store.append("orders", [(partition, event(id))])
                assert isinstance(answer, Appended)
                assert answer.position == turn + (partition == 0)
        assert disk.hits == 5
        disk.fails = once(call, "-wal", apsw.IOError)
        assert await seen.member.settle([Settlement("orders", 0, Cursor(1, 1))]) == ["retry"]
        assert await seen.member.settle([Settlement("orders", 0, Cursor(1, 1))]) == ["ok"]
        assert not seen.of(Lost)
    async with opened(tmp_path / "bus.db") as store:
        found = await all_of(store, "orders", 2)
        assert [e.event.id for e in found[0]] == ["before", *(f"at-{n}" for n in range(5))]
        assert [e.event.id for e in found[1]] == [f"with-{n}" for n in range(5)]


async def test_a_disk_that_stays_broken_is_said_and_comes_back_without_a_restart(tmp_path: Path, disk: Disk) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="vfs=faulty") as store:
        await store.append("orders", [(0, event("before"))])
        disk.fails = lambda call, name: apsw.IOError
        for n in range(3):
            with pytest.raises((UnknownOutcome, Unavailable)):
                await store.append("orders", [(0, event(n))])
        assert [e.event.id for e in (await store.read([Want("orders", 0, 0, 1)], 1_000))[0].events] == ["before"]
        disk.fails = lambda call, name: None
        for n in range(3):
            await store.append("orders", [(0, event(n))])
        assert [e.event.id for e in (await all_of(store, "orders", 2))[0]] == ["before", "0", "1", "2"]


async def test_a_full_disk_refuses_events_reads_on_and_recovers(tmp_path: Path, disk: Disk) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="vfs=faulty") as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        await store.append("orders", [(0, event("before"))])
        disk.fails = lambda call, name: apsw.FullError if call == "write" else None
        settling = seen.member.settle([Settlement("orders", 0, Cursor(1, 1))])
        refused = store.append("orders", [(0, event("refused"))])
        result, answers = await asyncio.gather(refused, settling, return_exceptions=True)
        assert isinstance(result, StoreFull)
        assert answers == ["retry"]
        assert (await store.read([Want("orders", 0, 0, 9)], 1_000))[0].next == 1
        # The reserve lets the settle through, and the append beside it still not.
        writes = [0]

        def only_first(call: str, name: str) -> type[apsw.Error] | None:
            if call == "write" and name.endswith("-wal"):
                writes[0] += 1
                return apsw.FullError if writes[0] == 1 else None
            return None

        disk.fails = only_first
        settling = seen.member.settle([Settlement("orders", 0, Cursor(1, 1))])
        refused = store.append("orders", [(0, event("refused"))])
        result, answers = await asyncio.gather(refused, settling, return_exceptions=True)
        assert isinstance(result, StoreFull)
        assert answers == ["ok"]
        assert reserve(tmp_path) == 0
        disk.fails = lambda call, name: None
        assert await store.append("orders", [(0, event("refused"))]) == [Appended(0, 1)]
        await until(lambda: reserve(tmp_path) > 0)
        assert len(seen.of(Assigned)) == 2
        assert not seen.of(Lost)


async def test_settles_go_through_in_a_store_at_its_bound(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="max_bytes=1100000") as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        with pytest.raises(StoreFull):
            await store.append("orders", [(0, event(n, bytes(10_000))) for n in range(200)])
        for n in range(400):
            try:
                await store.append("orders", [(0, event(n, bytes(3_000)))])
            except StoreFull:
                break
        else:
            raise AssertionError("never full")
        for epoch in range(1, 30):
            answers = await seen.member.settle([Settlement("orders", p, Cursor(epoch, 1, "x" * 3_900)) for p in (0, 1)])
            assert answers == ["ok", "ok"]
        with pytest.raises(StoreFull):
            await store.append("orders", [(0, event("more", bytes(9_000)))])


async def test_a_real_limit_on_the_size_of_files_is_a_full_disk(tmp_path: Path) -> None:
    code = """
import asyncio, resource, sys
from sqlite_help import all_of, event, opened
from nexus.errors import StoreFull
from nexus.spi.backend import TopicSpec
async def main():
    async with opened(sys.argv[1], TopicSpec("orders", 1)) as store:
        resource.setrlimit(resource.RLIMIT_FSIZE, (3_000_000, resource.RLIM_INFINITY))
        stored = full = 0
        for n in range(2_000):
            try:
                await store.append("orders", [(0, event(n, bytes(20_000)))])
                stored += 1
            except StoreFull:
                full += 1
                if full == 3:
                    break
        assert full == 3, full
        found = await all_of(store, "orders", 1)
        assert len(found[0]) == stored, (len(found[0]), stored)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        for n in range(5):
            await store.append("orders", [(0, event(f"again-{n}", bytes(20_000)))])
        assert len((await all_of(store, "orders", 1))[0]) == stored + 5
        print("well", stored)
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, str(tmp_path / "bus.db"), stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert out.startswith(b"well")
    async with opened(tmp_path / "bus.db") as store:
        assert len((await all_of(store, "orders", 1))[0]) == int(out.split()[1]) + 5


async def test_opening_on_a_broken_disk_raises_and_leaves_no_threads(tmp_path: Path, disk: Disk) -> None:
    disk.fails = lambda call, name: apsw.IOError
    with pytest.raises(BackendError):
        await SqliteBackend(f"sqlite:///{tmp_path}/bus.db?vfs=faulty").open()
    disk.fails = lambda call, name: None
    async with opened(tmp_path / "bus.db", ORDERS, options="vfs=faulty") as store:
        assert await store.append("orders", [(0, event("a"))]) == [Appended(0, 0)]


async def test_a_rejoin_whose_commit_failed_leaves_no_member_behind(tmp_path: Path, disk: Disk) -> None:
    """The second try took out the row that had been rolled back, and the first row kept its partitions for ever."""
    path = tmp_path / "bus.db"
    async with opened(path, ORDERS, options="vfs=faulty") as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        await until(lambda: len(seen.of(Assigned)) == 2)
        disk.fails = lambda call, name: apsw.IOError if call == "write" and name.endswith("-wal") else None
        hits = disk.hits
        seen.member._expire()  # type: ignore[attr-defined]
        await until(lambda: disk.hits > hits)
        disk.fails = lambda call, name: None
        await until(lambda: len(seen.of(Assigned)) == 4)
        assert {lag.owner for lag in await store.lag("g")} == {"one"}
        with apsw.Connection(str(path)) as db:
            assert len(db.execute("SELECT id FROM member").fetchall()) == 1
        # And it is a member like any other: its lease is renewed, and nothing more is lost.
        await store.append("orders", [(0, event("a"))])
        assert await seen.member.settle([Settlement("orders", 0, Cursor(1, 1))]) == ["ok"]
        before = seen.member.until  # type: ignore[attr-defined]
        assert before > boot_time() + 5
        await until(lambda: seen.member.until > before)  # type: ignore[union-attr]
        assert len(seen.of(Lost)) == 2


async def test_a_row_of_this_process_that_no_member_stands_for_is_taken_out(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, ORDERS) as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        await until(lambda: len(seen.of(Assigned)) == 2)
        with apsw.Connection(str(path)) as db:
            db.execute("INSERT INTO member SELECT 77, grp, 'ghost', process, boot, until, topics FROM member")
            db.execute("UPDATE cursor SET owner = 77, token = token + 1 WHERE partition = 1")
        await until(lambda: len(seen.of(Assigned)) == 3)
        assert {lag.owner for lag in await store.lag("g")} == {"one"}


async def filled(store: SqliteBackend, topic: str, size_bytes: int) -> int:
    """Append until the store is full; return how many events there was room for."""
    for n in range(400):
        try:
            await store.append(topic, [(0, event(n, bytes(size_bytes)))])
        except StoreFull:
            return n
    raise AssertionError("never full")


async def test_a_store_at_its_bound_takes_what_consumers_park_up_to_its_reserve(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS, options="max_bytes=1100000") as store:
        await store.ensure(TopicSpec("orders.park", 1, dedup=False))
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        await until(lambda: len(seen.of(Assigned)) == 2)
        assert await filled(store, "orders", 3_000) < 400
        # In one transaction: the event is refused, its neighbours that make room in the end are not.
        refused, parked, settled = await asyncio.gather(
            store.append("orders", [(0, event("more", bytes(9_000)))]),
            store.append("orders.park", [(0, event("parked", bytes(9_000)))]),
            seen.member.settle([Settlement("orders", 0, Cursor(1, 1))]),
            return_exceptions=True,
        )
        assert isinstance(refused, StoreFull)
        assert (parked, settled) == ([Appended(0, 0)], ["ok"])
        assert 150 < await filled(store, "orders.park", 9_000) < 300  # the reserve of journals is 2 MiB here
        for epoch in range(2, 30):
            answers = await seen.member.settle([Settlement("orders", p, Cursor(epoch, 1, "x" * 3_900)) for p in (0, 1)])
            assert answers == ["ok", "ok"]
