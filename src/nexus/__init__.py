"""Nexus: an event bus for Python. Publish, store, deliver in key order, repair.

The way in is `Nexus`; everything a program needs stands here. ``nexus.testing`` helps to test such programs,
``nexus.spi`` is for those who write a backend.
"""

from nexus.app import Nexus
from nexus.blocking import BlockingNexus
from nexus.core.outcome import Ack, DeadLetter, Park, RetryIn
from nexus.core.retry import Retry
from nexus.errors import (
    Closed,
    HandlerError,
    IdConflict,
    InvalidEvent,
    NexusError,
    Overloaded,
    SettingsError,
    UnknownOutcome,
)
from nexus.event import Event
from nexus.runtime.binding import Context
from nexus.runtime.publisher import Receipt
from nexus.runtime.subscription import Publish

__all__ = [
    "Ack",
    "BlockingNexus",
    "Closed",
    "Context",
    "DeadLetter",
    "Event",
    "HandlerError",
    "IdConflict",
    "InvalidEvent",
    "Nexus",
    "NexusError",
    "Overloaded",
    "Park",
    "Publish",
    "Receipt",
    "Retry",
    "RetryIn",
    "SettingsError",
    "UnknownOutcome",
]
