"""Several processes on one file: killed, stopped, and restarted while they share a group."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from sqlite_help import Seen, all_of, event, opened, until

from nexus.backends.sqlite.files import boot_time
from nexus.spi.backend import Assigned, Cursor, Lost, Revoking, Settlement, TopicSpec, Want

SLACK_S = 0.75
"""What a loaded machine may add."""


class Crew:
    """Worker processes and what they wrote down."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        self.running: dict[str, Process] = {}
        self.count = 0

    async def start(self, what: str) -> str:
        self.count += 1
        name = f"w{self.count}"
        self.running[name] = await asyncio.create_subprocess_exec(
            sys.executable, str(Path(__file__).with_name("sqlite_worker.py")), what, self.url, name,
            str(self.folder / f"{name}.log"), stdin=PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )  # fmt: skip
        return name

    async def kill(self, name: str) -> float:
        process = self.running.pop(name)
        at = boot_time()
        process.kill()
        await process.wait()
        return at

    def lines(self, name: str) -> list[dict[str, Any]]:
        path = self.folder / f"{name}.log"
        text = path.read_text() if path.exists() else ""
        # The last line may be cut by a kill.
        return [json.loads(line) for line in text.split("\n")[:-1]]

    def all_lines(self) -> list[dict[str, Any]]:
        lines = [{**line, "who": f"w{n}"} for n in range(1, self.count + 1) for line in self.lines(f"w{n}")]
        return sorted(lines, key=lambda line: line["at"])


@asynccontextmanager
async def crew(folder: Path, url: str) -> AsyncIterator[Crew]:
    made = Crew(folder, url)
    try:
        yield made
    finally:
        for name in list(made.running):
            await made.kill(name)


@pytest.mark.slow
async def test_four_processes_share_a_group_while_one_after_the_other_is_killed(tmp_path: Path) -> None:
    dice = random.Random(4)
    path = tmp_path / "bus.db"
    sent: list[str] = []
    enough = asyncio.Event()
    seen: dict[int, tuple[int, int]] = defaultdict(lambda: (0, 0))
    async with opened(path, TopicSpec("orders", 8)) as store, crew(tmp_path, f"sqlite:///{path}") as workers:
        for _ in range(4):
            await workers.start("consume")

        async def publish() -> None:
            while not enough.is_set():
                made = [event(f"e{len(sent) + n}") for n in range(5)]
                await store.append("orders", [(dice.randrange(8), each) for each in made])  # type: ignore[misc]
                sent.extend(each.id for each in made)
                await asyncio.sleep(0.003)

        async def owners() -> dict[int, str | None]:
            rows = await store.lag("workers")
            for row in rows:
                assert row.epoch >= seen[row.partition][0], "an epoch went back"
                assert row.low >= seen[row.partition][1], "a cursor went back"
                seen[row.partition] = (row.epoch, row.low)
            return {row.partition: row.owner for row in rows}

        await until(lambda: sum(bool(workers.lines(f"w{n}")) for n in range(1, 5)) == 4, 20)
        publishing = asyncio.ensure_future(publish())
        for _ in range(6):
            end = time.monotonic() + dice.uniform(0.4, 1.2)
            await until(lambda end=end: time.monotonic() > end)  # type: ignore[misc]
            victim = dice.choice(sorted(workers.running))
            await workers.kill(victim)
            deadline = time.monotonic() + 1.0 + SLACK_S
            while victim in (await owners()).values():
                assert time.monotonic() < deadline, f"{victim} still owns partitions long after its death"
                await asyncio.sleep(0.02)
            await workers.start("consume")
        enough.set()
        await publishing
        deadline = time.monotonic() + 20
        while any(row.low < row.end for row in await store.lag("workers")):
            assert time.monotonic() < deadline, await store.lag("workers")
            await owners()
            await asyncio.sleep(0.05)
        stored = {e.event.id for part in await all_of(store, "orders", 8) for e in part}
        assert stored >= set(sent)
        lines = workers.all_lines()
        handled = {id for line in lines if line["what"] == "handled" for id in line["ids"]}
        assert handled >= stored
        given = [(x["partition"], x["token"]) for x in lines if x["what"] == "assigned"]
        assert len(given) == len(set(given)), "one token, two owners"


