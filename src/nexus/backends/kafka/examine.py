"""Is the cluster fit for a store: do all brokers answer, which Kafka is it, what may this user do, what survives?

Rights are asked for, not tried: the brokers say what the user may do to a topic, and a topic is made with the wish that
it be checked only. No version is told by Kafka's protocol; brokers before 4.0 show it in a setting that went with 4.0.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import confluent_kafka
from confluent_kafka import KafkaException, TopicCollection
from confluent_kafka.admin import AclOperation, ConfigResource, NewTopic, ResourceType

from nexus.backends.kafka.cluster import TRY_S, Cluster
from nexus.backends.kafka.failures import FORBIDDEN, error_of
from nexus.backends.kafka.names import from_kafka, to_kafka
from nexus.backends.kafka.settings import Settings
from nexus.core.findings import durabilities, nodes, rights
from nexus.errors import NexusError
from nexus.spi.backend import Durability, Finding

LOOK_S = 2.0
PROBE = "nexus.doctor"
"""The topic that is asked for, and never made."""
_NEEDED: Mapping[str, AclOperation] = {
    "read": AclOperation.READ,
    "write": AclOperation.WRITE,
    "describe": AclOperation.DESCRIBE,
    "describe the settings of": AclOperation.DESCRIBE_CONFIGS,
    "alter the settings of": AclOperation.ALTER_CONFIGS,
    "delete records of": AclOperation.DELETE,
}
_THREE = "take three brokers, with replicas=3 and min_insync_replicas=2 for new topics"
_ADVICE: Mapping[Durability, str] = {"process": f"{_THREE}; or flush.messages=1 of the topic, which is slow"}


async def examine(settings: Settings, levels: Mapping[str, Durability]) -> list[Finding]:
    """See `nexus.spi.backend.Examined`."""
    client = f"confluent-kafka {confluent_kafka.__version__}, librdkafka {confluent_kafka.libversion()[0]}"
    found = [Finding("client", "green", client)]
    try:
        cluster = Cluster(settings, asyncio.get_running_loop())
    except NexusError as error:
        return [*found, Finding("nodes", "red", error.message, error.hint)]
    try:
        overview = await cluster.overview()
        brokers = {f"{each.host}:{each.port}" for each in overview.brokers.values()}
        answers = dict(zip(brokers, await asyncio.gather(*map(_answers, brokers)), strict=True))
        found.append(nodes(answers, "let advertised.listeners of each broker be an address that this machine reaches"))
        found += await _settings(cluster, min(overview.brokers))
        kafka_names = [name for name in overview.topics if from_kafka(settings.prefix, name) is not None]
        found += await _rights(cluster, kafka_names)
    except NexusError as error:
        said = cluster.trouble.str() if cluster.trouble is not None else error.message
        hint = error.hint or "look at the URL, and at tls, ca, sasl, user and the password"
        found.append(Finding("nodes", "red", f"{settings.servers}: {said}", hint))
    finally:
        await asyncio.to_thread(cluster.close)
    return [*found, *durabilities(levels, "min.insync.replicas, replicas and flush.messages", _ADVICE)]


async def _answers(address: str) -> str | None:
    host, _, port = address.rpartition(":")
    try:
        async with asyncio.timeout(LOOK_S):
            _, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    except (OSError, TimeoutError):
        return None
    writer.close()
    return ""


async def _settings(cluster: Cluster, broker: int) -> list[Finding]:
    """The version, as far as it shows, and settings of the brokers that matter."""
    resource = ConfigResource(ResourceType.BROKER, str(broker))
    try:
        (entries,) = await cluster.gather(cluster.admin.describe_configs([resource], request_timeout=TRY_S))
    except KafkaException as exception:
        advice = f"allow it: kafka-acls --add --cluster --operation DescribeConfigs {_who(cluster)}"
        said = f"settings of the brokers, and with them the version, cannot be seen: {error_of(exception).str()}"
        return [Finding("version", "yellow", said, advice)]
    old = entries.get("inter.broker.protocol.version")
    if old is not None and old.value:
        found = [Finding("version", "yellow", f"Kafka {old.value}", "4.0 is the oldest that is tested; upgrade")]
    else:
        found = [Finding("version", "green", "Kafka 4.0 or newer")]
    if entries["auto.create.topics.enable"].value == "true":
        advice = "set it to false: a topic that is deleted while it is in use would be made again, with other settings"
        found.append(Finding("broker settings", "yellow", "auto.create.topics.enable=true", advice))
    return found


async def _rights(cluster: Cluster, kafka_names: list[str]) -> list[Finding]:
    prefix = cluster.settings.prefix
    may: list[str] = []
    may_not: dict[str, str] = {}
    making = f"make topics that begin with {prefix}."
    new = NewTopic(to_kafka(prefix, PROBE), 1, cluster.settings.replicas or -1)
    try:
        await cluster.gather(cluster.admin.create_topics([new], request_timeout=TRY_S, validate_only=True))
        may.append(making)
    except KafkaException as exception:
        if error_of(exception).code() in FORBIDDEN:
            may_not[making] = _allow(cluster, "Create")
        else:
            may_not[making] = error_of(exception).str()
    if kafka_names:
        operations = await _operations(cluster, kafka_names)
        able = []
        for right, operation in _NEEDED.items():
            refused = [name for name in kafka_names if operation not in operations.get(name, ())]
            if refused:
                may_not[f"{right} {len(refused)} of {len(kafka_names)} topics"] = _allow(cluster, _word(operation))
            else:
                able.append(right)
        if able:
            may.append(f"{', '.join(able)} its {len(kafka_names)} topics")
    return rights(may, may_not)


async def _operations(cluster: Cluster, kafka_names: list[str]) -> dict[str, Any]:
    """What the user may do to each topic; a topic that may not even be described is left out."""
    asked = cluster.admin.describe_topics(
        TopicCollection(kafka_names), include_authorized_operations=True, request_timeout=TRY_S
    )
    answers = await asyncio.gather(
        *(cluster.gather({name: future}) for name, future in asked.items()), return_exceptions=True
    )
    return {
        name: answer[0].authorized_operations or ()
        for name, answer in zip(asked, answers, strict=True)
        if not isinstance(answer, BaseException)
    }


def _word(operation: AclOperation) -> str:
    return operation.name.title().replace("_", "")


def _who(cluster: Cluster) -> str:
    return f"--allow-principal User:{cluster.settings.user or 'ANONYMOUS'}"


def _allow(cluster: Cluster, operation: str) -> str:
    topics = f"--topic {cluster.settings.prefix}. --resource-pattern-type prefixed"
    return f"allow it: kafka-acls --add {_who(cluster)} --operation {operation} {topics}"
