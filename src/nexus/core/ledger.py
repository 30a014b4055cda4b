"""The ledger of one owned partition: what was delivered and what is done, above a watermark.

The watermark (``low``) is the lowest delivered position that is not done, or one above the highest delivered.
It is never computed from gaps: positions may skip. Attempts are kept for what is not done.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable


class Ledger:
    """Delivered positions in order, those done among them, and the attempts of the rest.

    >>> ledger = Ledger(low=5, done=[7])
    >>> [ledger.begin(position) for position in (5, 6, 7, 9)]  # 7 was done before; 8 is a gap
    [True, True, False, True]
    >>> ledger.finish(5); ledger.low
    6
    >>> ledger.finish(6); ledger.low  # over 7, and over the gap
    9
    """

    __slots__ = ("_above", "_next", "_open", "_stored", "attempts")

    def __init__(self, low: int, done: Iterable[int] = (), attempts: dict[int, int] | None = None) -> None:
        self._next = low
        self._stored = set(done)  # done by an earlier owner, not yet met again
        self._open: deque[int] = deque()  # delivered, from the watermark on
        self._above: set[int] = set()  # done among them
        self.attempts = attempts or {}

    def begin(self, position: int) -> bool:
        """Take a delivered position in; False if it is done already. Positions must rise."""
        assert position >= self._next, (position, self._next)
        self._next = position + 1
        self._open.append(position)
        if self._stored and position in self._stored:
            self._stored.discard(position)
            self.finish(position)
            return False
        return True

    def finish(self, position: int) -> None:
        """Mark a delivered position done."""
        delivered = self._open
        self.attempts.pop(position, None)
        if delivered[0] != position:
            self._above.add(position)
            return
        delivered.popleft()
        above = self._above
        while above and delivered and delivered[0] in above:
            above.discard(delivered.popleft())

    def skip_to(self, first: int) -> None:
        """Go on at ``first``, because what is below was trimmed. What was delivered before stays as it is."""
        self._next = max(self._next, first)
        self._stored = {position for position in self._stored if position >= first}
        delivered = set(self._open)
        self.attempts = {p: n for p, n in self.attempts.items() if p >= first or p in delivered}

    @property
    def low(self) -> int:
        """The watermark."""
        return self._open[0] if self._open else self._next

    @property
    def next(self) -> int:
        """Where fetching goes on."""
        return self._next

    @property
    def done(self) -> list[int]:
        """Positions above the watermark that are done, rising."""
        return sorted(self._above | self._stored)

    def __len__(self) -> int:
        """Count of delivered positions from the watermark on: what the window bounds."""
        return len(self._open)
