"""`nexus doctor` on Kafka: brokers, versions, settings, what the user may do, and what survives."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka.admin import (
    AclBinding,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
)
from tests.backends.kafka.kafka_help import bootstrap, make, new_url, opened

from nexus import brokers
from nexus.backends.kafka import KafkaLog, Settings, examine
from nexus.spi.backend import Durability, Finding


async def examined(where: str, options: dict[str, str] | None = None, **levels: Durability) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in await KafkaLog(Settings.parse(where, options)).examine(levels):
        found.setdefault(finding.check, []).append(finding)
        assert (finding.advice is None) == (finding.state == "green"), finding
    return found


async def test_a_cluster_in_order_is_green() -> None:
    async with opened() as log:
        await make(log)
        found = {finding.check: finding for finding in await log.examine({"orders": "replicated"})}
    assert found.pop("broker settings").found == "auto.create.topics.enable=true"  # Kafka's default, and a poor one
    assert {finding.state for finding in found.values()} == {"green"}
    assert set(found) == {"client", "nodes", "version", "rights", "durability"}
    assert "librdkafka" in found["client"].found
    assert found["version"].found == "Kafka 4.0 or newer"
    assert "delete records of its 1 topics" in found["rights"].found


async def test_what_survives_says_what_decides_it() -> None:
    (found,) = (await examined(new_url(), orders="process"))["durability"]
    assert "min.insync.replicas" in found.found
    assert "min_insync_replicas=2" in (found.advice or "")


async def test_brokers_that_are_away_are_told() -> None:
    (found,) = (await examined("kafka://127.0.0.1:1/?request_s=1"))["nodes"]
    assert found.state == "red"
    (found,) = (await examined(new_url(bootstrap(), request_s=1, tls="true")))["nodes"]
    assert (found.state, "SSL" in found.found) == ("red", True)
    (found,) = (await examined("kafka://a:1/?sasl=PLAIN&user=me"))["nodes"]
    assert "needs a password" in found.found
    assert await examine._answers("127.0.0.1:1") is None


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """A broker that looks at rights: nobody may do to ``few.*`` what is not allowed, and anything else."""
    settings = {
        "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
        "allow.everyone.if.no.acl.found": "true",
    }
    name = f"acl-{uuid4().hex[:6]}"
    broker = brokers.up("kafka", name=name, settings=settings)
    yield broker.url.removeprefix("kafka://")
    brokers.down("kafka", name=name, data=True)


def allow(servers: str, *operations: AclOperation) -> None:
    """Have ``few.*`` guarded, with these operations open to all, and the cluster with all but making topics."""
    admin = AdminClient({"bootstrap.servers": servers})
    of_cluster = [
        AclOperation.CLUSTER_ACTION, AclOperation.ALTER, AclOperation.DESCRIBE, AclOperation.IDEMPOTENT_WRITE,
    ]  # fmt: skip
    everybody = ("User:*", "*")
    prefixed, literal = ResourcePatternType.PREFIXED, ResourcePatternType.LITERAL
    answers = admin.create_acls(
        [AclBinding(ResourceType.TOPIC, "few.", prefixed, *everybody, each, AclPermissionType.ALLOW)
         for each in operations]
        + [AclBinding(ResourceType.BROKER, "kafka-cluster", literal, *everybody, each, AclPermissionType.ALLOW)
           for each in of_cluster]
    )  # fmt: skip
    for answer in answers.values():
        answer.result(30)


@pytest.mark.slow
async def test_a_user_without_rights_is_told_each_of_them(guarded: str) -> None:
    where = f"kafka://{guarded}/?prefix=few"
    async with opened(where) as log:
        await make(log)
    await asyncio.to_thread(allow, guarded, AclOperation.READ, AclOperation.WRITE, AclOperation.DESCRIBE)

    async with asyncio.timeout(30):
        while True:  # the broker learns of rights a moment later
            found = await examined(where)
            red = {finding.found: finding.advice or "" for finding in found["rights"] if finding.state == "red"}
            if len(red) == 4 and "version" in found and found["version"][0].state == "yellow":
                break
    assert found["rights"][0].found == "may read, write, describe its 1 topics"
    assert set(red) == {
        "may not make topics that begin with few.", "may not describe the settings of 1 of 1 topics",
        "may not alter the settings of 1 of 1 topics", "may not delete records of 1 of 1 topics",
    }  # fmt: skip
    assert "cannot be seen" in found["version"][0].found
    assert "DescribeConfigs" in (found["version"][0].advice or "")
    assert red["may not delete records of 1 of 1 topics"] == (
        "allow it: kafka-acls --add --allow-principal User:ANONYMOUS --operation Delete"
        " --topic few. --resource-pattern-type prefixed"
    )


@pytest.mark.parametrize(
    ("settings", "version", "state"),
    [({"inter.broker.protocol.version": "3.9-IV0"}, "Kafka 3.9-IV0", "yellow"), ({}, "Kafka 4.0 or newer", "green")],
)
async def test_an_old_version_is_yellow(settings: dict[str, str], version: str, state: str) -> None:
    entries = {"auto.create.topics.enable": "false"} | settings

    async def gather(_: Any) -> list[Any]:
        return [{name: SimpleNamespace(value=value) for name, value in entries.items()}]

    cluster: Any = SimpleNamespace(gather=gather, admin=SimpleNamespace(describe_configs=lambda *_, **__: {}))
    (found,) = await examine._settings(cluster, 1)
    assert (found.found, found.state) == (version, state)
