"""A broker of one or more nodes: what starts it, what ends it, and what a test may do to a node of it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from nexus.brokers import kafka, nats, process, rabbitmq
from nexus.brokers.errors import BrokerFailed
from nexus.brokers.kinds import Kind
from nexus.brokers.node import Node, State, broker_folder
from nexus.brokers.place import Tell, base_folder, free_ports, locked, port_free
from nexus.errors import SettingsError

KINDS: dict[str, Kind] = {"kafka": kafka, "nats": nats, "rabbitmq": rabbitmq}
SIZES = (1, 3)
DEFAULT_NAME = "default"
LAST_LINES = 20
_PORT_LIMIT_S = 5.0  # a port may be held for a moment longer than its process can be seen


def quiet(_: str) -> None:
    """Tell nobody."""


@dataclass(frozen=True)
class Broker:
    """A broker and its nodes. Nodes are counted from 0, as ``nodes[i]``; one that was given by its address has none."""

    kind: str
    name: str
    url: str
    """What Nexus takes as the URL of its backend."""
    nodes: tuple[Node, ...]

    @property
    def given(self) -> bool:
        """Whether somebody else runs it, and the environment gave its address."""
        return not self.nodes

    def kill(self, i: int) -> None:
        """End a node with SIGKILL, as a power cut would; it is gone when this returns."""
        self._node(i).kill()

    def freeze(self, i: int) -> None:
        """Stop a node's process where it is; its connections stay open and nothing answers."""
        node = self._node(i)
        node.send(signal.SIGSTOP)
        if pid := node.pid:
            process.await_frozen(pid)

    def thaw(self, i: int) -> None:
        """Let a frozen node go on."""
        self._node(i).send(signal.SIGCONT)

    def start(self, i: int, *, timeout_s: float | None = None) -> None:
        """Start a node that has ended, at its old ports with its old data; return when it is ready."""
        node = self._node(i)
        how = KINDS[self.kind]
        with locked(self.kind, quiet):
            start(how, [node], self.nodes, quiet, timeout_s)

    def stop(self, i: int) -> None:
        """End a node in order; SIGKILL when it takes too long."""
        node = self._node(i)
        with locked(self.kind, quiet):
            stop(KINDS[self.kind], [node])

    def _node(self, i: int) -> Node:
        if self.given:
            raise BrokerFailed(
                f"{self.kind} at {_without_user(self.url)} was given by its address; nothing here may touch it"
            )
        return self.nodes[i]


def _without_user(url: str) -> str:
    return re.sub(r"[^@/,]*@", "", url).partition("?")[0]


def find_kind(kind: str) -> Kind:
    """Return how a kind works. Raises `SettingsError`."""
    if kind not in KINDS:
        raise SettingsError(f"{kind!r} is no kind of broker", hint=f"known: {', '.join(KINDS)}")
    return KINDS[kind]


def nodes_of(kind: str, size: int, name: str) -> tuple[Node, ...]:
    """Return the nodes of a broker, started or not. Raises `SettingsError`."""
    how = find_kind(kind)
    if size not in SIZES:
        raise SettingsError(f"a broker has 1 or 3 nodes, not {size}")
    if not re.fullmatch(r"[a-z][a-z0-9-]{0,30}", name):
        raise SettingsError(f"{name!r} is no name for a broker: small letters, digits and -, at most 31")
    return tuple(Node(kind, name, size, index, how.CONFIG_NAME) for index in range(size))


def known_brokers() -> list[Broker]:
    """Return every broker that was started here and has data."""
    found = []
    for kind in KINDS:
        for folder in sorted((base_folder() / "data" / kind).glob("*-n[13]")):
            name, _, size = folder.name.rpartition("-n")
            nodes = nodes_of(kind, int(size), name)
            if all(node.known for node in nodes):
                found.append(Broker(kind, name, nodes[0].state.url, nodes))
    return found


def given_url(how: Kind) -> str | None:
    """Return the URL of a broker whose address is in the environment. Raises `SettingsError`."""
    address = os.environ.get(how.VARIABLE)
    if not address:
        return None
    try:
        return how.given_url(address)
    except ValueError as error:
        raise SettingsError(f"{how.VARIABLE} cannot be read: {error}") from None


