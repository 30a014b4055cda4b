"""`nexus top`: rates and lags, full screen and live."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

import click
import msgspec

from nexus import Nexus
from nexus.cli import _values
from nexus.cli._output import output_option, to_json
from nexus.cli._root import command as make_command
from nexus.cli._signals import until_interrupted
from nexus.cli._store import find, groups_of, opened, shown, topics_of, url_option
from nexus.core.cursor import decode
from nexus.errors import Unavailable


class Look(msgspec.Struct, frozen=True):
    """What was seen of a store at one time."""

    at: float
    ends: dict[str, int]
    """Of each topic, the sum of its ends."""
    lows: dict[str, int]
    """Of each group, the sum of its watermarks."""
    topics: dict[str, dict[str, Any]]
    groups: dict[str, dict[str, Any]]


@make_command("top")
@click.option("--interval", type=_values.DURATION, default="500ms", show_default=True, help="How often to look.")
@click.option("--count", type=click.IntRange(1), help="Look so many times, then end.")
@output_option("table", "json")
@url_option
def command(interval: float, count: int | None, output: str, url: str | None) -> None:
    """Show rates, lags, parked and dead events of a store, until Ctrl-C or q.

    `in_per_s` is what is stored, `out_per_s` how fast watermarks move. With json each look is a line.
    """
    watching = _run(url, interval, count, output)
    if count is None:
        until_interrupted(watching)
    else:
        asyncio.run(watching)


async def _run(url: str | None, interval: float, count: int | None, output: str) -> None:
    async with opened(url) as bus:
        name = shown(find(url).url)
        before = await look(bus)
        if output == "json":
            number = 0
            while count is None or number < count:
                await asyncio.sleep(interval)
                now = await look(bus)
                click.echo(to_json(report(before, now)))
                before, number = now, number + 1
            return
        from nexus.cli._screen import Screen  # a third of a second that only a terminal should cost

        with Screen() as screen:
            number = 0
            while count is None or number < count:
                try:
                    now = await look(bus)
                    screen.show(name, report(before, now), None)
                    before = now
                except Unavailable as error:
                    screen.show(name, report(before, before), error.message)
                number += 1
                if await screen.quit_within(interval):
                    return


async def look(bus: Nexus) -> Look:
    """Read ends, lags and what is parked."""
    backend = bus.backend
    control = await bus.control.read_on()
    ends: dict[str, int] = {}
    topics: dict[str, dict[str, Any]] = {}
    for topic in await topics_of(backend):
        info = await backend.describe(topic)
        ends[topic] = sum(info.end)
        topics[topic] = {"partitions": info.spec.partitions, "events": sum(info.end) - sum(info.first),
                         "size_bytes": info.size_bytes}  # fmt: skip
    lows: dict[str, int] = {}
    groups: dict[str, dict[str, Any]] = {}
    for group in await groups_of(bus):
        lags = await backend.lag(group)
        states = [decode(lag.low, lag.state) for lag in lags]
        lows[group] = sum(lag.low for lag in lags)
        owners = {lag.owner for lag in lags if lag.owner is not None}
        groups[group] = {
            "state": "paused" if control.group(group).paused else "running" if owners else "idle",
            "members": len(owners),
            "lag": sum(max(0, lag.end - lag.low) for lag in lags),
            "parked": sum(state.parked for state in states),
            "dead": sum(state.dead for state in states),
        }
    return Look(time.monotonic(), ends, lows, topics, groups)


def report(before: Look, now: Look) -> dict[str, Any]:
    """Return two tables with rates: of topics and of groups."""
    seconds = now.at - before.at

    def rate(new: Mapping[str, int], old: Mapping[str, int], name: str) -> float:
        return round(max(0, new[name] - old.get(name, new[name])) / seconds, 1) if seconds > 0 else 0.0

    return {
        "topics": [
            {"topic": name, "in_per_s": rate(now.ends, before.ends, name), **row} for name, row in now.topics.items()
        ],
        "groups": [
            {"group": name, "out_per_s": rate(now.lows, before.lows, name), **row} for name, row in now.groups.items()
        ],
    }
