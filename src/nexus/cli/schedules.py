"""`nexus schedules`: what is published later, and again and again."""

from __future__ import annotations

import asyncio
import time
from typing import Any, Literal

import click
import msgspec

from nexus.cli import _values
from nexus.cli._exits import say
from nexus.cli._output import output_option, print_rows
from nexus.cli._root import group
from nexus.cli._store import find, url_option
from nexus.cli._text import shown_time
from nexus.cli._who import who
from nexus.event import JSON

_SHORT = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
FIELDS = ("id", "due_at", "type", "key", "cron", "zone", "fault")


@group("schedules")
def command() -> None:
    """List, make, cancel and fire delayed and recurring events."""


@command.command("ls")
@output_option("table", "json", "yaml")
@url_option
def ls(output: str, url: str | None) -> None:
    """List what is published later, the next first.

    `fault` is why this machine cannot tell when, such as that it does not know the time zone.
    """

    async def read() -> list[dict[str, object]]:
        async with find(url).bus() as bus:
            return [
                {"id": one.id, "due_at": shown_time(one.due), "type": one.type, "key": one.key, "cron": one.cron,
                 "zone": one.zone, "fault": one.fault}
                for one in await bus.schedules.all()
            ]  # fmt: skip

    print_rows(asyncio.run(read()), FIELDS, output)


@command.command("later")
@click.argument("type")
@click.argument("data", required=False)
@click.option("--in", "delay", type=_values.DURATION, help="How long from now, such as 30m.")
@click.option("--at", "at", type=_values.TIME, help="When: a time such as 2026-01-31T12:00:00Z.")
@click.option("--key", help="The event's key.")
@url_option
def later(type: str, data: str | None, delay: float | None, at: Any, key: str | None, url: str | None) -> None:
    """Have an event published later, and print its id.

    It has this TYPE and the JSON DATA. Some process of the store must consume by then.
    """
    if (delay is None) is (at is None):
        raise click.UsageError("give either --in or --at")
    payload = None if data is None else _values.payload(data)

    async def publish() -> str:
        async with find(url, create=True).bus() as bus:
            due = at if at is not None else time.time() + (delay or 0)
            return await bus.publish_later(type, payload, at=due, key=key, datacontenttype=JSON)

    click.echo(asyncio.run(publish()))


@command.command("every")
@click.argument("name")
@click.argument("cron")
@click.argument("type")
@click.argument("data", required=False)
@click.option("--zone", default="UTC", show_default=True, help="Time zone, such as Europe/Berlin.")
@click.option("--missed", type=click.Choice(("skip", "once", "all")), default="skip", show_default=True,
              help="What to do about firings while nobody was there.")  # fmt: skip
@click.option("--key", help="The event's key.")
@url_option
def every(
    name: str,
    cron: str,
    type: str,
    data: str | None,
    zone: str,
    missed: Literal["skip", "once", "all"],
    key: str | None,
    url: str | None,
) -> None:
    """Have an event published whenever CRON says so.

    CRON is minute, hour, day, month and weekday in one argument, such as '30 2 * * *'. The schedule
    of a known NAME is changed. Some process of the store must consume by then.
    """
    if cron in _SHORT:
        raise click.BadParameter(
            f"{cron} is written {_SHORT[cron]!r}: minute, hour, day, month, weekday", param_hint="CRON"
        )
    payload = None if data is None else msgspec.json.decode(_values.payload(data))

    async def make() -> None:
        async with find(url, create=True).bus() as bus:
            await bus.schedules.every(name, cron, type, payload, key=key, zone=zone, missed=missed, who=who())

    asyncio.run(make())
    say(f"{name} is scheduled")


@command.command("cancel")
@click.argument("id")
@url_option
def cancel(id: str, url: str | None) -> None:
    """Have a delayed event never be published, or a schedule end.

    ID is that of the event, or the name of the schedule.
    """

    async def act() -> None:
        async with find(url).bus() as bus:
            await bus.schedules.cancel(id, who=who())

    asyncio.run(act())
    say(f"{id} was cancelled")


@command.command("fire")
@click.argument("id")
@url_option
def fire(id: str, url: str | None) -> None:
    """Have a delayed event published now, or a schedule fire once more.

    ID is that of the event, or the name of the schedule.
    """

    async def act() -> None:
        async with find(url).bus() as bus:
            await bus.schedules.fire(id, who=who())

    asyncio.run(act())
    say(f"{id} is due")
