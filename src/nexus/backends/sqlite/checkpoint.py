"""Move what was committed from the write-ahead log into the main file, away from the path of those who wait.

A checkpoint by the writer is what makes a commit take 6 to 20 ms now and then. Here a thread of its own does it every
50 ms while there are commits, in the mode that waits for nobody. Only when the log is long, because writes never
paused, the writer does the little that is left and starts the log from its beginning again.
"""

from __future__ import annotations

import contextlib
import threading

import apsw

from nexus.backends.sqlite.engine import connect
from nexus.backends.sqlite.settings import Settings

EVERY_S = 0.05


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
                    db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_PASSIVE)
            except apsw.BusyError:
                pass
            except apsw.Error:
                if db is not None:
                    with contextlib.suppress(apsw.Error):
                        db.close(True)
                    db = None
            self._stop.wait(EVERY_S)
        if db is not None:
            with contextlib.suppress(apsw.Error):
                db.close(True)

    def restart_wal(self, db: apsw.Connection) -> None:
        """Have the next commit on the writer's connection ``db`` begin the log anew, if nobody reads it now."""
        with self._one_at_a_time, contextlib.suppress(apsw.Error):
            db.wal_checkpoint(mode=apsw.SQLITE_CHECKPOINT_RESTART)
