"""Files that are not as they were left: cases 76 to 85 of the bad inputs. Never a wrong event."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_help import all_of, event, opened

from nexus.backends.sqlite import SqliteBackend
from nexus.backends.sqlite.append import TopicWriter
from nexus.backends.sqlite.engine import connect, make_durable, translate
from nexus.backends.sqlite.files import refuse_network
from nexus.backends.sqlite.scan import TopicReader
from nexus.backends.sqlite.schema import APPLICATION_ID, MIGRATIONS, migrate
from nexus.backends.sqlite.settings import Settings
from nexus.backends.sqlite.store import Store
from nexus.errors import CorruptData, NewerFormat, ReadOnly, SettingsError, Unavailable
from nexus.event import Event
from nexus.spi.backend import Appended, TopicSpec, Want

PARTITIONS = 3
SHM = "/dev/shm" if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK) else None
"""Thousands of files are made here; where nothing has to reach a disk it takes seconds."""


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, list[list[Event[Any]]]]]:
    """A closed store with three partitions, some events large, some trimmed, and what it must hold."""
    base = Path(SHM) / f"nexus-{os.getpid()}-{random.random()}" if SHM else tmp_path_factory.mktemp("small")
    base.mkdir(exist_ok=True)
    kept: list[list[Event[Any]]] = [[] for _ in range(PARTITIONS)]

    async def fill() -> None:
        async with opened(base / "bus.db", TopicSpec("orders", PARTITIONS)) as store:
            for turn in range(20):
                batch = [
                    (n % 3, event(f"{turn}-{n}", bytes([turn]) * (6_000 if n == 4 and turn == 7 else 40)))
                    for n in range(6)
                ]
                for partition, made in batch:
                    kept[partition].append(made)
                await store.append("orders", batch)  # type: ignore[arg-type]
            member = await store.claim("billing", ["orders"], "m", lambda: None, "earliest")
            await member.leave()

    asyncio.run(fill())
    yield base / "bus.db", kept
    shutil.rmtree(base)


def look(path: Path, kept: list[list[Event[Any]]]) -> str:
    """Open a file as a store does and read everything; return how it went. Fails if anything false is delivered."""
    settings = Settings(str(path))
    try:
        Store(settings).check_header()
        db = connect(str(path), settings)
        try:
            make_durable(db, settings)
            reader = TopicReader(db, migrate(db), "orders")
            TopicWriter(db, migrate(db), "orders", settings)
            for partition in range(PARTITIONS):
                position = 0
                while True:
                    (found,), _ = reader.read([Want("orders", partition, position, 7)], 1 << 20, False)
                    for stored in found.events:
                        assert stored.event == kept[partition][stored.position], "a false event"
                        assert stored.position == position, "a hole"
                        position += 1
                    if not found.more:
                        break
                assert position == len(kept[partition]), "events are gone, and nobody said so"
        finally:
            db.close(True)
    except AssertionError:
        raise
    except Exception as error:
        return type(translate(error, str(path))).__name__
    return "ok"


def damaged_copies(path: Path, change: Callable[[bytes, int], bytes], turns: Iterator[int], kept: Any) -> list[str]:
    whole = path.read_bytes()
    outcomes = []
    for turn in turns:
        copy = path.with_name("copy.db")
        for ending in ("", "-wal", "-shm"):
            Path(f"{copy}{ending}").unlink(missing_ok=True)
        copy.write_bytes(change(whole, turn))
        outcomes.append(look(copy, kept))
    return outcomes


async def test_case_76_a_file_of_no_bytes_becomes_a_store(tmp_path: Path) -> None:
    (tmp_path / "bus.db").touch()
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)) as store:
        assert await store.append("orders", [(0, event("a"))]) == [Appended(0, 0)]


@pytest.mark.parametrize("head", [b"", b"SQLite format 3\0"])
async def test_case_77_random_bytes_are_refused_and_left_alone(tmp_path: Path, head: bytes) -> None:
    noise = head + random.Random(77).randbytes(20_000)
    (tmp_path / "bus.db").write_bytes(noise)
    with pytest.raises(CorruptData):
        await SqliteBackend(str(tmp_path / "bus.db")).open()
    assert (tmp_path / "bus.db").read_bytes() == noise


async def test_case_77_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    db = apsw.Connection(str(tmp_path / "bus.db"))
    db.execute("CREATE TABLE theirs(a); INSERT INTO theirs VALUES (1)")
    db.close()
    with pytest.raises(CorruptData, match="not a store of Nexus"):
        await SqliteBackend(str(tmp_path / "bus.db")).open()


async def test_case_78_a_newer_format_asks_to_upgrade(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)):
        pass
    db = apsw.Connection(str(tmp_path / "bus.db"))
    db.execute("PRAGMA user_version=2")
    db.close()
    with pytest.raises(NewerFormat, match="upgrade Nexus"):
        await SqliteBackend(str(tmp_path / "bus.db")).open()


def test_case_79_truncated_anywhere(small: tuple[Path, list[list[Event[Any]]]]) -> None:
    path, kept = small
    size = path.stat().st_size
    assert look(path, kept) == "ok"
    places = [0, *range(1, size, size // 511)][:512]
    outcomes = damaged_copies(path, lambda whole, place: whole[:place], iter(places), kept)
    assert len(outcomes) == 512
    # A file of no bytes is a fresh one, in which there is no such topic.
    assert set(outcomes) <= {"CorruptData", "UnknownTopic"}
    assert outcomes.count("UnknownTopic") <= 1


@pytest.mark.slow
def test_case_80_one_flipped_bit(small: tuple[Path, list[list[Event[Any]]]]) -> None:
    path, kept = small
    bits = random.Random(80).sample(range(path.stat().st_size * 8), 2_000)

    def flip(whole: bytes, bit: int) -> bytes:
        changed = bytearray(whole)
        changed[bit // 8] ^= 1 << bit % 8
        return bytes(changed)

    outcomes = damaged_copies(path, flip, iter(bits), kept)
    assert set(outcomes) <= {"ok", "CorruptData", "NewerFormat", "UnknownTopic", "ReadOnly", "Unavailable"}
    assert outcomes.count("CorruptData") > 200


async def test_case_80_a_damaged_event_stops_its_partition_and_is_named(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)) as store:
        await store.append("orders", [(n % 2, event(n, b"needle-%03d" % n)) for n in range(600)])
    raw = (tmp_path / "bus.db").read_bytes()
    (tmp_path / "bus.db").write_bytes(raw.replace(b"needle-100", b"noodle-100"))
    async with opened(tmp_path / "bus.db") as store:
        one, other = await store.read([Want("orders", 0, 0, 100), Want("orders", 1, 0, 400)], 1 << 20)
        assert (one.next, one.more) == (50, True)
        assert other.next == 300
        with pytest.raises(CorruptData, match="topic 'orders', partition 0, position 50") as caught:
            await store.read([Want("orders", 0, 50, 100)], 1 << 20)
        assert caught.value.position == 50  # type: ignore[attr-defined]
        # Its id, sent again, concerns only the call that sends it.
        again, fine = await asyncio.gather(
            store.append("orders", [(0, event("x")), (0, event(100, b"needle-100"))]),
            store.append("orders", [(0, event("y")), (0, event(102, b"needle-102"))]),
            return_exceptions=True,
        )
        assert isinstance(again, CorruptData)
        assert fine == [Appended(0, 300), Appended(0, 51, True)]
        await store.trim("orders", 0, 51)
        assert (await store.read([Want("orders", 0, 50, 999)], 1 << 20))[0].next == 301


async def test_case_81_a_missing_log_of_a_store_in_use_is_refused(tmp_path: Path) -> None:
    code = (
        "import asyncio, os, sys\n"
        "from sqlite_help import event\n"
        "from nexus.backends.sqlite import SqliteBackend\n"
        "from nexus.spi.backend import TopicSpec\n"
        "async def main():\n"
        "    store = SqliteBackend(sys.argv[1])\n"
        "    await store.open()\n"
        "    await store.ensure(TopicSpec('orders', 1))\n"
        "    await store.append('orders', [(0, event('a'))])\n"
        "    os._exit(0)\n"
        "asyncio.run(main())\n"
    )
    path = tmp_path / "bus.db"
    await run_python(code, str(path))
    shutil.copytree(tmp_path, tmp_path / "copy", ignore=lambda _, names: [n for n in names if n.endswith(".sock")])
    os.unlink(f"{path}-wal")
    with pytest.raises(CorruptData, match="-wal is missing"):
        await SqliteBackend(str(path)).open()
    async with opened(tmp_path / "copy" / "bus.db") as store:  # with it, nothing is lost
        assert (await store.describe("orders")).end == (1,)


async def test_case_81_the_log_of_another_store_is_refused(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        async with opened(tmp_path / name / "bus.db", TopicSpec("orders", 1)) as store:
            await store.append("orders", [(0, event(name))])
            if name == "b":
                shutil.copy(tmp_path / "b" / "bus.db-wal", tmp_path / "wal")
    shutil.copy(tmp_path / "wal", tmp_path / "a" / "bus.db-wal")
    with pytest.raises(CorruptData):
        async with opened(tmp_path / "a" / "bus.db") as store:
            await all_of(store, "orders", 1)


@contextmanager
def nobody() -> Iterator[None]:
    """Be a user without rights; root may write everywhere."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65_534)
    try:
        yield
    finally:
        os.seteuid(user)


