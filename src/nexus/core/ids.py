"""Event ids: UUIDv7 (RFC 9562 §5.7) as text, strictly rising within a process.

The 74 bits that RFC 9562 leaves free are random at the first id of a millisecond; within it the last 48 of them count
up (§6.2, method 1), beginning with their top bit clear, so that ids rise although the clock may stand or step back.
"""

from __future__ import annotations

from collections.abc import Callable

_COUNTER_LIMIT = 1 << 48


class Uuid7:
    """Makes rising ids. Not thread-safe; one per bus. ``dice(n)`` returns n random bits.

    >>> make = Uuid7(dice=lambda bits: 1)
    >>> make(0x0123456789AB)
    '01234567-89ab-7001-8001-000000000001'
    >>> make(0)  # the clock stepped back
    '01234567-89ab-7001-8001-000000000002'
    """

    __slots__ = ("_counter", "_dice", "_head", "_unix_ms")

    def __init__(self, dice: Callable[[int], int]) -> None:
        self._dice = dice
        self._unix_ms = -1
        self._head = ""
        self._counter = 0

    def __call__(self, unix_ms: int) -> str:
        """Return the next id; the time in it is ``unix_ms``, or later if ids of a later one were made."""
        if unix_ms > self._unix_ms:
            self._begin(unix_ms)
        else:
            self._counter += 1
            if self._counter == _COUNTER_LIMIT:
                self._begin(self._unix_ms + 1)
        return f"{self._head}{self._counter:012x}"

    def _begin(self, unix_ms: int) -> None:
        self._unix_ms = unix_ms
        time = f"{unix_ms:012x}"
        self._head = f"{time[:8]}-{time[8:]}-7{self._dice(12):03x}-{0x8000 | self._dice(14):04x}-"
        self._counter = self._dice(47)
