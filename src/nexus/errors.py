"""Every error that Nexus raises, as one tree.

    NexusError
    ├── SettingsError              the configuration cannot be used
    │   ├── DurabilityUnavailable  more durability was asked for than the backend gives
    │   └── MissingExtra           an optional dependency is not installed
    ├── InvalidEvent               the event breaks a rule; nothing was stored
    │   └── PayloadTooLarge
    ├── FilterError                a filter expression or pattern cannot be read
    ├── PublishError               the event was valid and yet has no place in the topic
    │   ├── IdConflict             same source and id, other content; the first event stands
    │   ├── Overloaded             no room before the deadline; nothing was stored
    │   └── UnknownOutcome         stored or not: publish again with the same id to find out
    ├── BackendError               the store cannot do what was asked
    │   ├── Unavailable            cannot be reached now
    │   ├── StoreFull              no space; reads go on
    │   ├── ReadOnly               the store may not be written
    │   ├── CorruptData            a checksum or a structure does not hold; nothing wrong was delivered
    │   ├── NewerFormat            written by a newer Nexus
    │   ├── Sealed                 the partition takes no more events
    │   ├── UnknownTopic
    │   └── UnknownGroup
    ├── CursorLost                 a known group has no cursor; somebody must decide where to go on
    ├── HandlerError               a handler cannot be used as registered
    ├── Closed                     the bus was closed
    ├── NoReply                    nobody answered a request in time
    ├── NotDead                    there is no such dead letter
    ├── UnknownReplay
    ├── UnknownSchedule
    └── BrokerFailed               a broker for tests could not be installed, started or ended
        └── MissingProgram

An error says what failed, where, and what to do next (``hint``). ``retryable`` tells whether the same
call may succeed later without a change. ``code`` is stable and listed in ``docs/errors.md``.

All of them are imported from here. Those from `NoReply` on are made where they are raised, and loaded when they are
asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import ClassVar


class NexusError(Exception):
    """Something that Nexus was asked for did not happen."""

    code: ClassVar[str] = "NXS-1000"
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.code} {self.message}"
        return f"{text}\nNext: {self.hint}" if self.hint else text


class SettingsError(NexusError):
    """A setting is missing, unknown or out of its range."""

    code = "NXS-1100"


class DurabilityUnavailable(SettingsError):
    """More durability was asked for than the backend was observed to give."""

    code = "NXS-1101"


class MissingExtra(SettingsError):
    """An optional dependency is needed for this and is not installed."""

    code = "NXS-1102"


class InvalidEvent(NexusError, ValueError):
    """The event breaks a rule of the envelope; nothing was stored."""

    code = "NXS-2100"

    def __init__(self, message: str, *, hint: str | None = None, index: int | None = None) -> None:
        super().__init__(message, hint=hint)
        self.index = index
        """Place of the bad event in a batch, or None."""


class PayloadTooLarge(InvalidEvent):
    """The body is larger than the topic takes."""

    code = "NXS-2101"


class FilterError(NexusError, ValueError):
    """A filter expression or an event-type pattern cannot be read."""

    code = "NXS-2200"


class PublishError(NexusError):
    """The event was valid and yet was not stored as asked."""

    code = "NXS-3000"


class IdConflict(PublishError):
    """An event with this source and id and other content is stored; that one stands."""

    code = "NXS-3001"


class Overloaded(PublishError):
    """There was no room before the deadline; nothing was stored."""

    code = "NXS-3002"
    retryable = True

    def __init__(self, message: str, *, retry_after_s: float, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_s = retry_after_s


class UnknownOutcome(PublishError):
    """The event may or may not be stored; publishing it again with the same id is safe."""

    code = "NXS-3003"
    retryable = True


class BackendError(NexusError):
    """The store cannot do what was asked."""

    code = "NXS-4000"


class Unavailable(BackendError):
    """The store cannot be reached now."""

    code = "NXS-4001"
    retryable = True


class StoreFull(BackendError):
    """There is no space left; nothing was stored, and reads go on."""

    code = "NXS-4002"
    retryable = True


class ReadOnly(BackendError):
    """The store may not be written by this process."""

    code = "NXS-4003"


class CorruptData(BackendError):
    """A checksum or a structure of the store does not hold."""

    code = "NXS-4004"


class NewerFormat(BackendError):
    """The store was written by a newer version of Nexus."""

    code = "NXS-4005"


class Sealed(BackendError):
    """The partition takes no more events."""

    code = "NXS-4006"


class UnknownTopic(BackendError):
    """No topic of this name exists."""

    code = "NXS-4007"


class UnknownGroup(BackendError):
    """No consumer group of this name exists."""

    code = "NXS-4008"


class CursorLost(NexusError):
    """A consumer group that has consumed before has no cursor; where to go on is a decision."""

    code = "NXS-4100"


class HandlerError(NexusError):
    """A handler cannot be used as it was registered."""

    code = "NXS-5000"


class Closed(NexusError):
    """The bus was closed; it takes and gives no more events."""

    code = "NXS-5100"


_HOMES = {
    "BrokerFailed": "nexus.brokers.errors",
    "MissingProgram": "nexus.brokers.errors",
    "NoReply": "nexus.runtime.requests",
    "NotDead": "nexus.runtime.deadletters",
    "UnknownReplay": "nexus.runtime.replays",
    "UnknownSchedule": "nexus.runtime.schedules",
}


def __getattr__(name: str) -> type[NexusError]:
    if name not in _HOMES:
        raise AttributeError(f"module 'nexus.errors' has no attribute {name!r}")
    found: type[NexusError] = getattr(import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
