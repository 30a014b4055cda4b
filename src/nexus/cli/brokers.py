"""`nexus brokers`: real brokers for tests and demonstrations, brought and run on this machine."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

import click

from nexus import brokers
from nexus.brokers.broker import DEFAULT_NAME, Broker, find_kind, given_url, nodes_of
from nexus.brokers.node import Node
from nexus.cli._exits import FAILED, NotFound, say
from nexus.cli._output import output_option, print_rows
from nexus.cli._root import group
from nexus.cli._store import shown
from nexus.cli._text import escape

FIELDS = ("kind", "name", "url", "given", "variable", "value")
STATUS_FIELDS = ("kind", "name", "node", "nodes", "state", "pid", "version", "ports", "url")
FOLLOW_S = 0.2


@group("brokers")
def command() -> None:
    """Run Kafka, NATS and RabbitMQ on this machine, for tests and demonstrations."""


_kinds = click.argument("kinds", nargs=-1, metavar="[KIND]...", type=click.Choice(list(brokers.KINDS)))
_json = click.option("--json", "as_json", is_flag=True, help="The same as -o json.")


def _nodes(default: str | None) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option(
        "--nodes", type=click.Choice(["1", "3"]), default=default, help="How many nodes the broker has: 1 or 3."
    )


def _name(default: str | None) -> Callable[[Callable[..., object]], Callable[..., object]]:
    return click.option("--name", default=default, help="Which of several brokers of one kind.")


@command.command("up")
@_kinds
@_nodes("1")
@_name(DEFAULT_NAME)
@output_option("table", "json", "yaml")
@_json
def up(kinds: tuple[str, ...], nodes: str, name: str, output: str, as_json: bool) -> None:
    """Have brokers run, all three without a KIND; fetch what is missing.

    Prints the lines that tell tests where they are: eval "$(nexus brokers up)". A program works on
    one when NEXUS_BACKEND names its URL; the line that says so is among the talk on stderr.
    """
    rows = [_row(brokers.up(kind, int(nodes), name=name, tell=say)) for kind in kinds or brokers.KINDS]
    if output == "table" and not as_json:
        for row in rows:
            click.echo(f"export {row['variable']}={shlex.quote(str(row['value']))}")
        for row in rows:
            if not row["given"] or shown(str(row["url"])) == row["url"]:  # else it has a password of the user's
                say(f"# export NEXUS_BACKEND={shlex.quote(str(row['url']))}")
    else:
        print_rows(rows, FIELDS, "json" if as_json else output)


def _row(broker: Broker) -> dict[str, object]:
    how = find_kind(broker.kind)
    if broker.given:
        say(f"{broker.kind}: given by {how.VARIABLE}, used as it is")
    value = os.environ[how.VARIABLE] if broker.given else how.exported(broker.url)
    given = {"given": broker.given, "variable": how.VARIABLE, "value": value}
    return {"kind": broker.kind, "name": broker.name, "url": broker.url, **given}


@command.command("down")
@_kinds
@_nodes(None)
@_name(None)
@click.option("--data", is_flag=True, help="Delete what they have stored, too.")
@_json
def down(kinds: tuple[str, ...], nodes: str | None, name: str | None, data: bool, as_json: bool) -> None:
    """End brokers that run here.

    All, or those of a KIND, a size or a name. Data stays, and with it the ports, unless --data is given. Brokers that
    were given by an address are left alone.
    """
    rows = []
    for broker in brokers.status():
        size = len(broker.nodes)
        if (kinds and broker.kind not in kinds) or nodes not in (None, str(size)) or name not in (None, broker.name):
            continue
        ended = brokers.down(broker.kind, size, name=broker.name, data=data, tell=say)
        say(f"{broker.kind} {broker.name!r}: {ended} of {size} nodes ended{', data deleted' if data else ''}")
        how = find_kind(broker.kind)
        if data and given_url(how) == broker.url:
            say(f"unset {how.VARIABLE}: it names this broker, which will come back at another address")
        rows.append({"kind": broker.kind, "name": broker.name, "nodes": size, "ended": ended, "data_deleted": data})
    if as_json:
        print_rows(rows, ("kind", "name", "nodes", "ended", "data_deleted"), "json")
    elif not rows:
        say("nothing was started here")


@command.command("status")
@_kinds
@output_option("table", "json", "yaml")
@_json
def status(kinds: tuple[str, ...], output: str, as_json: bool) -> None:
    """Show each node that was started here.

    Exits with 1 when one of them does not run.
    """
    rows = [row for row in _given() if not kinds or row["kind"] in kinds]
    for broker in brokers.status():
        if not kinds or broker.kind in kinds:
            rows += [_node_row(broker, node) for node in broker.nodes]
    print_rows(rows, STATUS_FIELDS, "json" if as_json else output)
    if any(row["state"] not in ("running", "given") for row in rows):
        click.get_current_context().exit(FAILED)


def _node_row(broker: Broker, node: Node) -> dict[str, Any]:
    return {
        "kind": broker.kind,
        "name": broker.name,
        "node": node.index + 1,
        "nodes": node.size,
        "state": node.condition,
        "pid": node.pid,
        "version": node.state.version or None,
        "ports": dict(node.ports),
        "url": broker.url,
    }


def _given() -> Iterator[dict[str, Any]]:
    """Those of the environment, unless they are our own, exported by whoever started them."""
    ours = {broker.url for broker in brokers.status()}
    for kind in brokers.KINDS:
        url = given_url(find_kind(kind))
        if url is not None and url not in ours:
            row = dict.fromkeys(STATUS_FIELDS) | {"kind": kind, "name": DEFAULT_NAME, "state": "given"}
            yield row | {"url": shown(url)}


@command.command("logs")
@click.argument("kind", type=click.Choice(list(brokers.KINDS)))
@click.option("--node", type=click.IntRange(1, 3), default=1, show_default=True, help="Which node, from 1.")
@_nodes("1")
@_name(DEFAULT_NAME)
@click.option("--lines", type=click.IntRange(0, 10_000), default=20, show_default=True, help="At most so many.")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
def logs(kind: str, node: int, nodes: str, name: str, lines: int, follow: bool) -> None:
    """Print what a broker has written since its start."""
    members = nodes_of(kind, int(nodes), name)
    if node > len(members):
        raise click.UsageError(f"there is no node {node} of {len(members)}; --nodes 3 means the broker with three")
    wanted = members[node - 1]
    if not wanted.known:
        raise NotFound(f"{wanted} was never started here", hint=f"nexus brokers up {kind}")
    if not follow:
        for line in wanted.last_lines(lines):
            click.echo(escape(line))
        return
    with contextlib.suppress(KeyboardInterrupt):  # its end
        for line in followed(wanted, lines):
            click.echo(escape(line))


def followed(node: Node, lines: int) -> Iterator[str]:
    """Give the last lines and then what comes, across restarts, each of which begins a new file."""
    last: int | None = lines  # of the first file only; of a later one all is new
    while True:
        while not node.log_path.exists():
            time.sleep(FOLLOW_S)
        with node.log_path.open(errors="replace") as file:
            yield from deque((line.rstrip("\n") for line in file), maxlen=last)
            last = None
            while True:
                replaced = _replaced(file, node)  # asked before the last read, so that no line is left behind
                if line := file.readline():
                    yield line.rstrip("\n")
                elif replaced:
                    break
                else:
                    time.sleep(FOLLOW_S)


def _replaced(file: IO[str], node: Node) -> bool:
    try:
        return not os.path.samestat(os.fstat(file.fileno()), node.log_path.stat())
    except FileNotFoundError:
        return False
