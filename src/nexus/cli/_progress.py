"""A line that tells how far a long action is, with its rate; only where stderr is a terminal."""

from __future__ import annotations

import sys
from typing import Any, Self

import click


class Progress:
    """Count, rate and, where the size is known, what is left."""

    def __init__(self, verb: str, total: int | None) -> None:
        self._verb = verb
        self._total = total
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        if not sys.stderr.isatty():
            return self
        from rich.console import Console  # 60 ms that only a terminal should cost
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        context = click.get_current_context(silent=True)
        plain = context is not None and context.color is False
        columns = [TextColumn("{task.description}")]
        if self._total:
            columns += [BarColumn(), TimeRemainingColumn()]  # type: ignore[list-item]
        self._bar = Progress(*columns, console=Console(stderr=True, no_color=plain), transient=True)
        self._bar.start()
        self._task = self._bar.add_task(self._verb, total=self._total)
        return self

    def update(self, count: int, done: int) -> None:
        """Tell how many are done, and how much of the total, which may be in bytes."""
        if self._bar is not None:
            task = self._bar.tasks[0]
            rate = count / task.elapsed if task.elapsed else 0
            self._bar.update(self._task, completed=done, description=f"{self._verb} {count:,}  {rate:,.0f}/s")

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()
