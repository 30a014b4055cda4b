"""`nexus top` and `nexus dlq edit` in a real terminal, driven by tmux; the screens are kept in ``screens``.

A screen is compared line by line, with times, ids and rates replaced by what they are. To keep new ones:
``NEXUS_KEEP_SCREENS=1 ./nexus test tests/cli/test_screens.py``.
"""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nexus import Nexus, Retry

pytestmark = pytest.mark.slow  # a terminal and real processes

SCREENS = Path(__file__).parent / "screens"
KEEP = os.environ.get("NEXUS_KEEP_SCREENS") == "1"


class Terminal:
    """A terminal of 100 times 30 characters."""

    def __init__(self, place: Path) -> None:
        self._server = f"nexus-{uuid.uuid4().hex[:8]}"
        self._tmux("new-session", "-d", "-x", "100", "-y", "30", "-c", str(place), "sh")
        self.type("PS1='$ '; clear")

    def _tmux(self, *words: str) -> str:
        command = ["tmux", "-f", "/dev/null", "-L", self._server, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def type(self, text: str) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", text)
        self.press("Enter")

    def press(self, *keys: str) -> None:
        self._tmux("send-keys", *keys)

    def screen(self) -> str:
        return self._tmux("capture-pane", "-p").rstrip()

    def until(self, holds: Callable[[str], object], within_s: float = 30.0) -> str:
        """Wait until something holds of the screen; return it."""
        ends = time.monotonic() + within_s
        while time.monotonic() < ends:
            screen = self.screen()
            if holds(screen):
                return screen
        raise AssertionError(f"it never came to that:\n{self.screen()}")

    def close(self) -> None:
        self._tmux("kill-server")


@pytest.fixture
def terminal(place: Path) -> Iterator[Terminal]:
    script = place / "nexus"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m nexus "$@"\n')
    script.chmod(0o755)
    opened = Terminal(place)
    yield opened
    opened.close()


@pytest.fixture
def letter(store: str) -> str:
    """A store with one dead letter; return its id."""

    async def go() -> str:
        bus = Nexus(store)

        @bus.on("order.placed", group="billing", retry=Retry(1))
        async def charge(order: dict[str, int]) -> None:
            raise ValueError("total is negative")

        async with bus:
            await bus.publish("order.placed", {"total": -5}, key="k")
            return (await bus.dead_letters.first("billing")).id

    return asyncio.run(go())


def check(name: str, screen: str) -> None:
    """Compare a screen with the one that is kept."""
    plain = re.sub(r" +", " ", re.sub(r"\d[\d,]*\.\d+", "RATE", screen))
    plain = "\n".join(line.rstrip() for line in plain.splitlines() if not line.startswith("$ "))
    plain = re.sub(r"\b\d{2},\d{3}\b|\b\d{5,}\b", "SIZE", plain) + "\n"
    file = SCREENS / f"{name}.txt"
    if KEEP:
        file.write_text(plain)
    assert plain == file.read_text()


def test_top_takes_the_terminal_over_and_gives_it_back(terminal: Terminal, letter: str) -> None:
    terminal.type("./nexus top --url sqlite:///.nexus/nexus.db")
    check("top", terminal.until(lambda screen: "billing" in screen))
    terminal.press("q")
    terminal.until(lambda screen: screen.endswith("$") and "billing" not in screen)
    terminal.type("stty -a | grep -o ' icanon'")
    terminal.until(lambda screen: "\n icanon" in screen)


def test_a_dead_letter_is_edited_looked_at_and_requeued(terminal: Terminal, letter: str, place: Path) -> None:
    editor = place / "editor.sh"
    editor.write_text('#!/bin/sh\nsed -i s/-5/5/ "$1"\n')
    editor.chmod(0o755)
    terminal.type(f"EDITOR=./editor.sh ./nexus dlq edit {letter}")
    check("dlq-edit", terminal.until(lambda screen: "[y/N]" in screen))
    terminal.type("y")
    check("dlq-edited", terminal.until(lambda screen: "requeued" in screen))
