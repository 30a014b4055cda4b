"""What is published: the payloads, and the timeline that turns the tables into events in the order of their time.

Every aircraft (key: its tail number) counts its events from 1, so that a handler can tell whether they come in order.
A flight without a tail number has no key and no count. An event's time is the local time at the airport, as recorded.
That a flight is *scheduled* has no time in the tables; it is published an hour before the planned departure, which is
earlier than the earliest departure (43 minutes early).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from nexus.demo.tables import Flight, Plane, Tables, Weather, first_after

PATTERNS = ("flight.*", "weather.observed")
_AHEAD = timedelta(hours=1)
_UNKNOWN_PLANE = Plane(None, None)


class Scheduled(msgspec.Struct, frozen=True):
    """A flight is planned."""

    flight: str
    number: int
    carrier: str
    origin: str
    dest: str
    departs: datetime
    model: str | None
    seats: int | None


class Departed(msgspec.Struct, frozen=True):
    """A flight left its gate."""

    flight: str
    number: int
    carrier: str
    origin: str
    delay_min: int


class Arrived(msgspec.Struct, frozen=True):
    """A flight reached its gate."""

    flight: str
    number: int
    carrier: str
    origin: str
    dest: str
    departed: datetime
    due: datetime
    arr_time: int
    """The clock at the destination, hhmm."""
    delay_min: int | None
    """None: was not recorded, as for most flights that were diverted."""
    air_min: int | None


class Cancelled(msgspec.Struct, frozen=True):
    """A flight did not take place."""

    flight: str
    number: int
    carrier: str
    origin: str


class Observed(msgspec.Struct, frozen=True):
    """The weather of one hour at one airport."""

    airport: str
    temp_f: float | None
    wind_mph: float | None
    precip_in: float | None
    visib_miles: float | None


class Planned(msgspec.Struct, gc=False):
    """An event to be published: its place in the timeline, and the row it is made of."""

    time: datetime
    type: str
    row: Flight | Weather
    number: int = 0
    """The n-th event of its aircraft; 0 without one."""

    @property
    def key(self) -> str | None:
        return self.row.airport if isinstance(self.row, Weather) else self.row.tail

    @property
    def id(self) -> str:
        if isinstance(self.row, Weather):
            return f"{self.row.airport}.{self.row.hour.astimezone(UTC):%Y-%m-%dT%H}"
        return f"{self.row.id}.{self.type.rpartition('.')[2]}"

    @property
    def subject(self) -> str:
        return self.row.airport if isinstance(self.row, Weather) else f"{self.row.carrier}{self.row.number}"


def timeline(tables: Tables) -> list[Planned]:
    """Return every event of the tables in the order of time, each aircraft's events counted."""
    ordered = [Planned(one.hour, "weather.observed", one) for one in tables.weather]
    for flight in tables.flights:
        ordered += _events_of(flight)
    # A stable sort: of one minute's events each flight's come in the order of its life.
    ordered.sort(key=lambda planned: planned.time.timestamp())
    counts: dict[str, int] = {}
    for planned in ordered:
        if isinstance(planned.row, Flight) and planned.row.tail is not None:
            planned.number = counts[planned.row.tail] = counts.get(planned.row.tail, 0) + 1
    return ordered


def _events_of(flight: Flight) -> Iterator[Planned]:
    yield Planned(flight.scheduled - _AHEAD, "flight.scheduled", flight)
    if flight.departed is None:
        yield Planned(flight.scheduled, "flight.cancelled", flight)
        return
    yield Planned(flight.departed, "flight.departed", flight)
    if flight.arrived is not None:
        yield Planned(flight.arrived, "flight.arrived", flight)


def payload_of(planned: Planned, tables: Tables) -> Any:
    """Return the payload of an event."""
    row = planned.row
    if isinstance(row, Weather):
        return Observed(row.airport, row.temp_f, row.wind_mph, row.precip_in, row.visib_miles)
    common = (row.id, planned.number, row.carrier, row.origin)
    if planned.type == "flight.scheduled":
        plane = tables.planes.get(row.tail or "", _UNKNOWN_PLANE)
        return Scheduled(*common, row.dest, row.scheduled, plane.model, plane.seats)
    if planned.type == "flight.cancelled":
        return Cancelled(*common)
    assert row.delay_min is not None
    if planned.type == "flight.departed":
        return Departed(*common, row.delay_min)
    assert row.departed is not None
    assert row.arr_time is not None
    return Arrived(*common, row.dest, row.departed, row.due, row.arr_time, row.arr_delay_min, row.air_min)


def repaired(arrived: Arrived) -> Arrived:
    """Return the event with the delay that its own clock and plan give."""
    moment = first_after(arrived.departed, arrived.arr_time, arrived.due)
    return msgspec.structs.replace(arrived, delay_min=(moment - arrived.due) // timedelta(minutes=1))
