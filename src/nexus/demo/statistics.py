"""Where the demo's handlers keep their figures: one SQLite file, in which an event counts once however often it comes.

Each delivery is one transaction: note the event in the *inbox* of its group, change the figures, commit. If the event
is in the inbox already (the worker was killed between its commit and the settling of the cursor), nothing changes but
the number of duplicates. The *fence* makes a former owner of a partition, should one wake up late, fail instead of
writing. All figures are sums of whole numbers, so they do not depend on the order in which aircraft take turns.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from nexus import Context

FILE = "statistics.db"

_SCHEMA = """
create table worker(number integer primary key, pid int, started_at real, first_delivery_at real);
create table handled(grp text primary key, events int not null, duplicates int not null) without rowid;
create table inbox(grp text, partition int, position int, primary key(grp, partition, position)) without rowid;
create table fence(grp text, partition int, fence int, primary key(grp, partition)) without rowid;
create table delay(carrier text, origin text, departed int not null default 0, dep_min int not null default 0,
    late int not null default 0, arrived int not null default 0, arr_min int not null default 0,
    unknown int not null default 0, cancelled int not null default 0, primary key(carrier, origin)) without rowid;
create table last_event(tail text primary key, number int, position int) without rowid;
create table flight(id text primary key, stage int) without rowid;
create table violation(flight text, what text, primary key(flight, what)) without rowid;
create table weather(hour text primary key, wind text, rain text) without rowid;
create table departure(hour text primary key, departed int not null, dep_min int not null) without rowid;
create table aircraft(tail text primary key, in_air text, landed_at int) without rowid;
create table turnaround(carrier text primary key, times int, minutes int, shortest int, longest int) without rowid;
"""


class Fenced(Exception):
    """Another worker owns the partition now; nothing was written."""


class DelayRow(msgspec.Struct, frozen=True):
    """Delays of one carrier at one airport, in whole minutes."""

    carrier: str
    origin: str
    departed: int
    dep_min: int
    late: int
    arrived: int
    arr_min: int
    unknown: int
    cancelled: int


class WeatherRow(msgspec.Struct, frozen=True):
    """Departure delays in one class of weather."""

    wind: str
    rain: str
    departed: int
    dep_min: int


class TurnaroundRow(msgspec.Struct, frozen=True):
    """Minutes from an arrival of an aircraft to its next departure from New York, by carrier."""

    carrier: str
    times: int
    minutes: int
    shortest: int
    longest: int


class Figures(msgspec.Struct, frozen=True):
    """Everything the handlers found out; the same with and without a crash."""

    handled: dict[str, int]
    delays: list[DelayRow]
    aircraft_checked: int
    flights_checked: int
    order_violations: int
    weather: list[WeatherRow]
    turnarounds: list[TurnaroundRow]


class WorkerLife(msgspec.Struct, frozen=True):
    """One worker process, as it told of itself."""

    number: int
    pid: int
    started_at: float
    first_delivery_at: float | None


class Statistics:
    """The file. Written by the worker, read by the parent at any time."""

    def __init__(self, path: Path) -> None:
        self.db = sqlite3.connect(path, isolation_level=None, timeout=10)
        self._worker = 0
        self._seen = False

    @classmethod
    def create(cls, path: Path, groups: Sequence[str]) -> None:
        """Make an empty file."""
        db = sqlite3.connect(path)
        try:
            db.execute("pragma journal_mode = wal")
            db.executescript(_SCHEMA)
            db.executemany("insert into handled values(?, 0, 0)", [(group,) for group in groups])
            db.commit()
        finally:
            db.close()

    def close(self) -> None:
        self.db.close()

    # ---- the worker's side ----------------------------------------------------------------------------------------

    def begin_worker(self, number: int, pid: int) -> None:
        """Note that a worker process began."""
        # What a commit wrote survives the death of the process without waiting for the disk; more is not shown here.
        self.db.execute("pragma synchronous = normal")
        # Each checkpoint waits for the disk; the default would make one every few hundred deliveries.
        self.db.execute("pragma wal_autocheckpoint = 10000")
        self.db.execute("insert into worker values(?, ?, ?, null)", (number, pid, time.time()))
        self._worker = number

    @contextmanager
    def once(self, context: Context) -> Iterator[bool]:
        """Open the transaction of one delivery; gives False when the event was counted before. Raises `Fenced`."""
        db, place = self.db, (context.group, context.partition)
        db.execute("begin immediate")
        try:
            self._check_fence(place, context.fence)
            new = db.execute(
                "insert into inbox values(?, ?, ?) on conflict do nothing", (*place, context.position)
            ).rowcount
            if new:
                db.execute("update handled set events = events + 1 where grp = ?", place[:1])
            else:
                db.execute("update handled set duplicates = duplicates + 1 where grp = ?", place[:1])
            if not self._seen:
                db.execute("update worker set first_delivery_at = ? where number = ?", (time.time(), self._worker))
            yield bool(new)
        except BaseException:
            db.execute("rollback")
            raise
        db.execute("commit")
        self._seen = True

    def _check_fence(self, place: tuple[str, int], fence: int) -> None:
        row = self.db.execute("select fence from fence where grp = ? and partition = ?", place).fetchone()
        if row is not None and row[0] > fence:
            raise Fenced(f"{place[0]}[{place[1]}] has a new owner")
        if row is None or row[0] < fence:
            self.db.execute("insert or replace into fence values(?, ?, ?)", (*place, fence))

    def add(self, table: str, key: tuple[str, ...], **amounts: int) -> None:
        """Add amounts to the row of a key, which begins with zeros."""
        names, marks = ", ".join(amounts), ", ".join("?" * (len(key) + len(amounts)))
        keys = {"delay": "carrier, origin", "departure": "hour"}[table]
        changes = ", ".join(f"{name} = {name} + excluded.{name}" for name in amounts)
        self.db.execute(
            f"insert into {table}({keys}, {names}) values({marks}) on conflict do update set {changes}",
            (*key, *amounts.values()),
        )

    # ---- the parent's side ----------------------------------------------------------------------------------------

    def handled(self) -> dict[str, tuple[int, int]]:
        """Return per group: events counted, and duplicates that were recognised."""
        return {group: (events, twice) for group, events, twice in self.db.execute("select * from handled")}

    def workers(self) -> list[WorkerLife]:
        return [WorkerLife(*row) for row in self.db.execute("select * from worker order by number")]

    def figures(self) -> Figures:
        """Read all figures in one transaction."""
        db = self.db
        db.execute("begin")
        try:
            return Figures(
                {group: events for group, (events, _) in sorted(self.handled().items())},
                [DelayRow(*row) for row in db.execute("select * from delay order by carrier, origin")],
                _one(db, "select count(*) from last_event"),
                _one(db, "select count(*) from flight"),
                _one(db, "select count(*) from violation"),
                [
                    WeatherRow(*row)
                    for row in db.execute(
                        "select coalesce(wind, 'unknown') as w, coalesce(rain, 'unknown') as r, sum(departed),"
                        " sum(dep_min) from departure left join weather using (hour) group by w, r order by w, r"
                    )
                ],
                [TurnaroundRow(*row) for row in db.execute("select * from turnaround order by carrier")],
            )
        finally:
            db.execute("commit")


def _one(db: sqlite3.Connection, query: str) -> Any:
    return db.execute(query).fetchone()[0]
