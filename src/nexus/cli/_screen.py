"""The full screen of `nexus top`: two tables, drawn anew in place; q or Ctrl-C ends it."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import termios
import tty
from collections.abc import Mapping
from typing import Any, Self

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from nexus.cli._text import escape

_NUMBERS = ("in_per_s", "out_per_s", "partitions", "events", "size_bytes", "members", "lag", "parked", "dead")


class Screen:
    """A terminal that is taken over for a while, and given back as it was."""

    def __init__(self) -> None:
        context = click.get_current_context(silent=True)
        plain = context is not None and context.color is False
        self._console = Console(no_color=plain, highlight=False)
        self._live = Live(console=self._console, screen=self._console.is_terminal, auto_refresh=False)
        self._keys = asyncio.Event()
        self._before: list[Any] | None = None

    def __enter__(self) -> Self:
        self._live.start()
        if sys.stdin.isatty():
            self._before = termios.tcgetattr(sys.stdin)
            tty.setcbreak(sys.stdin)
            asyncio.get_running_loop().add_reader(sys.stdin, self._read)
        return self

    def _read(self) -> None:
        if sys.stdin.read(1) in ("q", "Q", ""):
            self._keys.set()

    def show(self, store: str, tables: Mapping[str, list[dict[str, Any]]], trouble: str | None) -> None:
        """Draw what is known now; ``trouble`` says why it may be old."""
        head = Text(f"nexus top  {escape(store)}   q ends", style="bold")
        parts: list[Any] = [head]
        if trouble is not None:
            parts.append(Text(escape(trouble), style="red"))
        parts += [_table(name, rows) for name, rows in tables.items()]
        self._live.update(Group(*parts), refresh=True)

    async def quit_within(self, seconds: float) -> bool:
        """Wait; True if somebody wants to end."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._keys.wait()
        return self._keys.is_set()

    def __exit__(self, *_: object) -> None:
        if self._before is not None:
            asyncio.get_running_loop().remove_reader(sys.stdin)
            termios.tcsetattr(sys.stdin, termios.TCSADRAIN, self._before)
        self._live.stop()
        if not self._console.is_terminal:
            self._console.line()


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    table = Table(title=name, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in rows[0] if rows else (name,):
        justify: Any = "right" if column in _NUMBERS else "left"
        table.add_column(column, justify=justify)
    for row in rows:
        style = "red" if row.get("dead") else "yellow" if row.get("state") == "paused" else None
        table.add_row(*(_cell(value) for value in row.values()), style=style)
    return table


def _cell(value: object) -> str:
    return f"{value:,}" if isinstance(value, int | float) else escape(str(value))
