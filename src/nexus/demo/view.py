"""What is seen while the demo runs: plain lines, or a live picture where a terminal can show one. All on stderr."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

import msgspec

if TYPE_CHECKING:
    from rich.console import RenderableType

_LINE_EVERY_S = 2.0


class GroupState(msgspec.Struct, frozen=True):
    """Where a group stands."""

    name: str
    expected: int
    published: int
    handled: int
    duplicates: int
    dead: int
    waiting: int

    @property
    def lag(self) -> int:
        return max(0, self.published - self.handled - self.dead - self.waiting)


class State(msgspec.Struct, frozen=True):
    """Where the demo stands."""

    clock: datetime | None
    """Local time of the last event published."""
    published: int
    total: int
    worker: str
    groups: list[GroupState]


class View(Protocol):
    """Shows what happens."""

    def say(self, line: str) -> None:
        """Show a line that stays."""

    def show(self, state: State) -> None:
        """Show where the demo stands; called some times a second."""

    def close(self) -> None:
        """Leave the terminal as it was. Idempotent."""


class PlainView:
    """Lines, for logs and pipes."""

    def __init__(self) -> None:
        self._next_at = time.monotonic() + _LINE_EVERY_S

    def say(self, line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    def show(self, state: State) -> None:
        now = time.monotonic()
        if now >= self._next_at:
            self._next_at = now + _LINE_EVERY_S
            lags = "  ".join(f"{group.name} {group.lag:,}" for group in state.groups)
            dead = sum(group.dead for group in state.groups)
            clock = f"{state.clock:%Y-%m-%d %H:%M}" if state.clock else "-"
            self.say(f"  {clock}  published {state.published:,}/{state.total:,}  lag: {lags}  dead letters {dead}")

    def close(self) -> None:
        pass


class LiveView:
    """A picture that changes four times a second, above which lines scroll."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._before: tuple[float, State] | None = None
        self._rates: dict[str, float] = {}
        self._live.start()

    def say(self, line: str) -> None:
        self._console.print(line, markup=False)

    def show(self, state: State) -> None:
        now = time.monotonic()
        if self._before is not None and now > self._before[0]:
            at, before = self._before
            self._note("published", (state.published - before.published) / (now - at))
            for old, new in zip(before.groups, state.groups, strict=True):
                self._note(new.name, (new.handled - old.handled) / (now - at))
        self._before = now, state
        self._live.update(self._picture(state), refresh=True)

    def close(self) -> None:
        self._live.stop()

    def _note(self, name: str, rate: float) -> None:
        self._rates[name] = 0.7 * self._rates.get(name, rate) + 0.3 * max(rate, 0.0)

    def _picture(self, state: State) -> RenderableType:
        from rich.console import Group
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        clock = f"{state.clock:%a %d %b %Y %H:%M}" if state.clock else "-"
        head = Table.grid(padding=(0, 2))
        head.add_row("time", clock)
        head.add_row("published", f"{state.published:,} of {state.total:,}, {self._rates.get('published', 0):,.0f}/s")
        head.add_row("worker", state.worker)
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("group")
        table.add_column("", width=16)
        for name in ("handled", "per s", "lag", "repeated", "dead", "waiting"):
            table.add_column(name, justify="right")
        for group in state.groups:
            table.add_row(
                group.name,
                ProgressBar(total=max(group.expected, 1), completed=group.handled, width=16),
                f"{group.handled:,}",
                f"{self._rates.get(group.name, 0):,.0f}",
                f"{group.lag:,}",
                f"{group.duplicates:,}",
                f"{group.dead:,}",
                f"{group.waiting:,}",
            )
        return Group(head, table)


def make_view() -> View:
    """Return the live picture for a terminal that can show it, else plain lines."""
    if not sys.stderr.isatty():
        return PlainView()
    from rich.console import Console

    console = Console(stderr=True)
    return PlainView() if console.is_dumb_terminal or not console.is_terminal else LiveView()
