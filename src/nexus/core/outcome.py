"""What a delivery may end in. Values, never exceptions: an ``except`` in a handler cannot swallow them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ack:
    """Done. What a handler means when it returns None."""


@dataclass(frozen=True, slots=True)
class RetryIn:
    """Deliver again after ``delay_s`` seconds; the key waits, all others run."""

    delay_s: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Park:
    """Set the whole key aside for ``delay_s`` seconds, durable in the parking topic, its order kept."""

    delay_s: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """Give up on this event and keep it for repair. What happens to its key is the subscription's ``on_dead``."""

    reason: str
    error: str = ""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """Interrupted by shutdown or a moved partition: no failure, and the attempt is taken back."""


Outcome = Ack | RetryIn | Park | DeadLetter
"""What a handler may return."""

ACK = Ack()
CANCELLED = Cancelled()
