"""Erlang's port mapper, by which RabbitMQ's nodes find each other: one for all nodes here, ended with the last."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from nexus.brokers import process
from nexus.brokers.errors import BrokerFailed
from nexus.brokers.place import base_folder, free_ports, locked, port_free, port_open

START_LIMIT_S = 10.0
STOP_LIMIT_S = 5.0


def _file() -> Path:
    return base_folder() / "data" / "rabbitmq" / "epmd" / "state.json"


def _state() -> tuple[int, int | None] | None:
    """Its port, and the pid that it had."""
    try:
        told = json.loads(_file().read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise BrokerFailed(f"{_file()} is damaged: {error}", hint=f"delete {_file()}") from None
    return told["ports"]["epmd"], told["pid"]


def _marker(port: int) -> str:
    return f"-port {port}"


def port() -> int:
    """Return its port."""
    state = _state()
    if state is None:
        raise BrokerFailed("epmd was never started here", hint="nexus brokers up rabbitmq")
    return state[0]


def ensure(tool: Path, environment: Mapping[str, str]) -> None:
    """Start it unless it runs; call it under the lock ``rabbitmq``."""
    state = _state()
    if state is not None and process.runs(state[1], _marker(state[0])):
        return
    with locked("ports", lambda _: None):
        chosen = state[0] if state is not None and port_free(state[0]) else free_ports(1)[0]
        _remember(chosen, None)
    command = [str(tool), "-address", "127.0.0.1", "-port", str(chosen)]
    log = _file().with_name("log")
    pid = process.launch(command, folder=log.parent, log=log, environment=environment)
    _remember(chosen, pid)
    until = time.monotonic() + START_LIMIT_S
    while not port_open(chosen):
        if time.monotonic() > until or process.look(pid) is None:
            raise BrokerFailed(f"epmd did not start; its log is {log}")
        time.sleep(process.POLL_S)


def _remember(chosen: int, pid: int | None) -> None:
    _file().parent.mkdir(parents=True, exist_ok=True)
    part = _file().with_suffix(".part")
    part.write_text(json.dumps({"ports": {"epmd": chosen}, "pid": pid}) + "\n", "utf-8")
    part.replace(_file())


def stop() -> None:
    """End it."""
    state = _state()
    if state is not None and process.ask_to_end(state[1], _marker(state[0])):
        process.end(state[1], _marker(state[0]), STOP_LIMIT_S)
