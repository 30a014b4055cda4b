"""So many events per second, whatever is asked when."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.pace import BURST_S, Pace


@given(st.floats(0.1, 10_000), st.lists(st.floats(0, 2), max_size=50))
def test_never_more_than_the_rate_and_a_burst(rate: float, steps: list[float]) -> None:
    pace, now, taken = Pace(rate, 5.0), 5.0, 0
    for step in steps:
        now += step
        room = pace.room(now)
        pace.take(room)
        taken += room
        assert taken <= (now - 5.0) * rate + max(1.0, BURST_S * rate) + 1e-6


@given(st.floats(0.1, 100_000), st.integers(0, 1 << 31))
def test_who_comes_back_when_it_says_finds_room_at_any_date(rate: float, date: int) -> None:
    pace = Pace(rate, float(date))
    pace.take(pace.room(float(date)))
    assert pace.room(pace.wake_at) == 1


def test_there_is_room_for_one_when_it_says_so() -> None:
    pace = Pace(10.0, 0.0)
    assert pace.room(0.0) == 1
    pace.take(1)
    assert pace.room(0.05) == 0
    assert abs(pace.wake_at - 0.1) < 2e-6
    assert pace.room(0.1) == 1
    assert abs(pace.wake_at - 0.1) < 2e-6
    pace.take(3)
    assert pace.room(0.2) == 0, "it is two in debt"
    assert abs(pace.wake_at - 0.4) < 2e-6
