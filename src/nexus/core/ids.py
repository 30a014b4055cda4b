"""Event ids: UUIDv7 (RFC 9562 §5.7) as text, strictly rising within a process.

The 74 bits that RFC 9562 leaves free are one counter, seeded at random in each new millisecond with its top bit
clear and raised by a random step within one (§6.2, method 2), so that ids rise although the clock may stand or
step back.
"""

from __future__ import annotations

_COUNTER_BITS = 74
_RAND_B_BITS = 62
_RAND_B = (1 << _RAND_B_BITS) - 1
_VARIANT = 0b10 << _RAND_B_BITS


class Uuid7:
    """Makes rising ids. Not thread-safe; one per bus.

    >>> make = Uuid7()
    >>> make(unix_ms=0x0123456789AB, dice=1)
    '01234567-89ab-7000-8000-000000000001'
    >>> make(unix_ms=0, dice=1)  # the clock stepped back
    '01234567-89ab-7000-8000-000000000003'
    """

    __slots__ = ("_counter", "_head", "_head_of", "_unix_ms")

    def __init__(self) -> None:
        self._unix_ms = -1
        self._counter = 0
        self._head = ""  # time, version and the counter's upper bits as text: they last for a millisecond
        self._head_of = (-1, -1)

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
        upper = (self._unix_ms, self._counter >> _RAND_B_BITS)
        if upper != self._head_of:
            self._head_of = upper
            time = f"{upper[0]:012x}"
            self._head = f"{time[:8]}-{time[8:]}-7{upper[1]:03x}-"
        tail = f"{_VARIANT | self._counter & _RAND_B:x}"
        return f"{self._head}{tail[:4]}-{tail[4:]}"
