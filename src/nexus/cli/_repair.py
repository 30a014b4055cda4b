"""Which dead letters are meant, and what is done to many of them: counted, asked about, then acted on in batches.

They are read partition by partition and never all held in memory: what is kept of each is its id and round.
"""

from __future__ import annotations

import asyncio
import functools
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import click

from nexus import Nexus
from nexus.cli._asking import ask
from nexus.cli._exits import CONFLICT, NOT_FOUND, say
from nexus.cli._output import print_rows
from nexus.cli._progress import Progress
from nexus.cli._store import opened
from nexus.cli._text import counted
from nexus.core.filter import compile_filter
from nexus.errors import NexusError, SettingsError, UnknownTopic
from nexus.runtime.deadletters import BATCH_LIMIT, DeadLetterInfo, DeadLetters, NotDead

RESULT_FIELDS = ("id", "result")
BATCHES_A_SECOND = 10
"""With a rate batches are so small that many fit into a second, so that a group gets them evenly."""

Act = Callable[[DeadLetters, Sequence[DeadLetterInfo]], Awaitable[list[bool]]]


class Chosen(NamedTuple):
    """The filters of a command."""

    group: str | None
    topic: str | None
    where: str | None
    error: str | None

    @staticmethod
    def options(function: Callable[..., object]) -> Callable[..., object]:
        """Add the options; the command gets them as ``chosen``."""

        @functools.wraps(function)
        def gathered(
            *, group: str | None, topic: str | None, where: str | None, error: str | None, **others: Any
        ) -> object:
            return function(chosen=Chosen(group, topic, where, error), **others)

        made: Callable[..., object] = gathered
        for option in (
            click.option("--error", metavar="FINGERPRINT", help="Only of this kind of error; see ls --by-error."),
            click.option("--where", metavar="EXPR", help="Only events for which the filter is true."),
            click.option("--topic", help="Only of this topic."),
            click.option("--group", help="Only of this group."),
        ):
            made = option(made)
        return made

    async def each(self, bus: Nexus) -> AsyncIterator[DeadLetterInfo]:
        """Give what the filters leave. Raises `FilterError`, `UnknownGroup`, `UnknownTopic`, `BadParameter`."""
        wanted = compile_filter(self.where) if self.where is not None else None
        if self.error is not None and not re.fullmatch(r"[0-9a-f]{12}", self.error):
            raise click.BadParameter(
                f"{self.error!r} is no fingerprint; nexus dlq ls --by-error shows them", param_hint="--error"
            )
        if self.topic is not None and self.topic not in await bus.backend.topics():
            raise UnknownTopic(f"there is no topic {self.topic!r}")
        async for letter in bus.dead_letters.each(self.group, self.topic, self.error):
            if wanted is None or wanted.matches(letter.edited or letter.event):
                yield letter


def act(verb: str, done: str, some: Act, ids: Sequence[str], chosen: Chosen, rate: float | None, yes: bool,
        output: str, url: str | None) -> None:  # fmt: skip
    """Find the dead letters, ask, act on each that is still as it was, and print what came of each."""
    wanted, groups, missing = asyncio.run(_find(ids, chosen, url))
    if wanted and not yes:
        shown = ", ".join(list(wanted)[:3]) + (", …" if len(wanted) > 3 else "")
        ask(f"{verb} {len(wanted)}?", yes, f"{counted(len(wanted), 'dead letter')} of {', '.join(groups)}: {shown}")
    results = dict.fromkeys(missing, "not found") | dict.fromkeys(wanted, "gone")
    if wanted:
        asyncio.run(_work(done, some, wanted, results, ids, chosen, rate, url))
    print_rows([{"id": id, "result": result} for id, result in results.items()], RESULT_FIELDS, output, none=None)
    ends = set(results.values())
    say(f"{done} {sum(result == done for result in results.values())} of {len(results)}")
    if "gone" in ends:
        click.get_current_context().exit(CONFLICT)
    if "not found" in ends:
        click.get_current_context().exit(NOT_FOUND)


async def _find(ids: Sequence[str], chosen: Chosen, url: str | None) -> tuple[dict[str, int], list[str], list[str]]:
    """Return the round of each dead letter that is meant, the groups, and ids that are none."""
    wanted: dict[str, int] = {}
    groups: set[str] = set()
    missing: list[str] = []
    async with opened(url) as bus:
        async for letter in _each(bus, ids, chosen, missing):
            wanted[letter.id] = letter.round
            groups.add(letter.group)
    return wanted, sorted(groups), missing


async def _each(bus: Nexus, ids: Sequence[str], chosen: Chosen, missing: list[str]) -> AsyncIterator[DeadLetterInfo]:
    if not ids:
        async for letter in chosen.each(bus):
            yield letter
    for id in dict.fromkeys(ids):
        try:
            yield await bus.dead_letters.get(id)
        except (NotDead, SettingsError):
            missing.append(id)


async def _work(done: str, some: Act, wanted: dict[str, int], results: dict[str, str], ids: Sequence[str],
                chosen: Chosen, rate: float | None, url: str | None) -> None:  # fmt: skip
    size = BATCH_LIMIT if rate is None else max(1, min(BATCH_LIMIT, int(rate / BATCHES_A_SECOND)))
    started, begun, count = time.monotonic(), 0, 0
    batch: list[DeadLetterInfo] = []

    async def flush(letters: DeadLetters) -> None:
        nonlocal begun, count
        if rate is not None:
            await asyncio.sleep(max(0.0, begun / rate - (time.monotonic() - started)))
        begun += len(batch)
        for letter, taken in zip(batch, await some(letters, batch), strict=True):
            results[letter.id] = done if taken else "gone"
            count += taken
        batch.clear()
        progress.update(count, begun)

    with Progress(done, len(wanted)) as progress:
        async with opened(url) as bus:
            try:
                async for letter in _each(bus, ids, chosen, []):
                    if wanted.get(letter.id) == letter.round:  # else it died anew since somebody said yes
                        batch.append(letter)
                        if len(batch) == size:
                            await flush(bus.dead_letters)
                if batch:
                    await flush(bus.dead_letters)
            except (NexusError, asyncio.CancelledError):
                say(f"{done} {count} of {len(wanted)} before this; the same command again does the rest")
                raise