@pytest.mark.slow
async def test_a_stopped_owner_is_fenced_when_it_wakes_up(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    options = "lease_s=1&revoke_s=0.5"
    async with (
        opened(path, TopicSpec("orders", 2), options=options) as store,
        crew(tmp_path, f"sqlite:///{path}?{options}") as workers,
    ):
        name = await workers.start("stubborn")
        await until(lambda: workers.lines(name), 20)
        process = workers.running[name]
        process.send_signal(signal.SIGSTOP)
        seen = Seen()
        seen.member = await store.claim("workers", ["orders"], "second", seen.wake, "earliest")
        await until(lambda: len(seen.of(Assigned)) == 2, 15)
        taken = seen.of(Assigned)
        assert all(change.cursor.state == "mine" and change.token > change.cursor.epoch for change in taken)
        settlements = [Settlement("orders", change.partition, Cursor(change.token, 3, "new")) for change in taken]
        assert await seen.member.settle(settlements) == ["ok", "ok"]
        process.send_signal(signal.SIGCONT)
        assert process.stdin is not None
        process.stdin.write(b"settle\n")
        await until(lambda: workers.lines(name)[-1]["what"] == "lost", 10)
        assert workers.lines(name)[1]["answers"] == ["fenced", "fenced"]
        assert workers.lines(name)[2]["partitions"] == [0, 1]
        assert {row.low for row in await store.lag("workers")} == {3}


@pytest.mark.slow
async def test_kill_9_of_an_appending_process_loses_nothing_acknowledged(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 4)):
        pass
    async with crew(tmp_path, f"sqlite:///{path}") as workers:
        for _ in range(4):
            name = await workers.start("append")
            await until(lambda name=name: len(workers.lines(name)) > 300, 20)  # type: ignore[misc]
            await workers.kill(name)
            async with opened(path) as store:
                found = await all_of(store, "orders", 4)
                places = {e.event.id: [p, e.position] for p, part in enumerate(found) for e in part}
                for line in workers.all_lines():
                    assert places[line["id"]] == line["place"]
                for part in found:
                    assert [e.position for e in part] == list(range(len(part)))


async def test_a_dead_process_is_noticed_well_within_a_second(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 4)) as store, crew(tmp_path, f"sqlite:///{path}") as workers:
        name = await workers.start("stubborn")
        await until(lambda: workers.lines(name), 20)
        seen = Seen()
        seen.member = await store.claim("workers", ["orders"], "second", seen.wake, "earliest")
        await workers.kill(name)
        assert await until(lambda: len(seen.of(Assigned)) == 4) < 1.0 + SLACK_S
        assert seen.woken
        left = [n for n in os.listdir(f"{path}-nexus") if n.endswith((".lock", ".sock"))]
        assert all(n.startswith(f"{os.getpid()}-") for n in left)


async def test_two_stores_of_one_process_share_and_hear_of_each_other(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 4)) as store, opened(path) as other:
        one, two = Seen(), Seen()
        one.member = await store.claim("g", ["orders"], "one", one.wake, "earliest")
        assert len(one.of(Assigned)) == 4
        two.member = await other.claim("g", ["orders"], "two", two.wake, "earliest")
        await until(lambda: len(one.of(Revoking)) == 2)
        moving = one.of(Revoking)
        assert 0 < moving[0].deadline_s <= 5
        cursors = [Settlement("orders", m.partition, Cursor(1, 0, "kept"), release=True) for m in moving]
        assert await one.member.settle(cursors) == ["ok", "ok"]
        await until(lambda: len(two.of(Assigned)) == 2)
        assert {(a.partition, a.cursor.state, a.token) for a in two.of(Assigned)} == {
            (m.partition, "kept", 2) for m in moving
        }
        assert not one.of(Lost)
        assert await one.member.settle(cursors) == ["fenced", "fenced"]
        woken = one.woken
        partition = two.of(Assigned)[0].partition
        assert await one.member.fetch([Want("orders", partition, 0, 9)], 1_000)
        await other.append("orders", [(partition, event("a"))])
        assert await until(lambda: one.woken > woken) < 0.25 + SLACK_S
        assert len((await one.member.fetch([Want("orders", partition, 0, 9)], 1_000))[0].events) == 1
        for n in range(50):  # what was appended there is read here at once, without a turn of the loop in between
            await other.append("orders", [(partition, event(n))])
            assert (await store.read([Want("orders", partition, n + 1, 9)], 1_000))[0].next == n + 2
        await two.member.leave()
        await two.member.leave()
        await until(lambda: len(one.of(Assigned)) == 6)


