"""The whole backend: Kafka's log, with groups, leases, cursors and seals from `nexus.coordination`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus.backends.kafka.log import KafkaLog
from nexus.backends.kafka.settings import Settings
from nexus.clock import SYSTEM_CLOCK, Clock
from nexus.coordination import LogBackend


class KafkaBackend(LogBackend):
    """See `nexus.spi.backend.Backend`. Raises `SettingsError` for a URL that it does not understand."""

    settings_type = Settings

    def __init__(self, url: str, *, clock: Clock = SYSTEM_CLOCK, options: Mapping[str, Any] | None = None) -> None:
        super().__init__(KafkaLog(Settings.parse(url, options)), clock=clock)
