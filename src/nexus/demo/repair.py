"""What to do with the demo's dead letters: one rule, and the first of them shown step by step.

An arrival without its delay can be repaired: its own clock and plan say what the delay was. A departure of an aircraft
that has not arrived cannot: no column of its row knows where the aircraft was, so the event is discarded, and the
aircraft's later events go on.
"""

from __future__ import annotations

import msgspec

from nexus import Nexus
from nexus.demo.events import Arrived, repaired
from nexus.runtime.deadletters import DeadLetterInfo

_WHO = "nexus demo"


class Repaired(msgspec.Struct, frozen=True):
    """A dead letter that was shown in the making of its repair."""

    id: str
    event: str
    aircraft: str | None
    reason: str
    attempts: int
    error: str
    waiting: int
    """Events of the aircraft that waited behind it."""
    before: str
    after: str


def can_be_repaired(letter: DeadLetterInfo) -> bool:
    return letter.event.type == "flight.arrived"


def fix(letter: DeadLetterInfo) -> bytes:
    """Return the corrected body of an arrival."""
    return msgspec.json.encode(repaired(msgspec.json.decode(letter.event.body, type=Arrived)))


def describe(letter: DeadLetterInfo) -> Repaired:
    """Say what is wrong with an arrival, and what its body is to become."""
    error = letter.history[-1].error if letter.history else ""
    return Repaired(
        letter.id,
        letter.event.id,
        letter.key,
        letter.reason,
        letter.attempts,
        error.partition("\n")[0],
        letter.followers,
        letter.event.body.decode(),
        fix(letter).decode(),
    )


async def repair(bus: Nexus, letter: DeadLetterInfo) -> str:
    """Requeue the dead letter with its corrected body, or discard it; returns which."""
    if can_be_repaired(letter):
        return "requeued" if await bus.dead_letters.requeue(letter, data=fix(letter), who=_WHO) else "gone"
    why = "the aircraft's arrival before this departure was never recorded, or came later"
    return "discarded" if await bus.dead_letters.discard(letter, why=why, who=_WHO) else "gone"
