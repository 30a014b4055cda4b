"""RabbitMQ with streams and management: from PATH, or Debian's packages unpacked beside the system."""

from __future__ import annotations

import base64
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from nexus.brokers import debian, epmd
from nexus.brokers.errors import MissingProgram
from nexus.brokers.kinds import Program, bare_hosts, for_node, version_in
from nexus.brokers.node import Node
from nexus.brokers.place import Tell, base_folder, http_ok, port_open

NAME = "rabbitmq"
VARIABLE = "NEXUS_RABBITMQ_URL"
CONFIG_NAME = "rabbitmq.conf"
PORT_NAMES: tuple[str, ...] = ("amqp", "stream", "http", "prometheus", "erlang")
START_LIMIT_S = 120.0
STOP_LIMIT_S = 40.0
LEAST = (4, 0)
PLUGINS = (
    "rabbitmq_management",
    "rabbitmq_prometheus",
    "rabbitmq_stream",
    "rabbitmq_stream_management",
    "rabbitmq_consistent_hash_exchange",
    "rabbitmq_shovel",
    "rabbitmq_federation",
)
_COOKIE = "NEXUSBROKERSDEVCOOKIE"
_GUEST = {"Authorization": "Basic " + base64.b64encode(b"guest:guest").decode()}


def find(tell: Tell) -> Program:
    """Find RabbitMQ 4 on PATH, or fetch it."""
    if found := shutil.which("rabbitmq-server"):
        home = home_of(Path(found))
        if home is not None and version_of(home) >= LEAST:
            tool = shutil.which("epmd")
            if tool is None:
                raise MissingProgram(
                    "rabbitmq-server is on PATH, and Erlang's epmd is not", hint="put Erlang's bin folder on PATH"
                )
            return Program(".".join(map(str, version_of(home))), home, Path(tool))
    root = debian.rabbitmq(tell)
    (home,) = root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*")
    return Program(".".join(map(str, version_of(home))), home, root / "usr/lib/erlang/bin/epmd")


def home_of(script: Path) -> Path | None:
    """Return the folder with ``plugins`` and ``sbin`` of a start script; Debian's is a wrapper that lies elsewhere."""
    prefix = script.resolve().parent.parent
    homes = [prefix, *sorted(prefix.glob("lib/rabbitmq/lib/rabbitmq_server-*"), reverse=True)]
    return next((one for one in homes if (one / "plugins").is_dir() and (one / "sbin/rabbitmq-server").exists()), None)


def version_of(home: Path) -> tuple[int, ...]:
    """Return the version by the name of RabbitMQ's main plugin."""
    return max((version_in(one.name) for one in home.glob("plugins/rabbit-[0-9]*")), default=())


def prepare(program: Program, node: Node, nodes: Sequence[Node]) -> None:
    """Write the configuration, and have epmd run."""
    node.config_path.write_text(config(node, nodes), "utf-8")
    (node.folder / "enabled_plugins").write_text(f"[{','.join(PLUGINS)}].\n", "utf-8")
    (node.folder / "rabbitmq-env.conf").write_text("", "utf-8")  # else the system's own would be read
    node.data_folder.mkdir(exist_ok=True)
    home = _home()
    home.mkdir(parents=True, exist_ok=True)
    cookie = home / ".erlang.cookie"
    if not cookie.exists():
        part = home / "cookie.part"
        part.write_text(_COOKIE, "utf-8")
        part.chmod(0o400)  # Erlang refuses one that others may read
        part.replace(cookie)
    epmd.ensure(program.tool, _environment(program) | {"ERL_EPMD_ADDRESS": "127.0.0.1"})


def _home() -> Path:
    return base_folder() / "data" / "rabbitmq" / "home"


def node_name(node: Node) -> str:
    """Return its Erlang name, which no other node of ours has: with one cookie and one epmd, equal names would meet."""
    return f"{node.name}-n{node.size}-{node.index + 1}@localhost"


