"""Move what was committed from the write-ahead log into the main file, away from the path of those who wait.

A checkpoint by the writer is what makes a commit take 6 to 20 ms now and then. Here a thread of its own does it every
50 ms while there are commits, in the mode that waits for nobody. Only when the log is long, because writes never
paused, the writer does the little that is left and starts the log from its beginning again.
"""

from __future__ import annotations

import contextlib
import os
import threading

import apsw

from nexus.backends.sqlite.engine import connect
from nexus.backends.sqlite.settings import Settings

EVERY_S = 0.05
WAL_PAGE_BYTES = 4_096 + 24
GROW_FROM_BYTES = 256 * 1024
GROW_AHEAD_BYTES = 8 * 1024 * 1024
_ZEROS = bytes(1024 * 1024)


class Checkpointer:
    """A thread and a connection of its own."""

    def __init__(self, path: str, settings: Settings) -> None:
        self._path = path
        self._settings = settings
        self._wrote = threading.Event()
        self._stop = threading.Event()
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="nexus-sqlite-checkpoint", daemon=True)
        self._thread.start()

    def wrote(self) -> None:
        """Say that something was committed."""
        if not self._wrote.is_set():
            self._wrote.set()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._stop.set()
        self._wrote.set()
        self._thread.join()

    def _run(self) -> None:
        db: apsw.Connection | None = None
        while True:
            self._wrote.wait()
            if self._stop.is_set():
                break
            self._wrote.clear()
            # Whatever goes wrong here goes wrong for the writer too, which says so; nothing is lost by not moving it.
            try:
                with self._one_at_a_time:
                    if db is None:
                        db = connect(self._path, self._settings)
                        db.execute("PRAGMA synchronous=FULL")
                        db.execute("PRAGMA checkpoint_fullfsync=ON").fetchall()
                    pages, _ = db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
                    self._grow_wal(pages * WAL_PAGE_BYTES)
            except apsw.BusyError:
                pass
            except (apsw.Error, OSError):
                if db is not None:
                    with contextlib.suppress(apsw.Error):
                        db.close(True)
                    db = None
            self._stop.wait(EVERY_S)
        if db is not None:
            with contextlib.suppress(apsw.Error):
                db.close(True)

    def _grow_wal(self, used: int) -> None:
        """Keep written blocks ahead of the log's end: a commit is nearly twice as fast when the file need not grow."""
        if used < GROW_FROM_BYTES:
            return
        # Appending, never writing at a place: another process may lengthen the file at the same time, and its commits
        # must not be overwritten. Zeros at the end of the log are no frames to SQLite.
        fd = os.open(self._path + "-wal", os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            size = os.fstat(fd).st_size
            target = min(used + GROW_AHEAD_BYTES, self._settings.wal_bytes)
            if size >= min(used + GROW_AHEAD_BYTES // 2, self._settings.wal_bytes):
                return
            space = os.fstatvfs(fd)
            if space.f_bavail * space.f_frsize < 4 * self._settings.wal_bytes:
                return
            while size < target:
                # In small steps: a commit that is synced meanwhile waits for what was written here.
                size += os.write(fd, _ZEROS)
                os.fsync(fd)
        finally:
            os.close(fd)

    def restart_wal(self, db: apsw.Connection) -> None:
        """Have the next commit on the writer's connection ``db`` begin the log anew, if nobody reads it now."""
        with self._one_at_a_time, contextlib.suppress(apsw.Error):
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
