"""Signals that end a command in good order, with what it has begun."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine
from typing import Any


def at_end(act: Callable[[], object]) -> None:
    """Have Ctrl-C, SIGTERM and a terminal that is closed call ``act`` while the running loop lives."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
            loop.add_signal_handler(number, act)


def until_interrupted(work: Coroutine[Any, Any, object]) -> None:
    """Run what goes on until Ctrl-C, which is its end and cuts nothing short."""
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(work)
