"""Where a store is and how it behaves: a path, or a URL such as ``sqlite:///data/bus.db?lease_s=10``.

Three slashes start a path relative to the working directory, four an absolute one.

>>> Settings.parse("sqlite:///data/bus.db?lease_s=5").path
'data/bus.db'
>>> Settings.parse("sqlite:////var/lib/bus.db").path
'/var/lib/bus.db'
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, unquote

from nexus.core.options import BackendSettings, read_options
from nexus.errors import SettingsError

PREFIX = "sqlite:///"


class Settings(BackendSettings, frozen=True):
    """All that can be chosen about a store."""

    path: str
    lease_s: float = 10.0
    """How long a member owns its partitions without a sign of life. Renewed at a third of it."""
    revoke_s: float = 5.0
    """How long an owner may take to give up a partition that another member is to have."""
    max_bytes: int | None = None
    """Largest size of the file; beyond it appends answer `StoreFull`. None: what the disk gives.

    Journals may go a quarter beyond it, at least 2 MiB, so that consumers of a full store can park and go on; what
    else consumers store may go 2 MiB beyond that."""
    wal_bytes: int = 64 * 1024 * 1024
    """Size that the write-ahead log grows to and is kept at."""
    dedup_s: float = 600.0
    """An id is remembered at least as long as this, unless ``dedup_ids`` newer ones came."""
    dedup_ids: int = 1_000_000
    """How many ids are remembered at least, unless they are older than ``dedup_s``."""
    vfs: str | None = None
    """Name of a registered SQLite VFS, for tests and encryption; None takes the usual one."""
    busy_s: float = 5.0
    """How long to wait for another process that is writing."""

    def __post_init__(self) -> None:
        if not self.path or self.path == ":memory:":
            raise SettingsError("a SQLite store needs a file", hint="sqlite:///bus.db, or memory:// for none")
        for name in ("lease_s", "revoke_s", "dedup_s", "busy_s"):
            value = getattr(self, name)
            if not 0.05 <= value <= 86_400:
                raise SettingsError(f"{name}={value} is out of its range of 0.05 to 86,400 seconds")
        if self.max_bytes is not None and self.max_bytes < 1024 * 1024:
            raise SettingsError(f"max_bytes={self.max_bytes:,} is less than 1 MiB")
        if not 1024 * 1024 <= self.wal_bytes <= 1 << 30:
            raise SettingsError(f"wal_bytes={self.wal_bytes:,} is not between 1 MiB and 1 GiB")
        if not 0 < self.dedup_ids <= 10_000_000:
            raise SettingsError(f"dedup_ids={self.dedup_ids:,} is not between 1 and 10,000,000")

    @classmethod
    def parse(cls, url_or_path: str, options: Mapping[str, Any] | None = None) -> Settings:
        """Read a URL or a path, and options from elsewhere, which its own win over. Raises `SettingsError`."""
        if "://" not in url_or_path:
            return read_options(cls, {"path": url_or_path}, (), "a SQLite store", options)
        if not url_or_path.startswith(PREFIX):
            raise SettingsError(f"not the URL of a SQLite store: {url_or_path}", hint=f"it starts with {PREFIX}")
        path, _, query = url_or_path[len(PREFIX) :].partition("?")
        own = parse_qsl(query, keep_blank_values=True)
        return read_options(cls, {"path": unquote(path)}, own, "a SQLite store", options)
