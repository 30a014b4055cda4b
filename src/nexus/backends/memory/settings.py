"""Which store in memory, and how much it holds: ``memory://``, or ``memory://name?max_events=1000``.

>>> Settings.parse("memory://orders?max_events=1000")
Settings(name='orders', max_events=1000, max_bytes=None)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from nexus.core.options import BackendSettings, read_options
from nexus.errors import SettingsError


class Settings(BackendSettings, frozen=True):
    """All that can be chosen about a store in memory."""

    name: str
    """Shared within the process under this name; nothing: private to its backend."""
    max_events: int | None = None
    """How many events it holds, over all topics. None: 1,000,000, or what the store of this name has."""
    max_bytes: int | None = None
    """How many bytes it holds, over all topics. None: 1 GiB, or what the store of this name has."""

    def __post_init__(self) -> None:
        for name in ("max_events", "max_bytes"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise SettingsError(f"{name}={value} is not a whole number above 0")

    @property
    def bounds(self) -> dict[str, int]:
        """The bounds that were given."""
        return {name: value for name in ("max_events", "max_bytes") if (value := getattr(self, name)) is not None}

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any] | None = None) -> Settings:
        """Read a URL, and options from elsewhere, which its own win over. Raises `SettingsError` naming the option."""
        parts = urlsplit(url)
        if parts.scheme != "memory" or parts.fragment or parts.path.strip("/"):
            raise SettingsError(f"{url!r} is not a memory URL", hint="write memory:// or memory://name")
        own = parse_qsl(parts.query, keep_blank_values=True)
        return read_options(cls, {"name": parts.netloc}, own, "a store in memory", options)
