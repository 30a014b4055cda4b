"""What a delivery may end in. Values, never exceptions: an ``except`` in a handler cannot swallow them."""

from __future__ import annotations

import msgspec


class Ack(msgspec.Struct, frozen=True):
    """Done. What a handler means when it returns None."""


class RetryIn(msgspec.Struct, frozen=True):
    """Deliver again after ``delay_s`` seconds; the key waits, all others run."""

    delay_s: float
    error: str = ""


class Park(msgspec.Struct, frozen=True):
    """Set the whole key aside for ``delay_s`` seconds, durable in the parking topic, its order kept."""

    delay_s: float
    error: str = ""


class DeadLetter(msgspec.Struct, frozen=True):
    """Give up on this event and keep it for repair. What happens to its key is the subscription's ``on_dead``."""

    reason: str
    error: str = ""


class Cancelled(msgspec.Struct, frozen=True):
    """Interrupted by shutdown or a moved partition: no failure, and the attempt is taken back."""


Outcome = Ack | RetryIn | Park | DeadLetter
"""What a handler may return."""

ACK = Ack()
CANCELLED = Cancelled()
