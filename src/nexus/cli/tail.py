"""`nexus tail`: watch what was published, without a group; nobody is affected."""

from __future__ import annotations

import asyncio
import base64
import re
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import click
import msgspec

from nexus import Event
from nexus.cli import _values
from nexus.cli._exits import NotFound
from nexus.cli._output import cell, output_option, to_json
from nexus.cli._reading import At, Seen, find_event, merged, starts
from nexus.cli._root import command as make_command
from nexus.cli._signals import until_interrupted
from nexus.cli._store import opened, topics_of, url_option
from nexus.cli._text import escape, escape_json, shown_time
from nexus.core.envelope import to_cloudevent
from nexus.core.filter import compile_filter
from nexus.core.pattern import Pattern, validate_pattern
from nexus.event import is_json
from nexus.spi.backend import Backend

LAST = 10
_DATA_CHARS = 200

Wanted = Callable[[Event[Any]], bool]


class _Range(NamedTuple):
    begin: _values.Place | None
    end: _values.Place | None
    follow: bool
    limit: int | None


@make_command("tail")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--from", "begin", metavar="PLACE", help="earliest, latest, -10m, a time (RFC 3339) or @ID.")
@click.option("--to", "end", metavar="PLACE", help="Last place to show; the same forms as --from.")
@click.option("--where", metavar="EXPR", help="Show only events for which the filter is true.")
@click.option("--limit", type=click.IntRange(1), help=f"Show at most so many; without --from the last {LAST}.")
@output_option("table", "json", "ce", "raw")
@url_option
def command(
    patterns: tuple[str, ...],
    follow: bool,
    begin: str | None,
    end: str | None,
    where: str | None,
    limit: int | None,
    output: str,
    url: str | None,
) -> None:
    """Watch events whose type matches a PATTERN (all without one).

    Without --from it shows the last events, and with --follow only what comes from now on.
    Nothing is consumed. The formats: a line of a table, json (the same fields), ce (the whole
    event in CloudEvents' JSON format), raw (the payload alone).
    """
    now = time.time()
    span = _Range(_place(begin, "--from", now), _place(end, "--to", now), follow, limit)
    if follow and end is not None:
        raise click.UsageError("--follow has no end; leave out --to")
    if isinstance(span.end, float) and _as_time(span.begin, now) > span.end:
        raise click.UsageError("--from is after --to")
    wanted = _wanted(patterns, where)
    showing = _show(url, span, wanted, _writer(output))
    if follow and limit is None:
        until_interrupted(showing)
    else:
        asyncio.run(showing)


