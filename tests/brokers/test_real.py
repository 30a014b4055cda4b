"""The real brokers: each comes up, answers, survives a kill with its data and its address, and goes down."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

import pytest

from nexus import brokers
from nexus.brokers import Broker
from nexus.brokers.place import port_open

from . import speak

pytestmark = [pytest.mark.slow, pytest.mark.broker]
# Programs that were fetched are kept between runs, in .nexus/brokers; data is not.
NAME = "own-tests"


def say(text: str) -> None:
    print(text, file=sys.stderr)


@contextlib.contextmanager
def fresh(kind: str, nodes: int = 1, **settings: str) -> Iterator[Broker]:
    brokers.down(kind, nodes, name=NAME, data=True)
    try:
        dotted = {key.replace("_", "."): value for key, value in settings.items()}
        yield brokers.up(kind, nodes, name=NAME, settings=dotted, tell=say)
    finally:
        brokers.down(kind, nodes, name=NAME, data=True, tell=say)


@pytest.mark.parametrize("kind", brokers.KINDS)
def test_one_node_comes_up_is_killed_comes_back_and_goes_down(kind: str) -> None:
    with fresh(kind) as broker:
        (node,) = broker.nodes
        ports, pid = dict(node.ports), node.pid
        assert brokers.up(kind, name=NAME).nodes[0].pid == pid
        speak.store(node)
        broker.kill(0)
        assert not any(port_open(port) for port in ports.values())
        broker.start(0)
        assert dict(node.ports) == ports
        assert node.pid not in (None, pid)
        assert speak.stored(node)
        broker.freeze(0)
        assert node.condition == "frozen"
        broker.thaw(0)
        assert speak.stored(node)
        broker.stop(0)
        assert node.pid is None
        assert not any(port_open(port) for port in ports.values())
        assert brokers.up(kind, name=NAME).url == broker.url
        assert speak.stored(node)
    assert not node.folder.exists()
    assert not any(port_open(port) for port in ports.values())


@pytest.mark.parametrize("kind", brokers.KINDS)
def test_three_nodes_form_a_cluster_that_a_kill_does_not_end(kind: str) -> None:
    with fresh(kind, 3) as broker:
        speak.store(broker.nodes[0])
        broker.kill(2)
        assert speak.stored(broker.nodes[1])
        broker.start(2)
        assert speak.stored(broker.nodes[2])
    assert [node.condition for node in broker.nodes] == ["stopped"] * 3


def test_a_kafka_that_advertises_a_proxy_takes_it_as_a_setting() -> None:
    with fresh("kafka", advertised_listeners="PLAINTEXT://127.0.0.1:20000") as broker:
        speak.store(broker.nodes[0])
