"""When schedules fire, over a change of the clocks too, and what becomes of missed firings."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from itertools import islice, pairwise, takewhile
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core import cron
from nexus.core.cron import MISSED_LIMIT
from nexus.errors import SettingsError

BERLIN = ZoneInfo("Europe/Berlin")


def at(*parts: int) -> float:
    return datetime(*parts, tzinfo=BERLIN).timestamp()  # type: ignore[arg-type, misc]


def local(times: list[float]) -> list[str]:
    return [datetime.fromtimestamp(time, BERLIN).strftime("%d %H:%M %z") for time in times]


def first(count: int, expression: str, after: float) -> list[str]:
    return local(list(islice(cron.firings(expression, "Europe/Berlin", after), count)))


def test_when_an_hour_is_left_out_a_job_in_it_fires_right_after() -> None:
    assert first(3, "30 2 * * *", at(2026, 3, 28, 0)) == ["28 02:30 +0100", "29 03:00 +0200", "30 02:30 +0200"]


def test_when_an_hour_comes_twice_a_job_in_it_fires_once() -> None:
    assert first(2, "30 2 * * *", at(2026, 10, 25, 0)) == ["25 02:30 +0200", "26 02:30 +0100"]


def test_a_job_of_every_hour_fires_in_both_of_them() -> None:
    found = first(4, "0 * * * *", at(2026, 10, 25, 1))
    assert found == ["25 02:00 +0200", "25 02:00 +0100", "25 03:00 +0100", "25 04:00 +0100"]


@pytest.mark.parametrize(
    ("expression", "zone", "after"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T01:05Z"),
        ("15 1-3 * * *", "Europe/Berlin", "2026-10-25T01:05Z"),
        ("45 1 * * *", "Australia/Lord_Howe", "2026-04-04T15:05Z"),
    ],
)
def test_begun_in_the_second_of_two_equal_hours_nothing_of_the_first_fires(
    expression: str, zone: str, after: str
) -> None:
    begin = datetime.fromisoformat(after).timestamp()
    assert next(cron.firings(expression, zone, begin)) > begin
    past, done, following = cron.due(expression, zone, begin, begin + 60.0, "all")
    assert (past, done) == ([], begin)
    assert following > begin + 60.0


EDGES = [
    ("UTC", "2026-03-01T00:00Z"),
    *(("Europe/Berlin", edge) for edge in ("2026-03-29T01:00Z", "2026-10-25T01:00Z")),
    *(("America/New_York", edge) for edge in ("2026-03-08T07:00Z", "2026-11-01T06:00Z")),
    *(("America/Havana", edge) for edge in ("2026-03-08T05:00Z", "2026-11-01T05:00Z")),
    *(("America/Sao_Paulo", edge) for edge in ("2018-11-04T03:00Z", "2019-02-17T02:00Z")),
    *(("Australia/Lord_Howe", edge) for edge in ("2026-04-04T15:00Z", "2026-10-03T15:30Z")),
    ("Pacific/Apia", "2011-12-30T10:00Z"),  # a day was left out
]


def field(most: int) -> st.SearchStrategy[str]:
    number = st.integers(0, most)
    return st.one_of(
        st.just("*"),
        number.map(str),
        st.integers(1, most).map(lambda step: f"*/{step}"),
        st.lists(number, min_size=2, max_size=4, unique=True).map(lambda some: ",".join(map(str, sorted(some)))),
    )


@given(st.sampled_from(EDGES), st.integers(-10_800, 10_800), field(59), field(23) | st.sampled_from("0123"))
def test_firings_rise_from_wherever_they_are_begun(edge: tuple[str, str], offset: int, minute: str, hour: str) -> None:
    zone, moment = edge
    after = datetime.fromisoformat(moment).timestamp() + offset
    times = [after, *islice(cron.firings(f"{minute} {hour} * * *", zone, after), 50)]
    assert all(earlier < later for earlier, later in pairwise(times))
    if zone != "Australia/Lord_Howe":  # cronsim passes over some where clocks change by half an hour
        earlier = cron.firings(f"{minute} {hour} * * *", zone, after - 86_400.0)
        assert [time for time in takewhile(lambda time: time <= times[-1], earlier) if time > after] == times[1:]


@pytest.mark.parametrize(
    ("expression", "zone"),
    [
        ("61 * * * *", "UTC"),
        ("* * * * *", "Mars/Base"),
        ("0 0 31 2 *", "UTC"),
        ("0 0 */29 2 MON#3", "UTC"),
        ("0 0 0 * * *", "UTC"),
    ],
)
def test_what_never_fires_is_refused(expression: str, zone: str) -> None:
    with pytest.raises(SettingsError):
        cron.check(expression, zone)


def test_before_its_time_nothing_is_due() -> None:
    assert cron.due("0 * * * *", "UTC", 0.0, 3_599.0, "skip") == ([], 0.0, 3_600.0)


def test_a_firing_within_a_minute_is_on_time() -> None:
    assert cron.due("0 * * * *", "UTC", 0.0, 3_630.0, "skip") == ([3_600.0], 3_600.0, 7_200.0)


def test_missed_firings_are_skipped_made_up_for_once_or_all() -> None:
    now = 3 * 3_600.0 + 1_000.0
    past = [3_600.0, 7_200.0, 10_800.0]
    assert cron.due("0 * * * *", "UTC", 0.0, now, "skip") == ([], 0.0, 14_400.0), "nobody looked for them"
    assert cron.due("0 * * * *", "UTC", 0.0, now, "once") == ([10_800.0], 10_800.0, 14_400.0)
    assert cron.due("0 * * * *", "UTC", 0.0, now, "all") == (past, 10_800.0, 14_400.0)


def test_not_more_than_a_thousand_are_made_up_for() -> None:
    found, done, _ = cron.due("* * * * *", "UTC", 0.0, 60.0 * 5_000, "all")
    assert (len(found), found[-1], done) == (MISSED_LIMIT, 300_000.0, 300_000.0)


@pytest.mark.parametrize(("missed", "made_up_for"), [("skip", 0), ("once", 1), ("all", cron.MISSED_LIMIT)])
def test_a_year_of_minutes_is_not_walked_through(missed: cron.Missed, made_up_for: int) -> None:
    now = 365 * 86_400.0 + 30.0
    looked: list[float] = []
    firings = cron.firings

    def counted(expression: str, zone: str, after: float) -> Iterator[float]:
        for time in firings(expression, zone, after):
            looked.append(time)
            yield time

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cron, "firings", counted)
        times, done, following = cron.due("* * * * *", "UTC", 0.0, now, missed)
    assert (len(times), following) == (max(made_up_for, 1), now + 30)
    assert times == [now - 30 - 60 * back for back in reversed(range(len(times)))]
    assert done == now - 30
    assert len(looked) < 10_000, "not half a million"
