"""Retry policy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.outcome import ACK, DeadLetter, Park, RetryIn
from nexus.core.retry import Retry
from nexus.errors import SettingsError


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_lies_below_its_ceiling(attempt: int, dice: float) -> None:
    decided = Retry(1_000_000, base_s=0.5, cap_s=60).decide(attempt=attempt, failure=ValueError(), dice=dice)
    assert isinstance(decided, RetryIn)
    assert 0 <= decided.delay_s <= min(60, 0.5 * 2 ** min(attempt - 1, 40))


def test_the_last_attempt_is_the_last() -> None:
    assert Retry(2).decide(attempt=2, failure=ValueError(), dice=0.5) == DeadLetter("attempts_exhausted")


def test_what_is_never_retried_dies_at_once() -> None:
    policy = Retry(never=(LookupError,))
    assert policy.decide(attempt=1, failure=KeyError(), dice=0.5) == DeadLetter("not_retryable")
    assert isinstance(policy.decide(attempt=1, failure=ValueError(), dice=0.5), RetryIn)


def test_the_nearest_class_decides() -> None:
    policy = Retry(
        3,
        on={
            Exception: Retry(9, base_s=100, cap_s=100),
            KeyError: DeadLetter("gone"),
            OSError: RetryIn(7),
            ValueError: ACK,
        },
    )
    assert policy.decide(attempt=1, failure=KeyError(), dice=0) == DeadLetter("gone")
    assert policy.decide(attempt=1, failure=ConnectionError(), dice=0) == RetryIn(7)
    assert policy.decide(attempt=1, failure=ValueError(), dice=0) == ACK
    assert policy.decide(attempt=5, failure=TypeError(), dice=0.5) == RetryIn(50)


def test_an_outcome_of_its_own_does_not_retry_for_ever() -> None:
    policy = Retry(3, on={OSError: Park(60)})
    assert policy.decide(attempt=2, failure=OSError(), dice=0) == Park(60)
    assert policy.decide(attempt=3, failure=OSError(), dice=0) == DeadLetter("attempts_exhausted")


@pytest.mark.parametrize("wrong", [{"max_attempts": 0}, {"base_s": -1}, {"base_s": 5, "cap_s": 4}])
def test_a_policy_out_of_range_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        Retry(**wrong)  # type: ignore[arg-type]


def test_the_most_attempts_of_a_policy_count_those_that_it_names() -> None:
    assert Retry(3).most_attempts == 3
    assert Retry(3, on={OSError: Retry(50, on={KeyError: Retry(70)}), ValueError: RetryIn(1)}).most_attempts == 70
