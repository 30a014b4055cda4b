"""`nexus dlq`: what groups gave up on. Look, repair, try again or give up for ever."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import click

from nexus import Nexus
from nexus.cli import _edit, _values
from nexus.cli._asking import ask, refuse_nobody
from nexus.cli._exits import Gone, NotFound, say
from nexus.cli._letters import ERROR_FIELDS, FIELDS, SHOW_FIELDS, as_line, as_row, as_show_row, by_error, lines_of
from nexus.cli._output import output_option, print_one, print_rows
from nexus.cli._repair import RESULT_FIELDS, Chosen, act
from nexus.cli._root import group
from nexus.cli._store import find, opened, url_option
from nexus.cli._who import who
from nexus.errors import NexusError, SettingsError, UnknownGroup, UnknownTopic
from nexus.runtime.deadletters import DeadLetterInfo, DeadLetters, NotDead

_NAME_CHARS = 40
"""Of the file's name in that of its part: there is room for a few more characters."""


@group("dlq")
def command() -> None:
    """List, show, edit, requeue, discard and export dead letters."""


_yes = click.option("--yes", is_flag=True, help="Do it without asking.")


@command.command("ls")
@Chosen.options
@click.option("--by-error", "grouped", is_flag=True, help="A line for each kind of error, the most frequent first.")
@output_option("table", "json", "yaml")
@url_option
def ls(chosen: Chosen, grouped: bool, output: str, url: str | None) -> None:
    """List dead letters, the oldest first within a partition."""

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            letters = chosen.each(bus)
            return await by_error(letters) if grouped else [as_row(letter) async for letter in letters]

    print_rows(asyncio.run(read()), ERROR_FIELDS if grouped else FIELDS, output)


@command.command("show")
@click.argument("id")
@output_option("table", "json", "yaml")
@url_option
def show(id: str, output: str, url: str | None) -> None:
    """Show the dead letter ID and each of its failures.

    Also the payload, and how many events of its key wait behind it.
    """

    async def read() -> DeadLetterInfo:
        async with opened(url) as bus:
            return await _get(bus, id)

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
    """Change the payload of the dead letter ID, and requeue it.

    It is opened in $VISUAL or $EDITOR, and the difference is shown before. The payload must be strict JSON and fit the
    schema of its event type (setting `schemas`). The original is kept.
    """

    async def get() -> DeadLetterInfo:
        async with opened(url) as bus:
            return await _get(bus, id)

    async def requeue(data: bytes) -> bool:
        async with opened(url) as bus:
            return await bus.dead_letters.requeue(letter, data=data, who=who())

    letter = asyncio.run(get())  # the store is not kept open while somebody thinks
    check = find(url).bus().dead_letters.check
    before = (letter.edited or letter.event).body
    if patch is None and not yes:
        refuse_nobody()  # before somebody's editor is opened for nothing
    new = _edit.patched(letter, patch.read(), check) if patch is not None else _edit.in_editor(letter, check)
    if new == before:
        say("nothing was changed, and nothing was done")
        return
    click.echo("\n".join(_edit.difference(letter, new)), err=True)
    ask(f"Requeue {id} with this change?", yes)
    if not asyncio.run(requeue(new)):
        raise Gone(f"{id} was requeued or discarded meanwhile", hint="nexus dlq ls")
    print_rows([{"id": id, "result": "requeued"}], RESULT_FIELDS, "table")


@command.command("requeue")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@Chosen.options
@click.option("--rate", type=_values.RATE, help="At most so many, such as 50/s.")
@_yes
@output_option("table", "json", "yaml")
@url_option
def requeue(ids: tuple[str, ...], everything: bool, chosen: Chosen, rate: float | None, yes: bool, output: str,
            url: str | None) -> None:  # fmt: skip
    """Have the groups try dead letters again.

    Those with the given IDs, or --all that the filters leave.
    """
    _check(ids, everything, chosen)

    async def some(letters: DeadLetters, batch: Sequence[DeadLetterInfo]) -> list[bool]:
        return await letters.requeue_many(batch, who=who())

    act("Requeue", "requeued", some, ids, chosen, rate, yes or not everything, output, url)


