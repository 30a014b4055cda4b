"""Event ids: UUIDv7 (RFC 9562 §5.7) as text, strictly rising within a process.

The 74 bits that RFC 9562 leaves free are one counter, seeded at random in each new millisecond with its top bit
clear and raised by a random step within one (§6.2, method 2), so that ids rise although the clock may stand or
step back.
"""

from __future__ import annotations

_COUNTER_BITS = 74
_RAND_B_BITS = 62
_VERSION_VARIANT = (0x7 << 76) | (0b10 << 62)


class Uuid7:
    """Makes rising ids. Not thread-safe; one per bus.

    >>> make = Uuid7()
    >>> make(unix_ms=0x0123456789AB, dice=1)
    '01234567-89ab-7000-8000-000000000001'
    >>> make(unix_ms=0, dice=1)  # the clock stepped back
    '01234567-89ab-7000-8000-000000000003'
    """

    __slots__ = ("_counter", "_unix_ms")

    def __init__(self) -> None:
        self._unix_ms = -1
        self._counter = 0

    def __call__(self, unix_ms: int, dice: int) -> str:
        """Return the next id; ``dice`` are random bits, of which the lowest 73 count."""
        if unix_ms > self._unix_ms:
            self._unix_ms = unix_ms
            self._counter = dice & ((1 << (_COUNTER_BITS - 1)) - 1)
        else:
            self._counter += 1 + (dice & 0xFFFF)
            if self._counter >> _COUNTER_BITS:
                self._unix_ms += 1
                self._counter = dice & 0xFFFF
        counter = self._counter
        number = (
            (self._unix_ms << 80)
            | _VERSION_VARIANT
            | ((counter >> _RAND_B_BITS) << 64)
            | (counter & ((1 << _RAND_B_BITS) - 1))
        )
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