async def test_case_82_a_directory_or_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    base = Path(tempfile.mkdtemp(prefix="nexus-"))  # not below tmp_path, where nobody may go
    os.chmod(base, 0o755)
    try:
        async with opened(base / "bus.db", TopicSpec("orders", 1)):
            pass
        for name in (".", "bus.db-nexus"):
            (base / name).chmod(0o555)
        with nobody(), pytest.raises(ReadOnly):
            await SqliteBackend(str(base / "bus.db")).open()
        with nobody(), pytest.raises(ReadOnly):
            await SqliteBackend(str(base / "new.db")).open()
        for name, mode in ((".", 0o777), ("bus.db-nexus", 0o777), ("bus.db", 0o444)):
            (base / name).chmod(mode)
        with nobody(), pytest.raises(ReadOnly):
            await SqliteBackend(str(base / "bus.db")).open()
        async with opened(base / "made" / "on" / "the" / "way" / "bus.db", TopicSpec("orders", 1)):
            pass
        with pytest.raises(Unavailable):
            await SqliteBackend(str(base / "bus.db" / "below-a-file.db")).open()
        with pytest.raises(Unavailable):
            await SqliteBackend(str(base)).open()
    finally:
        shutil.rmtree(base)


async def test_case_83_a_second_process_opens_it_and_both_work(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from sqlite_help import all_of, event, opened\n"
        "async def main():\n"
        "    async with opened(sys.argv[1]) as store:\n"
        "        found = await all_of(store, 'orders', 2)\n"
        "        await store.append('orders', [(0, event('theirs'))])\n"
        "        member = await store.claim('g', ['orders'], 'second', lambda: None, 'earliest')\n"
        "        print(sum(map(len, found)), len(member.changes()))\n"
        "asyncio.run(main())\n"
    )
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)) as store:
        await store.append("orders", [(0, event("a")), (1, event("b"))])
        first = await store.claim("g", ["orders"], "first", lambda: None, "earliest")
        assert len(first.changes()) == 2
        # One owner per partition: the second gets nothing before the first gives it up.
        assert await run_python(code, str(tmp_path / "bus.db")) == "2 0"
        ids = [stored.event.id for stored in (await all_of(store, "orders", 2))[0]]
        assert ids == ["a", "theirs"]


