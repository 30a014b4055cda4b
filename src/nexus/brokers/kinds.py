"""What a kind of broker must know; the modules `kafka`, `nats` and `rabbitmq` are the three that do."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from nexus.brokers.node import Node
from nexus.brokers.place import Tell


class Program(NamedTuple):
    """A broker's program, found on this machine or fetched."""

    version: str
    folder: Path
    """Where its files are."""
    tool: Path
    """What runs it: the server itself, Java, or Erlang's epmd."""


class Kind(Protocol):
    """How one kind of broker is brought, configured, started and asked whether it is ready."""

    NAME: str
    VARIABLE: str
    """The variable of the environment that may give an address."""
    CONFIG_NAME: str
    PORT_NAMES: tuple[str, ...]
    START_LIMIT_S: float
    STOP_LIMIT_S: float

    def find(self, tell: Tell) -> Program:
        """Find the program on PATH, or fetch it. Raises `MissingProgram`, `BrokerFailed`."""

    def prepare(self, program: Program, node: Node, nodes: Sequence[Node]) -> None:
        """Write the configuration, and do what comes before a start."""

    def command(self, program: Program, node: Node) -> tuple[list[str], Mapping[str, str]]:
        """Return the command that becomes the broker, under the same pid, and its environment."""

    def ready(self, node: Node) -> bool:
        """Tell whether clients can work now."""

    def url(self, nodes: Sequence[Node]) -> str:
        """Return the URL that Nexus takes as its backend."""

    def given_url(self, address: str) -> str:
        """Return the same for an address from the environment. Raises `ValueError`."""

    def exported(self, url: str) -> str:
        """Return what the variable would hold for a URL of ours."""

    def after_stop(self) -> None:
        """Do what follows when a node has ended."""


def version_in(text: str) -> tuple[int, ...]:
    """Return the first version number in a text, () when there is none."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, match[0].split("."))) if match else ()


def for_node(settings: Mapping[str, str], node: Node) -> dict[str, str]:
    """Return the settings of one node: ``"2/x"`` is ``x`` for the second node only."""
    own = {key: value for key, value in settings.items() if not re.match(r"\d+/", key)}
    prefix = f"{node.index + 1}/"
    return own | {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}


def bare_hosts(address: str, scheme: str) -> str:
    """Return ``host:port,host:port`` of an address that may name the scheme once, at each host, or never."""
    hosts = [part.strip().removeprefix(f"{scheme}://").rstrip("/") for part in address.split(",")]
    for host in hosts:
        if not re.fullmatch(r"[^\s/:,]+(:[^\s/,]*@[^\s/:,]+)?:\d+", host.replace("[::1]", "localhost")):
            raise ValueError(f"{host.rpartition('@')[2]!r} is not host:port")
    return ",".join(hosts)
