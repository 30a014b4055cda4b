"""The scenarios: which contestants meet, over how many events, and the goals that are read off."""

from __future__ import annotations

import msgspec

from nexus.bench.goals import Goal


class Scenario(msgspec.Struct, frozen=True):
    """Contestants that are compared, and with how many events."""

    name: str
    events: int
    contestants: tuple[str, ...]
    goals: tuple[Goal, ...] = ()
    broker: str | None = None
    """The broker that it needs, which is started."""


def _latency(broker: str) -> Scenario:
    ours, raw = "nexus_broker_latency", (f"{broker}_raw_latency",)
    batches = f"{ours}_batches"
    return Scenario(
        f"{broker}-latency", 3_000, (ours, batches, *raw),
        (Goal("added to raw at 500 events/s, p50, ms", "p50_ms", ours, raw, 0.5, "added"),
         Goal("added to raw at 500 events/s, p99, ms", "p99_ms", ours, raw, 3.0, "added"),
         Goal("the same with a batch handler, p50, ms", "p50_ms", batches, raw, 0.5, "added"),
         Goal("the same with a batch handler, p99, ms", "p99_ms", batches, raw, 3.0, "added")),
        broker,
    )  # fmt: skip


_DURABLE_PEERS = ("huey", "persist_queue", "litequeue")
_PUBLISH, _MANY = "nexus_broker_publish", "nexus_broker_many"
_CONSUME, _BATCHES = "nexus_broker_consume", "nexus_broker_consume_batches"
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "memory", 60_000, ("nexus_memory", "pyventus"),
            (Goal("publish to handled, over pyventus", "deliveries", "nexus_memory", ("pyventus",), 3.0),),
        ),
        Scenario(
            "memory-groups", 15_000, ("nexus_memory_10_groups", "pyventus_10_handlers"),
            (Goal("10 groups, over pyventus", "deliveries", "nexus_memory_10_groups",
                  ("pyventus_10_handlers",), 3.0),),
        ),
        Scenario(
            "sqlite-publish", 60_000, ("nexus_sqlite_publish_100", "raw_apsw_publish_100"),
            (Goal("awaited singly, 100 at once, over raw apsw", "events", "nexus_sqlite_publish_100",
                  ("raw_apsw_publish_100",), 0.5),),
        ),
        Scenario(
            "sqlite-alone", 60_000, ("nexus_sqlite_publish_alone", "raw_apsw_publish_alone"),
            (Goal("alone, raw apsw's median time over ours", "p50_ms", "nexus_sqlite_publish_alone",
                  ("raw_apsw_publish_alone",), 0.667, "time"),),
        ),
        Scenario(
            "sqlite-many", 60_000, ("nexus_sqlite_publish_many", "raw_apsw_batches"),
            (Goal("publish_many of 100, over raw apsw", "events", "nexus_sqlite_publish_many",
                  ("raw_apsw_batches",), 0.6),),
        ),
        Scenario(
            "sqlite-settled", 30_000, ("nexus_sqlite_settled", *_DURABLE_PEERS),
            (Goal("publish to settled, over the best durable peer", "end_to_end", "nexus_sqlite_settled",
                  _DURABLE_PEERS, 15.0),),
        ),
        Scenario("growth", 10_000_000, ("nexus_sqlite_growth",)),
        Scenario(
            "kafka-publish", 50_000, (_PUBLISH, "kafka_raw_futures", "kafka_faststream_publish"),
            (Goal("awaited, 500 in flight, over a raw producer with futures", "events", _PUBLISH,
                  ("kafka_raw_futures",), 0.8),
             Goal("awaited, 500 in flight, over FastStream", "events", _PUBLISH, ("kafka_faststream_publish",), 1.3)),
            "kafka",
        ),
        Scenario(
            "kafka-many", 100_000, (_MANY, "kafka_raw_many"),
            (Goal("publish_many, over raw without futures", "events", _MANY, ("kafka_raw_many",), 0.5),),
            "kafka",
        ),
        Scenario(
            "kafka-consume", 50_000, (_CONSUME, _BATCHES, "kafka_raw_consume", "kafka_faststream_consume"),
            (Goal("a handler call per event, over raw", "events", _CONSUME, ("kafka_raw_consume",), 0.3),
             Goal("a handler call per event, over FastStream", "events", _CONSUME, ("kafka_faststream_consume",), 10.0),
             Goal("batch handler, over raw", "events", _BATCHES, ("kafka_raw_consume",), 0.6)),
            "kafka",
        ),
        _latency("kafka"),
        Scenario(
            "nats-publish", 30_000, (_PUBLISH, "nats_raw_publish", "nats_faststream_publish"),
            (Goal("awaited, 500 in flight, over nats-py", "events", _PUBLISH, ("nats_raw_publish",), 0.85),
             Goal("awaited, 500 in flight, over FastStream", "events", _PUBLISH, ("nats_faststream_publish",), None)),
            "nats",
        ),
        Scenario(
            "nats-many", 30_000, (_MANY, "nats_raw_publish"),
            (Goal("publish_many, over nats-py awaited", "events", _MANY, ("nats_raw_publish",), 2.5),),
            "nats",
        ),
        Scenario(
            "nats-consume", 30_000,
            (_CONSUME, _BATCHES, "nats_raw_push", "nats_faststream_push", "nats_faststream_pull"),
            (Goal("a handler call per event, over nats-py push", "events", _CONSUME, ("nats_raw_push",), 0.55),
             Goal("a handler call per event, over FastStream push", "events", _CONSUME,
                  ("nats_faststream_push",), 2.5),
             Goal("a handler call per event, over FastStream pull", "events", _CONSUME,
                  ("nats_faststream_pull",), None),
             Goal("batch handler, over nats-py push", "events", _BATCHES, ("nats_raw_push",), None)),
            "nats",
        ),
        _latency("nats"),
        Scenario(
            "rabbitmq-publish", 40_000,
            (_MANY, _PUBLISH, "rabbitmq_raw_batches", "rabbitmq_faststream_publish"),
            (Goal("publish_many, over rstream's send_batch", "events", _MANY, ("rabbitmq_raw_batches",), 0.4),
             Goal("publish_many, over FastStream", "events", _MANY, ("rabbitmq_faststream_publish",), 10.0),
             Goal("awaited, 500 in flight, over rstream's send_batch", "events", _PUBLISH,
                  ("rabbitmq_raw_batches",), None),
             Goal("awaited, 500 in flight, over FastStream", "events", _PUBLISH,
                  ("rabbitmq_faststream_publish",), None)),
            "rabbitmq",
        ),
        Scenario(
            "rabbitmq-consume", 40_000,
            (_CONSUME, _BATCHES, "rabbitmq_raw_consume", "rabbitmq_faststream_consume"),
            (Goal("a handler call per event, over rstream with decoding", "events", _CONSUME,
                  ("rabbitmq_raw_consume",), 0.5),
             Goal("a handler call per event, over FastStream", "events", _CONSUME,
                  ("rabbitmq_faststream_consume",), 5.0),
             Goal("batch handler, over rstream with decoding", "events", _BATCHES, ("rabbitmq_raw_consume",), None)),
            "rabbitmq",
        ),
        _latency("rabbitmq"),
    )
}  # fmt: skip
DEFAULT = [name for name, scenario in SCENARIOS.items() if name != "growth" and scenario.broker is None]
