"""The RabbitMQ backend: a topic is a stream for each partition, spoken to in the stream protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus.backends.rabbitmq.log import RabbitLog
from nexus.backends.rabbitmq.settings import Settings
from nexus.clock import Clock
from nexus.coordination import LogBackend

__all__ = ["RabbitBackend", "RabbitLog", "Settings"]


class RabbitBackend(LogBackend):
    """Groups, seals and known ids above a log on RabbitMQ. ``rabbitmq://user@host/vhost``; see `Settings`."""

    settings_type = Settings

    def __init__(self, url: str, *, clock: Clock, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(RabbitLog(Settings.parse(url, options)), clock=clock)
