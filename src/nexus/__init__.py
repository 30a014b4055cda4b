"""Nexus: an event bus for Python. Publish, store, deliver in key order, repair.

The way in is `Nexus`; everything a program needs stands here. ``nexus.testing`` helps to test such programs,
``nexus.spi`` is for those who write a backend.

Names are loaded when they are first used, so that the command line starts at once.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
    from nexus.runtime.replays import Selection
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
    "Selection",
    "SettingsError",
    "UnknownOutcome",
]

_HOMES = {
    "Ack": "nexus.core.outcome",
    "BlockingNexus": "nexus.blocking",
    "Closed": "nexus.errors",
    "Context": "nexus.runtime.binding",
    "DeadLetter": "nexus.core.outcome",
    "Event": "nexus.event",
    "HandlerError": "nexus.errors",
    "IdConflict": "nexus.errors",
    "InvalidEvent": "nexus.errors",
    "Nexus": "nexus.app",
    "NexusError": "nexus.errors",
    "Overloaded": "nexus.errors",
    "Park": "nexus.core.outcome",
    "Publish": "nexus.runtime.subscription",
    "Receipt": "nexus.runtime.publisher",
    "Retry": "nexus.core.retry",
    "RetryIn": "nexus.core.outcome",
    "Selection": "nexus.runtime.replays",
    "SettingsError": "nexus.errors",
    "UnknownOutcome": "nexus.errors",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'nexus' has no attribute {name!r}")
    found = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
