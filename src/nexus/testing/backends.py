"""A store by name or URL, for tests: a name stands for a fresh store of its kind."""

from __future__ import annotations

import secrets
from functools import lru_cache
from itertools import count
from pathlib import Path

from nexus import brokers

_numbers = count(1)
_RUN = secrets.token_hex(4)


def fresh_url(wish: str, directory: Path) -> str:
    """The URL of a store that no other test uses.

    ``memory``, ``sqlite``, ``kafka``, ``nats`` and ``rabbitmq`` name a new store; a broker is started unless it runs,
    and fetched unless it is there. In any other URL ``{id}`` is replaced by what is new each time, also from run to
    run on a broker that stays.

    >>> fresh_url("nats://localhost?prefix=test", Path("."))
    'nats://localhost?prefix=test'
    """
    name, _, options = wish.partition("?")
    if name in ("memory", "log+memory"):
        url = f"{name}://test-{next(_numbers)}"
    elif name in ("sqlite", "log+sqlite"):
        url = f"{name}:///{(directory / f'nexus-{next(_numbers)}.db').resolve()}"
    elif name in brokers.KINDS:
        url, options = broker_url(name), f"prefix={fresh_prefix()}{'&' if options else ''}{options}"
    else:
        return wish.replace("{id}", fresh_prefix())
    if not options:
        return url
    return f"{url}{'&' if '?' in url else '?'}{options}"


def fresh_prefix() -> str:
    """Part of a name that was never used before."""
    return f"t{_RUN}-{next(_numbers)}"


@lru_cache
def broker_url(kind: str) -> str:
    """The URL of a broker for tests. Raises `nexus.errors.NexusError` that says what is missing."""
    return brokers.up(kind).url
