"""`nexus replay`: stored events once more, into a group, a topic, a file or a command; no live group moves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections import Counter
from collections.abc import Container
from pathlib import Path
from typing import Any

import click
import msgspec

from nexus import Event, Nexus, NexusError
from nexus.cli import _values
from nexus.cli._exits import Gone, say
from nexus.cli._output import output_option, print_one, print_rows
from nexus.cli._progress import Progress
from nexus.cli._root import group
from nexus.cli._signals import at_end
from nexus.cli._store import find, groups_of, opened, url_option
from nexus.cli._targets import into_command, into_file, into_topic
from nexus.cli._text import counted
from nexus.cli._who import who
from nexus.core.control import replay_group
from nexus.core.filter import compile_filter
from nexus.runtime.replays import ReplayInfo, Selection

FIELDS = ("id", "group", "state", "read", "total", "parked", "dead", "who")
DRY_FIELDS = ("type", "events")
_SAMPLE = 5
_LOOK_S = 0.5


@group("replay")
def command() -> None:
    """Replay stored events, and look after replays."""


@command.command("run")
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--topic", "topics", multiple=True, help="Only this topic; may be given several times.")
@click.option(
    "--from", "begin", metavar="PLACE", help="Events stored from this on: earliest, -10m or a time (RFC 3339)."
)
@click.option("--to", "end", metavar="PLACE", help="Events stored before this; the same forms as --from.")
@click.option("--where", metavar="EXPR", help="Only events for which the filter is true.")
@click.option("--key", help="Only events with this key.")
@click.option("--correlation", metavar="ID", help="Only events of this correlation id.")
@click.option("--to-group", metavar="NAME", help="Into this group; programs with its handlers do it.")
@click.option("--to-topic", metavar="NAME", help="Into this topic; made if it is not there.")
@click.option("--to-file", type=click.Path(dir_okay=False, path_type=Path), help="Into a file of JSON lines.")
@click.option("--exec", "program", type=_values.COMMAND, metavar="COMMAND",
              help="Into a command, one event as JSON on its stdin; 0 is done.")  # fmt: skip
@click.option("--rate", type=_values.RATE, help="At most so many, such as 50/s.")
@click.option("--dry-run", is_flag=True, help="Only count what would be replayed, and show some of it.")
@click.option("--resume", metavar="ID", help="Go on with a replay that was interrupted; only with its target.")
@click.option("--no-wait", is_flag=True, help="Do not wait for a replay into a group.")
@click.option("--yes", is_flag=True, help="Also into a topic that is read itself, or that a group consumes.")
@output_option("table", "json", "yaml")
@url_option
def run(
    patterns: tuple[str, ...],
    topics: tuple[str, ...],
    begin: str | None,
    end: str | None,
    where: str | None,
    key: str | None,
    correlation: str | None,
    to_group: str | None,
    to_topic: str | None,
    to_file: Path | None,
    program: tuple[str, ...] | None,
    rate: float | None,
    dry_run: bool,
    resume: str | None,
    no_wait: bool,
    yes: bool,
    output: str,
    url: str | None,
) -> None:
    """Replay events whose type matches a PATTERN (all without one).

    They go to one target, marked with the attribute nexusreplay. What was interrupted goes on
    with --resume and the same target alone: what was handled last may come again.
    """
    targets = [target for target in (to_group, to_topic, to_file, program) if target is not None]
    if len(targets) != (0 if dry_run else 1):
        raise click.UsageError("give one of --to-group, --to-topic, --to-file, --exec; or --dry-run alone")
    if no_wait and to_group is None:
        raise click.UsageError("--no-wait goes with --to-group; any other replay is carried out by this command")
    if resume is not None:
        chosen = {"PATTERN": patterns, "--topic": topics, "--from": begin, "--to": end, "--where": where, "--key": key,
                  "--correlation": correlation, "--rate": rate, "--dry-run": dry_run or None}  # fmt: skip
        given = [name for name, value in chosen.items() if value not in (None, ())]
        if given:
            raise click.UsageError(f"{', '.join(given)} cannot be changed with --resume; give it and the target alone")
    selection = _selection(patterns, topics, begin, end, where, key, correlation)
    if dry_run:
        _dry_run(selection, output, url)
        return
    if to_group is not None:
        info = asyncio.run(_into_group(url, selection, to_group, rate, resume, wait=not no_wait))
    else:
        try:
            info = asyncio.run(_into_here(url, selection, to_topic, to_file, program, rate, resume, yes=yes))
        except asyncio.CancelledError:  # by a signal
            raise KeyboardInterrupt from None
    print_one(_row(info), output)
    if info.state == "cancelled" or info.dead:
        click.get_current_context().exit(1)


def _selection(patterns: tuple[str, ...], topics: tuple[str, ...], begin: str | None, end: str | None,
               where: str | None, key: str | None, correlation: str | None) -> Selection:  # fmt: skip
    now = time.time()
    first, last = _place(begin, "--from", now), _place(end, "--to", now)
    if last == "earliest" or (isinstance(first, float) and isinstance(last, float) and first > last):
        raise click.UsageError("--from is after --to")
    if where is not None:
        compile_filter(where)  # before anything is made
    until = last if isinstance(last, float) else None
    return Selection(patterns or ("**",), topics, first or "earliest", until, where, key, correlation)


def _place(text: str | None, option: str, now: float) -> _values.Place | None:
    try:
        place = None if text is None else _values.place(text, now)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
    if isinstance(place, str) and place.startswith("@"):
        raise click.BadParameter("give a time, or earliest", param_hint=option)
    return place


def _dry_run(selection: Selection, output: str, url: str | None) -> None:
    async def look() -> tuple[Counter[str], list[Event[Any]]]:
        counts: Counter[str] = Counter()
        sample: list[Event[Any]] = []
        async with find(url).bus() as bus:
            with Progress("looking at", None) as progress:
                async for seen in bus.replays.look(selection):
                    counts[seen.stored.event.type] += 1
                    if len(sample) < _SAMPLE:
                        sample.append(seen.stored.event)
                    progress.update(counts.total(), 0)
        return counts, sample

    counts, sample = asyncio.run(look())
    print_rows(
        [{"type": type, "events": count} for type, count in sorted(counts.items())], DRY_FIELDS, output, none=None
    )
    say(f"{counted(counts.total(), 'event')} would be replayed{'; the first:' if sample else ''}")
    for event in sample:
        say(f"  {event.type} {event.id} key={json.dumps(event.key)}")


async def _into_group(
    url: str | None, selection: Selection, group: str, rate: float | None, resume: str | None, *, wait: bool
) -> ReplayInfo:
    async with find(url).bus() as bus:
        if resume is not None:
            await _begun(bus, resume, group)
        id = resume or await bus.replays.start(selection, group=group, rate=rate, who=who())
        say(f"replay {id} into {group}; stop it with `nexus replay cancel {id}`")
        return await _watched(bus, id) if wait else await bus.replays.get(id)


async def _begun(bus: Nexus, id: str, group: str) -> ReplayInfo:
    """Return a replay that goes on. Raises `UsageError` if it is into something else; a group is empty if into none."""
    info = await bus.replays.get(id)
    if info.group != group:
        into = f"group {info.group}" if info.group else "a topic, a file or a command"
        again = f"--to-group {info.group}" if info.group else "the target that it was begun with"
        raise click.UsageError(f"replay {id} is one into {into}; give --resume {id} and {again}")
    return info


async def _watched(bus: Nexus, id: str) -> ReplayInfo:
    """Show how far a replay is until it is over; Ctrl-C ends the showing, not the replay."""
    info = await bus.replays.get(id)
    with Progress("replayed", info.total) as progress:
        while info.state == "running":
            progress.update(info.read, info.read)
            await asyncio.sleep(_LOOK_S)
            info = await bus.replays.get(id)
    return info


async def _into_here(
    url: str | None,
    selection: Selection,
    to_topic: str | None,
    to_file: Path | None,
    program: tuple[str, ...] | None,
    rate: float | None,
    resume: str | None,
    *,
    yes: bool,
) -> ReplayInfo:
    task = asyncio.current_task()
    assert task is not None
    at_end(task.cancel)
    async with find(url).bus() as bus:
        if resume is not None:
            info = await _begun(bus, resume, "")
            if info.state != "running":
                say(f"replay {resume} is {info.state}")
                return info
            ranges = info.replay.ranges
        else:
            ranges = await bus.replays.ranges(selection)
            # Once and for all: a topic that is made for it is no part of it.
            selection = msgspec.structs.replace(selection, ranges=ranges)
        if to_topic is not None:
            if not yes:
                await _refuse_live(bus, to_topic, ranges)
            handler = await into_topic(bus, to_topic, ranges, go_on=resume is not None)
        elif to_file is not None:
            handler = into_file(to_file, go_on=resume is not None)
        else:
            assert program is not None
            handler = into_command(program)
        id = resume or os.urandom(4).hex()
        say(f"replay {id}; if it is interrupted, go on with --resume {id} and the same target")
        wanted = None if resume else selection
        running = asyncio.ensure_future(bus.replays.into(handler, wanted, id=id, rate=rate, who=who()))
        try:
            with Progress("replayed", None) as progress:
                while not running.done():
                    await asyncio.wait([running], timeout=_LOOK_S)
                    if not running.done() and id in bus.control.state.replays:
                        progress.update((await bus.replays.get(id)).read, 0)
            return await running
        finally:
            if not running.done():
                if program is not None:
                    with contextlib.suppress(NexusError):  # it has not begun to consume
                        bus.consumer(replay_group(id)).interrupt_all("interrupted")
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def _refuse_live(bus: Nexus, topic: str, ranges: Container[str]) -> None:
    """Raise `UsageError` for a topic that the replay reads itself, or whose events groups would get once more."""
    if topic in ranges:
        raise click.UsageError(f"this replays topic {topic} into itself; say --yes if that is meant")
    names = await groups_of(bus)
    replays = {replay_group(id) for id in bus.control.state.replays}  # each has an end, and gets nothing new
    for name in names:
        if name not in replays and any(lag.topic == topic for lag in await bus.backend.lag(name)):
            raise click.UsageError(f"topic {topic} is live: group {name} would get it all; say --yes if that is meant")


@command.command("ls")
@output_option("table", "json", "yaml")
@url_option
def ls(output: str, url: str | None) -> None:
    """List replays, the oldest first."""

    async def read() -> list[ReplayInfo]:
        async with opened(url) as bus:
            return list(await bus.replays.all())

    print_rows([_row(info) for info in asyncio.run(read())], FIELDS, output)


@command.command("show")
@click.argument("id")
@output_option("table", "json", "yaml")
@url_option
def show(id: str, output: str, url: str | None) -> None:
    """Show how far the replay ID is."""

    async def read() -> ReplayInfo:
        async with opened(url) as bus:
            return await bus.replays.get(id)

    print_one(_row(asyncio.run(read())), output)


@command.command("cancel")
@click.argument("id")
@url_option
def cancel(id: str, url: str | None) -> None:
    """End the replay ID where it is."""

    async def act() -> ReplayInfo:
        async with opened(url) as bus:
            await bus.replays.cancel(id, who=who())
            return await bus.replays.get(id)

    state = asyncio.run(act()).state
    if state != "cancelled":
        raise Gone(f"replay {id} was {state} before")
    say(f"{id} was cancelled")


def _row(info: ReplayInfo) -> dict[str, object]:
    return {name: getattr(info, name) for name in FIELDS}
