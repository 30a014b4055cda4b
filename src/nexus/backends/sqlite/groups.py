"""Who is in a group, who owns which partition, and how far it is: the tables ``grp``, ``member`` and ``cursor``.

Everything here runs inside a write transaction, so that two processes never decide at the same time. Any member's
process may decide for all: it removes members that are dead, asks owners of surplus partitions to give them up, and
hands out what nobody owns. Each process then compares the table with what its own members know (`owned`).

A lease is the member's, not the partition's: one row is renewed for all that it owns. The token of a partition grows
with each owner.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any, Literal

import apsw
import msgspec

from nexus.backends.sqlite.engine import one, rows
from nexus.backends.sqlite.files import BOOT_ID, boot_time
from nexus.backends.sqlite.log import Shape, load_ends, load_parts, rows_of
from nexus.backends.sqlite.rows import checksum
from nexus.core.assignment import assign
from nexus.errors import UnknownGroup
from nexus.spi.backend import Cursor, PartitionLag, Settled, Settlement

REVOKE_GRACE_S = 1.0
"""How much later than told to the owner a partition is taken from it: the owner gives it up by itself first."""


class Owned(msgspec.Struct, frozen=True, gc=False):
    """One partition of one member, as the table has it."""

    topic: int
    partition: int
    token: int
    revoke_at: float | None
    cursor: Cursor | None


def _seal_cursor(group: int, topic: int, partition: int, cursor: Cursor) -> int:
    return checksum(group, topic, partition, cursor.epoch, cursor.low, cursor.state)


def _cursor(group: int, topic: int, partition: int, epoch: Any, low: Any, state: Any, crc: Any) -> Cursor | None:
    """Return a stored cursor; a damaged one is a lost one."""
    if crc is None or crc != checksum(group, topic, partition, epoch, low, state):
        return None
    return Cursor(epoch, low, state)


def join(
    db: apsw.Connection,
    group: str,
    topics: Sequence[Shape],
    member: str,
    process: str,
    lease_s: float,
    start: Literal["latest", "earliest"],
) -> tuple[int, int]:
    """Add a member, and cursors for topics that are new to the group. Return ids of group and member."""
    db.execute("INSERT OR IGNORE INTO grp(name) VALUES (?)", (group,))
    number: int = one(db, "SELECT id FROM grp WHERE name = ?", (group,))[0]
    for shape in topics:
        known = db.execute("SELECT 1 FROM cursor WHERE grp = ? AND topic = ? LIMIT 1", (number, shape.id)).fetchone()
        if known is not None:
            # A row that is missing now was lost; its owner is told so, by a cursor of None.
            db.executemany(
                "INSERT OR IGNORE INTO cursor(grp, topic, partition) VALUES (?, ?, ?)",
                [(number, shape.id, p) for p in range(shape.spec.partitions)],
            )
            continue
        lows = load_ends(db, shape)[1] if start == "latest" else load_parts(db, shape).first
        made = []
        for partition, low in enumerate(lows):
            cursor = Cursor(0, low)
            crc = _seal_cursor(number, shape.id, partition, cursor)
            made.append((number, shape.id, partition, 0, low, "", crc))
        db.executemany(
            "INSERT INTO cursor(grp, topic, partition, epoch, low, state, crc) VALUES (?, ?, ?, ?, ?, ?, ?)", made
        )
    return number, add_member(db, number, member, process, [shape.id for shape in topics], lease_s)


def add_member(db: apsw.Connection, group: int, name: str, process: str, topics: Sequence[int], lease_s: float) -> int:
    """Add a member row and return its id; it takes the place of any other of this process under the same name."""
    old = rows(db, "SELECT id FROM member WHERE grp = ? AND name = ? AND process = ?", (group, name, process))
    remove_members(db, [row[0] for row in old])
    db.execute(
        "INSERT INTO member(grp, name, process, boot, until, topics) VALUES (?, ?, ?, ?, ?, ?)",
        (group, name, process, BOOT_ID, boot_time() + lease_s, msgspec.json.encode(list(topics)).decode()),
    )
    return db.last_insert_rowid()


def remove_members(db: apsw.Connection, members: Sequence[int]) -> None:
    """Take members out and free what they own."""
    ids = [(member,) for member in members]
    db.executemany("UPDATE cursor SET owner = NULL, revoke_at = NULL WHERE owner = ?", ids)
    db.executemany("DELETE FROM member WHERE id = ?", ids)


def renew(db: apsw.Connection, process: str, until: float) -> list[int]:
    """Renew all leases of a process; return the ids of its members that are still there."""
    db.execute("UPDATE member SET until = ? WHERE process = ?", (until, process))
    return [row[0] for row in db.execute("SELECT id FROM member WHERE process = ?", (process,))]


def find_dead(
    db: apsw.Connection, process: str, known: Collection[int], is_dead: Callable[[str], bool]
) -> dict[int, str]:
    """Return members that are gone, and why: of processes that ended, out of their lease, or from before a restart.

    Of ``process`` itself those that are not ``known``: their leases are renewed with the others', so they never end.
    """
    now = boot_time()
    checked: dict[str, bool] = {process: False}
    dead = {}
    for member, its_process, boot, until in db.execute("SELECT id, process, boot, until FROM member"):
        if its_process == process:
            if member not in known:
                dead[member] = "nobody stands for it any more"
            continue
        if its_process not in checked:
            checked[its_process] = is_dead(its_process)
        if checked[its_process]:
            dead[member] = "its process ended"
        elif boot != BOOT_ID:
            dead[member] = "the machine was started anew"
        elif until < now:
            dead[member] = "its lease ran out"
    return dead


def needs_balance(db: apsw.Connection, group: int) -> bool:
    """Tell, without writing, whether `balance` would change something now."""
    now = boot_time()
    plan = _plan(db, group)
    return any(
        _step(owner, revoke_at, plan.get((topic, partition)), now) != "keep"
        for topic, partition, owner, revoke_at in _owners(db, group)
    )


def balance(db: apsw.Connection, group: int, revoke_s: float) -> None:
    """Share the group's partitions out: hand over free ones, and ask for surplus ones back."""
    now = boot_time()
    plan = _plan(db, group)
    for topic, partition, owner, revoke_at in _owners(db, group):
        target = plan.get((topic, partition))
        where = (group, topic, partition)
        match _step(owner, revoke_at, target, now):
            case "hand over":
                db.execute(
                    "UPDATE cursor SET owner = ?, token = token + 1, revoke_at = NULL "
                    "WHERE grp = ? AND topic = ? AND partition = ?",
                    (target, *where),
                )
            case "revoke":
                db.execute(
                    "UPDATE cursor SET revoke_at = ? WHERE grp = ? AND topic = ? AND partition = ?",
                    (now + revoke_s, *where),
                )
            case _:
                pass


