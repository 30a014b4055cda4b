"""The one thread that writes: it takes what is wished, puts it into one transaction, commits, and answers all.

So the price of a commit (one fsync) is shared by everybody who waits, and the more wait, the cheaper each is. What was
wished first is done first. Nothing is answered before the commit, and one failed request does not touch the others.

The thread also keeps house: leases, dead members, trimmed rows (see `Housekeeping`).
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import apsw

from nexus.backends.sqlite.append import TopicWriter
from nexus.backends.sqlite.engine import is_full, one, translate
from nexus.backends.sqlite.requests import AppendRequest, CallRequest, Request
from nexus.clock import Clock
from nexus.errors import NexusError, StoreFull, UnknownOutcome

if TYPE_CHECKING:
    from nexus.backends.sqlite.store import Store

BATCH_EVENTS = 1_024
BATCH_BYTES = 4 * 1024 * 1024
TICK_S = 0.25


class Report:
    """What came of one transaction, for the loop."""

    __slots__ = ("ends", "foreign", "groups", "posts", "requests", "trimmed")

    def __init__(self, requests: Sequence[Request], foreign: bool) -> None:
        self.requests = requests
        self.foreign = foreign
        """Other processes wrote too: what the loop knows about ends may be old."""
        self.ends: dict[str, list[int]] = {}
        """Topics that grew, and their ends."""
        self.trimmed: set[str] = set()
        """Topics of which events are gone."""
        self.groups = False
        """Cursors or members changed."""
        self.posts: list[Callable[[], None]] = []
        """To be called on the loop, after the answers."""


class Writer:
    """Owns the writing connection. All but `put`, `nudge` and `stop` runs in its thread."""

    def __init__(
        self,
        store: Store,
        clock: Clock,
        loop: asyncio.AbstractEventLoop,
        deliver: Callable[[Report], None],
        tell: Callable[[set[int]], None],
    ) -> None:
        self.store = store
        self.clock = clock
        self._loop = loop
        self._deliver = deliver
        self._tell = tell
        self._queue: queue.SimpleQueue[list[Request]] = queue.SimpleQueue()
        self._backlog: deque[Request] = deque()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="nexus-sqlite-writer", daemon=True)
        self._topics: dict[str, TopicWriter] = {}
        self._data_version = -1
        self._foreign = False
        self._unseen = False
        """Others wrote since the last housekeeping; also when a transaction noticed it first."""
        self.housekeeping: Callable[[bool], None] = lambda foreign: None
        """Called about every 250 ms between transactions; told whether others wrote since."""
        self.before_commit: Callable[[apsw.Connection, Report], Callable[[], None] | None] = lambda db, report: None
        """Called at the end of each transaction; what it returns is called when that is committed."""
        self.after_abort: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Open the store in the thread; the first request is answered when that is done."""
        self._thread.start()

    def put(self, requests: list[Request]) -> None:
        """Hand requests over. From any thread; never blocks."""
        self._queue.put(requests)

    def nudge(self) -> None:
        """Have a look at the file soon. From any thread."""
        self._queue.put([])

    def stop(self) -> None:
        """Finish what was put before, then end."""
        self._stopping = True
        self._queue.put([])

    def join(self) -> None:
        """Wait for the end of the thread."""
        self._thread.join()

    @property
    def db(self) -> apsw.Connection:
        """The writing connection."""
        return self.store.db

    def topic(self, name: str) -> TopicWriter:
        """Return what is known about a topic, inside a transaction. Raises `UnknownTopic`."""
        found = self._topics.get(name)
        if found is None:
            found = self._topics[name] = TopicWriter(self.db, self.store.id, name, self.store.settings)
        return found

    @property
    def has_unmarked(self) -> bool:
        """Whether a log of which this writer knows has grown since its last mark."""
        return any(topic.unmarked for topic in self._topics.values())

    def mark_ends(self) -> None:
        """Mark the ends of all logs that grew, so that what is gone later is missed."""
        for topic in self._topics.values():
            if topic.unmarked:
                topic.mark()

    def forget(self, name: str) -> None:
        """Read a topic anew at its next use."""
        self._topics.pop(name, None)

    def _run(self) -> None:
        look_at = time.monotonic() + TICK_S
        while True:
            batch, nudged = self._take(look_at)
            if batch:
                try:
                    self.transact(batch)
                except Exception as error:  # not even the failure could be dealt with; somebody must still be told
                    self._answer_failed(batch, translate(error, self.store.path), unknown=True)
            elif self._stopping and self._queue.empty():
                return
            if nudged or time.monotonic() >= look_at:
                look_at = time.monotonic() + TICK_S
                with contextlib.suppress(Exception):  # what could not be done now is due again in the next round
                    self._others_wrote()
                    self.housekeeping(self._unseen)
                    self._unseen = False

    def _take(self, look_at: float) -> tuple[list[Request], bool]:
        """Return the next requests, at most a batch; wait until ``look_at`` if there is none."""
        backlog = self._backlog
        nudged = False
        if not backlog:
            try:
                first = self._queue.get(timeout=max(0.0, look_at - time.monotonic()))
            except queue.Empty:
                return [], True
            nudged = not first
            backlog.extend(first)
        while len(backlog) < BATCH_EVENTS:
            try:
                more = self._queue.get_nowait()
            except queue.Empty:
                break
            nudged = nudged or not more
            backlog.extend(more)
        batch: list[Request] = []
        events = size = 0
        while backlog and (not batch or (events < BATCH_EVENTS and size < BATCH_BYTES)):
            request = backlog.popleft()
            batch.append(request)
            events += request.events
            size += request.size_bytes
        return batch, nudged

    def _others_wrote(self) -> None:
        """Notice whether another process wrote since last asked; then nothing that is remembered may be trusted."""
        # The pragma, not apsw's data_version(): that one does not look at the file.
        version = self.db.pragma("data_version")
        if version == self._data_version:
            return
        self._data_version = version
        self._topics.clear()
        self._foreign = self._unseen = True

    def transact(self, batch: Sequence[Request], *, reserve: bool = False) -> bool:
        """Apply requests in one transaction and answer them; tell whether it was committed."""
        committing = False
        db: apsw.Connection | None = None
        try:
            self.store.check()
            db = self.db
            db.execute("BEGIN IMMEDIATE")
            self._others_wrote()
            report = Report(batch, self._foreign)
            self._apply(db, batch, report)
            commit = self.before_commit(db, report)
            committing = True
            db.execute("COMMIT")
        except BaseException as error:
            return self._failed(error, db, batch, committing, reserve)
        self._foreign = False
        if commit is not None:
            commit()
        self.store.committed()
        if report.ends or report.groups or report.trimmed:
            names = report.ends.keys() | report.trimmed
            numbers = {self._topics[name].shape.id for name in names if name in self._topics}
            self._tell(numbers | {0} if report.groups else numbers)
        self.post(report)
        return True

    def _apply(self, db: apsw.Connection, batch: Sequence[Request], report: Report) -> None:
        waiting: dict[str, list[AppendRequest]] = {}
        for request in batch:
            if isinstance(request, AppendRequest):
                waiting.setdefault(request.topic, []).append(request)
            elif isinstance(request, CallRequest):
                if request.barrier and waiting:
                    self._append(waiting, report)
                    waiting = {}
                try:
                    request.result = request.call(db, report)
                except NexusError as error:
                    request.error = error
        self._append(waiting, report)

    def _append(self, waiting: dict[str, list[AppendRequest]], report: Report) -> None:
        now = self.clock.now()
        for name, requests in waiting.items():
            try:
                topic = self.topic(name)
            except NexusError as error:
                for request in requests:
                    request.error = error
                continue
            topic.append(requests, now)
            report.ends[name] = topic.ends.copy()

    def _failed(
        self,
        error: BaseException,
        db: apsw.Connection | None,
        batch: Sequence[Request],
        committing: bool,
        reserve: bool,
    ) -> bool:
        self._topics.clear()
        self.after_abort()
        full = is_full(error, db)
        if db is not None:
            with contextlib.suppress(apsw.Error):
                if db.in_transaction:
                    db.execute("ROLLBACK")
        found = translate(error, self.store.path, full=full)
        unknown = False
        if isinstance(error, apsw.IOError) and not full:
            # The system may have thrown away what it could not write, and forget the error: nothing on this
            # connection can be trusted any more. What another one reads from the file is what was stored.
            unknown = committing
            self.store.reopen()
            self._data_version = -1
        if isinstance(found, StoreFull) and not reserve:
            urgent = [r for r in batch if isinstance(r, CallRequest) and r.urgent]
            journals = [r for r in batch if self.store.journal_bytes and self._is_to_journal(r)]
            if urgent or journals:
                saved = {id(r) for r in (*urgent, *journals)}
                self._answer_failed([r for r in batch if id(r) not in saved], found, unknown)
                done = True
                if journals:
                    with self.store.journal_reserve():
                        done = self.transact(journals, reserve=True)
                if urgent:
                    with self.store.reserve():
                        done = self.transact(urgent, reserve=True)
                return done
            # Somebody must notice when space is back, and a lone append finds out by itself.
        self._answer_failed(batch, found, unknown)
        return False

    def _is_to_journal(self, request: Request) -> bool:
        if not isinstance(request, AppendRequest):
            return False
        with contextlib.suppress(apsw.Error):
            row = one(self.db, "SELECT dedup FROM topic WHERE name = ?", (request.topic,))
            return row is not None and not row[0]
        return False

    def _answer_failed(self, batch: Sequence[Request], found: NexusError, unknown: bool) -> None:
        if unknown:
            outcome = UnknownOutcome(
                f"{self.store.path}: the disk failed while storing: {found.message}",
                hint="publish again with the same id",
            )
            outcome.__cause__ = found
            found = outcome
        for request in batch:
            request.result = None
            request.aborted(found)
        self.post(Report(batch, True))

    def post(self, report: Report) -> None:
        """Have a report delivered on the loop."""
        with contextlib.suppress(RuntimeError):  # the loop was closed without closing the store
            self._loop.call_soon_threadsafe(self._deliver, report)
