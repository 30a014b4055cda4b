"""What is different where a terminal reads: colours, progress, and payloads that would command it."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import Run

pytestmark = pytest.mark.slow  # real processes

Start = Callable[..., subprocess.Popen[str]]


def on_terminal(start: Start, *arguments: str) -> bytes:
    """Run the command with a terminal as stdout and stderr; return what it wrote there."""
    ours, theirs = pty.openpty()
    process = start(*arguments, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = b""
    with contextlib.suppress(OSError):  # so ends a terminal that nobody writes to any more
        while part := os.read(ours, 65_536):
            written += part
    os.close(ours)
    assert process.wait(30) == 0, written
    return written


@pytest.fixture(autouse=True)
def _stored(nexus: Run, store: str) -> None:
    nexus("publish", "a.b", '"\x7f red"', "--url", store)


def test_headings_are_bold_unless_colours_are_not_wanted(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert b"\x1b[1mTOPIC" in on_terminal(start, "topics", "ls")
    assert b"\x1b" not in on_terminal(start, "--no-color", "topics", "ls")
    assert b"\x1b" not in on_terminal(start, "topics", "ls", "--no-color")
    monkeypatch.setenv("NO_COLOR", "1")
    assert b"\x1b" not in on_terminal(start, "topics", "ls")


def test_lines_have_a_progress_bar_with_the_rate(start: Start, place: Path) -> None:
    (place / "events.jsonl").write_text('{"type":"a.b"}\n' * 600)
    written = on_terminal(start, "publish", "--lines", "events.jsonl")
    assert b"published 600" in written
    assert b"/s" in written


def test_090_raw_payloads_are_escaped_on_a_terminal(start: Start) -> None:
    assert on_terminal(start, "tail", "-o", "raw") == b'"\\x7f red"\r\n'
