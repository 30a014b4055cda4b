"""`nexus trace`: all events of one correlation id as a tree of what caused what, over all topics."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import click

from nexus.cli import _values
from nexus.cli._exits import NotFound, say
from nexus.cli._output import output_option, print_rows
from nexus.cli._progress import Progress
from nexus.cli._reading import Seen, merged, starts
from nexus.cli._root import command as make_command
from nexus.cli._store import opened, topics_of, url_option
from nexus.cli._text import counted, escape, shown_time
from nexus.runtime.deadletters import DeadLetterInfo

FIELDS = ("id", "causationid", "depth", "type", "key", "topic", "partition", "position", "recorded_at", "after_ms",
          "dead_in")  # fmt: skip

_Place = tuple[str, int, int]
"""Topic, partition and position."""


@make_command("trace")
@click.argument("id")
@click.option(
    "--from",
    "begin",
    metavar="PLACE",
    default="earliest",
    show_default=True,
    help="Where to begin to look: earliest, -1h or a time (RFC 3339).",
)
@output_option("table", "json", "yaml")
@url_option
def command(id: str, begin: str, output: str, url: str | None) -> None:
    """Show what came of the event ID, or of all events with that correlation id.

    Each line is an event below the one that caused it, with the milliseconds since that was stored
    and the groups in which it is a dead letter. It reads everything from --from on: no backend
    keeps an index of correlation ids.
    """
    try:
        place = _values.place(begin, time.time())
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--from") from None
    if isinstance(place, str) and place.startswith("@"):
        raise click.BadParameter("give a time, or earliest", param_hint="--from")
    seen, letters = asyncio.run(_read(url, id, place))
    if not seen:
        raise NotFound(f"no event with the id or correlation id {id!r} is stored", hint="it may have been trimmed")
    rows = list(tree(seen, letters))
    if output == "table":
        for row in rows:
            click.echo(_line(row))
    else:
        print_rows(rows, FIELDS, output)
    say(counted(len(rows), "event"))


async def _read(url: str | None, id: str, place: _values.Place) -> tuple[list[Seen], list[DeadLetterInfo]]:
    found: list[Seen] = []
    async with opened(url) as bus:
        places = await starts(bus.backend, await topics_of(bus.backend), place)
        with Progress("looked at", None) as progress:
            count = 0
            async for one in merged(bus.backend, places):
                count += 1
                if count % 1_000 == 0:
                    progress.update(count, 0)
                event = one.stored.event
                if id in (event.id, event.correlationid):
                    found.append(one)
        return found, await bus.dead_letters.all()


def tree(seen: list[Seen], letters: list[DeadLetterInfo]) -> Iterator[dict[str, Any]]:
    """Yield a row for each event, causes before what they caused.

    Each is known by its place: an id may be there twice, of two sources or of a replay into a topic. A cause is named
    by its id alone; the first with it is taken. Events that name each other as cause begin with the first of them.
    """
    first: dict[str, Seen] = {}
    for one in seen:
        first.setdefault(one.stored.event.id, one)
    dead: dict[_Place, list[str]] = {}
    for letter in letters:
        dead.setdefault((letter.topic, letter.partition, letter.position), []).append(letter.group)
    below: dict[_Place, list[Seen]] = {}
    roots: list[Seen] = []
    for one in seen:
        cause = first.get(one.stored.event.causationid or "")
        if cause is None or cause is one:
            roots.append(one)
        else:
            below.setdefault(_place_of(cause), []).append(one)
    told: set[_Place] = set()
    for root in [*roots, *seen]:
        waiting: list[tuple[Seen, Seen | None, int]] = [(root, None, 0)]
        while waiting:
            one, cause, depth = waiting.pop()
            place = _place_of(one)
            if place in told:
                continue
            told.add(place)
            yield _row(one, cause, depth, dead.get(place, []))
            waiting += [(child, one, depth + 1) for child in reversed(below.get(place, []))]


def _place_of(one: Seen) -> _Place:
    return one.topic, one.partition, one.stored.position


def _row(one: Seen, cause: Seen | None, depth: int, dead_in: list[str]) -> dict[str, Any]:
    event, recorded_at = one.stored.event, one.stored.recorded_at
    return {
        "id": event.id,
        "causationid": event.causationid,
        "depth": depth,
        "type": event.type,
        "key": event.key,
        "topic": one.topic,
        "partition": one.partition,
        "position": one.stored.position,
        "recorded_at": shown_time(recorded_at),
        "after_ms": None if cause is None else round((recorded_at - cause.stored.recorded_at) * 1e3, 1),
        "dead_in": sorted(dead_in),
    }


def _line(row: dict[str, Any]) -> str:
    after = f"+{row['after_ms']:g} ms" if row["after_ms"] is not None else row["recorded_at"]
    dead = f"  DEAD in {', '.join(row['dead_in'])}" if row["dead_in"] else ""
    place = f"{row['topic']}[{row['partition']}]@{row['position']}"
    return escape(f"{'  ' * row['depth']}{row['type']}  {after}  {place}  {row['id']}{dead}")
