"""Which Python files below a folder changed? Found by their times, as no watcher is in the standard library."""

from __future__ import annotations

import os
from pathlib import Path

LIMIT_FILES = 5_000
_SKIPPED = {"__pycache__", "node_modules", "site-packages", "venv"}

Times = dict[str, float]


def mtimes(folder: Path, limit: int = LIMIT_FILES) -> Times:
    """Return when each .py file below ``folder`` changed, of at most ``limit`` of them, those nearest to it first."""
    found: Times = {}
    folders = [str(folder)]
    for one in folders:  # grows while it is walked: breadth first
        try:
            entries = sorted(os.scandir(one), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.name.startswith(".") or entry.name in _SKIPPED:
                continue
            try:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.name.endswith(".py"):
                    found[os.path.relpath(entry.path, folder)] = entry.stat().st_mtime
            except OSError:
                continue
            if len(found) >= limit:
                return found
    return found


def changed(before: Times, after: Times) -> list[str]:
    """Return the files that are new, gone or of another time."""
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
