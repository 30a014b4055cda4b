"""`nexus groups`: how far consumer groups are, who owns what, and why it changed hands."""

from __future__ import annotations

import asyncio
import time

import click

from nexus.cli._exits import say
from nexus.cli._output import output_option, print_rows, to_json
from nexus.cli._root import group
from nexus.cli._signals import until_interrupted
from nexus.cli._store import groups_of, opened, url_option
from nexus.cli._text import counted, escape, shown_time
from nexus.cli._values import DURATION
from nexus.errors import Unavailable
from nexus.spi.backend import Handover, PartitionLag

FIELDS = ("group", "topics", "partitions", "lag", "members", "unowned", "oldest_at")
PARTITION_FIELDS = (
    "group", "topic", "partition", "low", "end", "lag", "epoch", "owner", "since", "why", "before", "oldest_at",
)  # fmt: skip
CHANGE_FIELDS = ("at", "group", "topic", "partition", "owner", "before", "why", "lag")

Place = tuple[str, int]
Hands = tuple[str | None, Handover | None]
"""Who owns a partition, and how it came to it."""


@group("groups")
def command() -> None:
    """List consumer groups, show how far they are and who owns what, and watch that change."""


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
            for name in await groups_of(bus):
                parts = await bus.backend.lag(name)
                oldest = [part.oldest_at for part in parts if part.oldest_at is not None]
                rows.append(
                    {
                        "group": name,
                        "topics": sorted({part.topic for part in parts}),
                        "partitions": len(parts),
                        "lag": sum(_lag(part) for part in parts),
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
    """Show where the group NAME stands in each partition.

    Also which member owns it, since when and why.
    """

    async def read() -> list[dict[str, object]]:
        async with opened(url) as bus:
            return [
                {
                    "group": name,
                    "topic": part.topic,
                    "partition": part.partition,
                    "low": part.low,
                    "end": part.end,
                    "lag": _lag(part),
                    "epoch": part.epoch,
                    "owner": part.owner,
                    "since": shown_time(part.handover.at) if part.handover else None,
                    "why": part.handover.why if part.handover else None,
                    "before": part.handover.before if part.handover else None,
                    "oldest_at": shown_time(part.oldest_at),
                }
                for part in await bus.backend.lag(name)
            ]

    print_rows(asyncio.run(read()), PARTITION_FIELDS, output)


@command.command("watch")
@click.argument("name")
@click.option("--interval", type=DURATION, default="1s", show_default=True, help="How often to look.")
@output_option("table", "json")
@url_option
def watch(name: str, interval: float, output: str, url: str | None) -> None:
    """Print each partition of the group NAME that changes hands.

    Until Ctrl-C. Says from whom to whom and why, as far as the store knows, and how far the group is behind there. Of
    several changes of a partition between two looks the last is told.
    """

    async def follow() -> None:
        async with opened(url) as bus:
            known = _hands(await bus.backend.lag(name))
            members = {owner for owner, _ in known.values() if owner is not None}
            say(f"watching {counted(len(known), 'partition')} of {counted(len(members), 'member')}")
            away = False
            while True:
                await asyncio.sleep(interval)
                try:
                    parts = await bus.backend.lag(name)
                except Unavailable as error:
                    if not away:
                        say(f"the store cannot be asked: {error.message}")
                    away = True
                    continue
                if away:
                    say("the store answers again")
                away = False
                for row in changes(name, known, parts, time.time()):
                    click.echo(to_json(row) if output == "json" else _line(row))
                known = _hands(parts)

    until_interrupted(follow())


def changes(name: str, known: dict[Place, Hands], parts: list[PartitionLag], now: float) -> list[dict[str, object]]:
    """One row for each partition that is in other hands than those ``known``; ``now`` for those who know no time."""
    rows: list[dict[str, object]] = []
    for part in parts:
        before, _ = hands = known.get((part.topic, part.partition), (None, None))
        if hands == (part.owner, part.handover):
            continue
        told = part.handover
        rows.append(
            {
                "at": shown_time(told.at if told else now),
                "group": name,
                "topic": part.topic,
                "partition": part.partition,
                "owner": part.owner,
                "before": told.before if told else before,
                "why": told.why if told else None,
                "lag": _lag(part),
            }
        )
    return rows


def _hands(parts: list[PartitionLag]) -> dict[Place, Hands]:
    return {(part.topic, part.partition): (part.owner, part.handover) for part in parts}


def _lag(part: PartitionLag) -> int:
    return max(0, part.end - part.low)


def _line(row: dict[str, object]) -> str:
    before, owner = (row[name] or "nobody" for name in ("before", "owner"))
    why = f" ({row['why']})" if row["why"] else ""
    return escape(f"{row['at']}  {row['topic']}[{row['partition']}]  {before} -> {owner}{why}  lag {row['lag']}")