def _place(text: str | None, option: str, now: float) -> _values.Place | None:
    try:
        return None if text is None else _values.place(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None


def _as_time(place: _values.Place | None, now: float) -> float:
    return place if isinstance(place, float) else now if place == "latest" else 0.0


def _wanted(patterns: Sequence[str], where: str | None) -> Wanted:
    for pattern in patterns:
        validate_pattern(pattern)
    known = [Pattern(pattern) for pattern in patterns]
    asked = compile_filter(where) if where is not None else None

    def wanted(event: Event[Any]) -> bool:
        if known and not any(pattern.matches(event.type) for pattern in known):
            return False
        return asked is None or asked.matches(event)

    return wanted


async def _show(url: str | None, span: _Range, wanted: Wanted, write: Callable[[Seen], None]) -> None:
    async with opened(url) as bus:
        shown = 0
        async for seen in await _events(bus.backend, span, wanted):
            write(seen)
            shown += 1
            if shown == span.limit:
                break


async def _events(backend: Backend, span: _Range, wanted: Wanted) -> AsyncIterator[Seen]:
    topics = await topics_of(backend)
    last = await _found(backend, topics, span.end)
    until = last.stored.recorded_at if last else span.end if isinstance(span.end, float) else None
    if span.begin is None and not span.follow and until is None:
        return _all_of(await _last(backend, topics, wanted, span.limit or LAST))
    first = await _found(backend, topics, span.begin)
    if first is not None:
        if until is not None and first.stored.recorded_at > until:
            raise click.UsageError("--from is after --to")
        places = await starts(backend, topics, first.stored.recorded_at)
        places[first.topic, first.partition] = first.stored.position
    else:
        places = await starts(backend, topics, span.begin or ("latest" if span.follow else "earliest"))
    return _only(merged(backend, places, until=until, follow=span.follow), wanted)


async def _found(backend: Backend, topics: list[str], place: _values.Place | None) -> Seen | None:
    if not isinstance(place, str) or not place.startswith("@"):
        return None
    found = await find_event(backend, topics, place[1:])
    if found is None:
        raise NotFound(f"no event with the id {place[1:]!r} is stored", hint="it may have been trimmed")
    return found


async def _only(events: AsyncIterator[Seen], wanted: Wanted) -> AsyncIterator[Seen]:
    async for seen in events:
        if wanted(seen.stored.event):
            yield seen


async def _all_of(events: Sequence[Seen]) -> AsyncIterator[Seen]:
    for seen in events:
        yield seen


async def _last(backend: Backend, topics: list[str], wanted: Wanted, count: int) -> Sequence[Seen]:
    """Return the last ``count`` events: read from further and further back until there are enough."""
    first, end = await starts(backend, topics, "earliest"), await starts(backend, topics, "latest")
    back = count
    while True:
        places: dict[At, int] = {at: max(first[at], end[at] - back) for at in end}
        found: deque[Seen] = deque(maxlen=count)
        async for seen in _only(merged(backend, places), wanted):
            found.append(seen)
        if len(found) == count or places == first:
            return found
        back *= 8


# -- formats ---------------------------------------------------------------------------------------------------------


def _writer(output: str) -> Callable[[Seen], None]:
    """Return what writes one event; each is written out at once, so that a pipe sees it."""
    match output:
        case "json":
            return lambda seen: click.echo(to_line(seen))
        case "ce":
            return lambda seen: click.echo(escape_json(_compact(to_cloudevent(seen.stored.event)).decode()))
        case "raw":
            return _write_raw
    return lambda seen: click.echo(_row(seen))


FIELDS = ("recorded_at", "topic", "partition", "position", "type", "key", "id", "data")


def to_line(seen: Seen) -> str:
    """Write the fields of an event as one line of JSON. Numbers of the payload stay as they were written."""
    event = seen.stored.event
    values = _head(seen)
    data, content = _data(event)
    return f"{to_json(values)[:-1]}, {to_json(data)}: {escape_json(content)}}}"


def _head(seen: Seen) -> dict[str, object]:
    event = seen.stored.event
    return {
        "recorded_at": shown_time(seen.stored.recorded_at),
        "topic": seen.topic,
        "partition": seen.partition,
        "position": seen.stored.position,
        "type": event.type,
        "key": event.key,
        "id": event.id,
    }


def _data(event: Event[Any]) -> tuple[str, str]:
    """Return the payload as JSON, and the name it has there: `data_base64` as in CloudEvents for what is no JSON."""
    if not event.body:
        return "data", "null"
    if is_json(event.datacontenttype):
        try:
            return "data", _compact(event.body).decode()
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
    return "data_base64", to_json(base64.b64encode(event.body).decode())


def _compact(text: bytes) -> bytes:
    return msgspec.json.format(text, indent=-1)


def _row(seen: Seen) -> str:
    head = _head(seen)
    data = re.sub(r"\s+", " ", seen.stored.event.body.decode(errors="backslashreplace"))
    if len(data) > _DATA_CHARS:
        data = data[: _DATA_CHARS - 1] + "…"
    place = f"{head['topic']}[{head['partition']}]@{head['position']}"
    cells = (head["recorded_at"], f"{place:16}", f"{cell(head['type']):20}", cell(head["key"]), head["id"])
    return escape("  ".join(str(item) for item in (*cells, data)).rstrip())


def _write_raw(seen: Seen) -> None:
    body = seen.stored.event.body
    if sys.stdout.isatty():
        click.echo(escape(body.decode(errors="backslashreplace"), keep="\n\t"))
    else:
        out = sys.stdout.buffer
        out.write(body + b"\n")
        out.flush()
