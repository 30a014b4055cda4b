"""`nexus groups`: how far consumer groups are, and who owns what."""

from __future__ import annotations

import asyncio

import click

from nexus.cli._output import output_option, print_rows
from nexus.cli._root import group
from nexus.cli._store import opened, url_option
from nexus.cli._text import shown_time

FIELDS = ("group", "topics", "partitions", "lag", "members", "unowned", "oldest_at")
PARTITION_FIELDS = ("group", "topic", "partition", "low", "end", "lag", "epoch", "owner", "oldest_at")


@group("groups")
def command() -> None:
    """List consumer groups, and show how far they are."""


@command.command("ls")
@output_option("table", "json", "yaml")
@url_option
def ls(output: str, url: str | None) -> None:
    """List the groups of a store.

    `lag` is how far the watermarks are from the ends; events above a watermark may be done already.
    """

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            rows = []
            for name in await bus.backend.groups():
                parts = await bus.backend.lag(name)
                oldest = [part.oldest_at for part in parts if part.oldest_at is not None]
                rows.append(
                    {
                        "group": name,
                        "topics": sorted({part.topic for part in parts}),
                        "partitions": len(parts),
                        "lag": sum(max(0, part.end - part.low) for part in parts),
                        "members": len({part.owner for part in parts if part.owner is not None}),
                        "unowned": sum(part.owner is None for part in parts),
                        "oldest_at": shown_time(min(oldest, default=None)),
                    }
                )
            return rows

    print_rows(asyncio.run(read()), FIELDS, output)


@command.command("show")
@click.argument("name")
@output_option("table", "json", "yaml")
@url_option
def show(name: str, output: str, url: str | None) -> None:
    """Show where the group NAME stands in each partition, and which member owns it."""

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            return [
                {
                    "group": name,
                    "topic": part.topic,
                    "partition": part.partition,
                    "low": part.low,
                    "end": part.end,
                    "lag": max(0, part.end - part.low),
                    "epoch": part.epoch,
                    "owner": part.owner,
                    "oldest_at": shown_time(part.oldest_at),
                }
                for part in await bus.backend.lag(name)
            ]

    print_rows(asyncio.run(read()), PARTITION_FIELDS, output)