def config(node: Node, nodes: Sequence[Node]) -> str:
    """Return rabbitmq.conf; a setting replaces the line of its name."""
    ports = node.ports
    lines = {
        "listeners.tcp.1": f"127.0.0.1:{ports['amqp']}",
        "stream.listeners.tcp.1": f"127.0.0.1:{ports['stream']}",
        "stream.advertised_host": "127.0.0.1",
        "stream.advertised_port": str(ports["stream"]),
        "management.tcp.ip": "127.0.0.1",
        "management.tcp.port": str(ports["http"]),
        "prometheus.tcp.ip": "127.0.0.1",
        "prometheus.tcp.port": str(ports["prometheus"]),
        "loopback_users.guest": "false",
        "log.console": "true",
        "log.console.level": "warning",
        "log.file": "false",
        "vm_memory_high_watermark.absolute": "1GiB",
        "disk_free_limit.absolute": "500MB",
        "consumer_timeout": "1800000",
    }
    if len(nodes) > 1:
        lines["cluster_formation.peer_discovery_backend"] = "classic_config"
        for one in nodes:
            lines[f"cluster_formation.classic_config.nodes.{one.index + 1}"] = node_name(one)
    lines |= for_node(node.state.settings, node)
    return "".join(f"{key} = {value}\n" for key, value in lines.items())


def _environment(program: Program) -> dict[str, str]:
    """The environment of every Erlang program here: nothing that the user has set for another RabbitMQ counts."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("RABBITMQ_", "ERL_"))}
    return own | {
        "HOME": str(_home()),
        "PATH": f"{program.tool.parent}:{os.environ.get('PATH', os.defpath)}",
        "LANG": "C.UTF-8",
        "LC_ALL": "C.UTF-8",
        "RABBITMQ_HOME": str(program.folder),
    }


def command(program: Program, node: Node) -> tuple[list[str], Mapping[str, str]]:
    """Return how it is started."""
    quiet = "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none"  # an idle node must not spin
    environment = _environment(program) | {
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "ERL_EPMD_PORT": str(epmd.port()),
        "ERL_CRASH_DUMP": str(node.folder / "erl_crash.dump"),
        "RABBITMQ_NODENAME": node_name(node),
        "RABBITMQ_DIST_PORT": str(node.ports["erlang"]),
        "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODE_PORT": str(node.ports["amqp"]),
        "RABBITMQ_CONF_ENV_FILE": str(node.folder / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(node.config_path),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(node.folder / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(node.folder / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(node.data_folder),
        "RABBITMQ_LOG_BASE": str(node.folder),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_PID_FILE": str(node.folder / "rabbit.pid"),
        "RABBITMQ_PLUGINS_DIR": str(program.folder / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false " + quiet,
        # With -noinput it makes the script become the VM, so that the pid is the broker's own.
        "RABBITMQ_ALLOW_INPUT": "1",
    }
    # The script hands on what it does not know, and so does the VM: from the first moment the file is in the command.
    start = [str(program.folder / "sbin/rabbitmq-server"), "-noinput", "-nexus_config", str(node.config_path)]
    return start, environment


def ready(node: Node) -> bool:
    """Both protocols answer, and no alarm is up; rabbitmqctl would cost a second of processor per question."""
    if not (port_open(node.ports["amqp"]) and port_open(node.ports["stream"])):
        return False
    return http_ok(node.ports["http"], "/api/health/checks/local-alarms", _GUEST)


def url(nodes: Sequence[Node]) -> str:
    """Return ``rabbitmq://`` with all AMQP ports, and the stream ports in the same order."""
    hosts = ",".join(f"127.0.0.1:{node.ports['amqp']}" for node in nodes)
    streams = ",".join(str(node.ports["stream"]) for node in nodes)
    return f"rabbitmq://guest:guest@{hosts}/?stream_port={streams}"


def given_url(address: str) -> str:
    """Read ``amqp://user:password@host:port/vhost?…`` or the same with ``rabbitmq://``."""
    match = re.fullmatch(r"(?:amqp|rabbitmq)://((?:[^@/]*@)?)([^/?]+)(.*)", address.strip())
    if match is None:
        raise ValueError("it is not rabbitmq://user:password@host:port/")
    user, hosts, rest = match.groups()
    return f"rabbitmq://{user}{bare_hosts(hosts, 'rabbitmq')}{rest or '/'}"


def exported(url: str) -> str:
    """Return the URL itself."""
    return url


def after_stop() -> None:
    """End epmd with the last node, of whatever name."""
    folders = (base_folder() / "data" / NAME).glob("*-n*/node*")
    nodes = (node_in(folder) for folder in folders)
    if not any(node.pid for node in nodes):
        epmd.stop()


def node_in(folder: Path) -> Node:
    """Return the node that a folder is of."""
    name, _, size = folder.parent.name.rpartition("-n")
    return Node(NAME, name, int(size), int(folder.name.removeprefix("node")) - 1, CONFIG_NAME)
