"""Backends by URL or by name, for tests: a name stands for a fresh store of its kind."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.errors import SettingsError
from nexus.spi.backend import Backend

_BUILT_IN = {"memory": "nexus.backends.memory:MemoryBackend", "sqlite": "nexus.backends.sqlite:SqliteBackend"}
_numbers = count(1)


def fresh_url(wish: str, directory: Path) -> str:
    """The URL of a store that no other test uses.

    ``memory`` and ``sqlite`` name a new store; in any other URL ``{id}`` is replaced by what is new each time.

    >>> fresh_url("nats://localhost?prefix=test", Path("."))
    'nats://localhost?prefix=test'
    """
    if wish == "memory":
        return f"memory://test-{next(_numbers)}"
    if wish == "sqlite":
        return f"sqlite:///{(directory / f'nexus-{next(_numbers)}.db').resolve()}"
    return wish.replace("{id}", f"test{next(_numbers)}")


def make_backend(url: str, clock: Clock = SYSTEM_CLOCK) -> Backend:
    """Make the backend that a URL names; it is not opened. Raises `SettingsError` when no backend has this scheme."""
    scheme = urlsplit(url).scheme
    found = {entry.name: entry.value for entry in entry_points(group="nexus.backends")}
    place = found.get(scheme) or _BUILT_IN.get(scheme)
    if place is None:
        known = ", ".join(sorted({*found, *_BUILT_IN}))
        raise SettingsError(f"no backend is installed for {url!r}", hint=f"known are {known}")
    module, _, name = place.partition(":")
    backend: Backend = getattr(import_module(module), name)(url, clock=clock)
    return backend
