"""`--exec` of `nexus subscribe` and `nexus replay run`: a command for each event, and none that outlives its call."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest

from nexus import Event
from nexus.cli import _targets
from nexus.cli._targets import CommandFailed, into_command

from .conftest import Run, rows

Start = Callable[..., subprocess.Popen[str]]

HANGS = """\
#!/bin/sh
exec 3> "$1"
cat >&3
echo >&3
sleep 271
"""
"""Writes the event into a pipe and holds that open, as does what it begins: the pipe ends with the last of them."""


class Hanging:
    """A command that hangs, and what tells whether it still does."""

    def __init__(self, place: Path, script: str = HANGS) -> None:
        program = place / "hangs.sh"
        program.write_text(script)
        program.chmod(0o755)
        self.pipe = place / "pipe"
        os.mkfifo(self.pipe)
        self.words = (str(program), str(self.pipe))

    @contextlib.contextmanager
    def begun(self) -> Iterator[IO[bytes]]:
        """Wait until it has got its event."""
        with self.pipe.open("rb", buffering=0) as pipe:
            assert b"specversion" in pipe.readline()
            yield pipe

    def has_ended(self, pipe: IO[bytes]) -> bool:
        readable, _, _ = select.select([pipe], [], [], 10.0)
        return bool(readable) and pipe.read(1) == b""


@pytest.fixture
def hanging(place: Path) -> Hanging:
    return Hanging(place)


def event() -> Event[object]:
    return Event("1", "/s", "a.x", datetime(2026, 1, 1, tzinfo=UTC), None, b"1")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_command_ends_with_the_subscriber_and_so_does_what_it_began(
    nexus: Run, store: str, start: Start, hanging: Hanging, number: signal.Signals
) -> None:
    nexus("publish", "a.x", "1", "--url", store)
    process = start("subscribe", "a.*", "--group", "g", "--from", "earliest", "--exec", " ".join(hanging.words))
    with hanging.begun() as pipe:
        process.send_signal(number)
        assert process.wait(30) == 0
        assert hanging.has_ended(pipe)
    (group,) = rows(nexus("groups", "ls", "-o", "json"))
    assert group["lag"] == 1, "it was not handled, and comes again"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_ends_with_the_replay_that_is_interrupted(
    nexus: Run, store: str, start: Start, hanging: Hanging, number: signal.Signals
) -> None:
    nexus("publish", "a.x", "1", "--url", store)
    process = start("replay", "run", "--exec", " ".join(hanging.words))
    with hanging.begun() as pipe:
        process.send_signal(number)
        assert process.wait(30) == 130
        assert hanging.has_ended(pipe)
    (replay,) = rows(nexus("replay", "ls", "-o", "json"))
    assert (replay["state"], replay["read"]) == ("running", 0)
    done = nexus("replay", "run", "--exec", "true", "--resume", replay["id"], "-o", "yaml")
    assert 'state: "done"' in done.stdout


async def test_a_command_that_will_not_end_is_made_to(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_targets, "GRACE_S", 0.01)
    hanging = Hanging(place, HANGS.replace("sleep 271", "trap '' TERM; echo >&3; while :; do sleep 271; done"))
    call = asyncio.ensure_future(into_command(hanging.words)(event()))
    pipe = await asyncio.to_thread(hanging.pipe.open, "rb", buffering=0)
    with pipe:
        await asyncio.to_thread(lambda: [pipe.readline(), pipe.readline()])
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert hanging.has_ended(pipe)


async def test_what_a_command_answers_is_told_and_so_is_one_that_cannot_be_run(
    place: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (place / "none").write_text("no program")
    (place / "none").chmod(0o755)
    await into_command(("true",))(event())
    with pytest.raises(CommandFailed, match="sh exited with 7"):
        await into_command(("sh", "-c", "exit 7"))(event())
    with pytest.raises(CommandFailed, match="cannot be run: Exec format error"):
        await into_command((str(place / "none"),))(event())
    assert capfd.readouterr().err.splitlines() == [
        "a.x 1: sh exited with 7",
        f"a.x 1: {place / 'none'} cannot be run: Exec format error",
    ]


@pytest.mark.parametrize("verb", [("subscribe", "a.*", "--group", "g"), ("replay", "run")])
@pytest.mark.parametrize(
    ("program", "told"),
    [
        ("nosuchcommand --fast", "there is no program 'nosuchcommand'"),
        ("./file", "there is no program './file'"),
        ("", "this names no command"),
        ("  ", "this names no command"),
        ("cat 'half", "cannot be split into words"),
    ],
)
def test_what_is_no_command_is_refused_before_anything_begins(
    nexus: Run, store: str, place: Path, verb: tuple[str, ...], program: str, told: str
) -> None:
    (place / "file").write_text("may not be executed")
    nexus("publish", "a.x", "1", "--url", store)
    assert told in " ".join(nexus(*verb, "--exec", program, code=2).stderr.split())
    assert rows(nexus("groups", "ls", "-o", "json")) == []
    assert rows(nexus("replay", "ls", "-o", "json")) == []
