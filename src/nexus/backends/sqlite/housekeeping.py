"""What the writer does about every 250 ms: leases, dead members, deadlines, retention, and rows to be freed.

Each duty first looks without writing, so that an idle store costs a few reads.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import apsw

from nexus.backends.sqlite import groups
from nexus.backends.sqlite.engine import one, rows
from nexus.backends.sqlite.files import boot_time
from nexus.backends.sqlite.log import ends_at, load_shape, save_part, seq_at_time, size_bytes
from nexus.backends.sqlite.member import Share, View
from nexus.backends.sqlite.requests import CallRequest
from nexus.backends.sqlite.writer import Report, Writer
from nexus.spi.backend import Change, Settled, Settlement

log = logging.getLogger("nexus.sqlite")

FREE_ROWS = 1_000
_RETENTION_EVERY = 4


class Housekeeping:
    """The members of this process, and all that is done for the store besides requests. Runs in the writer thread."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._store = writer.store
        self._lease_s = writer.store.settings.lease_s
        self._renew_at = 0.0
        self._rounds = 0
        self._freeing = False
        self.shares: list[Share] = []
        self._joining: dict[Share, tuple[int, int]] = {}
        """Group and row of those that become members with this transaction; a share has them when it is committed, so
        that a failed one leaves it as it was."""
        self._on_commit: list[Callable[[], None]] = []
        self.touched: set[int] = set()
        """Groups whose partitions may have to be shared out anew at the end of this transaction."""
        writer.housekeeping = self.run
        writer.before_commit = self._before_commit
        writer.after_abort = self._after_abort

    @property
    def _process(self) -> str:
        return self._store.presence.name

    def run(self, foreign: bool) -> None:
        """Do what is due. ``foreign``: others wrote since the last time."""
        if self.shares:
            self._lead(foreign)
        if foreign:
            self._say_foreign()
        self._rounds += 1
        if self._rounds % _RETENTION_EVERY == 0:
            self._store.renew_reserve()
        if self._rounds % _RETENTION_EVERY == 0 or self._freeing:
            self._retain()

    def _say_foreign(self) -> None:
        self._writer.post(Report((), True))

    def _lead(self, foreign: bool) -> None:
        """Renew, bury, share out."""
        db, now = self._writer.db, boot_time()
        renew = now >= self._renew_at
        dead = self._find_dead(db)
        late = [
            (share, key)
            for share in self.shares
            for key, view in share.view.items()
            if view.revoke_at is not None and view.revoke_at <= now
        ]
        numbers = {share.group for share in self.shares}
        unbalanced = {number for number in numbers if groups.needs_balance(db, number)}
        if renew or dead or late or unbalanced:

            def keep(db: apsw.Connection, report: Report) -> None:
                until = boot_time() + self._lease_s
                groups.renew(db, self._process, until)
                self.bury_dead(db)
                for share, (topic, partition) in late:
                    groups.give_up(db, share.group, share.id, topic, partition)
                self.touched |= numbers
                report.posts.append(lambda: self._renewed(until))

            if self._writer.transact([CallRequest(None, keep, urgent=True)]):
                self._renew_at = now + self._lease_s / 3
        elif foreign:
            self._take(self._compare(db, numbers, {}))

    def _renewed(self, until: float) -> None:
        """On the loop: the leases run until then."""
        for share in list(self.shares):
            share.member.until = max(share.member.until, until)

    def _compare(
        self, db: apsw.Connection, numbers: set[int], joining: dict[Share, tuple[int, int]]
    ) -> list[tuple[Share, dict[tuple[int, int], View], list[Change]]]:
        now = boot_time()
        stay = [share for share in self.shares if share.group in numbers and share not in joining]
        return [
            *((share, *share.compare(groups.owned(db, share.group, share.id), now, share.view)) for share in stay),
            *((share, *share.compare(groups.owned(db, *row), now, {})) for share, row in joining.items()),
        ]

    def _take(self, staged: list[tuple[Share, dict[tuple[int, int], View], list[Change]]]) -> None:
        posts: list[Callable[[], None]] = []
        for share, view, changes in staged:
            share.view = view
            share.released.clear()
            if changes:
                posts.append(lambda member=share.member, changes=changes: member.put(changes))  # type: ignore[misc]
        if posts:
            report = Report((), False)
            report.posts = posts
            self._writer.post(report)

    def _before_commit(self, db: apsw.Connection, report: Report) -> Callable[[], None] | None:
        if not self.touched:
            return None
        done, self._on_commit = self._on_commit, []
        numbers, self.touched = self.touched, set()
        joining, self._joining = self._joining, {}
        for number in numbers:
            groups.balance(db, number, self._store.settings.revoke_s)
        staged = self._compare(db, numbers, joining)
        report.groups = True

        def commit() -> None:
            for step in done:
                step()
            for share, view, changes in staged:
                share.view = view
                share.released.clear()
                if changes:
                    report.posts.append(lambda member=share.member, changes=changes: member.put(changes))  # type: ignore[misc]

        return commit

    def bury_dead(self, db: apsw.Connection) -> None:
        """Take out members of processes that are gone, and those of this one that nobody here stands for."""
        dead = self._find_dead(db)
        for member, why in dead.items():
            question = "SELECT grp.name, member.name FROM member JOIN grp ON grp.id = member.grp WHERE member.id = ?"
            group, name = one(db, question, (member,))
            log.info("group %s: %s is taken out: %s", group, name, why)
        groups.remove_members(db, list(dead))

    def _find_dead(self, db: apsw.Connection) -> dict[int, str]:
        known = {share.id for share in self.shares} | {number for _, number in self._joining.values()}
        return groups.find_dead(db, self._process, known, self._store.presence.is_dead)

    def add(self, share: Share, group: int, number: int) -> None:
        """Take a member in whose row was just written; its partitions come with this transaction."""
        if not self.shares:
            # Its lease begins now. A needless renewal right after it would be one more moment to be stopped in, and
            # a process that is stopped in the middle of a commit keeps the file from everybody.
            self._renew_at = boot_time() + self._lease_s / 3
        self._joining[share] = group, number
        self.touched.add(group)

        def joined() -> None:
            share.group, share.id = group, number
            if share not in self.shares:
                self.shares.append(share)

        self._on_commit.append(joined)

    def remove(self, db: apsw.Connection, share: Share) -> None:
        """Take a member out; what it owns is free."""
        group, number = self._joining.pop(share, (share.group, share.id))
        groups.remove_members(db, [number])
        self.touched.add(group)

        def gone() -> None:
            if share in self.shares:
                self.shares.remove(share)

        self._on_commit.append(gone)

    def settle(self, db: apsw.Connection, share: Share, settlements: Sequence[Settlement]) -> list[Settled]:
        """Store cursors of a member."""
        numbers = {name: number for number, name in share.topics.items()}
        answers: list[Settled] = []
        for settlement in settlements:
            topic = numbers.get(settlement.topic)
            if topic is None:
                answers.append("fenced")
                continue
            answer = groups.settle(db, share.group, share.id, topic, settlement)
            key = (topic, settlement.partition)
            if answer == "fenced":
                # Lost follows, also when the member owns the row and somebody with a higher epoch had written it.
                groups.give_up(db, share.group, share.id, topic, settlement.partition)
                self.touched.add(share.group)
            elif settlement.release:
                share.released.add(key)
                self.touched.add(share.group)
            answers.append(answer)
        return answers

    def _after_abort(self) -> None:
        self._on_commit.clear()
        self.touched.clear()
        self._joining.clear()
        for share in self.shares:
            share.released.clear()

    def _retain(self) -> None:
        """Forget what is older or more than wished, and free some of what is forgotten."""
        db, now = self._writer.db, self._writer.clock.now()
        for name, age_s, size in rows(
            db,
            "SELECT name, retention_age_s, retention_bytes FROM topic "
            "WHERE retention_age_s IS NOT NULL OR retention_bytes IS NOT NULL",
        ):
            shape = load_shape(db, self._store.id, name)
            cut = None
            if age_s is not None:
                oldest = one(db, f"SELECT at FROM log_{shape.id} ORDER BY seq LIMIT 1")
                if oldest is not None and oldest[0] < now - age_s:
                    cut = seq_at_time(db, shape, now - age_s)
                    if cut is None:
                        cut = one(db, f"SELECT max(seq) + 1 FROM log_{shape.id}")[0]
            if size is not None and (over := size_bytes(db, shape) - size) > 0:
                by_size = _seq_above(db, shape.id, over)
                cut = by_size if cut is None else max(cut, by_size)
            if cut is not None:
                self._writer.transact([CallRequest(None, self._forget_below(name, cut), urgent=True)])
        waiting = rows(
            db, "SELECT DISTINCT topic.name FROM part JOIN topic ON topic.id = part.topic WHERE freed < first"
        )
        more: list[bool] = []
        for (name,) in waiting:
            # Small steps, each its own transaction, with requests in between.
            def free(_db: apsw.Connection, _report: Report, name: str = name) -> None:
                more.append(self._writer.topic(name).free_some(FREE_ROWS))

            self._writer.transact([CallRequest(None, free, urgent=True)])
        self._freeing = any(more)
        if self._freeing:
            self._writer.nudge()

    def _forget_below(self, name: str, cut: int) -> Callable[[apsw.Connection, Report], None]:
        def forget(db: apsw.Connection, report: Report) -> None:
            topic = self._writer.topic(name)
            report.trimmed.add(name)
            ends = topic.ends if cut >= topic.seq else ends_at(db, topic.shape, cut)
            for partition, end in enumerate(ends):
                if end > topic.parts.first[partition]:
                    topic.parts.first[partition] = end
                    save_part(db, topic.shape, topic.parts, partition)

        return forget

    def bury(self) -> None:
        """At the end: take out all members of this process, so that others need not wait, and mark the logs' ends."""
        ids = [share.id for share in self.shares]
        numbers = {share.group for share in self.shares}
        self.shares = []

        def leave(db: apsw.Connection, _report: Report) -> None:
            self._writer.mark_ends()
            if ids:
                groups.remove_members(db, ids)
                self.touched |= numbers

        if ids or self._writer.has_unmarked:
            self._writer.transact([CallRequest(None, leave, urgent=True)])


def _seq_above(db: apsw.Connection, topic: int, over: int) -> int:
    """Return the ``seq`` below which there are at least ``over`` bytes."""
    low, high = one(db, f"SELECT (SELECT min(seq) FROM log_{topic}), (SELECT max(seq) FROM log_{topic})")
    base = one(db, f"SELECT total - length(row) FROM log_{topic} WHERE seq = ?", (low,))[0]
    found: int = high + 1
    while low <= high:
        middle = (low + high) // 2
        seq, total = one(db, f"SELECT seq, total FROM log_{topic} WHERE seq <= ? ORDER BY seq DESC LIMIT 1", (middle,))
        if total - base >= over:
            found = seq + 1
            high = seq - 1
        else:
            low = middle + 1
    return found
