"""The SQLite backend: one file, several processes of one machine, and no server."""

from __future__ import annotations

from nexus.backends.sqlite.backend import SqliteBackend
from nexus.backends.sqlite.settings import Settings

__all__ = ["Settings", "SqliteBackend"]
