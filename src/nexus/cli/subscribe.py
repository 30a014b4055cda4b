"""`nexus subscribe`: consume as a member of a group, into the terminal or a command."""

from __future__ import annotations

import asyncio
from typing import Any, Literal

import click

from nexus import Event, Nexus
from nexus.cli import _values
from nexus.cli._exits import INTERRUPTED, say
from nexus.cli._root import command as make_command
from nexus.cli._signals import at_end
from nexus.cli._store import find, url_option
from nexus.cli._targets import into_command
from nexus.cli._text import counted, escape_json
from nexus.core.envelope import to_cloudevent


@make_command("subscribe")
@click.argument("patterns", nargs=-1, required=True, metavar="PATTERN...")
@click.option("--group", required=True, help="The consumer group; its members share the events.")
@click.option("--where", metavar="EXPR", help="Only events for which the filter is true.")
@click.option("--from", "start", type=click.Choice(("latest", "earliest")), default="latest", show_default=True,
              help="Where a new group begins.")  # fmt: skip
@click.option("--exec", "program", type=_values.COMMAND, metavar="COMMAND",
              help="Run this for each event, with it as JSON on its stdin.")  # fmt: skip
@click.option("--limit", type=click.IntRange(1), help="End after so many.")
@url_option
def command(
    patterns: tuple[str, ...],
    group: str,
    where: str | None,
    start: Literal["latest", "earliest"],
    program: tuple[str, ...] | None,
    limit: int | None,
    url: str | None,
) -> None:
    """Consume events whose type matches a PATTERN as a member of a group, until Ctrl-C.

    Each is printed in CloudEvents' JSON format and acknowledged, or given to a command: 0 is done,
    anything else is tried again and ends as a dead letter.
    """
    bus = find(url, create=True).bus()
    handled = asyncio.run(_consume(bus, patterns, group, where, start, program, limit))
    say(counted(handled, "event"))
    if limit is not None and handled < limit:
        click.get_current_context().exit(INTERRUPTED)


async def _consume(
    bus: Nexus,
    patterns: tuple[str, ...],
    group: str,
    where: str | None,
    start: Literal["latest", "earliest"],
    program: tuple[str, ...] | None,
    limit: int | None,
) -> int:
    done = asyncio.Event()
    run = into_command(program) if program is not None else None
    handled = 0
    unread: OSError | None = None

    # With a limit one after the other, so that no more than that is taken.
    @bus.on(*patterns, group=group, where=where, start=start, workers=1 if limit is not None else None)
    async def handle(event: Event[Any]) -> None:
        nonlocal handled, unread
        if done.is_set():
            await asyncio.Event().wait()  # it is given back when the bus closes
        if run is not None:
            await run(event)
        else:
            try:
                click.echo(escape_json(to_cloudevent(event).decode()))
            except OSError as error:  # no fault of the event, which would be tried again and end as a dead letter
                unread = error
                done.set()
                await asyncio.Event().wait()
        handled += 1
        if limit is not None and handled >= limit:
            done.set()

    at_end(done.set)
    async with bus:
        await done.wait()
        bus.consumer(group).interrupt_all("enough")
    if unread is not None:
        raise unread
    return handled
