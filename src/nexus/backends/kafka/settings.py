"""Where a cluster is and how it is used: ``kafka://host:port[,host:port...]/?option=value&...``.

>>> settings = Settings.parse("kafka://one:9092,two:9092/?prefix=shop&replicas=3&min_insync_replicas=2")
>>> settings.servers, settings.prefix, settings.replicas
('one:9092,two:9092', 'shop', 3)

A password is never part of a URL, since URLs are logged: it comes from ``NEXUS_KAFKA__PASSWORD`` or from the settings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal
from urllib.parse import parse_qsl, urlsplit

from nexus.core.options import BackendSettings, File, Secret, read_options
from nexus.errors import SettingsError

PASSWORD = "NEXUS_KAFKA__PASSWORD"
_SERVER = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::\d{1,5})?\Z")
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9-]{0,63}\Z")
MIB = 1024 * 1024


class Settings(BackendSettings, frozen=True):
    """All that can be chosen about a store on Kafka."""

    servers: str
    """One or more of the cluster's brokers, ``host:port``, separated by commas."""
    prefix: str = "nexus"
    """What the names of Kafka's topics begin with; it keeps the stores of one cluster apart."""
    replicas: int | None = None
    """Copies of a new topic; None takes the broker's ``default.replication.factor``."""
    min_insync_replicas: int | None = None
    """Copies that must have an event of a new topic before an append returns; None takes the broker's."""
    linger_ms: float = 0.0
    """How long an event may wait for others that go in the same request."""
    batch_bytes: int = 1_000_000
    """The largest request for one partition."""
    compression: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """How a request is packed."""
    request_s: float = 10.0
    """How long a question to the brokers is tried before it is answered `Unavailable`."""
    delivery_s: float = 30.0
    """How long an append is tried before it is answered `UnknownOutcome`, or `Unavailable` when it was never sent."""
    queue_events: int = 65_536
    """How many events may be under way at once; further appends wait for room."""
    queue_bytes: int = 64 * MIB
    """How many bytes may be under way at once."""
    fetch_bytes: int = 512 * 1024
    """How much of one partition is asked for at a time."""
    buffer_events: int = 65_536
    """How many events are read ahead, over all partitions."""
    buffer_bytes: int = 64 * MIB
    """How many bytes are read ahead, over all partitions."""
    idle_s: float = 30.0
    """A partition that nobody has read for this long is not read ahead any more."""
    tls: bool = False
    """Speak TLS; true also if one of the three below is given."""
    ca: File | None = None
    """File with the certificates to trust; None trusts those of the system."""
    cert: File | None = None
    """File with the client's own certificate."""
    key: File | None = None
    """File with the private key of ``cert``."""
    sasl: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = None
    """How to prove who ``user`` is."""
    user: str | None = None
    """Who to be."""
    password: Secret | None = None
    """How ``user`` proves it."""

    def __post_init__(self) -> None:
        servers = self.servers.split(",")
        for server in servers:
            if not _SERVER.match(server):
                raise SettingsError(f"{server!r} is not a Kafka broker", hint="kafka://host:9092/")
        if not _PREFIX.match(self.prefix):
            raise SettingsError(
                f"prefix={self.prefix!r} cannot begin the names of topics", hint="1 to 64 letters, digits and '-'"
            )
        for name, low, high in _RANGES:
            value = getattr(self, name)
            if value is not None and not low <= value <= high:
                raise SettingsError(f"{name}={value:,} is not between {low:,} and {high:,}")
        if None not in (self.replicas, self.min_insync_replicas) and self.min_insync_replicas > self.replicas:  # type: ignore[operator]
            raise SettingsError(f"min_insync_replicas={self.min_insync_replicas} is more than replicas={self.replicas}")
        if (self.cert is None) != (self.key is None):
            raise SettingsError("cert and key go together: one of them is missing")
        if (self.sasl is None) != (self.user is None):
            raise SettingsError("sasl and user go together: one of them is missing")

    @classmethod
    def parse(cls, url: str, options: Mapping[str, Any] | None = None) -> Settings:
        """Read a URL, and options from elsewhere, which its own win over. Raises `SettingsError` naming the option."""
        parts = urlsplit(url)
        if parts.scheme != "kafka" or parts.path.strip("/") or parts.fragment:
            raise SettingsError("not the URL of a Kafka cluster", hint="kafka://host:9092/?prefix=nexus")
        if "@" in parts.netloc:
            raise SettingsError(
                "the URL of a Kafka cluster takes no user and no password before the host",
                hint=f"?sasl=SCRAM-SHA-512&user=NAME, and the password in {PASSWORD}",
            )
        query = parse_qsl(parts.query, keep_blank_values=True)
        return read_options(cls, {"servers": parts.netloc}, query, "a Kafka store", options)

    def client(self) -> dict[str, Any]:
        """What every client of the cluster is configured with, in librdkafka's words.

        Raises `SettingsError` when a password is needed and not there.
        """
        secure = self.tls or bool(self.ca or self.cert)
        config: dict[str, Any] = {
            "bootstrap.servers": self.servers,
            "client.id": "nexus",
            "log_level": 2,  # each attempt to connect would be a line; that no broker answers is said once
            "security.protocol": ("SASL_" if self.sasl else "") + ("SSL" if secure else "PLAINTEXT"),
            "reconnect.backoff.ms": 50,
            "reconnect.backoff.max.ms": 500,
            "socket.timeout.ms": 10_000,
            "topic.metadata.refresh.interval.ms": 60_000,
        }
        files = {"ssl.ca.location": self.ca, "ssl.certificate.location": self.cert, "ssl.key.location": self.key}
        config |= {name: value for name, value in files.items() if value is not None}
        if self.sasl:
            if not self.password:
                raise SettingsError(f"user={self.user!r} needs a password", hint=f"set {PASSWORD}")
            config |= {"sasl.mechanism": self.sasl, "sasl.username": self.user, "sasl.password": self.password}
        return config

    def producer(self, max_message_bytes: int) -> dict[str, Any]:
        """What the producer is configured with."""
        return self.client() | {
            "enable.idempotence": True,
            "acks": "all",
            "linger.ms": self.linger_ms,
            "batch.size": min(self.batch_bytes, max_message_bytes),
            "batch.num.messages": 100_000,
            "compression.type": self.compression,
            "delivery.timeout.ms": round(self.delivery_s * 1_000),
            "queue.buffering.max.messages": self.queue_events,
            "queue.buffering.max.kbytes": max(self.queue_bytes, 2 * max_message_bytes) // 1024,
            "message.max.bytes": max_message_bytes,
            "retry.backoff.ms": 20,
            "retry.backoff.max.ms": 500,
        }

    def consumer(self, wait_ms: int) -> dict[str, Any]:
        """What a consumer is configured with that waits so long at a broker for news."""
        return self.client() | {
            "group.id": f"{self.prefix}.nobody",  # the client wants one; nothing is ever committed in it
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed",
            "enable.partition.eof": True,
            "allow.auto.create.topics": False,
            "fetch.wait.max.ms": wait_ms,
            "fetch.message.max.bytes": self.fetch_bytes,
            "queued.max.messages.kbytes": 16_384,
            "queued.min.messages": 10_000,
            "fetch.queue.backoff.ms": 5,
            "fetch.error.backoff.ms": 50,
        }


_RANGES: list[tuple[str, float, float]] = [
    ("replicas", 1, 32_767),
    ("min_insync_replicas", 1, 32_767),
    ("linger_ms", 0, 10_000),
    ("batch_bytes", 1_024, 1 << 30),
    ("request_s", 0.1, 600),
    ("delivery_s", 0.1, 600),
    ("queue_events", 1, 2_147_483_647),
    ("queue_bytes", MIB, 1 << 40),
    ("fetch_bytes", 1_024, 1 << 30),
    ("buffer_events", 256, 100_000_000),
    ("buffer_bytes", MIB, 1 << 40),
    ("idle_s", 0.1, 86_400),
]
