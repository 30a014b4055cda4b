"""NATS JetStream as a store: a topic is a stream, a partition is a subject of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus.backends.nats.log import NatsLog
from nexus.backends.nats.settings import Settings
from nexus.clock import Clock
from nexus.coordination import LogBackend

__all__ = ["NatsBackend", "NatsLog", "Settings"]


class NatsBackend(LogBackend):
    """Groups, seals and known ids above a log on NATS. ``nats://host:4222/?prefix=shop``; see `Settings`."""

    settings_type = Settings

    def __init__(self, url: str, *, clock: Clock, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(NatsLog(Settings.parse(url, options)), clock=clock)
