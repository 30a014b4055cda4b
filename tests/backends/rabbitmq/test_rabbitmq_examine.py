"""`nexus doctor` on RabbitMQ: nodes, versions, what the user may do, and what survives."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Iterator
from uuid import uuid4

import pytest
from tests.backends.rabbitmq.rabbitmq_help import broker_url, opened, store_url

from nexus import brokers
from nexus.backends.rabbitmq import RabbitLog, Settings
from nexus.backends.rabbitmq.examine import _version
from nexus.spi.backend import Durability, Finding, TopicSpec


@pytest.fixture(scope="module")
def url() -> str:
    return broker_url()


async def examined(where: str, options: dict[str, str] | None = None, **levels: Durability) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in await RabbitLog(Settings.parse(where, options)).examine(levels):
        found.setdefault(finding.check, []).append(finding)
        assert (finding.advice is None) == (finding.state == "green"), finding
    return found


async def test_a_broker_in_order_is_green(url: str) -> None:
    where = store_url(url)
    async with opened(where) as log:
        await log.create(TopicSpec("orders", 1))
        durability = (await log.describe("orders")).durability
        found = await examined(where, orders=durability)
    assert {finding.state for check in ("client", "nodes", "version", "rights") for finding in found[check]} == {
        "green"
    }
    assert found["rights"][0].found.startswith("may configure, write, read t")
    assert found["durability"][0].found.startswith("process (lost at a power cut), decided by the number of")
    assert "three nodes" in (found["durability"][0].advice or "")


@pytest.fixture
def user(url: str) -> Iterator[str]:
    """A user who may read and configure what begins with ``few.``, read ``none.`` too, and write nothing."""
    (node,) = brokers.up("rabbitmq").nodes
    name = f"u{uuid4().hex[:8]}"

    def ask(method: str, path: str, body: object = None) -> None:
        request = urllib.request.Request(f"http://127.0.0.1:{node.ports['http']}/api/{path}", method=method)
        request.add_header("Authorization", "Basic " + base64.b64encode(b"guest:guest").decode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, json.dumps(body).encode(), timeout=10):
            pass

    ask("PUT", f"users/{name}", {"password": "p", "tags": ""})
    ask("PUT", f"permissions/%2F/{name}", {"configure": "^few[.]", "write": "^$", "read": "^(few|none)[.]"})
    yield name
    ask("DELETE", f"users/{name}")


async def test_a_user_without_rights_is_told_each_of_them(url: str, user: str) -> None:
    address = url.rpartition("@")[2]
    found = await examined(f"rabbitmq://{user}@{address}&prefix=few", {"password": "p"})
    may, may_not = found["rights"]
    assert (may.state, may.found) == ("green", "may configure, read few.*")
    assert (may_not.state, may_not.found) == ("red", "may not write few.*")
    assert may_not.advice is not None
    assert may_not.advice.startswith(f"rabbitmqctl set_permissions -p / {user} ")
    found = await examined(f"rabbitmq://{user}@{address}&prefix=none", {"password": "p"})
    assert [(finding.state, finding.found.partition(":")[0]) for finding in found["rights"]] == [
        ("red", "may not configure none.*"), ("red", "may not write none.*"), ("yellow", "not seen"),
    ]  # fmt: skip
    (away,) = (await examined(f"rabbitmq://{user}@{address}&prefix=few", {"password": "wrong"}))["nodes"]
    assert "login" in away.found


async def test_a_node_that_is_away_is_told_what_to_look_at(url: str) -> None:
    settings = Settings.parse(url)
    port = settings.stream_port[0]
    (found,) = (await examined(store_url(f"rabbitmq://127.0.0.1,127.0.0.1/?stream_port={port},1")))["nodes"]
    assert (found.state, found.found.rpartition("; ")[2]) == ("yellow", "not 127.0.0.1:1")
    assert "rabbitmq_stream" in (found.advice or "")
    (found,) = (await examined("rabbitmq://127.0.0.1/?stream_port=1"))["nodes"]
    assert found.state == "red"
    (found,) = (await examined("rabbitmq://127.0.0.1/?tls=true&ca=/nowhere"))["nodes"]
    assert "TLS" in found.found


@pytest.mark.parametrize(("versions", "state"), [({"4.0.5", "4.1.0"}, "green"), ({"3.13.7", "4.1.0"}, "yellow")])
def test_an_old_version_is_yellow(versions: set[str], state: str) -> None:
    assert _version(versions).state == state