def bring_up(
    how: Kind, nodes: tuple[Node, ...], settings: Mapping[str, str], tell: Tell, timeout_s: float | None
) -> Broker:
    """Start those nodes that do not run; return when all are ready. Call it under the kind's lock."""
    running = [node for node in nodes if node.pid]
    if running and settings and running[0].state.settings != dict(settings):
        raise BrokerFailed(
            f"{running[0]} runs with other settings",
            hint=f"end it first (nexus brokers down {how.NAME}), or give another name",
        )
    if len(running) == len(nodes):
        _await_ready(how, nodes, timeout_s)
    else:
        _choose_ports(how, nodes)
        if settings:
            for node in nodes:
                node.remember(replace(node.state, settings=dict(settings)))
        start(how, [node for node in nodes if node not in running], nodes, tell, timeout_s)
    return Broker(how.NAME, nodes[0].name, how.url(nodes), nodes)


def _choose_ports(how: Kind, nodes: Sequence[Node]) -> None:
    new = [node for node in nodes if not node.known]
    if not new:
        return
    with locked("ports", quiet):  # kinds start at the same time
        ports = iter(free_ports(len(new) * len(how.PORT_NAMES)))
        for node in new:
            node.remember(State({name: next(ports) for name in how.PORT_NAMES}))


def start(how: Kind, wanted: Sequence[Node], nodes: Sequence[Node], tell: Tell, timeout_s: float | None) -> None:
    """Start some nodes of a broker; end them again when they do not become ready."""
    for node in wanted:
        node.find_lost()
    missing = [node for node in wanted if not node.pid]
    program = how.find(tell)
    _refuse_taken_ports(missing)
    began = time.monotonic()
    tell(f"{how.NAME}: starting {how.NAME} {program.version}, {len(missing)} of {len(nodes)} nodes")
    try:
        for node in missing:
            how.prepare(program, node, nodes)
            node.remember(replace(node.state, version=program.version, url=how.url(nodes)))
            command, environment = how.command(program, node)
            node.launch(command, environment)
        _await_ready(how, wanted, timeout_s)
    except BaseException:
        stop(how, missing)
        raise
    tell(f"{how.NAME}: ready after {time.monotonic() - began:.1f} s")


def _refuse_taken_ports(nodes: Sequence[Node]) -> None:
    until = time.monotonic() + _PORT_LIMIT_S
    for node in nodes:
        for name, port in node.ports.items():
            while not port_free(port):
                if time.monotonic() < until:
                    time.sleep(process.POLL_S)
                    continue
                raise BrokerFailed(
                    f"the {name} port {port} of {node} is taken by another program",
                    hint=f"end that program, or give up the data: nexus brokers down {node.kind} --data",
                )


def _await_ready(how: Kind, nodes: Sequence[Node], timeout_s: float | None) -> None:
    limit_s = how.START_LIMIT_S if timeout_s is None else timeout_s
    until = time.monotonic() + limit_s
    for node in nodes:
        while not how.ready(node):
            if not node.pid:
                raise BrokerFailed(f"{node} ended while starting; its last lines:\n{_last(node)}", hint=_see(node))
            if time.monotonic() > until:
                state = "is frozen" if node.condition == "frozen" else f"is not ready after {limit_s:g} s"
                raise BrokerFailed(f"{node} {state}; its last lines:\n{_last(node)}", hint=_see(node))
            time.sleep(process.POLL_S)


def _last(node: Node) -> str:
    return "\n".join(f"  {line}" for line in node.last_lines(LAST_LINES)) or "  (none)"


def _see(node: Node) -> str:
    return f"all that it wrote is in {node.log_path}"


def stop(how: Kind, nodes: Sequence[Node]) -> int:
    """End nodes in order; return how many ran. Call it under the kind's lock."""
    for node in nodes:
        node.find_lost()
    # All are asked first: the last of a cluster would wait for a majority that is gone.
    asked = [node for node in nodes if node.ask_to_end()]
    for node in asked:
        node.await_end(how.STOP_LIMIT_S)
    how.after_stop()
    return len(asked)


def remove_data(nodes: Sequence[Node]) -> None:
    """Delete all that a broker has stored, and its ports and settings with it."""
    node = nodes[0]
    shutil.rmtree(broker_folder(node.kind, node.name, node.size), ignore_errors=True)
