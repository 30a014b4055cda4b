"""How a consumer group keeps order and repairs: the choices of a group that an owner plays by."""

from __future__ import annotations

from typing import Literal

import msgspec

OnDead = Literal["block_key", "skip", "stop"]
PROBATION_AFTER = 2
"""Unclean takeovers without progress, from which on attempts are settled before they start."""


class Policy(msgspec.Struct, frozen=True):
    """How one consumer group keeps order and repairs."""

    on_dead: OnDead = "block_key"
    """After a dead letter: the key waits for a requeue or discard, goes on without it, or the partition stops."""
    ordered: bool = True
    """False gives up key order: every event is a key of its own."""
    hold_s: float = 5.0
    """Longest delay for which a key waits in memory; longer ones park it."""
    lane_limit: int = 100
    """Deliveries that may queue behind a held head before its key is parked."""
    window_limit: int = 16_384
    """Delivered events from the watermark on; at this bound the partition is not fetched."""
    parked_limit: int = 2_097_152
    """Unfinished entries in the parking topic; at this bound the partition is not fetched."""
    start_limit: int = 64
    """Parked entries of one key that one append may start."""
