"""The four groups of the demo, and the bus they run on.

Each handler is one transaction of `Statistics.once`; what it raises undoes the transaction, and the group's policy says
what follows. Only `turnaround` can fail: some rows of 2013 make no sense, and it does not guess.
"""

from __future__ import annotations

from datetime import UTC, timedelta
from pathlib import Path
from urllib.parse import quote

import msgspec

from nexus import Context, Event, Nexus, Retry
from nexus.demo.events import PATTERNS, Arrived, Cancelled, Departed, Observed
from nexus.demo.statistics import Statistics

GROUPS = {
    "delays": ("flight.departed", "flight.arrived", "flight.cancelled"),
    "order": ("flight.scheduled", "flight.departed", "flight.arrived", "flight.cancelled"),
    "weather": ("flight.departed", "weather.observed"),
    "turnaround": ("flight.departed", "flight.arrived"),
}
"""The event types that each group handles."""

TOPIC = "flights"
LATE_MIN = 15
_STAGES = {"flight.scheduled": 1, "flight.departed": 2, "flight.cancelled": 2, "flight.arrived": 3}


class NoArrival(Exception):
    """An aircraft departs again, and it has not arrived yet as far as the tables say."""


class NoArrivalTime(Exception):
    """An arrival whose delay was not recorded: when it was cannot be said."""


class Step(msgspec.Struct, frozen=True):
    """What the events of all flights have in common."""

    flight: str
    number: int


def file_url(folder: Path) -> str:
    """The URL of the SQLite file in the demo's folder."""
    return f"sqlite:///{quote(str(folder.resolve() / 'events.db'))}"


def make_bus(url: str) -> Nexus:
    """Make the bus, without handlers."""
    return Nexus(
        url,
        settings={"topics": {TOPIC: {"patterns": list(PATTERNS)}}},
        source="/demo/flights",
    )


def register(bus: Nexus, statistics: Statistics) -> None:
    """Give the bus the handlers of all four groups."""
    _delays(bus, statistics)
    _order(bus, statistics)
    _weather(bus, statistics)
    _turnaround(bus, statistics)


def _delays(bus: Nexus, statistics: Statistics) -> None:
    @bus.on("flight.departed", group="delays", start="earliest", workers=1)
    async def departed(flight: Departed, context: Context) -> None:
        with statistics.once(context) as new:
            if new:
                late = int(flight.delay_min >= LATE_MIN)
                key = (flight.carrier, flight.origin)
                statistics.add("delay", key, departed=1, dep_min=flight.delay_min, late=late)

    @bus.on("flight.arrived", group="delays", start="earliest", workers=1)
    async def arrived(flight: Arrived, context: Context) -> None:
        with statistics.once(context) as new:
            if new and flight.delay_min is None:
                statistics.add("delay", (flight.carrier, flight.origin), unknown=1)
            elif new and flight.delay_min is not None:
                statistics.add("delay", (flight.carrier, flight.origin), arrived=1, arr_min=flight.delay_min)

    @bus.on("flight.cancelled", group="delays", start="earliest", workers=1)
    async def cancelled(flight: Cancelled, context: Context) -> None:
        with statistics.once(context) as new:
            if new:
                statistics.add("delay", (flight.carrier, flight.origin), cancelled=1)


def _order(bus: Nexus, statistics: Statistics) -> None:
    db = statistics.db

    @bus.on("flight.*", group="order", start="earliest", workers=1)
    async def check(step: Step, event: Event[Step], context: Context) -> None:
        with statistics.once(context) as new:
            if not new or event.key is None:  # without a key no order is promised
                return
            row = db.execute("select number, position from last_event where tail = ?", (event.key,)).fetchone()
            number, position = row or (0, -1)
            if step.number != number + 1 or context.position <= position:
                _violation(statistics, step.flight, f"event {step.number} of {event.key} came after {number}")
            db.execute("insert or replace into last_event values(?, ?, ?)", (event.key, step.number, context.position))
            stage = _STAGES[event.type]
            row = db.execute("select stage from flight where id = ?", (step.flight,)).fetchone()
            if stage != (row[0] if row else 0) + 1:
                _violation(statistics, step.flight, f"{event.type} came after stage {row}")
            db.execute("insert or replace into flight values(?, ?)", (step.flight, stage))


