"""Retry policy: given a failure, say what happens next. Pure: time and dice come in as arguments.

>>> Retry(max_attempts=3, base_s=1.0).decide(attempt=1, failure=ValueError("x"), dice=0.5)
RetryIn(delay_s=0.5, error='')
>>> Retry(max_attempts=3).decide(attempt=3, failure=ValueError("x"), dice=0.5)
DeadLetter(reason='attempts_exhausted', error='')
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from nexus.core.outcome import Ack, DeadLetter, Park, RetryIn
from nexus.errors import SettingsError

_MAX_EXPONENT = 62


class Retry(msgspec.Struct, frozen=True):
    """How often, how long apart, and for which exceptions.

    Delays are exponential with full jitter: uniform between 0 and ``min(cap_s, base_s * 2 ** (attempt - 1))``.
    """

    max_attempts: int = 5
    base_s: float = 1.0
    cap_s: float = 300.0
    never: tuple[type[BaseException], ...] = ()
    """Exceptions that go to the dead letters at once."""
    on: Mapping[type[BaseException], Retry | RetryIn | Park | DeadLetter | Ack] = msgspec.field(default_factory=dict)
    """Exceptions with a policy or an outcome of their own; the nearest class in the exception's MRO wins."""

    def __post_init__(self) -> None:
        if not 1 <= self.max_attempts <= 1_000_000:
            raise SettingsError(f"max_attempts is {self.max_attempts}; it must be 1 to 1,000,000")
        if not 0 <= self.base_s <= self.cap_s:
            raise SettingsError(f"base_s is {self.base_s} and cap_s is {self.cap_s}; wanted 0 <= base_s <= cap_s")

    @property
    def most_attempts(self) -> int:
        """The most attempts that this policy, or one that it names for an exception, may allow."""
        return max(self.max_attempts, *(own.most_attempts for own in self.on.values() if isinstance(own, Retry)), 0)

    def decide(self, *, attempt: int, failure: BaseException, dice: float) -> RetryIn | Park | DeadLetter | Ack:
        """Decide after failed ``attempt`` (1 is the first); ``dice`` is uniform in [0, 1)."""
        for kind in type(failure).__mro__:
            own = self.on.get(kind)
            if isinstance(own, Retry):
                return own.decide(attempt=attempt, failure=failure, dice=dice)
            if isinstance(own, RetryIn | Park) and attempt >= self.max_attempts:
                break
            if own is not None:
                return own
        if isinstance(failure, self.never):
            return DeadLetter("not_retryable")
        if attempt >= self.max_attempts:
            return DeadLetter("attempts_exhausted")
        # Full jitter, not equal jitter: after an outage it is the spread that
        # protects the recovering service, not the mean.
        ceiling_s = min(self.cap_s, self.base_s * 2.0 ** min(attempt - 1, _MAX_EXPONENT))
        return RetryIn(ceiling_s * dice)
