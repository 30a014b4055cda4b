"""Taking a partition over: the cursor by which a new owner fences the one before."""

from __future__ import annotations

import msgspec

from nexus.core import cursor as cursor_codec
from nexus.core.parking import Fold
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


def begin_fold(state: cursor_codec.State) -> Fold:
    """Return the fold of the parking topic from where a cursor says that reading begins."""
    return Fold(state.place, state.place_epoch, state.base, state.place_reset)


def after_reset(cursor: Cursor, state: cursor_codec.State, fold: Fold) -> tuple[Cursor, cursor_codec.State]:
    """Let a cursor follow a `Reset` that it does not know yet: the owner that wrote it died before it could settle."""
    if fold.reset <= state.reset:
        return cursor, state
    cuts = tuple((fold.reset_to, filter) for _, filter in state.cuts[-1:])  # what is handled again, by today's filter
    state = msgspec.structs.replace(state, done=(), attempts=(), unclean=0, reset=fold.reset, cuts=cuts)
    text = cursor_codec.encode(fold.reset_to, state)
    assert text is not None, "nothing of it is long"
    return Cursor(cursor.epoch, fold.reset_to, text), state
