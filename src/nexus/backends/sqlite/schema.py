"""What is in the file, and how an older file becomes a new one.

    store    one row: the file's own random id, which every checksum starts from
    topic    settings of each topic, and where its table of ids stands
    part     per partition, once it was trimmed or sealed: the first kept position, how far rows are really deleted
    log_N    the events of topic N in the order they were stored: sequence number, place (partition and position
             in one integer), recorded time, running total of bytes, row (see ``rows``)
    mark_N   every few hundred events: the ends of all partitions there. The index of ``log_N``, 1 % of its size
    ids_N_G  generation G (0 to 2) of remembered ids: number of (source, id) → sequence number; place and checksum
             of the content are filled in when the row itself is deleted
    grp, member, cursor   consumer groups: see ``groups``

One table in storing order, not one row range or one table per partition: a commit then writes the last page and not
one page per partition, which is what a commit costs. ``docs/adr/0010-sqlite-layout.md`` has the figures.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import apsw

from nexus.errors import CorruptData, NewerFormat

APPLICATION_ID = 0x4E58_5553  # "NXUS"
VERSION = 1

_TABLES = """
CREATE TABLE store(one INTEGER PRIMARY KEY CHECK (one = 1), id BLOB NOT NULL);
CREATE TABLE topic(
  id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, partitions INTEGER NOT NULL, retention_age_s REAL,
  retention_bytes INTEGER, dedup INTEGER NOT NULL, generation INTEGER NOT NULL DEFAULT 0,
  generation_seq INTEGER NOT NULL DEFAULT 0, generation_boot TEXT, generation_at REAL);
CREATE TABLE part(
  topic INTEGER, partition INTEGER, first INTEGER NOT NULL DEFAULT 0, freed INTEGER NOT NULL DEFAULT 0,
  sealed INTEGER NOT NULL DEFAULT 0, crc INTEGER NOT NULL, PRIMARY KEY(topic, partition)) WITHOUT ROWID;
CREATE TABLE grp(id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE member(
  id INTEGER PRIMARY KEY AUTOINCREMENT, grp INTEGER NOT NULL, name TEXT NOT NULL, process TEXT NOT NULL,
  boot TEXT NOT NULL, until REAL NOT NULL, topics TEXT NOT NULL);
CREATE TABLE cursor(
  grp INTEGER, topic INTEGER, partition INTEGER, owner INTEGER, token INTEGER NOT NULL DEFAULT 0, revoke_at REAL,
  epoch INTEGER, low INTEGER, state TEXT, crc INTEGER, PRIMARY KEY(grp, topic, partition)) WITHOUT ROWID;
"""


def topic_tables(topic: int) -> str:
    """SQL that makes the tables of one topic."""
    return f"""
CREATE TABLE log_{topic}(
  seq INTEGER PRIMARY KEY, place INTEGER NOT NULL, at REAL NOT NULL, total INTEGER NOT NULL, row BLOB NOT NULL);
CREATE TABLE mark_{topic}(seq INTEGER PRIMARY KEY, ends BLOB NOT NULL);
""" + "".join(
        f"CREATE TABLE ids_{topic}_{turn}("
        "number INTEGER PRIMARY KEY, seq INTEGER NOT NULL, place INTEGER, fact INTEGER);\n"
        for turn in range(3)
    )


def _from_0(db: apsw.Connection) -> None:
    """Version 0 is a file without tables; also one whose making was cut short."""
    db.execute(_TABLES)
    db.execute("INSERT INTO store VALUES (1, ?)", (os.urandom(16),))


MIGRATIONS: dict[int, Callable[[apsw.Connection], None]] = {0: _from_0}
"""From which version, how to the next. Each step runs in the one transaction of the whole migration."""


def migrate(db: apsw.Connection, migrations: dict[int, Callable[[apsw.Connection], None]] | None = None) -> bytes:
    """Bring the file to this version, all steps in one transaction, and return the store's id.

    Raises `NewerFormat` for a file of a newer Nexus and `CorruptData` for one that is not a store.
    """
    steps = MIGRATIONS if migrations is None else migrations
    target = max(steps) + 1
    if _version(db) != target:
        db.execute("BEGIN IMMEDIATE")
        try:
            # Again, now that nobody else can write: another process may have done it in between.
            version = _version(db)
            while version < target:
                steps[version](db)
                version += 1
            db.execute(f"PRAGMA user_version={target}; PRAGMA application_id={APPLICATION_ID}")
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise
    found = db.execute("SELECT id FROM store WHERE one = 1").fetchone()
    if found is None or not isinstance(found[0], bytes) or len(found[0]) != 16:
        raise CorruptData("the file has lost its own id")
    return found[0]


def _version(db: apsw.Connection) -> int:
    application = db.pragma("application_id")
    version = db.pragma("user_version")
    if application == APPLICATION_ID:
        if not isinstance(version, int) or not 0 <= version <= VERSION:
            raise NewerFormat(
                f"the file has format {version}, and this Nexus reads up to {VERSION}", hint="upgrade Nexus"
            )
        return version
    if application == 0 and version == 0 and db.execute("SELECT 1 FROM sqlite_schema LIMIT 1").fetchone() is None:
        return 0
    raise CorruptData("the file is a SQLite database, but not a store of Nexus", hint="choose another path")