def _violation(statistics: Statistics, flight: str, what: str) -> None:
    statistics.db.execute("insert or replace into violation values(?, ?)", (flight, what))


def _weather(bus: Nexus, statistics: Statistics) -> None:
    # An hour's weather and its departures have different keys, so either may come first: each keeps its own side.
    @bus.on("flight.departed", group="weather", start="earliest", workers=1)
    async def departed(flight: Departed, event: Event[Departed], context: Context) -> None:
        with statistics.once(context) as new:
            if new:
                hour = f"{flight.origin}.{event.time.astimezone(UTC):%Y-%m-%dT%H}"
                statistics.add("departure", (hour,), departed=1, dep_min=flight.delay_min)

    @bus.on("weather.observed", group="weather", start="earliest", workers=1)
    async def observed(weather: Observed, event: Event[Observed], context: Context) -> None:
        with statistics.once(context) as new:
            if new:
                row = (event.id, wind_class(weather.wind_mph), rain_class(weather.precip_in))
                statistics.db.execute("insert into weather values(?, ?, ?)", row)


def wind_class(wind_mph: float | None) -> str:
    """Name the wind: below 8 mph, below 16, or more."""
    if wind_mph is None:
        return "unknown"
    return "calm" if wind_mph < 8 else "breeze" if wind_mph < 16 else "strong"


def rain_class(precip_in: float | None) -> str:
    """Name the rain of an hour: none, below a twentieth of an inch, or more."""
    if precip_in is None:
        return "unknown"
    return "dry" if precip_in == 0 else "light" if precip_in < 0.05 else "heavy"


def _turnaround(bus: Nexus, statistics: Statistics) -> None:
    db = statistics.db
    policy = Retry(2, base_s=0.05)

    @bus.on("flight.departed", group="turnaround", start="earliest", workers=1, retry=policy, on_dead="block_key")
    async def departed(flight: Departed, event: Event[Departed], context: Context) -> None:
        with statistics.once(context) as new:
            if not new or event.key is None:
                return
            in_air, landed_at = db.execute(
                "select in_air, landed_at from aircraft where tail = ?", (event.key,)
            ).fetchone() or (None, None)
            if in_air is not None:
                raise NoArrival(f"{event.key} departs as {flight.flight}; {in_air} has not arrived")
            if landed_at is not None:
                _note_turnaround(statistics, flight.carrier, (int(event.time.timestamp()) - landed_at) // 60)
            db.execute("insert or replace into aircraft values(?, ?, null)", (event.key, flight.flight))

    @bus.on("flight.arrived", group="turnaround", start="earliest", workers=1, retry=policy, on_dead="block_key")
    async def arrived(flight: Arrived, event: Event[Arrived], context: Context) -> None:
        if flight.delay_min is None:
            raise NoArrivalTime(f"{flight.flight} arrived, and its delay was not recorded")
        with statistics.once(context) as new:
            if new and event.key is not None:
                landed_at = int((flight.due + timedelta(minutes=flight.delay_min)).timestamp())
                db.execute(
                    "insert into aircraft values(?, null, ?) on conflict do update"
                    " set in_air = null, landed_at = max(coalesce(landed_at, 0), excluded.landed_at)",
                    (event.key, landed_at),
                )


def _note_turnaround(statistics: Statistics, carrier: str, minutes: int) -> None:
    statistics.db.execute(
        "insert into turnaround values(:c, 1, :m, :m, :m) on conflict do update set times = times + 1,"
        " minutes = minutes + :m, shortest = min(shortest, :m), longest = max(longest, :m)",
        {"c": carrier, "m": minutes},
    )
