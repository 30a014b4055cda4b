"""The configuration that each kind writes, and its URL."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus import SettingsError
from nexus.brokers import kafka, nats, rabbitmq
from nexus.brokers.broker import KINDS, nodes_of
from nexus.brokers.node import Node, State


def made(kind: str, size: int = 1, name: str = "default", **settings: str) -> tuple[Node, ...]:
    nodes = nodes_of(kind, size, name)
    for node in nodes:
        ports = {use: 20_000 + 10 * node.index + number for number, use in enumerate(KINDS[kind].PORT_NAMES, start=1)}
        node.remember(State(ports, {key.replace("__", "."): value for key, value in settings.items()}))
    return nodes


def lines(text: str, sign: str) -> dict[str, str]:
    pairs = [line.partition(sign) for line in text.splitlines()]
    assert len({key for key, _, _ in pairs}) == len(pairs), "a line stands twice"
    return {key.strip(): value.strip() for key, _, value in pairs}


@pytest.mark.usefixtures("place")
class TestKafka:
    def test_one_node(self) -> None:
        (node,) = made("kafka")
        told = lines(kafka.config(node, [node]), "=")
        assert told["listeners"] == "PLAINTEXT://127.0.0.1:20001,CONTROLLER://127.0.0.1:20002"
        assert told["controller.quorum.voters"] == "1@127.0.0.1:20002"
        assert told["log.dirs"] == str(node.data_folder)
        assert told["min.insync.replicas"] == told["default.replication.factor"] == "1"
        assert kafka.url([node]) == "kafka://127.0.0.1:20001"

    def test_a_cluster(self) -> None:
        nodes = made("kafka", 3)
        told = lines(kafka.config(nodes[2], nodes), "=")
        assert told["node.id"] == "3"
        assert told["controller.quorum.voters"] == "1@127.0.0.1:20002,2@127.0.0.1:20012,3@127.0.0.1:20022"
        assert (told["default.replication.factor"], told["min.insync.replicas"]) == ("3", "2")
        assert kafka.url(nodes) == "kafka://127.0.0.1:20001,127.0.0.1:20011,127.0.0.1:20021"

    def test_settings_replace_lines_for_all_nodes_or_for_one(self) -> None:
        first, second, third = nodes = made("kafka", 3, min__insync__replicas="3")
        second.remember(State(second.ports, {"2/advertised.listeners": "PLAINTEXT://127.0.0.1:9"}))
        assert lines(kafka.config(first, nodes), "=")["min.insync.replicas"] == "3"
        assert lines(kafka.config(second, nodes), "=")["advertised.listeners"] == "PLAINTEXT://127.0.0.1:9"
        third.remember(second.state)
        assert lines(kafka.config(third, nodes), "=")["advertised.listeners"] != "PLAINTEXT://127.0.0.1:9"


@pytest.mark.usefixtures("place")
class TestNats:
    def test_one_node(self) -> None:
        (node,) = made("nats")
        text = nats.config(node, [node])
        assert "listen: 127.0.0.1:20001\nhttp: 127.0.0.1:20002\nmax_payload: 8MB\n" in text
        assert f'jetstream {{\n  store_dir: "{node.data_folder}"\n' in text
        assert "cluster" not in text
        assert nats.url([node]) == "nats://127.0.0.1:20001"

    def test_a_duration_without_quotes_would_be_millions(self) -> None:
        (node,) = made("nats")
        assert '  sync_interval: "2m"\n' in nats.config(node, [node])

    def test_a_setting_of_jetstream_goes_to_its_block_and_any_other_to_the_top(self) -> None:
        (node,) = made("nats", sync_interval="always", max_connections="5")
        text = nats.config(node, [node])
        top, _, block = text.partition("jetstream {")
        assert "max_connections: 5" in top
        assert "sync_interval: always" in block

    def test_a_cluster(self) -> None:
        nodes = made("nats", 3)
        text = nats.config(nodes[1], nodes)
        assert "server_name: default-2\n" in text
        assert "  listen: 127.0.0.1:20013\n" in text
        assert text.count("nats-route://") == 3
        assert nats.url(nodes) == "nats://127.0.0.1:20001,127.0.0.1:20011,127.0.0.1:20021"


@pytest.mark.usefixtures("place")
class TestRabbitmq:
    def test_one_node(self) -> None:
        (node,) = made("rabbitmq", consumer_timeout="5000")
        told = lines(rabbitmq.config(node, [node]), "=")
        assert told["listeners.tcp.1"] == "127.0.0.1:20001"
        assert told["stream.listeners.tcp.1"] == "127.0.0.1:20002"
        assert told["stream.advertised_port"] == "20002"
        assert told["consumer_timeout"] == "5000"
        assert not any(key.startswith("cluster") for key in told)
        assert rabbitmq.url([node]) == "rabbitmq://guest:guest@127.0.0.1:20001/?stream_port=20002"

    def test_a_cluster(self) -> None:
        nodes = made("rabbitmq", 3, "faults")
        told = lines(rabbitmq.config(nodes[0], nodes), "=")
        assert told["cluster_formation.classic_config.nodes.3"] == "faults-n3-3@localhost"
        assert rabbitmq.url(nodes) == (
            "rabbitmq://guest:guest@127.0.0.1:20001,127.0.0.1:20011,127.0.0.1:20021/?stream_port=20002,20012,20022"
        )

    def test_no_two_nodes_have_one_erlang_name(self) -> None:
        nodes = [*nodes_of("rabbitmq", 1, "a"), *nodes_of("rabbitmq", 3, "a"), *nodes_of("rabbitmq", 1, "a-n3")]
        assert len({rabbitmq.node_name(node) for node in nodes}) == len(nodes)

    def test_a_node_is_found_again_by_its_folder(self) -> None:
        for node in nodes_of("rabbitmq", 3, "a-n3"):
            assert rabbitmq.node_in(node.folder) == node


@pytest.mark.parametrize(
    ("kind", "address", "url"),
    [
        ("kafka", "127.0.0.1:9092", "kafka://127.0.0.1:9092"),
        ("kafka", "kafka://a:1,b:2", "kafka://a:1,b:2"),
        ("nats", "nats://a:1, nats://b:2", "nats://a:1,b:2"),
        ("nats", "user:secret@a:1", "nats://user:secret@a:1"),
        ("rabbitmq", "amqp://u:p@a:1/", "rabbitmq://u:p@a:1/"),
        ("rabbitmq", "amqp://a:1", "rabbitmq://a:1/"),
        ("rabbitmq", "rabbitmq://u:p@a:1,b:2/v?stream_port=3,4", "rabbitmq://u:p@a:1,b:2/v?stream_port=3,4"),
    ],
)
def test_an_address_of_the_environment_becomes_a_url(kind: str, address: str, url: str) -> None:
    assert KINDS[kind].given_url(address) == url
    assert KINDS[kind].given_url(KINDS[kind].exported(url)) == url


@pytest.mark.parametrize(
    ("kind", "address"),
    [
        ("kafka", "localhost"),
        ("kafka", "a:1,,b:2"),
        ("nats", "tls://user:secret@a"),
        ("rabbitmq", "http://u:secret@a:1"),
    ],
)
def test_an_address_that_cannot_be_read_is_refused_without_its_password(kind: str, address: str) -> None:
    with pytest.raises(ValueError, match="is not") as refused:
        KINDS[kind].given_url(address)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "size", "name"), [("redis", 1, "a"), ("nats", 2, "a"), ("nats", 1, "../a"), ("nats", 1, "")]
)
def test_what_cannot_be_a_broker_is_refused(kind: str, size: int, name: str) -> None:
    with pytest.raises(SettingsError):
        nodes_of(kind, size, name)


def test_every_node_has_a_folder_of_its_own(place: Path) -> None:
    nodes = [*nodes_of("nats", 1, "a"), *nodes_of("nats", 3, "a"), *nodes_of("nats", 1, "a-n3")]
    assert len({node.folder for node in nodes}) == len(nodes)
