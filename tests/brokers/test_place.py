"""Locks and ports."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from nexus.brokers import BrokerFailed
from nexus.brokers import place as places
from nexus.brokers.broker import nodes_of
from nexus.brokers.node import State

HOLD = """
from nexus.brokers.place import locked
import signal
with locked("nats", print):
    print("held", flush=True)
    signal.pause()
"""


def test_a_lock_is_held_against_other_processes_and_goes_with_them(place: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", HOLD], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        told: list[str] = []
        with (
            pytest.raises(BrokerFailed, match="another process has worked on nats"),
            places.locked("nats", told.append, limit_s=0.1),
        ):
            raise AssertionError
        assert told == ["nats: waiting for another process that works on it"]
        with places.locked("kafka", told.append, limit_s=0):
            pass
        holder.send_signal(signal.SIGKILL)
    with places.locked("nats", told.append, limit_s=0):
        pass


def test_a_lock_is_held_against_another_thread_too(place: Path) -> None:
    with (
        places.locked("nats", str),
        pytest.raises(BrokerFailed, match=r"end it; it holds .*locks/nats"),
        places.locked("nats", str, limit_s=0),
    ):
        raise AssertionError


def test_ports_are_free_different_and_none_that_a_node_keeps(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "PORTS", range(20_000, 20_040))
    (node,) = nodes_of("nats", 1, "default")
    node.remember(State({"client": 20_000, "monitor": 20_001}))
    chosen = places.free_ports(5)
    assert len(set(chosen)) == 5
    assert set(chosen) <= set(range(20_002, 20_040))
    with pytest.raises(BrokerFailed, match="no 39 free ports"):
        places.free_ports(39)


def test_a_port_that_somebody_listens_on_is_open_and_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert places.port_open(port)
        assert not places.port_free(port)
    assert not places.port_open(port)
    assert places.port_free(port)


def test_the_base_folder_is_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NEXUS_BROKERS_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    assert places.base_folder() == tmp_path / ".nexus" / "brokers"
