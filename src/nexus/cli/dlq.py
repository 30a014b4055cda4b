"""`nexus dlq`: what groups gave up on. Look, repair, try again or give up for ever."""

from __future__ import annotations

import asyncio
import getpass
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import IO

import click

from nexus import NexusError, SettingsError
from nexus.cli import _edit, _values
from nexus.cli._exits import CONFLICT, NOT_FOUND, Gone, NotFound, say
from nexus.cli._letters import FIELDS, SHOW_FIELDS, as_row, as_show_row, lines_of
from nexus.cli._output import output_option, print_one, print_rows
from nexus.cli._root import group
from nexus.cli._store import opened, url_option
from nexus.core.filter import compile_filter
from nexus.runtime.deadletters import DeadLetterInfo, DeadLetters, NotDead

RESULT_FIELDS = ("id", "result")
Act = Callable[[DeadLetters, DeadLetterInfo], Awaitable[bool]]


@group("dlq")
def command() -> None:
    """List, show, edit, requeue and discard dead letters."""


def _filters(function: Callable[..., object]) -> Callable[..., object]:
    for option in (
        click.option("--where", metavar="EXPR", help="Only events for which the filter is true."),
        click.option("--topic", help="Only of this topic."),
        click.option("--group", help="Only of this group."),
    ):
        function = option(function)
    return function


_yes = click.option("--yes", is_flag=True, help="Do it without asking.")


@command.command("ls")
@_filters
@output_option("table", "json", "yaml")
@url_option
def ls(group: str | None, topic: str | None, where: str | None, output: str, url: str | None) -> None:
    """List dead letters, the oldest first within a partition."""

    async def read() -> list[DeadLetterInfo]:
        async with opened(url) as bus:
            return await _chosen(bus.dead_letters, group, topic, where)

    print_rows([as_row(letter) for letter in asyncio.run(read())], FIELDS, output)


@command.command("show")
@click.argument("id")
@output_option("table", "json", "yaml")
@url_option
def show(id: str, output: str, url: str | None) -> None:
    """Show the dead letter ID: its event, each failure, and what waits behind it."""

    async def read() -> DeadLetterInfo:
        async with opened(url) as bus:
            return await _get(bus.dead_letters, id)

    letter = asyncio.run(read())
    row = as_show_row(letter)
    assert tuple(row) == SHOW_FIELDS
    print_one(row, output, lambda: lines_of(letter))


@command.command("edit")
@click.argument("id")
@click.option("--patch", type=click.File("rb"), help="A JSON merge patch (RFC 7396) instead of the editor; - is stdin.")
@_yes
@url_option
def edit(id: str, patch: IO[bytes] | None, yes: bool, url: str | None) -> None:
    """Change the payload of the dead letter ID in $EDITOR, look at the difference, and requeue it.

    The payload must be strict JSON. The original is kept.
    """

    async def get() -> DeadLetterInfo:
        async with opened(url) as bus:
            return await _get(bus.dead_letters, id)

    async def requeue(data: bytes) -> bool:
        async with opened(url) as bus:
            return await bus.dead_letters.requeue(letter, data=data, who=_who())

    letter = asyncio.run(get())  # the store is not kept open while somebody thinks
    before = (letter.edited or letter.event).body
    new = _edit.patched(letter, patch.read()) if patch is not None else _edit.in_editor(letter)
    if new == before:
        say("nothing was changed, and nothing was done")
        return
    click.echo("\n".join(_edit.difference(letter, new)), err=True)
    _ask(f"Requeue {id} with this change?", yes)
    if not asyncio.run(requeue(new)):
        raise Gone(f"{id} was requeued or discarded meanwhile", hint="nexus dlq ls")
    print_rows([{"id": id, "result": "requeued"}], RESULT_FIELDS, "table")