def _step(
    owner: int | None, revoke_at: float | None, target: int | None, now: float
) -> Literal["keep", "revoke", "hand over"]:
    if owner is None:
        return "keep" if target is None else "hand over"
    if revoke_at is not None:
        return "hand over" if now >= revoke_at + REVOKE_GRACE_S else "keep"
    return "revoke" if target is not None and target != owner else "keep"


def _owners(db: apsw.Connection, group: int) -> list[tuple[int, int, int | None, float | None]]:
    return rows(
        db, "SELECT topic, partition, owner, revoke_at FROM cursor WHERE grp = ? ORDER BY topic, partition", (group,)
    )


def _plan(db: apsw.Connection, group: int) -> dict[tuple[int, int], int]:
    """Say which member should own each partition. Topics with the same members are shared out together."""
    members: dict[int, list[int]] = {}
    for member, topics in db.execute("SELECT id, topics FROM member WHERE grp = ?", (group,)):
        for topic in msgspec.json.decode(topics):
            members.setdefault(topic, []).append(member)
    shares: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for topic, partition in db.execute("SELECT topic, partition FROM cursor WHERE grp = ?", (group,)):
        if topic in members:
            shares.setdefault(tuple(sorted(members[topic])), []).append((topic, partition))
    return {
        place: int(member)
        for who, places in shares.items()
        for member, share in assign([str(member) for member in who], sorted(places)).items()
        for place in share
    }


