"""`nexus publish`: one event from the command line, or a file of them, strictly checked."""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import click
import msgspec

from nexus import Event, InvalidEvent, Nexus, NexusError, Receipt
from nexus.cli import _values
from nexus.cli._exits import say
from nexus.cli._lines import LineReader
from nexus.cli._output import output_option, print_one, to_json
from nexus.cli._progress import Progress
from nexus.cli._root import command as make_command
from nexus.cli._store import find, url_option
from nexus.cli._turns import Turns
from nexus.event import JSON

DEFAULT_BATCH = 500


@make_command("publish")
@click.argument("type", required=False)
@click.argument("data", required=False, metavar="[JSON or -]")
@click.option("--key", help="What must stay in order together.")
@click.option("--subject", help="What the event is about.")
@click.option("--id", help="Its identity, with the source; a new one is made without it.")
@click.option("--tenant", help="Whose it is.")
@click.option("--source", help="Who says it; the setting `source` without it.")
@click.option("--time", "at", type=_values.TIME, help="When it happened, RFC 3339; now without it.")
@click.option("--expires", type=_values.DURATION, help="After so long it is not delivered any more, such as 10m.")
@click.option("--extension", multiple=True, metavar="NAME=VALUE", help="A CloudEvents extension; repeatable.")
@click.option("--lines", type=click.File("rb"), help="A file of events, one JSON object per line; - is stdin.")
@click.option("--batch", type=click.IntRange(1, 10_000),
              help=f"With --lines: events stored together; {DEFAULT_BATCH} without it.")  # fmt: skip
@click.option("--rate", type=_values.RATE, help="With --lines: at most so many, such as 500/s.")
@output_option("table", "json")
@url_option
def command(
    lines: IO[bytes] | None, batch: int | None, rate: float | None, output: str, url: str | None, **one: Any
) -> None:
    """Publish one event of the given TYPE, with the payload JSON, or from stdin with -.

    With --lines, each line is {"type", "data", "key"?, "id"?, "time"?, "tenant"?, "subject"?}, or a
    complete event in CloudEvents' JSON format (it has "specversion"). A bad line ends it: what stands
    before it is published, nothing after it is.
    """
    given = [name for name, value in one.items() if value]
    if lines is not None:
        if given:
            raise click.UsageError(f"--lines brings its own events; leave out {given[0]!r}")
        _publish_lines(find(url, create=True).bus(), lines, batch or DEFAULT_BATCH, rate, output)
    elif batch is not None or rate is not None:
        raise click.UsageError(f"{'--rate' if batch is None else '--batch'} goes with --lines")
    elif one["type"] is None:
        raise click.UsageError("name an event type, or a file with --lines")
    else:
        _publish_one(find(url, create=True).bus(), output, **one)


# -- one event -------------------------------------------------------------------------------------------------------


def _publish_one(bus: Nexus, output: str, *, type: str, data: str | None, at: datetime | None, expires: float | None,
                 extension: tuple[str, ...], **attributes: str | None) -> None:  # fmt: skip
    body = None if data is None else sys.stdin.buffer.read() if data == "-" else _values.payload(data)
    event = bus.event(
        type,
        body,
        time=at,
        expires_in_s=expires,
        datacontenttype=JSON if body is not None else None,
        extensions=_extensions(extension),
        **attributes,
    )

    async def publish() -> Receipt:
        await bus.start(consume=False)
        try:
            return await bus.publish(event)
        finally:
            await bus.close()

    print_one(msgspec.structs.asdict(asyncio.run(publish())), output)


def _extensions(given: tuple[str, ...]) -> dict[str, str | int | bool] | None:
    found: dict[str, str | int | bool] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(f"{text!r} is not NAME=VALUE", param_hint="--extension")
        if name in found:
            raise click.BadParameter(f"{name} is given twice", param_hint="--extension")
        found[name] = value
    return found or None


# -- lines -----------------------------------------------------------------------------------------------------------


class _Count:
    """What was published so far."""

    def __init__(self) -> None:
        self.published = 0
        self.duplicates = 0
        self.started = time.monotonic()

    def add(self, receipt: Receipt) -> None:
        self.published += 1
        self.duplicates += receipt.duplicate

    def as_row(self) -> dict[str, object]:
        took_s = time.monotonic() - self.started
        return {
            "published": self.published,
            "duplicates": self.duplicates,
            "seconds": round(took_s, 3),
            "per_second": round(self.published / took_s) if took_s > 0 else None,
        }


def _publish_lines(bus: Nexus, lines: IO[bytes], batch: int, rate: float | None, output: str) -> None:
    count = _Count()
    # Reading blocks; between two reads nothing has to run on the loop, so it is entered for each batch only. That way
    # Ctrl-C ends a wait for stdin at once.
    with Turns() as turns, Progress("published", _size(lines)) as progress:
        turns.run(bus.start(consume=False))
        try:
            reader = LineReader(lines, lambda type, data, **more: bus.event(type, data, **more))
            for numbered in reader.batches(_batch_of(batch, rate)):
                turns.run(_publish_batch(bus, numbered, count, output))
                progress.update(count.published, reader.bytes)
                _keep_to(rate, count, turns)
            if reader.error is not None:
                raise reader.error
        except NexusError:
            say(f"published {count.published}, {count.duplicates} of them duplicates, before this:")
            raise
        except KeyboardInterrupt:
            say(f"published {count.published}, {count.duplicates} of them duplicates")
            raise
        finally:
            turns.run(bus.close())
    if output == "json":
        say(" ".join(f"{name}={value}" for name, value in count.as_row().items()))
    else:
        print_one(count.as_row(), output)


async def _publish_batch(bus: Nexus, numbered: list[tuple[int, Event[Any]]], count: _Count, output: str) -> None:
    """Publish a batch; at the first event that is refused raise its error with the number of its line."""
    while numbered:
        invalid: InvalidEvent | None = None
        try:
            answers = await bus.publish_many([event for _, event in numbered])
        except InvalidEvent as error:
            if error.index is None:
                raise
            invalid, answers = error, []
        failed: NexusError | None = None
        for (number, _), answer in zip(numbered, answers, strict=bool(answers)):
            if isinstance(answer, Receipt):
                count.add(answer)
                if output == "json":
                    click.echo(to_json(msgspec.structs.asdict(answer)))
            elif failed is None:
                failed = _at_line(number, answer)
        if failed is not None:
            raise failed
        if invalid is None:
            return
        index = invalid.index or 0
        if index == 0:
            raise _at_line(numbered[0][0], invalid)
        await _publish_batch(bus, numbered[:index], count, output)
        numbered = numbered[index:]


def _at_line(number: int, error: NexusError) -> NexusError:
    message = error.message
    if isinstance(error, InvalidEvent) and error.index is not None:
        message = message.partition(": ")[2]
    error.message = f"line {number}: {message}"
    return error


def _batch_of(batch: int, rate: float | None) -> int:
    """At a rate the batches are small enough for ten in a second, so that the flow is even."""
    return batch if rate is None else max(1, min(batch, int(rate / 10)))


def _keep_to(rate: float | None, count: _Count, turns: Turns) -> None:
    if rate is not None:
        ahead_s = count.published / rate - (time.monotonic() - count.started)
        if ahead_s > 0:
            turns.run(asyncio.sleep(ahead_s))


def _size(lines: IO[bytes]) -> int | None:
    name = getattr(lines, "name", None)
    if lines is sys.stdin.buffer or not isinstance(name, str):
        return None
    path = Path(name)
    return path.stat().st_size if path.is_file() else None
