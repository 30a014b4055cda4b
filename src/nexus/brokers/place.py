"""Where brokers live on this machine: the base folder, its locks, and ports that are free.

NEXUS_BROKERS_DIR (.nexus/brokers)
├── programs/   what was fetched; thrown away, it is fetched again
├── data/       KIND/NAME-nNODES/nodeN: state.json, configuration, log, data
└── locks/
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from nexus.brokers.errors import BrokerFailed
from nexus.brokers.process import POLL_S

Tell = Callable[[str], object]

LOCK_LIMIT_S = 900.0  # an install with a slow registry is the longest that anybody holds one
# Below 32768, where the kernel begins to take ports for outgoing connections: a broker that is down keeps its own.
PORTS = range(20_000, 32_000)


def base_folder() -> Path:
    """Return the folder that everything is in, which need not exist."""
    return Path(os.environ.get("NEXUS_BROKERS_DIR") or ".nexus/brokers").resolve()


@contextlib.contextmanager
def locked(name: str, tell: Tell, limit_s: float = LOCK_LIMIT_S) -> Iterator[None]:
    """Hold the lock ``name`` against other processes and threads. Raises `BrokerFailed` when it stays taken."""
    file = base_folder() / "locks" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + limit_s
    told = False
    with file.open("a") as handle:  # the lock goes with the handle, also when this process is killed
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > until:
                    raise BrokerFailed(
                        f"another process has worked on {name} for {limit_s:.0f} s", hint=f"end it; it holds {file}"
                    ) from None
            if not told:
                tell(f"{name}: waiting for another process that works on it")
                told = True
            time.sleep(POLL_S)
        yield


def port_open(port: int) -> bool:
    """Tell whether somebody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


def http_ok(port: int, path: str, headers: Mapping[str, str] | None = None) -> bool:
    """Tell whether a server on loopback answers with 200; never through a proxy that the environment names."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
    try:
        connection.request("GET", path, headers=dict(headers or {}))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def port_free(port: int) -> bool:
    """Tell whether a server could listen there now."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do: old connections do not count
        try:
            one.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def free_ports(count: int) -> list[int]:
    """Choose ports that are free and that no node here keeps for itself; call it under the lock ``ports``."""
    kept = _kept_ports()
    dice = random.SystemRandom()  # not random's own: a seeded test must not choose the same ports every time
    found: list[int] = []
    for port in dice.sample(PORTS, len(PORTS)):
        if len(found) == count:
            return found
        if port not in kept and port_free(port):
            found.append(port)
    raise BrokerFailed(f"no {count} free ports between {PORTS.start} and {PORTS.stop}")


def _kept_ports() -> set[int]:
    kept: set[int] = set()
    data = base_folder() / "data"
    for file in [*data.glob("*/*/node*/state.json"), *data.glob("*/*/state.json")]:
        with contextlib.suppress(OSError, ValueError, AttributeError, KeyError, TypeError):
            kept.update(json.loads(file.read_text())["ports"].values())
    return kept
