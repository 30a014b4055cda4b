"""The file: opened, checked, kept in order, and opened again after a disk error. Used by the writer thread.

Four things are looked at before a file is trusted: its format, that the write-ahead log beside it is there if it was
left in use, that this log belongs to the file, and that the file still has its name when something is written.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from urllib.parse import quote

import apsw

from nexus.backends.sqlite.checkpoint import WAL_PAGE_BYTES, Checkpointer
from nexus.backends.sqlite.engine import connect, durability_of, make_durable, translate
from nexus.backends.sqlite.files import Presence, refuse_network
from nexus.backends.sqlite.schema import migrate
from nexus.backends.sqlite.settings import Settings
from nexus.errors import CorruptData, NexusError, Unavailable

RESERVE_BYTES = 2 * 1024 * 1024
_HEADER = b"SQLite format 3\0"
_WAL_HEADER_BYTES = 32


class Store:
    """One open file and what belongs to it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.path = os.path.realpath(settings.path)
        self.id = b""
        self.durable = False
        self.presence: Presence
        self.db: apsw.Connection
        self._file: tuple[int, int] | None = None
        self._checkpointer: Checkpointer | None = None
        self._wal_pages = 0
        self._marked = False
        self._broken = False

    def open(self) -> None:
        """Open or make the file. Raises what `Backend.open` raises."""
        refuse_network(self.path)
        try:
            self.check_header()
            self.presence = Presence(self.path)
            try:
                self._open_first()
            except BaseException:
                self.presence.close()
                raise
        except Exception as error:
            raise translate(error, self.path) from error

    def _open_first(self) -> None:
        alone = all(self.presence.is_dead(name) for name in self.presence.others())
        mark = self._in_use_mark()
        if alone and os.path.exists(mark) and not self._wal_is_there():
            raise CorruptData(
                f"{self.path}-wal is missing, although the store was not closed: events may be missing with it",
                hint=f"put the file back; or delete {mark} to go on with what is in the main file",
            )
        main_id = self._id_in_main_file() if alone else None
        self.db = connect(self.path, self.settings, create=True)
        try:
            make_durable(self.db, self.settings)
            fresh = self.db.pragma("user_version") == 0
            self.id = migrate(self.db)
            if main_id is not None and main_id != self.id:
                raise CorruptData(
                    f"{self.path}-wal belongs to another store", hint="put the right file back, or take this one away"
                )
            if fresh:
                # From here on the main file itself says which store it is.
                with contextlib.suppress(apsw.BusyError):
                    self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
            self.durable = durability_of(self.db)
            self._set_up()
            self._make_reserve()
            self._checkpointer = Checkpointer(self.path, self.settings)
        except BaseException:
            self.db.close()
            raise

    def _set_up(self) -> None:
        self._file = _stat(self.path)
        self.db.set_wal_hook(self._on_commit)
        self._wal_pages = 0
        if self.settings.max_bytes is not None:
            self._limit_pages(0)

    def _limit_pages(self, more: int) -> None:
        assert self.settings.max_bytes is not None
        size = self.db.pragma("page_size")
        self.db.execute(f"PRAGMA max_page_count={self.settings.max_bytes // size + more}").fetchall()

    def check_header(self) -> None:
        """Refuse what is no database before SQLite makes files beside it."""
        try:
            with open(self.path, "rb") as file:
                header = file.read(16)
        except FileNotFoundError:
            return
        except IsADirectoryError as error:
            raise Unavailable(f"{self.path} is a directory, not a file") from error
        if header and header != _HEADER:
            raise CorruptData(f"{self.path} is not a SQLite database", hint="choose another path")

    def _in_use_mark(self) -> str:
        return os.path.join(self.presence.folder, "in-use")

    def _wal_is_there(self) -> bool:
        try:
            return os.stat(self.path + "-wal").st_size >= _WAL_HEADER_BYTES or not os.path.exists(self.path)
        except FileNotFoundError:
            return False

    def _id_in_main_file(self) -> bytes | None:
        """Read the store's id without its write-ahead log; None if it is not there yet."""
        if not os.path.exists(self.path):
            return None
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI
        with contextlib.suppress(apsw.Error, OSError):
            db = apsw.Connection(f"file:{quote(self.path)}?immutable=1", flags=flags)
            try:
                row = db.execute("SELECT id FROM store").fetchone()
            finally:
                db.close()
            if row is not None and isinstance(row[0], bytes):
                return row[0]
        return None

    def check(self) -> None:
        """Raise `Unavailable` if the file is not there any more, or another one is: what is written would be lost."""
        if _stat(self.path) != self._file:
            raise Unavailable(
                f"{self.path} was deleted or replaced while it was open",
                hint="close the store and put the file back, or open the store anew",
            )
        if self._broken:
            self.reopen()
            if self._broken:
                raise Unavailable(f"{self.path} cannot be opened again after a disk error")

    def _on_commit(self, _db: apsw.Connection, _name: str, pages: int) -> int:
        self._wal_pages = pages
        return apsw.SQLITE_OK

    def committed(self) -> None:
        """Let the checkpointer know; start the write-ahead log anew when it is long."""
        if not self._marked:
            # Only now: a store that was opened and killed without writing has an empty log, and nothing is missing.
            with contextlib.suppress(OSError), open(self._in_use_mark(), "w"):
                self._marked = True
        if self._checkpointer is not None:
            self._checkpointer.wrote()
            if self._wal_pages * WAL_PAGE_BYTES > self.settings.wal_bytes:
                self._checkpointer.restart_wal(self.db)

    def reopen(self) -> None:
        """Take a new connection after a disk error. Raises nothing: the next transaction tells whether it helped."""
        with contextlib.suppress(apsw.Error):
            self.db.close(True)
        self._broken = True
        with contextlib.suppress(apsw.Error, NexusError):
            self.db = connect(self.path, self.settings)
            make_durable(self.db, self.settings)
            self._set_up()
            self._broken = False
            # What the failed commit left in the log is written to the main file and synced, or never seen.
            self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)

    @contextlib.contextmanager
    def reserve(self) -> Iterator[None]:
        """Within, a little more may be written than there is room for."""
        with contextlib.suppress(OSError):
            os.truncate(self._reserve_path(), 0)
        with self._beyond(self.journal_bytes + RESERVE_BYTES):
            yield

    @property
    def journal_bytes(self) -> int:
        """How far journals may go beyond ``max_bytes``. 0 without it: a full disk has no room for them."""
        return 0 if self.settings.max_bytes is None else max(self.settings.max_bytes // 4, RESERVE_BYTES)

    def journal_reserve(self) -> contextlib.AbstractContextManager[None]:
        """Within, journals may be written beyond ``max_bytes``. Less far than `reserve`: settles come last."""
        return self._beyond(self.journal_bytes)

    @contextlib.contextmanager
    def _beyond(self, more_bytes: int) -> Iterator[None]:
        if self.settings.max_bytes is not None:
            self._limit_pages(more_bytes // 4096)
        try:
            yield
        finally:
            if self.settings.max_bytes is not None:
                with contextlib.suppress(apsw.Error):
                    self._limit_pages(0)

    def _reserve_path(self) -> str:
        return os.path.join(self.presence.folder, "reserve")

    def _make_reserve(self) -> None:
        """Take space on the disk that settles may use when nothing else is left."""
        with contextlib.suppress(OSError):
            fd = os.open(self._reserve_path(), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            try:
                if os.fstat(fd).st_size < RESERVE_BYTES and hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(fd, 0, RESERVE_BYTES)
            finally:
                os.close(fd)

    def renew_reserve(self) -> None:
        """Take the reserve again if it was used and there is space."""
        with contextlib.suppress(OSError):
            if os.stat(self._reserve_path()).st_size < RESERVE_BYTES:
                free = os.statvfs(self.presence.folder)
                if free.f_bavail * free.f_frsize > 8 * RESERVE_BYTES:
                    self._make_reserve()

    def close(self) -> None:
        """Let go of the file; the last process moves everything into the main file."""
        if self._checkpointer is not None:
            self._checkpointer.stop()
            self._checkpointer = None
        last = all(self.presence.is_dead(name) for name in self.presence.others())
        if last:
            with contextlib.suppress(apsw.Error, OSError):
                self.db.set_wal_hook(None)
                # The mark first: if this is cut short, the log is still there.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._in_use_mark())
                self.db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_TRUNCATE)
        with contextlib.suppress(apsw.Error):
            self.db.close(True)
        self.presence.close()


def _stat(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Unavailable(f"{path}: {error}") from error
    return found.st_dev, found.st_ino
