"""The demo's figures by a plain loop over the rows of the extract: no bus, no store, and none of the demo's code."""

from __future__ import annotations

import csv
import gzip
from collections import Counter, defaultdict
from datetime import date, datetime
from importlib.resources import files
from typing import Any

DAY = 1440
FIELDS = ("departed", "dep_min", "late", "arrived", "arr_min", "unknown", "cancelled")


def rows(name: str) -> list[dict[str, str]]:
    packed = (files("nexus.demo") / "data" / f"{name}.csv.gz").read_bytes()
    table = csv.DictReader(gzip.decompress(packed).decode().splitlines())
    return [{name: "" if value == "NA" else value for name, value in row.items()} for row in table]


def clock(text: str) -> int:
    return int(text) // 100 * 60 + int(text) % 100


def utc_min(day: int, text: str, offset: int) -> int:
    """Minutes since year 1, UTC, of a local clock."""
    return day * DAY + clock(text) - offset * 60


def count(days: int | None) -> dict[str, Any]:
    """Return the figures that a run over the first ``days`` must find."""
    # In June: summer time wherever there is any; the airports that the table lacks are at -4 without it.
    offsets = {row["faa"]: int(row["tz"]) + (row["dst"] == "A") for row in rows("airports")}
    types: Counter[str] = Counter()
    delays: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    hours: dict[str, Counter[str]] = defaultdict(Counter)
    lives: dict[str, list[tuple[int, int, str, dict[str, str], int]]] = defaultdict(list)
    flights, tails, keyed, last_dep = 0, set(), 0, 0
    first_day = date(2013, 6, 7).toordinal()
    for number, row in enumerate(rows("flights")):
        day = date(2013, int(row["month"]), int(row["day"])).toordinal()
        if days is not None and day >= first_day + days:
            continue
        flights += 1
        scheduled = utc_min(day, row["sched_dep_time"], -4)
        types["flight.scheduled"] += 1
        if row["tailnum"]:
            tails.add(row["tailnum"])
            keyed += 1
        of_carrier = delays[row["carrier"], row["origin"]]
        if not row["dep_time"]:
            types["flight.cancelled"] += 1
            of_carrier["cancelled"] += 1
            last_dep = max(last_dep, scheduled)
            continue
        types["flight.departed"] += 1
        delay = int(row["dep_delay"])
        departed = scheduled + delay
        last_dep = max(last_dep, departed)
        of_carrier.update(departed=1, dep_min=delay, late=int(delay >= 15))
        hours[f"{row['origin']}.{departed // 60}"].update(departed=1, dep_min=delay)
        lives[row["tailnum"]].append((departed, number, "departed", row, departed))
        if not row["arr_time"]:
            continue
        types["flight.arrived"] += 1
        offset = offsets.get(row["dest"], -4)
        due = utc_min(day, row["sched_arr_time"], offset)
        due += DAY * (due <= scheduled)
        if row["arr_delay"]:
            of_carrier.update(arrived=1, arr_min=int(row["arr_delay"]))
            arrived = due + int(row["arr_delay"])
        else:
            of_carrier.update(unknown=1)
            arrived = departed + ((clock(row["arr_time"]) - offset * 60 - departed) % DAY or DAY)
        lives[row["tailnum"]].append((arrived, number, "arrived", row, arrived))
    weather: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    classes = {}
    for row in rows("weather"):
        hour = datetime.fromisoformat(row["time_hour"])
        at = hour.toordinal() * 24 + hour.hour
        if at * 60 <= last_dep:
            types["weather.observed"] += 1
            wind, rain = float(row["wind_speed"] or -1), float(row["precip"] or -1)
            classes[f"{row['origin']}.{at}"] = (
                "unknown" if wind < 0 else "calm" if wind < 8 else "breeze" if wind < 16 else "strong",
                "unknown" if rain < 0 else "dry" if rain == 0 else "light" if rain < 0.05 else "heavy",
            )
    for name, sums in hours.items():
        weather[classes.get(name, ("unknown", "unknown"))].update(sums)
    turnarounds, repair = follow(lives)
    return {
        "types": dict(types),
        "repair": repair,
        "figures": {
            "delays": [
                dict(zip(("carrier", "origin"), key, strict=True)) | {field: sums[field] for field in FIELDS}
                for key, sums in sorted(delays.items())
            ],
            "aircraft_checked": len(tails),
            "flights_checked": keyed,
            "order_violations": 0,
            "weather": [
                {"wind": wind, "rain": rain, "departed": sums["departed"], "dep_min": sums["dep_min"]}
                for (wind, rain), sums in sorted(weather.items())
            ],
            "turnarounds": turnarounds,
        },
        "flights": flights,
    }


def follow(lives: dict[str, list[tuple[int, int, str, dict[str, str], int]]]) -> tuple[list[Any], dict[str, int]]:
    """Follow each aircraft through its days: the minutes on the ground, and what an operator must decide."""
    found: dict[str, list[int]] = defaultdict(list)
    repair = dict.fromkeys(("dead", "waiting", "requeued", "discarded"), 0)
    for life in lives.values():
        in_air, landed, blocked = None, None, False
        for moment, number, what, row, _ in sorted(life, key=lambda one: one[:2]):
            repair["waiting"] += blocked
            if what == "arrived":
                if not row["arr_delay"]:
                    repair["requeued"] += 1
                    repair["dead"] += not blocked
                    blocked = True
                in_air, landed = None, max(landed or 0, moment)
            elif in_air is not None:
                repair["discarded"] += 1
                repair["dead"] += not blocked
                blocked = True
            else:
                if landed is not None:
                    found[row["carrier"]].append(moment - landed)
                in_air = number
    sums = [
        {"carrier": carrier, "times": len(m), "minutes": sum(m), "shortest": min(m), "longest": max(m)}
        for carrier, m in sorted(found.items())
    ]
    return sums, repair
