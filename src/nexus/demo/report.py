"""The demo's report: what happened, whether it adds up, and how it is printed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from nexus.demo.repair import Repaired
from nexus.demo.statistics import DelayRow, Figures

TOP = 5


class Crash(msgspec.Struct, frozen=True):
    """The kill of the worker process, and how long until an event was delivered again."""

    killed_pid: int
    at_handled: int
    recovery_s: float
    start_s: float
    """Of the recovery: until the new process had loaded its code and began to look for work."""


class DeadLetterCounts(msgspec.Struct, frozen=True):
    """Dead letters of a moment, and the events that wait behind them."""

    dead: int
    waiting: int


class CarrierDelay(msgspec.Struct, frozen=True):
    """One carrier over all airports; means in minutes."""

    carrier: str
    departed: int
    mean_departure_delay: float
    mean_arrival_delay: float
    late_percent: float
    cancelled: int


class WeatherDelay(msgspec.Struct, frozen=True):
    """One class of weather; the mean in minutes."""

    wind: str
    rain: str
    departed: int
    mean_departure_delay: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that a run found out; what `-o json` prints."""

    ok: bool
    problems: list[str]
    seconds: float
    flights: int
    published: int
    published_by_type: dict[str, int]
    publish_rate: int
    """Events per second."""
    expected: dict[str, int]
    """Per group: published events of the types it handles."""
    handled: dict[str, int]
    duplicates: dict[str, int]
    """Per group: deliveries that repeated a counted event and were recognised."""
    crash: Crash | None
    dead_letters_before: DeadLetterCounts
    dead_letters_after: DeadLetterCounts
    requeued: int
    discarded: int
    repaired: Repaired | None
    order_violations: int
    top_delays: list[CarrierDelay]
    weather: list[WeatherDelay]
    figures: Figures


def problems_of(
    expected: Mapping[str, int],
    handled: Mapping[str, int],
    aside: Mapping[str, int],
    order_violations: int,
) -> list[str]:
    """Say what does not add up; ``aside``: events of a group that are dead, wait behind such, or were discarded."""
    problems = []
    for group, wanted in expected.items():
        missing = wanted - handled.get(group, 0) - aside.get(group, 0)
        if missing:
            problems.append(
                f"group {group}: of {wanted:,} events {missing:,} were neither handled nor set aside"
                if missing > 0
                else f"group {group}: {-missing:,} events more than were published"
            )
    if order_violations:
        problems.append(f"{order_violations:,} events were out of order")
    return problems


def carriers_by_delay(rows: Iterable[DelayRow]) -> list[CarrierDelay]:
    """Sum up the airports, latest carrier first."""
    by_carrier: dict[str, list[DelayRow]] = {}
    for row in rows:
        by_carrier.setdefault(row.carrier, []).append(row)
    carriers = [
        CarrierDelay(
            carrier,
            departed := sum(row.departed for row in own),
            _mean(sum(row.dep_min for row in own), departed),
            _mean(sum(row.arr_min for row in own), sum(row.arrived for row in own)),
            _mean(100 * sum(row.late for row in own), departed),
            sum(row.cancelled for row in own),
        )
        for carrier, own in by_carrier.items()
    ]
    return sorted(carriers, key=lambda one: (-one.mean_departure_delay, one.carrier))


def weather_delays(figures: Figures) -> list[WeatherDelay]:
    """Return the classes of weather, worst first."""
    classes = [
        WeatherDelay(row.wind, row.rain, row.departed, _mean(row.dep_min, row.departed)) for row in figures.weather
    ]
    return sorted(classes, key=lambda one: (-one.mean_departure_delay, one.wind, one.rain))


def _mean(total: int, count: int) -> float:
    return round(total / count, 2) if count else 0.0


# ---- printing ------------------------------------------------------------------------------------------------------


def render(report: Report) -> str:
    """Return the report as plain text."""
    before, after = report.dead_letters_before, report.dead_letters_after
    parts = [
        f"{report.flights:,} flights, {report.published:,} events published at {report.publish_rate:,} a second",
        table(
            ("group", "events", "handled", "duplicates recognised"),
            [
                (group, f"{wanted:,}", f"{report.handled[group]:,}", f"{report.duplicates[group]:,}")
                for group, wanted in report.expected.items()
            ],
        ),
        "latest carriers, minutes",
        table(
            ("carrier", "departed", "departure", "arrival", "late", "cancelled"),
            [
                (
                    one.carrier,
                    f"{one.departed:,}",
                    f"{one.mean_departure_delay:.1f}",
                    f"{one.mean_arrival_delay:.1f}",
                    f"{one.late_percent:.0f} %",
                    f"{one.cancelled:,}",
                )
                for one in report.top_delays
            ],
        ),
        "mean departure delay by weather, minutes",
        table(
            ("wind", "rain", "departed", "departure"),
            [(one.wind, one.rain, f"{one.departed:,}", f"{one.mean_departure_delay:.1f}") for one in report.weather],
        ),
        f"dead letters    {before.dead} with {before.waiting} events waiting behind them, then {after.dead}: "
        f"{report.requeued} requeued, {report.discarded} discarded",
        f"order           {report.order_violations} violations in {report.figures.flights_checked:,} flights of "
        f"{report.figures.aircraft_checked:,} aircraft",
    ]
    if report.crash is not None:
        parts.append(
            f"crash           first event again {report.crash.recovery_s:.2f} s after the kill, "
            f"of which the new process took {report.crash.start_s:.2f} s to start"
        )
    parts.append(
        f"all adds up     in {report.seconds:.1f} s"
        if report.ok
        else "DOES NOT ADD UP\n" + "\n".join(f"  {problem}" for problem in report.problems)
    )
    return "\n\n".join(parts[: -4 if report.crash else -3]) + "\n\n" + "\n".join(parts[-4 if report.crash else -3 :])


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a table in plain text: the first column to the left, numbers to the right."""
    lines = [head, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    words = [
        all(not line[column][:1].isdigit() and line[column][:1] != "-" for line in rows) for column in range(len(head))
    ]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if word else cell.rjust(width)
            for cell, width, word in zip(line, widths, words, strict=True)
        ).rstrip()
        for line in lines
    )
