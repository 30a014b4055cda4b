"""Connections as this backend needs them, and SQLite's errors in Nexus' words."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Sequence
from typing import Any

import apsw

from nexus.backends.sqlite.settings import Settings
from nexus.errors import BackendError, CorruptData, NexusError, ReadOnly, StoreFull, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def connect(path: str, settings: Settings, *, create: bool = False) -> apsw.Connection:
    """Open a connection that waits for others, checks what it reads, and never checkpoints by itself."""
    flags = apsw.SQLITE_OPEN_READWRITE | (apsw.SQLITE_OPEN_CREATE if create else 0)
    db = apsw.Connection(path, flags=flags, vfs=settings.vfs, statementcachesize=256)
    try:
        if db.readonly("main"):  # SQLite opens what it may not write for reading only, without a word
            raise ReadOnly(f"{path} may not be written", hint="check the permissions of the file")
        db.set_busy_timeout(round(settings.busy_s * 1000))
        _keep_wal(db)
        for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "cache_size=-16000", "temp_store=MEMORY"):
            db.execute(f"PRAGMA {pragma}")
    except BaseException:
        db.close()
        raise
    return db


def make_durable(db: apsw.Connection, settings: Settings) -> None:
    """Switch to a write-ahead log that is synced at every commit.

    EXTRA before the switch, so that the switch itself is durable; FULL after it. NORMAL would lose acknowledged events
    at a power cut. On macOS ``fullfsync`` reaches the platter, elsewhere it changes nothing.
    """
    db.execute("PRAGMA synchronous=EXTRA")
    deadline = time.monotonic() + settings.busy_s
    while True:
        try:
            # Several processes may open a new file at once, and this lock is not waited for.
            mode = db.pragma("journal_mode", "wal")
            break
        except apsw.BusyError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
    if mode != "wal":
        raise Unavailable(f"the file cannot have a write-ahead log (journal mode {mode})")
    for pragma in ("synchronous=FULL", "wal_autocheckpoint=0", "fullfsync=ON", "checkpoint_fullfsync=ON"):
        db.execute(f"PRAGMA {pragma}").fetchall()


def _keep_wal(db: apsw.Connection) -> None:
    # The log's file stays when the last process closes: its blocks are there already, and if it is missing after a
    # crash, somebody took it away.
    keep = ctypes.c_int(1)
    db.file_control("main", apsw.SQLITE_FCNTL_PERSIST_WAL, ctypes.addressof(keep))


def one(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> Any:
    """Return the first row, or None. Columns may have any type: what is in the file decides."""
    return db.execute(sql, values).fetchone()


def rows(db: apsw.Connection, sql: str, values: Sequence[Any] = ()) -> list[Any]:
    """Return all rows."""
    return db.execute(sql, values).fetchall()


def is_full(error: BaseException, db: apsw.Connection | None) -> bool:
    """Tell whether the disk, a quota, a limit on file sizes or the store's own bound was reached."""
    if isinstance(error, apsw.FullError):
        return True
    # A limit on the size of files (EFBIG) is an I/O error to SQLite.
    return isinstance(error, apsw.IOError) and db is not None and db.system_errno in _FULL


def translate(error: BaseException, path: str, *, full: bool = False) -> NexusError:
    """Say an error of SQLite in Nexus' words."""
    if isinstance(error, NexusError):
        return error
    found: BackendError
    if full or isinstance(error, apsw.FullError):
        found = StoreFull(f"no space left for {path}", hint="free some space; nothing has to be restarted")
    elif isinstance(error, apsw.ReadOnlyError):
        found = ReadOnly(f"{path} may not be written", hint="check permissions of the file and its directory")
    elif isinstance(error, apsw.BusyError | apsw.LockedError):
        found = Unavailable(f"{path} is being written by another process for too long")
    elif isinstance(error, apsw.CantOpenError | apsw.PermissionsError):
        if os.path.isdir(path):
            found = Unavailable(f"{path} is a directory, not a file")
        elif not os.path.isdir(os.path.dirname(path) or "."):
            found = Unavailable(f"there is no directory {os.path.dirname(path)}")
        else:
            found = ReadOnly(f"{path} cannot be opened for writing", hint="check the permissions")
    elif isinstance(error, apsw.CorruptError | apsw.NotADBError | apsw.SQLError | apsw.FormatError):
        found = CorruptData(f"{path} is damaged or not a store: {error}", hint="restore the file from a copy")
    elif isinstance(error, apsw.Error | OSError):
        found = Unavailable(f"{path}: {error}")
    else:
        found = CorruptData(f"{path} holds what cannot be read: {type(error).__name__}: {error}")
    found.__cause__ = error
    return found


def durability_of(db: apsw.Connection) -> bool:
    """Tell whether what is committed survives a power cut, by what the connection says of itself."""
    return bool(db.pragma("journal_mode") == "wal" and db.pragma("synchronous") >= 2)
