"""Finds backends by the scheme of their URL: Nexus' own, and those that packages offer by entry point.

What is found is a factory, called as ``factory(url, clock=clock)``. It may have an attribute ``settings_type``: a
struct with a class method ``parse(url, options)``. Its fields that have a default are then settings of Nexus too, in a
table of the name of the scheme (`nexus.config.backends`). If some were given, the call is ``factory(url, clock=clock,
options=options)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Protocol

from nexus.clock import Clock
from nexus.errors import SettingsError
from nexus.spi.backend import Backend

ENTRY_POINTS = "nexus.backends"
_OWN = {
    "kafka": "nexus.backends.kafka:KafkaBackend",
    "memory": "nexus.backends.memory:MemoryBackend",
    "nats": "nexus.backends.nats:NatsBackend",
    "rabbitmq": "nexus.backends.rabbitmq:RabbitBackend",
    "sqlite": "nexus.backends.sqlite:SqliteBackend",
}
OWN = tuple(_OWN)
"""The schemes of Nexus' own backends."""
_FOR_TESTS = {f"log+{name}": "nexus.testing.backed_log:make" for name in ("memory", "sqlite")}


class SettingsType(Protocol):
    """What the ``settings_type`` of a factory can do, besides being a struct."""

    def parse(self, url: str, options: Mapping[str, object], /) -> Any:
        """Read a URL, and options from elsewhere, which its own win over. Raises `SettingsError`."""


def make_backend(url: str, clock: Clock, options: Mapping[str, object] | None = None) -> Backend:
    """Make the backend that a URL names, not opened yet. Raises `SettingsError` for an unknown scheme.

    ``options`` are those that the URL does not say, for a factory with a ``settings_type``.
    """
    factory = _factory(url.partition("://")[0])
    backend: Backend = factory(url, clock=clock, options=options) if options else factory(url, clock=clock)
    return backend


def settings_type(scheme: str) -> Any:
    """The struct of a backend's settings, a `SettingsType`; None if it has none. Loads the backend."""
    return getattr(_factory(scheme), "settings_type", None)


def is_scheme(name: str) -> bool:
    """Whether there is a backend of that name; characters that no variable can have count as underscores."""
    return any(plain(scheme) == plain(name) for scheme in _OWN) or any(
        plain(scheme) == plain(name) for scheme in _entry_points()
    )


def plain(scheme: str) -> str:
    """The scheme as it is written in the name of a variable."""
    return "".join(letter if letter.isalnum() else "_" for letter in scheme.lower())


def _factory(scheme: str) -> Any:
    path = _OWN.get(scheme) or _FOR_TESTS.get(scheme)
    return _load(path) if path else _from_entry_point(scheme)


def _load(path: str) -> Any:
    module, _, name = path.partition(":")
    return getattr(importlib.import_module(module), name)


def _entry_points() -> dict[str, Any]:
    from importlib.metadata import entry_points  # takes ten milliseconds that only a foreign scheme should cost

    return {point.name: point for point in entry_points(group=ENTRY_POINTS)}


def _from_entry_point(scheme: str) -> Any:
    found = _entry_points()
    if scheme in found:
        return found[scheme].load()
    known = sorted({*_OWN, *found})
    near = get_close_matches(scheme, known, 1)
    raise SettingsError(
        f"backend: no backend for URLs that begin with {scheme!r}",
        hint=f"did you mean {near[0]}://?" if near else f"use one of {', '.join(f'{name}://' for name in known)}",
    )
