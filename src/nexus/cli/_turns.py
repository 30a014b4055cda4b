"""Coroutines run one after the other on one loop, with blocking work in between: Ctrl-C ends either, and is never lost.

`asyncio.Runner` cancels what runs and forgets a Ctrl-C that comes while it ends; and one that comes between two runs
leaves a loop that has been told to stop.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from types import FrameType
from typing import Any, Self, TypeVar

Result = TypeVar("Result")


class Turns:
    """See the module. For the main thread."""

    def __enter__(self) -> Self:
        self._runner = asyncio.Runner()
        self._task: asyncio.Task[Any] | None = None
        self._inside = self._came = False
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        self._runner.close()

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Return what the work returns. Raises `KeyboardInterrupt` after Ctrl-C, also if the work was done by then."""

        async def noted() -> Result:
            self._task = asyncio.current_task()
            if self._came:
                work.close()
                raise asyncio.CancelledError
            return await work

        self._inside = True
        try:
            result = self._runner.run(noted())
        except asyncio.CancelledError:
            if not self._came:
                raise
            self._came = False
            raise KeyboardInterrupt from None
        finally:
            self._inside, self._task = False, None
        if self._came:
            self._came = False
            raise KeyboardInterrupt
        return result

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if not self._inside:
            raise KeyboardInterrupt
        self._came = True
        if self._task is not None:
            self._runner.get_loop().call_soon_threadsafe(self._task.cancel)
