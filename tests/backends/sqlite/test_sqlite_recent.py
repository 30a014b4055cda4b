"""What a process keeps of its own last appends is what the file says, or is not asked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlite_help import event, opened

from nexus.backends.sqlite import SqliteBackend, recent
from nexus.spi.backend import TopicSpec, Want

ORDERS = TopicSpec("orders", 2)


def reads(store: SqliteBackend) -> list[int]:
    """Count from now on how often the file is read."""
    counted = [0]
    plain = store._reader.run

    async def run(job: Any) -> Any:
        counted[0] += 1
        return await plain(job)

    store._reader.run = run  # type: ignore[method-assign]
    return counted


async def ids(store: SqliteBackend, position: int = 0, room: int = 1 << 20, most: int = 1_000) -> list[str]:
    (part,) = await store.read([Want("orders", 0, position, most)], room)
    return [stored.event.id for stored in part.events]


async def append(store: SqliteBackend, *names: str) -> None:
    await store.append("orders", [(0, event(name)) for name in names])


async def test_what_somebody_here_waits_for_is_not_read_from_the_file(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        store.watch(["orders"], lambda: None)
        await append(store, "a", "b", "c")
        counted = reads(store)
        (part,) = await store.read([Want("orders", 0, 1, 1)], 1 << 20)
        assert [stored.event.id for stored in part.events] == ["b"]
        assert (part.next, part.more, part.trimmed) == (2, True, None)
        assert counted == [0]
        from_here = (await store.read([Want("orders", 0, 0, 9)], 1 << 20))[0].events
    async with opened(tmp_path / "bus.db") as other:
        assert (await other.read([Want("orders", 0, 0, 9)], 1 << 20))[0].events == from_here


async def test_what_nobody_waits_for_is_not_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        await append(store, "a")
        assert len(store._recent) == 0


async def test_another_process_in_between_is_seen(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store, opened(tmp_path / "bus.db") as other:
        store.watch(["orders"], lambda: None)
        await append(store, "a")
        await append(other, "b")
        await append(store, "c")
        assert await ids(store) == ["a", "b", "c"]
        await other.trim("orders", 0, 1)
        (part,) = await store.read([Want("orders", 0, 0, 9)], 1 << 20)
        assert ([stored.event.id for stored in part.events], part.trimmed) == (["b", "c"], 1)


async def test_what_is_trimmed_is_let_go(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        store.watch(["orders"], lambda: None)
        await append(store, "a", "b")
        await store.trim("orders", 0, 1)
        assert len(store._recent) == 0
        assert await ids(store) == ["b"]


async def test_a_second_copy_leaves_no_hole(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        store.watch(["orders"], lambda: None)
        await append(store, "a", "b")
        await append(store, "b", "c")
        await append(store, "d")
        assert await ids(store) == ["a", "b", "c", "d"]
        assert await ids(store, 3) == ["d"]


async def test_the_room_of_a_read_counts_what_is_kept(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        store.watch(["orders"], lambda: None)
        await store.append("orders", [(p, event(f"{p}{n}", body=b"x" * 1_000)) for n in range(4) for p in range(2)])
        size = (await store.read([Want("orders", 0, 0, 1)], 1))[0].events[0].size
        wants = [Want("orders", p, 0, 9) for p in range(2)]
        assert [len(part.events) for part in await store.read(wants, 5 * size)] == [4, 1]
        assert [len(part.events) for part in await store.read(wants, 1)] == [1, 0]
        # One partition from here and the other from the file, in one read.
        store._recent._runs["orders"].pop(1)
        assert [len(part.events) for part in await store.read(wants, 5 * size)] == [4, 1]
        assert [len(part.events) for part in await store.read(wants, 1)] == [1, 0]


@pytest.mark.parametrize("bound", ["LIMIT_EVENTS", "LIMIT_BYTES"])
async def test_what_is_kept_has_a_bound(tmp_path: Path, bound: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recent, bound, 10 if bound == "LIMIT_EVENTS" else 10_000)
    async with opened(tmp_path / "bus.db", ORDERS) as store:
        store.watch(["orders"], lambda: None)
        most = 0
        for number in range(40):
            await store.append("orders", [(0, event(f"e{number}", body=b"x" * 1_000))])
            most = max(most, len(store._recent))
        assert most == 10
        assert await ids(store) == [f"e{number}" for number in range(40)]