async def test_a_change_by_others_that_a_transaction_met_first_is_still_told(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 4)) as store, opened(path) as other:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        seen.look()
        store._writer.nudge = lambda: None  # type: ignore[method-assign]  # as if the datagram came late
        second = await other.claim("g", ["orders"], "two", lambda: None, "earliest")
        # This one's own transaction is the first to see that the file changed.
        await store.append("orders", [(0, event("a"))])
        assert await until(lambda: len(seen.of(Revoking)) == 2) < 0.25 + SLACK_S
        await second.leave()


async def test_what_is_not_released_in_time_is_taken(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2), options="revoke_s=0.2") as store:
        one, two = Seen(), Seen()
        one.member = await store.claim("g", ["orders"], "one", one.wake, "earliest")
        two.member = await store.claim("g", ["orders"], "two", two.wake, "earliest")
        await until(lambda: one.of(Lost) and two.of(Assigned))
        lost, taken = one.of(Lost)[0], two.of(Assigned)[0]
        assert (lost.partition, taken.token) == (taken.partition, 2)
        assert await one.member.settle([Settlement("orders", lost.partition, Cursor(9, 9))]) == ["fenced"]


async def test_a_store_that_is_closed_frees_its_partitions_at_once(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 2)) as store:
        async with opened(path) as other:
            await other.claim("g", ["orders"], "one", lambda: None, "earliest")
            seen = Seen()
            seen.member = await store.claim("g", ["orders"], "two", seen.wake, "earliest")
        await until(lambda: len(seen.of(Assigned)) == 2, 1.0 + SLACK_S)


async def test_a_damaged_cursor_is_a_lost_cursor(tmp_path: Path) -> None:
    async with opened(tmp_path / "bus.db", TopicSpec("orders", 2)) as store:
        member = await store.claim("g", ["orders"], "one", lambda: None, "earliest")
        await member.leave()
        await store._call(lambda db, report: db.execute("UPDATE cursor SET low = 5 WHERE partition = 0").fetchall())
        await store._call(lambda db, report: db.execute("DELETE FROM cursor WHERE partition = 1").fetchall())
        member = await store.claim("g", ["orders"], "one", lambda: None, "latest")
        assert [change.cursor for change in member.changes() if isinstance(change, Assigned)] == [None, None]
        assert await member.settle([Settlement("orders", 0, Cursor(1, 0)), Settlement("orders", 1, Cursor(1, 0))]) == [
            "ok",
            "ok",
        ]


async def test_a_lease_that_cannot_be_renewed_is_lost_before_its_end_and_taken_up_again(tmp_path: Path) -> None:
    path = tmp_path / "bus.db"
    async with opened(path, TopicSpec("orders", 2), options="lease_s=0.6&busy_s=0.1") as store:
        seen = Seen()
        seen.member = await store.claim("g", ["orders"], "one", seen.wake, "earliest")
        start = boot_time()
        blocker = apsw.Connection(str(path))
        blocker.execute("BEGIN IMMEDIATE")
        try:
            await until(lambda: len(seen.of(Lost)) == 2, 5)
            assert boot_time() - start < 0.6 + 0.2 + SLACK_S
            assert await seen.member.settle([Settlement("orders", 0, Cursor(1, 0))]) == ["fenced"]
        finally:
            blocker.execute("ROLLBACK")
            blocker.close()
        await until(lambda: len(seen.of(Assigned)) == 4)
        again = [(change.partition, change.token) for change in seen.of(Assigned)[2:]]
        assert again == [(0, 2), (1, 2)]
        assert await seen.member.settle([Settlement("orders", 0, Cursor(2, 0))]) == ["ok"]