def owned(db: apsw.Connection, group: int, member: int) -> list[Owned] | None:
    """Return what a member owns; None if it is not in the group any more."""
    if db.execute("SELECT 1 FROM member WHERE id = ?", (member,)).fetchone() is None:
        return None
    return [
        Owned(topic, partition, token, revoke_at, _cursor(group, topic, partition, *stored))
        for topic, partition, token, revoke_at, *stored in db.execute(
            "SELECT topic, partition, token, revoke_at, epoch, low, state, crc FROM cursor "
            "WHERE grp = ? AND owner = ? ORDER BY topic, partition",
            (group, member),
        )
    ]


def settle(db: apsw.Connection, group: int, member: int, topic: int, settlement: Settlement) -> Settled:
    """Store one cursor if the member owns the partition and the stored epoch is not higher."""
    cursor = settlement.cursor
    db.execute(
        "UPDATE cursor SET epoch = ?1, low = ?2, state = ?3, crc = ?4, "
        "owner = CASE WHEN ?5 THEN NULL ELSE owner END, revoke_at = CASE WHEN ?5 THEN NULL ELSE revoke_at END "
        "WHERE grp = ?6 AND topic = ?7 AND partition = ?8 AND owner = ?9 AND (epoch IS NULL OR epoch <= ?1)",
        (
            cursor.epoch,
            cursor.low,
            cursor.state,
            _seal_cursor(group, topic, settlement.partition, cursor),
            settlement.release,
            group,
            topic,
            settlement.partition,
            member,
        ),
    )
    return "ok" if db.changes() else "fenced"


def give_up(db: apsw.Connection, group: int, member: int, topic: int, partition: int) -> None:
    """Free one partition as it stands."""
    db.execute(
        "UPDATE cursor SET owner = NULL, revoke_at = NULL WHERE grp = ? AND topic = ? AND partition = ? AND owner = ?",
        (group, topic, partition, member),
    )


def names(db: apsw.Connection) -> list[str]:
    """Return the names of all groups that have a cursor, sorted."""
    found = rows(db, "SELECT name FROM grp WHERE EXISTS (SELECT 1 FROM cursor WHERE grp = grp.id) ORDER BY name")
    return [row[0] for row in found]


def lag(db: apsw.Connection, group: str, shape_of: Callable[[str], Shape]) -> list[PartitionLag]:
    """Say where a group stands. Raises `UnknownGroup`."""
    row = one(db, "SELECT id FROM grp WHERE name = ?", (group,))
    if row is None:
        raise UnknownGroup(f"no consumer group {group!r}")
    number = row[0]
    ends: dict[str, tuple[Shape, list[int], list[int]]] = {}
    found = []
    for topic, name, partition, owner, *stored in rows(
        db,
        "SELECT topic, topic.name, partition, member.name, epoch, low, state, crc FROM cursor "
        "JOIN topic ON topic.id = cursor.topic LEFT JOIN member ON member.id = cursor.owner "
        "WHERE cursor.grp = ? ORDER BY topic.name, partition",
        (number,),
    ):
        if name not in ends:
            shape = shape_of(name)
            ends[name] = shape, load_ends(db, shape)[1], load_parts(db, shape).first
        shape, end, first = ends[name]
        cursor = _cursor(number, topic, partition, *stored) or Cursor(0, first[partition])
        oldest_at = None
        if first[partition] <= cursor.low < end[partition]:
            oldest = next(rows_of(db, shape, partition, cursor.low), None)
            if oldest is not None and oldest[1] == cursor.low:
                oldest_at = oldest[2]
        found.append(
            PartitionLag(name, partition, cursor.low, end[partition], cursor.epoch, owner, oldest_at, cursor.state)
        )
    return found