@command.command("requeue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@_filters
@click.option("--rate", type=_values.RATE, help="At most so many, such as 50/s.")
@_yes
@output_option("table", "json", "yaml")
@url_option
def requeue(ids: tuple[str, ...], everything: bool, group: str | None, topic: str | None, where: str | None,
            rate: float | None, yes: bool, output: str, url: str | None) -> None:  # fmt: skip
    """Have the groups try the dead letters again: those with the given IDs, or --all."""
    _check(ids, everything, (group, topic, where))

    async def one(letters: DeadLetters, letter: DeadLetterInfo) -> bool:
        return await letters.requeue(letter, who=_who())

    _act("Requeue", "requeued", one, ids, (group, topic, where), rate, yes or not everything, output, url)


@command.command("discard")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@_filters
@click.option("--why", default="", help="The reason, kept with it.")
@click.option("--rate", type=_values.RATE, help="At most so many, such as 50/s.")
@_yes
@output_option("table", "json", "yaml")
@url_option
def discard(ids: tuple[str, ...], everything: bool, group: str | None, topic: str | None, where: str | None, why: str,
            rate: float | None, yes: bool, output: str, url: str | None) -> None:  # fmt: skip
    """Give dead letters up for ever: those with the given IDs, or --all. Their keys go on."""
    _check(ids, everything, (group, topic, where))

    async def one(letters: DeadLetters, letter: DeadLetterInfo) -> bool:
        return await letters.discard(letter, why=why, who=_who())

    _act("Discard", "discarded", one, ids, (group, topic, where), rate, yes, output, url)


# -- acting on many --------------------------------------------------------------------------------------------------


def _check(ids: Sequence[str], everything: bool, filters: Sequence[str | None]) -> None:
    if bool(ids) == everything:
        raise click.UsageError("give IDs, or --all with filters")
    if ids and any(filters):
        raise click.UsageError("filters go with --all, not with IDs")


def _act(verb: str, done: str, act: Act, ids: Sequence[str], filters: tuple[str | None, str | None, str | None],
         rate: float | None, yes: bool, output: str, url: str | None) -> None:  # fmt: skip
    async def find() -> tuple[list[DeadLetterInfo], list[str]]:
        async with opened(url) as bus:
            if not ids:
                return await _chosen(bus.dead_letters, *filters), []
            found, missing = [], []
            for id in dict.fromkeys(ids):
                try:
                    found.append(await _get(bus.dead_letters, id))
                except (NotDead, NotFound):
                    missing.append(id)
            return found, missing

    async def work() -> list[dict[str, object]]:
        rows: list[dict[str, object]] = [{"id": id, "result": "not found"} for id in missing]
        started = time.monotonic()
        async with opened(url) as bus:
            try:
                for number, letter in enumerate(letters):
                    if rate is not None:
                        await asyncio.sleep(max(0.0, number / rate - (time.monotonic() - started)))
                    taken = await act(bus.dead_letters, letter)
                    rows.append({"id": letter.id, "result": done if taken else "gone"})
            except (NexusError, asyncio.CancelledError):
                say(f"{done} {sum(row['result'] == done for row in rows)} of {len(letters)} before this:")
                raise
        return rows

    letters, missing = asyncio.run(find())
    if letters and not yes:
        groups = sorted({letter.group for letter in letters})
        shown = ", ".join(letter.id for letter in letters[:3]) + (", …" if len(letters) > 3 else "")
        say(f"{len(letters)} dead letters of {', '.join(groups)}: {shown}")
        _ask(f"{verb} {len(letters)}?", yes)
    rows = asyncio.run(work()) if letters or missing else []
    print_rows(rows, RESULT_FIELDS, output)
    results = [row["result"] for row in rows]
    say(f"{done} {results.count(done)} of {len(rows)}")
    context = click.get_current_context()
    if "gone" in results:
        context.exit(CONFLICT)
    if "not found" in results:
        context.exit(NOT_FOUND)


def _ask(question: str, yes: bool) -> None:
    """Go on only after a yes. Without anybody to ask, ``--yes`` must have been given."""
    if yes:
        return
    try:
        agreed = click.confirm(question, err=True)
    except click.Abort as abort:
        if isinstance(abort.__context__, KeyboardInterrupt):
            raise
        raise click.UsageError("nobody answered; say --yes to do it without asking") from None
    if not agreed:
        say("nothing was done")
        click.get_current_context().exit(1)


async def _get(letters: DeadLetters, id: str) -> DeadLetterInfo:
    try:
        return await letters.get(id)
    except SettingsError as error:  # a partition that the topic does not have
        raise NotFound(f"there is no dead letter {id}: {error.message}", hint="nexus dlq ls") from error


async def _chosen(
    letters: DeadLetters, group: str | None, topic: str | None, where: str | None
) -> list[DeadLetterInfo]:
    wanted = compile_filter(where) if where else None
    found = await letters.all(group, topic)
    return [letter for letter in found if wanted is None or wanted.matches(letter.edited or letter.event)]


def _who() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return ""
