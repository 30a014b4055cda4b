"""Time, as an argument: whoever needs it is given a `Clock`, so tests can give a virtual one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two readings of time, both in seconds."""

    def monotonic(self) -> float:
        """Seconds that only grow; for delays, leases and time limits within this process."""

    def now(self) -> float:
        """Seconds since 1970, UTC; for what is stored: recorded times and due times."""


class SystemClock:
    """The machine's clocks."""

    monotonic = staticmethod(time.monotonic)
    now = staticmethod(time.time)


SYSTEM_CLOCK: Clock = SystemClock()


class SteadyClock:
    """A clock whose `now` starts at another's and then grows with its monotonic time only.

    Delays and due times are counted by it, so that a step of the wall clock neither fires them early nor twice.
    """

    def __init__(self, clock: Clock) -> None:
        self.monotonic = clock.monotonic
        self._offset_s = clock.now() - clock.monotonic()

    def now(self) -> float:
        return self.monotonic() + self._offset_s