@command.command("discard")
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option("--all", "everything", is_flag=True, help="All that the filters leave.")
@Chosen.options
@click.option("--why", default="", help="The reason, kept with it.")
@click.option("--rate", type=_values.RATE, help="At most so many, such as 50/s.")
@_yes
@output_option("table", "json", "yaml")
@url_option
def discard(ids: tuple[str, ...], everything: bool, chosen: Chosen, why: str, rate: float | None, yes: bool,
            output: str, url: str | None) -> None:  # fmt: skip
    """Give dead letters up for ever; their keys go on.

    Those with the given IDs, or --all that the filters leave.
    """
    _check(ids, everything, chosen)

    async def some(letters: DeadLetters, batch: Sequence[DeadLetterInfo]) -> list[bool]:
        return await letters.discard_many(batch, why=why, who=who())

    act("Discard", "discarded", some, ids, chosen, rate, yes, output, url)


@command.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True))
@Chosen.options
@url_option
def export(file: str, chosen: Chosen, url: str | None) -> None:
    """Write dead letters to FILE, a line of JSON for each.

    With all there is to tell of them; - is stdout.
    """

    async def write(stream: IO[bytes]) -> int:
        count = 0
        async with opened(url) as bus:
            async for letter in chosen.each(bus):
                stream.write(as_line(letter))
                count += 1
        return count

    if file == "-":
        count = asyncio.run(write(sys.stdout.buffer))
        sys.stdout.buffer.flush()
    else:
        try:
            with _whole(Path(file)) as stream:
                count = asyncio.run(write(stream))
        except OSError as error:
            raise click.ClickException(f"{file} cannot be written: {error.strerror}") from error
    say(f"exported {count}")


@contextlib.contextmanager
def _whole(file: Path) -> Iterator[IO[bytes]]:
    """Open a file to be written: in its place only when it is whole. A pipe or a device is written as it is."""
    if file.exists() and not file.is_file():
        with file.open("wb") as stream:
            yield stream
        return
    file = file.resolve()  # what a link leads to is replaced, not the link
    part = file.with_name(f".{file.name[:_NAME_CHARS]}.{secrets.token_hex(4)}")
    with part.open("xb") as stream:
        try:
            if file.exists():
                shutil.copymode(file, part)
            yield stream
            stream.close()
            os.replace(part, file)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


def _check(ids: Sequence[str], everything: bool, chosen: Chosen) -> None:
    if bool(ids) == everything:
        raise click.UsageError("give IDs, or --all with filters")
    if ids and any(filter is not None for filter in chosen):
        raise click.UsageError("filters go with --all, not with IDs")


async def _get(bus: Nexus, id: str) -> DeadLetterInfo:
    try:
        return await bus.dead_letters.get(id)
    except SettingsError as error:  # a partition that the topic does not have
        raise NotFound(f"there is no dead letter {id}: {error.message}", hint="nexus dlq ls") from error
    except NotDead as error:
        raise await _never(bus, id) or error from None


async def _never(bus: Nexus, id: str) -> NexusError | None:
    """Say why there can never have been a dead letter of this id; None if there may have been."""
    group, _, rest = id.partition("/")
    topic, partition, position = ("", *rest.rsplit("/", 2))[-3:] if rest.count("/") >= 2 else ("", "", "")
    if not (partition.isdecimal() and position.isdecimal()):
        return None
    if group not in await bus.backend.groups():
        return UnknownGroup(f"there is no dead letter {id}, as there is no group {group!r}")
    if topic not in await bus.backend.topics():
        return UnknownTopic(f"there is no dead letter {id}, as there is no topic {topic!r}")
    ends = (await bus.backend.describe(topic)).end
    if int(partition) >= len(ends) or int(position) >= ends[int(partition)]:
        return NotFound(f"there is no dead letter {id}, as no event was ever stored there", hint="nexus dlq ls")
    return None