async def test_case_84_a_file_that_is_deleted_or_replaced_while_open_takes_no_events(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1)) as store:
        await store.append("orders", [(0, event("a"))])
        (tmp_path / "bus.db").rename(tmp_path / "away.db")
        with pytest.raises(Unavailable, match="deleted or replaced"):
            await store.append("orders", [(0, event("b"))])
        (tmp_path / "bus.db").write_bytes(b"")
        with pytest.raises(Unavailable, match="deleted or replaced"):
            await store.append("orders", [(0, event("b"))])
        (tmp_path / "bus.db").unlink()
        (tmp_path / "away.db").rename(tmp_path / "bus.db")
        assert await store.append("orders", [(0, event("b"))]) == [Appended(0, 1)]


async def test_case_85_a_file_whose_newest_times_lie_in_the_future(tmp_path: Path) -> None:
    class Ahead:
        def now(self) -> float:
            return time.time() + 10 * 365 * 86_400

        def monotonic(self) -> float:
            return time.monotonic()

    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1), Ahead()) as store:
        await store.append("orders", [(0, event("future"))])
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 1, retention_age_s=3_600.0)) as store:
        assert await store.append("orders", [(0, event("now")), (0, event("future"))]) == [
            Appended(0, 1),
            Appended(0, 0, True),
        ]
        future, now = (await all_of(store, "orders", 1))[0]
        assert now.recorded_at >= future.recorded_at > time.time() + 86_400
        assert await store.position_at("orders", 0, time.time()) == 0


