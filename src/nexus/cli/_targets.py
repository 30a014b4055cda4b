"""Where the command line replays to: a topic, a file, a command. Each is a handler, of batches or of events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from nexus import Event, Nexus, NexusError
from nexus.cli._exits import say
from nexus.cli._store import is_own
from nexus.config import check_topic_name
from nexus.core.envelope import to_cloudevent
from nexus.runtime.bounds import replay_of
from nexus.spi.backend import TopicSpec

Handler = Callable[..., Awaitable[None]]

_CHUNK_BYTES = 64 * 1024
GRACE_S = 5.0
"""How long a command that is to end may take to do so by itself."""


async def into_topic(
    bus: Nexus, topic: str, ranges: Mapping[str, Mapping[int, tuple[int, int]]], *, go_on: bool
) -> Handler:
    """Append events to a topic as they are; it is made with as many partitions as the largest that is read.

    In a topic that is read itself they get an id of their own, the same at each try: the old one is known there.
    """
    into_itself = topic in ranges
    names = await bus.backend.topics()
    if is_own(topic, names) or topic.startswith("nexus."):  # those of a broker's groups are not told
        raise click.UsageError(f"topic {topic} is one of Nexus itself; replay into another one")
    if topic in names:
        partitions = (await bus.backend.describe(topic)).spec.partitions
    elif go_on:
        raise click.UsageError(f"there is no topic {topic}; --resume goes on into the one that the replay began with")
    else:
        check_topic_name(topic)  # else no program could name in its settings what is made here
        partitions = max((len(of) for of in ranges.values()), default=1)
        await bus.backend.ensure(TopicSpec(topic, partitions))

    async def append(events: list[Event[Any]]) -> None:
        if into_itself:
            events = [msgspec.structs.replace(event, id=f"{event.id}~{replay_of(event)}") for event in events]
        batch = [(bus.publisher.partition(event, partitions), event) for event in events]
        for answer in await bus.backend.append(topic, batch):
            if isinstance(answer, NexusError):
                raise answer

    return append


def into_file(path: Path, *, go_on: bool) -> Handler:
    """Write events as JSON lines, each in CloudEvents' JSON format, synced before they count as handled.

    To ``go_on``, the last line is cut off if it is torn: what it was about was not handled, so it comes again.
    """
    try:
        if go_on:
            _cut_torn_line(path)
        else:
            path.open("xb").close()
    except FileExistsError:
        raise click.UsageError(f"{path} is there already; choose another file, or go on with --resume") from None
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from error
    lock = asyncio.Lock()

    async def write(events: list[Event[Any]]) -> None:
        lines = b"".join(msgspec.json.format(to_cloudevent(event), indent=-1) + b"\n" for event in events)
        async with lock:
            await asyncio.to_thread(_write, lines)

    def _write(lines: bytes) -> None:
        with path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())

    return write


def _cut_torn_line(path: Path) -> None:
    try:
        file = path.open("r+b")
    except FileNotFoundError:
        raise click.UsageError(f"there is no file {path}; --resume goes on in the one that the replay began") from None
    with file:
        size = end = file.seek(0, os.SEEK_END)
        while end:
            begin = max(0, end - _CHUNK_BYTES)
            file.seek(begin)
            found = file.read(end - begin).rfind(b"\n")
            if found >= 0:
                end = begin + found + 1
                break
            end = begin
        file.seek(end)
        if end < size and file.read(1) != b"{":
            raise click.UsageError(f"{path} was not written by a replay; --resume goes on in the one that it began")
        file.truncate(end)


class CommandFailed(Exception):
    """The command did not exit with 0."""


def into_command(words: Sequence[str]) -> Handler:
    """Run a command for each event, with the event in CloudEvents' JSON format on its stdin; 0 is done.

    A call that is cancelled ends the command before it returns: the event may be handled again at once.
    """

    async def call(event: Event[Any]) -> None:
        try:
            # In a process group of its own, so that what it has begun ends with it.
            process = await asyncio.create_subprocess_exec(*words, stdin=asyncio.subprocess.PIPE, process_group=0)
        except OSError as error:
            raise _failed(event, f"{words[0]} cannot be run: {error.strerror}") from error
        try:
            await process.communicate(msgspec.json.format(to_cloudevent(event), indent=-1))
        finally:
            if process.returncode is None:
                await _end(process)
        if process.returncode != 0:
            raise _failed(event, f"{words[0]} exited with {process.returncode}")

    return call


def _failed(event: Event[Any], why: str) -> CommandFailed:
    say(f"{event.type} {event.id}: {why}")
    return CommandFailed(why)


async def _end(process: asyncio.subprocess.Process) -> None:
    """Have a command end: it is asked to, and after a while made to."""
    _signal(process, signal.SIGTERM)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                await process.wait()
    finally:
        if process.returncode is None:  # also when nobody wants to wait any longer
            _signal(process, signal.SIGKILL)
    await process.wait()


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):  # it has ended this moment
        os.killpg(process.pid, number)
