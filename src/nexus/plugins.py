"""Finds backends by the scheme of their URL: Nexus' own, and those that packages offer by entry point."""

from __future__ import annotations

import importlib
from difflib import get_close_matches
from typing import Any

from nexus.clock import Clock
from nexus.errors import SettingsError
from nexus.spi.backend import Backend

ENTRY_POINTS = "nexus.backends"
_OWN = {"memory": "nexus.backends.memory:MemoryBackend", "sqlite": "nexus.backends.sqlite:SqliteBackend"}


def make_backend(url: str, clock: Clock) -> Backend:
    """Make the backend that a URL names, not opened yet. Raises `SettingsError` for an unknown scheme."""
    scheme = url.partition("://")[0]
    factory = _load(_OWN[scheme]) if scheme in _OWN else _from_entry_point(scheme)
    backend: Backend = factory(url, clock=clock)
    return backend


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _from_entry_point(scheme: str) -> Any:
    from importlib.metadata import entry_points  # takes ten milliseconds that only a foreign scheme should cost

    found = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    if scheme in found:
        return found[scheme].load()
    known = sorted({*_OWN, *found})
    near = get_close_matches(scheme, known, 1)
    raise SettingsError(
        f"backend: no backend for URLs that begin with {scheme!r}",
        hint=f"did you mean {near[0]}://?" if near else f"use one of {', '.join(f'{name}://' for name in known)}",
    )
