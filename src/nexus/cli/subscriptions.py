"""`nexus subscriptions`: groups that are changed while they run. Every process of the store follows."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal

import click

from nexus import Nexus
from nexus.cli import _values
from nexus.cli._asking import ask
from nexus.cli._exits import say
from nexus.cli._output import output_option, print_rows
from nexus.cli._root import Verb, group
from nexus.cli._store import groups_of, opened, url_option
from nexus.cli._who import who
from nexus.core.control import Control
from nexus.core.cursor import decode
from nexus.spi.backend import PartitionLag

FIELDS = ("group", "state", "where", "patterns", "handler", "parked", "dead", "moving")
PLACE_FIELDS = ("group", "topic", "partition", "position")


@group("subscriptions")
def command() -> None:
    """Pause, move and filter groups while they run, and create or remove some."""


@command.command("ls")
@output_option("table", "json", "yaml")
@url_option
def ls(output: str, url: str | None) -> None:
    """List groups and what was decided about them.

    `where` is the filter that was altered, `moving` counts partitions that were sent elsewhere
    and are not there yet, `parked` and `dead` what waits as of the last settle.
    """

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            control = await bus.control.read_on()
            known = {*await groups_of(bus)}
            names = sorted(known | control.created.keys())
            return [_row(name, control, await bus.backend.lag(name) if name in known else []) for name in names]

    print_rows(asyncio.run(read()), FIELDS, output)


def _row(name: str, control: Control, lags: list[PartitionLag]) -> dict[str, object]:
    decided = control.group(name)
    created = control.created.get(name)
    states = {(lag.topic, lag.partition): decode(lag.low, lag.state) for lag in lags}
    moving = [at for at, wish in decided.wishes.items() if at in states and states[at].reset < wish.number]
    return {
        "group": name,
        "state": "paused" if decided.paused else "running" if any(lag.owner for lag in lags) else "idle",
        "where": decided.filters[decided.version] or (created.where if created else None),
        "patterns": list(created.patterns) if created else [],
        "handler": created.handler if created else None,
        "parked": sum(state.parked for state in states.values()),
        "dead": sum(state.dead for state in states.values()),
        "moving": len(moving),
    }


def _do(url: str | None, act: Callable[[Nexus], Awaitable[Any]]) -> Any:
    async def work() -> Any:
        async with opened(url) as bus:
            return await act(bus)

    return asyncio.run(work())


@command.command("pause")
@click.argument("name")
@url_option
def pause(name: str, url: str | None) -> None:
    """Let nothing of the group NAME start until it is resumed.

    What runs goes on until its end.
    """
    _do(url, lambda bus: bus.subscriptions.pause(name, who=who()))
    say(f"{name} is paused")


@command.command("resume")
@click.argument("name")
@url_option
def resume(name: str, url: str | None) -> None:
    """Let the group NAME go on."""
    _do(url, lambda bus: bus.subscriptions.resume(name, who=who()))
    say(f"{name} goes on")


@command.command("alter")
@click.argument("name")
@click.option("--where", metavar="EXPR", help="Only events for which this filter is true, from now on.")
@click.option("--no-where", is_flag=True, help="Lift the filter.")
@url_option
def alter(name: str, where: str | None, no_where: bool, url: str | None) -> None:
    """Filter what the group NAME gets, besides what its code wants.

    It holds from the next event on that each partition's owner fetches.
    """
    if (where is None) is not no_where:
        raise click.UsageError("give either --where or --no-where")
    _do(url, lambda bus: bus.subscriptions.alter(name, where=where, who=who()))
    say(f"{name} is filtered" if where else f"{name} is not filtered any more")


class _Seek(Verb):
    """Takes -10m as the place that it is, and not as options."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" not in args:
            back = [word for word in args if re.match(r"-[0-9]", word)]
            args = [word for word in args if word not in back] + (["--", *back] if back else [])
        return super().parse_args(ctx, args)


@command.command("seek", cls=_Seek)
@click.argument("name")
@click.argument("place")
@click.option("--topic", help="Only in this topic.")
@click.option("--drop-parked", is_flag=True, help="Going forward, also give up what is parked. Dead letters stay.")
@click.option("--yes", is_flag=True, help="Do it without asking.")
@output_option("table", "json", "yaml")
@url_option
def seek(name: str, place: str, topic: str | None, drop_parked: bool, yes: bool, output: str, url: str | None) -> None:
    """Have the group NAME go on at another PLACE.

    It is earliest, latest, -10m, a time (RFC 3339), or TOPIC[PARTITION]@POSITION. Going back, events
    are handled again. Going forward, what lies between is skipped, but for what is parked.
    """
    to = _to(place)
    ask(f"Send {name} to {place}?", yes)

    async def act(bus: Nexus) -> Any:
        if isinstance(to, dict):
            await _refuse_no_partition(bus, to)
        return await bus.subscriptions.seek(name, to, topic=topic, drop_parked=drop_parked, who=who())

    places = _do(url, act)
    rows = [
        {"group": name, "topic": of, "partition": partition, "position": position}
        for of, positions in places.items()
        for partition, position in positions.items()
    ]
    print_rows(rows, PLACE_FIELDS, output)
    say(f"{name} goes on there as soon as a member owns the partition; see `nexus subscriptions ls`")


async def _refuse_no_partition(bus: Nexus, to: dict[str, dict[int, int]]) -> None:
    for topic, positions in to.items():
        partitions = (await bus.backend.describe(topic)).spec.partitions
        if max(positions) >= partitions:
            raise click.BadParameter(f"topic {topic} has {partitions} partitions, from 0 on", param_hint="PLACE")


def _to(place: str) -> Any:
    topic, found, rest = place.partition("[")
    number, closed, position = rest.partition("]@")
    if found and closed and number.isdecimal() and position.isdecimal():
        return {topic: {int(number): int(position)}}
    try:
        to = _values.place(place, time.time())
    except ValueError as error:
        raise click.BadParameter(f"{error}, or TOPIC[PARTITION]@POSITION", param_hint="PLACE") from None
    if isinstance(to, str) and to.startswith("@"):
        raise click.BadParameter("an event's id is no place; use TOPIC[PARTITION]@POSITION", param_hint="PLACE")
    return to


@command.command("create")
@click.argument("name")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option("--handler", required=True, help="Name of a handler that programs registered with @bus.handler.")
@click.option("--where", metavar="EXPR", help="Only events for which the filter is true.")
@click.option(
    "--from",
    "start",
    type=click.Choice(("latest", "earliest")),
    default="latest",
    show_default=True,
    help="Where it begins.",
)
@url_option
def create(
    name: str,
    patterns: tuple[str, ...],
    handler: str,
    where: str | None,
    start: Literal["latest", "earliest"],
    url: str | None,
) -> None:
    """Create the group NAME for events that match a PATTERN.

    Programs that registered the handler run it.
    """

    async def act(bus: Nexus) -> None:
        await bus.subscriptions.create(name, *patterns, handler=handler, where=where, start=start, who=who())

    _do(url, act)
    say(f"{name} was created; programs that have the handler {handler!r} consume it")


@command.command("remove")
@click.argument("name")
@url_option
def remove(name: str, url: str | None) -> None:
    """Have nobody consume the group NAME any more.

    Only one that was created can be removed. Its cursors stay: created again, it goes on.
    """
    _do(url, lambda bus: bus.subscriptions.remove(name, who=who()))
    say(f"{name} was removed")
