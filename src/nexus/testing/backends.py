"""A store by name or URL, for tests: a name stands for a fresh store of its kind."""

from __future__ import annotations

from itertools import count
from pathlib import Path

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