def test_older_formats_are_brought_forward_step_by_step_in_one_transaction(tmp_path: Path) -> None:
    path = str(tmp_path / "bus.db")
    db = apsw.Connection(path)
    db.execute(f"PRAGMA application_id={APPLICATION_ID}; PRAGMA user_version=0")
    db.execute("CREATE TABLE old_events(id, body); INSERT INTO old_events VALUES (1, 'kept')")

    def from_0(db: apsw.Connection) -> None:
        MIGRATIONS[0](db)
        db.execute("ALTER TABLE old_events RENAME TO events_1")

    def fails(db: apsw.Connection) -> None:
        db.execute("DROP TABLE events_1")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        migrate(db, {0: from_0, 1: fails})
    assert db.pragma("user_version") == 0
    assert db.execute("SELECT body FROM old_events").fetchall() == [("kept",)]
    assert len(migrate(db, {0: from_0})) == 16
    assert db.pragma("user_version") == 1
    assert db.execute("SELECT body FROM events_1").fetchall() == [("kept",)]
    assert migrate(db) == migrate(db)
    db.close()


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "fuse.sshfs", "9p"])
def test_network_file_systems_are_refused(kind: str) -> None:
    mounts = (
        "21 1 254:0 / / rw - ext4 /dev/vda rw\n"
        f"35 21 0:31 / /mnt/my\\040share rw - {kind} server:/x rw\n"
        "36 21 0:32 / /mnt/my\\040share/local rw - tmpfs tmpfs rw\n"
    )
    refuse_network("/home/bus.db", mounts)
    refuse_network("/mnt/my share/local/bus.db", mounts)
    refuse_network("/mnt/my shared.db", mounts)
    with pytest.raises(SettingsError, match="network file system"):
        refuse_network("/mnt/my share/bus.db", mounts)


@pytest.mark.parametrize(
    "url", ["sqlite://bus.db", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?leas_s=1", "sqlite:///a?lease_s=x",
            "sqlite:///a?lease_s=0", "sqlite:///a?max_bytes=5", "sqlite:///a?wal_bytes=5", "sqlite:///a?dedup_ids=0"],
)  # fmt: skip
def test_settings_that_cannot_be_are_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        SqliteBackend(url)


async def run_python(code: str, *arguments: str) -> str:
    """Run a program in a process of its own and return what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, *arguments, stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    out, _ = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 0
    return out.decode().strip()
