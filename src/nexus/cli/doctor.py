"""`nexus doctor`: is this machine, this installation and this store in order?"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import click
import msgspec

from nexus import NexusError
from nexus.cli import _exits
from nexus.cli._output import output_option, print_rows
from nexus.cli._root import command as make_command
from nexus.cli._store import Store, find, shown, sqlite_path, url_option
from nexus.cli._text import counted
from nexus.core.findings import durabilities
from nexus.spi.backend import Backend, Examined, Finding, State, TopicInfo

FIELDS = ("check", "state", "found", "advice")
SLOW_FSYNC_MS = 50.0
FEW_FILES = 1_024
LEAST_SQLITE = (3, 46, 0)
_SYNCS = 20
_YEAR_2025_S = 1_735_689_600


@make_command("doctor")
@output_option("table", "json", "yaml")
@url_option
def command(output: str, url: str | None) -> None:
    """Check this machine and the store; exits with 1 when something is red."""
    findings = list(examine(url))
    print_rows([msgspec.structs.asdict(finding) for finding in findings], FIELDS, output)
    if any(finding.state == "red" for finding in findings):
        click.get_current_context().exit(_exits.FAILED)


def examine(url: str | None) -> Iterator[Finding]:
    """Look at everything; a store that cannot be used is a finding, not an error."""
    yield Finding("python", "green", ".".join(map(str, sys.version_info[:3])))
    yield _extras()
    yield _clock()
    yield _open_files()
    yield _sqlite()
    try:
        store = find(url)
    except NexusError as error:
        # No store yet is no fault; settings that cannot be read are.
        state: State = "yellow" if isinstance(error, _exits.NotFound) else "red"
        yield Finding("store", state, error.message, error.hint)
        yield _fsync(Path.cwd())
        return
    path = sqlite_path(store.url)
    yield from asyncio.run(_reach(store))
    if path is not None:
        yield _fsync(path.parent)
        yield from _file(path)


def _extras() -> Finding:
    there = [name for name in ("click", "rich", "pydantic") if find_spec(name)]
    return Finding("extras", "green", ", ".join(there))


def _clock() -> Finding:
    wall = time.time()
    right = wall > _YEAR_2025_S
    advice = None if right else "set the clock; recorded times and new ids follow it"
    return Finding("clock", "green" if right else "red", time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(wall)), advice)


def _open_files() -> Finding:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return Finding("open files", "green", "no limit")
    few = soft < FEW_FILES
    return Finding("open files", "yellow" if few else "green", str(soft), "raise it with ulimit -n" if few else None)


def _sqlite() -> Finding:
    import apsw

    found = apsw.sqlite_lib_version()
    old = tuple(int(part) for part in found.split(".")) < LEAST_SQLITE
    least = ".".join(map(str, LEAST_SQLITE))
    return Finding("sqlite", "red" if old else "green", found, f"needs {least}: upgrade apsw" if old else None)


async def _reach(store: Store) -> list[Finding]:
    """Open the store; that also tells a network file system, damage, and a newer format. Then ask what it runs on."""
    try:
        backend = store.bus().backend
    except NexusError as error:
        return [Finding("store", "red", error.message, error.hint)]
    topics: dict[str, TopicInfo] = {}
    try:
        await backend.open()
        try:
            topics = {name: await backend.describe(name) for name in await backend.topics()}
            ahead = [name for name, info in topics.items() if await _from_the_future(backend, info)]
        finally:
            await backend.close()
    except NexusError as error:
        found = [Finding("store", "red", error.message, error.hint)]
    else:
        found = [Finding("store", "green", f"{shown(store.url)}: {counted(len(topics), 'topic')}")]
        if ahead:
            advice = "the clock was set back; --from with a time may find nothing"
            found.append(Finding("stored times", "yellow", f"in the future in {', '.join(ahead)}", advice))
    levels = {name: info.durability for name, info in topics.items()}
    return found + (await backend.examine(levels) if isinstance(backend, Examined) else durabilities(levels))


async def _from_the_future(backend: Backend, info: TopicInfo) -> bool:
    soon = time.time() + 2
    for partition, end in enumerate(info.end):
        if end > info.first[partition] and await backend.position_at(info.spec.name, partition, soon) < end:
            return True
    return False


def _fsync(folder: Path) -> Finding:
    """Measure what one durable commit costs here at the least."""
    took_ms = []
    try:
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".nexus-doctor-") as file:
            for _ in range(_SYNCS):
                file.write(b"x" * 4096)
                file.flush()
                began = time.perf_counter()
                os.fsync(file.fileno())
                took_ms.append((time.perf_counter() - began) * 1000)
    except OSError as error:
        return Finding("fsync", "red", f"cannot write to {folder}: {error.strerror}", "check the permissions")
    median_ms = statistics.median(took_ms)
    slow = median_ms > SLOW_FSYNC_MS
    advice = "each batch waits so long; a local disk would be faster" if slow else None
    return Finding("fsync", "yellow" if slow else "green", f"{median_ms:.2f} ms in {folder}", advice)


def _file(path: Path) -> Iterator[Finding]:
    """Read what the file says of itself, over a connection that may not write."""
    import apsw

    yield Finding("file system", "green", file_system(path))
    with contextlib.suppress(apsw.Error):
        db = apsw.Connection(str(path), flags=apsw.SQLITE_OPEN_READONLY)
        try:
            mode = str(db.pragma("journal_mode"))
            yield Finding("journal mode", "green" if mode == "wal" else "red", mode)
            yield Finding("file format", "green", str(db.pragma("user_version")))
        finally:
            db.close()


def file_system(path: Path, read: Callable[[], str] | None = None) -> str:
    """Return the kind of file system that ``path`` is on, as far as the system tells."""
    try:
        mounts = read() if read else Path("/proc/self/mountinfo").read_text()
    except OSError:
        return "unknown"
    best, kind, wanted = "", "unknown", str(path.resolve())
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].replace("\\040", " ")
        if (wanted == point or wanted.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind
