"""The Kafka backend: a log on Kafka's own topics, which other programs may read and write as CloudEvents."""

from __future__ import annotations

from nexus.errors import MissingExtra

try:
    import confluent_kafka as _confluent_kafka  # noqa: F401 - is it installed?
except ImportError as error:
    raise MissingExtra("kafka:// needs the package confluent-kafka", hint="pip install 'nexus-bus[kafka]'") from error

from nexus.backends.kafka.backend import KafkaBackend
from nexus.backends.kafka.log import KafkaLog
from nexus.backends.kafka.settings import Settings

__all__ = ["KafkaBackend", "KafkaLog", "Settings"]
