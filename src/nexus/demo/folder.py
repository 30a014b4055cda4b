"""The demo's data folder: made fresh for each run, used by one run at a time, and nothing else in it is touched."""

from __future__ import annotations

import fcntl
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nexus.demo.statistics import FILE

_LOCK = "demo.lock"
GITHUB_SCHEMA = "github.schema.json"
_OWN = ("events.db", FILE, "worker.log", GITHUB_SCHEMA)


class Stalled(Exception):
    """Nothing moved for a long time."""


class FolderError(Exception):
    """The folder cannot be used for a demo."""


@contextmanager
def fresh_folder(path: Path) -> Iterator[Path]:
    """Give a folder without the traces of earlier runs, locked until left. Raises `FolderError`."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        known = (path / _LOCK).exists()
        if not known and any((path / name).exists() for name in _OWN):
            raise FolderError(f"{path} holds files that no demo made; choose another folder with --data")
        lock = (path / _LOCK).open("w")
    except OSError as error:
        raise FolderError(f"cannot use {path}: {error}") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise FolderError(f"another demo runs in {path}; choose another folder with --data") from error
        for name in _OWN:
            for old in path.glob(f"{name}*"):
                if old.is_dir():
                    shutil.rmtree(old)
                else:
                    old.unlink()
        yield path
