"""`nexus topics`: what topics a store has, and where their partitions begin and end."""

from __future__ import annotations

import asyncio

import click

from nexus.cli._output import output_option, print_rows
from nexus.cli._root import group
from nexus.cli._store import opened, topics_of, url_option

FIELDS = ("topic", "partitions", "events", "size_bytes", "durability", "retention_age_s", "retention_bytes", "sealed")
PARTITION_FIELDS = ("topic", "partition", "first", "end", "events", "sealed")


@group("topics")
def command() -> None:
    """List topics, and show where their partitions begin and end."""


@command.command("ls")
@click.option("--all", "parking", is_flag=True, help="Also those where groups park what failed.")
@output_option("table", "json", "yaml")
@url_option
def ls(parking: bool, output: str, url: str | None) -> None:
    """List the topics of a store.

    `events` is the difference of the positions, so gaps and events that are trimmed lazily count.
    """

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            rows = []
            for name in await topics_of(bus.backend, parking=parking):
                info = await bus.backend.describe(name)
                spec = info.spec
                rows.append(
                    {
                        "topic": name,
                        "partitions": spec.partitions,
                        "events": sum(info.end) - sum(info.first),
                        "size_bytes": info.size_bytes,
                        "durability": info.durability,
                        "retention_age_s": spec.retention_age_s,
                        "retention_bytes": spec.retention_bytes,
                        "sealed": list(info.sealed),
                    }
                )
            return rows

    print_rows(asyncio.run(read()), FIELDS, output)


@command.command("show")
@click.argument("name")
@output_option("table", "json", "yaml")
@url_option
def show(name: str, output: str, url: str | None) -> None:
    """Show the partitions of the topic NAME."""

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            info = await bus.backend.describe(name)
            return [
                {
                    "topic": name,
                    "partition": number,
                    "first": first,
                    "end": end,
                    "events": end - first,
                    "sealed": number in info.sealed,
                }
                for number, (first, end) in enumerate(zip(info.first, info.end, strict=True))
            ]

    print_rows(asyncio.run(read()), PARTITION_FIELDS, output)
