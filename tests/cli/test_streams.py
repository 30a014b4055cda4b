"""Streams that are closed, full or not read, and Ctrl-C before anything has begun: an exit code, never a traceback."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus import DeadLetter, Nexus
from nexus.cli import help_text

from .conftest import Run, rows

Shell = Callable[[str], subprocess.CompletedProcess[str]]

FULL = Path("/dev/full")
"""A device that is always full. Where there is none, the tests about it fail."""


NO_STDOUT = "the output cannot be written: Bad file descriptor\n"


@pytest.fixture
def shell(place: Path) -> Shell:
    """Run a line of the shell in which ``$nexus`` is the command."""

    def run(line: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"nexus": f"{sys.executable} -m nexus"}
        command = ["bash", "-o", "pipefail", "-c", line]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    return run


@pytest.mark.parametrize("arguments", ["--help", "--version", "version", "explain"])
def test_a_reader_that_goes_away_at_once_is_no_fault(shell: Shell, arguments: str) -> None:
    # What reads has ended before the command begins.
    done = shell(f"set -m; exec 3> >(exit 0); wait $!; $nexus {arguments} >&3")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("arguments", ["--help", "--version", "version", "explain"])
def test_without_a_stdout_the_output_has_failed(shell: Shell, arguments: str) -> None:
    done = shell(f"$nexus {arguments} >&- <&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "", NO_STDOUT)


def test_without_any_stream_the_exit_code_is_there(shell: Shell, nexus: Run, store: str) -> None:
    nexus("publish", "a.b", "--url", store)
    assert shell("$nexus topics ls >&- 2>&- <&-").returncode == 1
    assert shell("$nexus topics ls 2>&- <&-").returncode == 0
    assert shell("$nexus topics show nothing >&- 2>&- <&-").returncode == 3
    assert shell("$nexus publish a.b - <&-").returncode == 1


@pytest.mark.parametrize("arguments", ["--help", "--version", "topics ls", "topics ls -o json", "tail -o raw"])
def test_a_full_disk_below_stdout_is_told(shell: Shell, nexus: Run, store: str, arguments: str) -> None:
    nexus("publish", "a.b", "--url", store)
    done = shell(f"$nexus {arguments} >{FULL}")
    assert (done.returncode, done.stderr) == (1, "the output cannot be written: No space left on device\n")


def test_what_could_not_be_exported_is_not_said_to_be(shell: Shell, nexus: Run, store: str) -> None:
    async def die() -> None:
        bus = Nexus(store)
        bus.on("a.*", group="g")(give_up)
        async with bus:
            await bus.publish("a.b", 1)
            await bus.dead_letters.first("g")

    asyncio.run(die())
    done = shell(f"$nexus dlq export - >{FULL}")
    assert (done.returncode, done.stderr) == (1, "the output cannot be written: No space left on device\n")


async def give_up(data: int) -> DeadLetter:
    return DeadLetter("never")


@pytest.mark.parametrize(
    ("before", "stdout", "code", "told"),
    [("set -m; exec 3> >(exit 0); wait $!;", "3", 0, ""), ("", "-", 1, NO_STDOUT)],
)
def test_an_event_that_could_not_be_printed_comes_again(
    shell: Shell, nexus: Run, store: str, before: str, stdout: str, code: int, told: str
) -> None:
    nexus("publish", "a.b", "1", "--url", store)
    done = shell(f"{before} $nexus subscribe 'a.*' --group g --from earliest --limit 1 >&{stdout}")
    assert (done.returncode, done.stderr) == (code, told)
    (group,) = rows(nexus("groups", "ls", "-o", "json"))
    assert group["lag"] == 1


@pytest.mark.parametrize(
    ("verb", "code"),
    [
        (["tail", "-f", "--from", "earliest"], 0),
        (["tail", "-f", "--from", "earliest", "--limit", "5"], 130),
        (["top", "-o", "json", "--interval", "10ms"], 0),
        (["top", "-o", "json", "--interval", "10ms", "--count", "1000000"], 130),
        (["subscribe", "a.*", "--group", "g", "--from", "earliest"], 0),
        (["subscribe", "a.*", "--group", "g", "--from", "earliest", "--limit", "5"], 130),
    ],
)
def test_ctrl_c_is_the_end_of_what_goes_on_until_then_and_cuts_other_things_short(
    nexus: Run, store: str, start: Callable[..., subprocess.Popen[str]], verb: list[str], code: int
) -> None:
    nexus("publish", "a.b", "1", "--url", store)
    process = start(*verb)
    assert process.stdout is not None
    assert process.stdout.readline()
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert process.returncode == code, talk
    assert "Traceback" not in talk


@pytest.mark.parametrize("come", ["raise KeyboardInterrupt", "signal.raise_signal(signal.SIGINT)", "lose()"])
@pytest.mark.parametrize("module", ["importlib.util", "click", "nexus.cli._root", "nexus.app", "nexus.cli.tail"])
def test_ctrl_c_while_modules_are_loaded_is_an_interruption(module: str, come: str) -> None:
    code = f"""
import signal, sys
def lose():  # as a callback of the import system does
    try:
        signal.raise_signal(signal.SIGINT)
    except KeyboardInterrupt:
        pass
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            {come}
sys.modules.pop({module!r}, None)
sys.meta_path.insert(0, Interrupt())
from nexus.cli import main
main(["tail"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_the_help_is_whole_where_it_is_read(shell: Shell) -> None:
    assert shell("$nexus --help | cat").stdout == help_text()
