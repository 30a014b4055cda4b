"""Signals that end a command in good order, with what it has begun."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def at_end(act: Callable[[], object]) -> None:
    """Have Ctrl-C, SIGTERM and a terminal that is closed call ``act`` while the running loop lives."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:  # nohup means it
            loop.add_signal_handler(number, act)
