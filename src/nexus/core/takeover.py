"""Taking a partition over: the cursor by which a new owner fences the one before."""

from __future__ import annotations

import msgspec

from nexus.core import cursor as cursor_codec
from nexus.spi.backend import Cursor


def take_over(stored: Cursor, token: int, in_force: int, *, own: bool = False) -> tuple[Cursor, cursor_codec.State]:
    """Return the cursor by which a new owner fences the old one, and what it says (rules 1 and 13).

    Its epoch is above the stored one, the backend's token and every claim seen in the parking topic. ``own``: the
    stored cursor is this process's own, so nobody has died.
    """
    state = cursor_codec.decode(stored.low, stored.state)
    unclean = state.unclean if own else 0 if state.clean else state.unclean + 1
    state = msgspec.structs.replace(state, clean=False, unclean=unclean)
    text = cursor_codec.encode(stored.low, state)
    assert text is not None, "it differs by two small numbers from one that fitted"
    return Cursor(max(stored.epoch, token, in_force) + 1, stored.low, text), state
