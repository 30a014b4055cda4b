"""Topics as Kafka has them: made with the settings that our promises need, described as they are."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)
from tests.backends.kafka.kafka_help import append, bootstrap, event, make, new_url, opened, read_all

from nexus.backends.kafka import KafkaLog
from nexus.backends.kafka.asker import Asker
from nexus.backends.kafka.topics import config_of, durability_of
from nexus.errors import SettingsError, UnknownTopic
from nexus.spi.backend import TopicSpec

NEVER = "9223372036854775807"


def config(log: KafkaLog, topic: str) -> dict[str, str]:
    """The settings of a topic, as another client sees them."""
    resource = ConfigResource(ResourceType.TOPIC, f"{log.settings.prefix}.{topic}")
    admin = AdminClient({"bootstrap.servers": bootstrap()})
    (answer,) = admin.describe_configs([resource]).values()
    return {name: entry.value for name, entry in answer.result(10).items()}


def alter(log: KafkaLog, topic: str, **changes: str) -> None:
    entries = [
        ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
        for name, value in changes.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, f"{log.settings.prefix}.{topic}", incremental_configs=entries)
    admin = AdminClient({"bootstrap.servers": bootstrap()})
    (answer,) = admin.incremental_alter_configs([resource]).values()
    answer.result(10)


async def test_a_broker_that_does_not_know_a_new_topic_yet_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened() as log:
        topic = await make(log)
        asked: list[str] = []
        look = Asker.topic

        def lagging(self: Asker, name: str) -> Any:
            asked.append(name)
            if len(asked) < 3:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
            return look(self, name)

        monkeypatch.setattr(Asker, "topic", lagging)
        assert (await log.describe(topic)).end == (0,)
        assert len(asked) == 3
        asked.clear()
        log._cluster.forget(topic)  # as after an answer that does not know of it
        assert (await log.describe(topic)).end == (0,)
        assert len(asked) >= 3
        with pytest.raises(UnknownTopic):
            await log.describe("never-made")


async def test_a_topic_is_made_with_what_our_promises_need() -> None:
    async with opened() as log:
        await make(log, retention_age_s=3_600.0, retention_bytes=10**9, partitions=4)
        made = await asyncio.to_thread(config, log, "orders")
        assert {name: made[name] for name in config_of(TopicSpec("x"))} == {
            "cleanup.policy": "delete",
            "message.timestamp.type": "LogAppendTime",
            "retention.ms": "3600000",
            "retention.bytes": "250000000",
        }


async def test_without_a_wish_events_are_kept() -> None:
    async with opened() as log:
        await make(log)
        made = await asyncio.to_thread(config, log, "orders")
        assert (made["retention.ms"], made["retention.bytes"]) == ("-1", "-1")


async def test_a_new_retention_is_taken_over_and_events_stay() -> None:
    async with opened() as log:
        await make(log)
        await append(log, "orders", 0, [event(id="kept")])
        for age_s, size, expected in (
            (60.0, None, ("60000", "-1")),
            (None, 10**6, ("-1", "1000000")),
            (None, None, ("-1", "-1")),
        ):
            await make(log, retention_age_s=age_s, retention_bytes=size)
            made = await asyncio.to_thread(config, log, "orders")
            assert (made["retention.ms"], made["retention.bytes"]) == expected
        assert [stored.event.id for stored in await read_all(log, "orders", 0)] == ["kept"]


async def test_a_topic_that_somebody_else_made_is_given_our_settings() -> None:
    async with opened() as log:
        name = f"{log.settings.prefix}.orders"
        new = NewTopic(name, num_partitions=2, replication_factor=1, config={"cleanup.policy": "compact"})
        admin = AdminClient({"bootstrap.servers": bootstrap()})
        admin.create_topics([new])[name].result(10)
        await make(log, partitions=2)
        made = await asyncio.to_thread(config, log, "orders")
        assert (made["cleanup.policy"], made["message.timestamp.type"]) == ("delete", "LogAppendTime")


async def test_the_number_of_partitions_stands() -> None:
    async with opened() as log:
        await make(log, partitions=4)
        for other in (3, 5, 0):
            with pytest.raises(SettingsError):
                await make(log, partitions=other)
        assert len((await log.describe("orders")).end) == 4


async def test_many_may_make_one_topic_at_once_and_use_it() -> None:
    url = new_url()
    async with opened(url) as one, opened(url) as two:
        spec = TopicSpec("orders", partitions=3)
        await asyncio.gather(*(log.create(spec) for log in (one, two) for _ in range(5)))
        for log in (one, two):
            await append(log, "orders", 2, [event()])
        assert (await one.describe("orders")).end == (0, 0, 2)


async def test_topics_are_those_of_the_store_under_their_own_names() -> None:
    async with opened() as log, opened() as other:
        names = {"a.b", "a_b", "a-b", "ünï/cøde", "UPPER", "upper"}
        for name in names:
            await make(log, name)
        await make(other, "elsewhere")
        assert set(await log.topics()) == names


async def test_names_that_kafka_would_confuse_are_different_topics() -> None:
    async with opened() as log:
        for name in ("a.b", "a_b"):
            await make(log, name)
            await append(log, name, 0, [event(id=name)])
        for name in ("a.b", "a_b"):
            assert [stored.event.id for stored in await read_all(log, name, 0)] == [name]


async def test_first_end_and_size_follow_the_events() -> None:
    async with opened() as log:
        await make(log, partitions=2)
        empty = await log.describe("orders")
        assert (empty.first, empty.end, empty.size_bytes) == ((0, 0), (0, 0), 0)
        await append(log, "orders", 1, [event() for _ in range(10)])
        state = await log.describe("orders")
        assert (state.first, state.end) == ((0, 0), (0, 10))
        assert state.size_bytes > 0


async def test_durability_is_what_the_broker_has_not_what_was_wished() -> None:
    url = new_url()
    async with opened(url) as log:
        await make(log)
        assert (await log.describe("orders")).durability == "process"
        alter(log, "orders", flush_messages="1")
    async with opened(url) as log:
        assert (await log.describe("orders")).durability == "disk"


@pytest.mark.parametrize(
    ("settings", "replicas", "expected"),
    [
        ({"min.insync.replicas": "1"}, 1, "process"),
        ({"min.insync.replicas": "2"}, 1, "process"),
        ({"min.insync.replicas": "1", "flush.messages": "1"}, 1, "disk"),
        ({"min.insync.replicas": "1"}, 3, "process"),
        ({"min.insync.replicas": "1", "flush.messages": "1"}, 3, "disk"),
        ({"min.insync.replicas": "2"}, 2, "replicated"),
        ({"min.insync.replicas": "2", "flush.messages": NEVER}, 3, "replicated"),
        ({"min.insync.replicas": "2", "flush.messages": "1"}, 3, "replicated+disk"),
        ({"min.insync.replicas": "2", "unclean.leader.election.enable": "true"}, 3, "process"),
        ({"min.insync.replicas": "2", "unclean.leader.election.enable": "true", "flush.messages": "1"}, 3, "disk"),
        ({}, 3, "process"),
    ],
)
def test_durability_follows_from_settings_and_copies(settings: dict[str, Any], replicas: int, expected: str) -> None:
    assert durability_of(settings, replicas) == expected


async def test_more_copies_than_brokers_are_refused_with_the_reason() -> None:
    async with opened(replicas=30) as log:
        with pytest.raises(SettingsError, match="replica"):
            await make(log)
