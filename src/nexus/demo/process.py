"""The worker process, seen from the parent: start it, crash it, stop it. No other process is touched."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

BACKEND = "NEXUS_DEMO_BACKEND"
LOG = "worker.log"
_STOP_S = 10.0


class WorkerDied(Exception):
    """The worker process ended by itself."""


class WorkerProcess:
    """One worker process at a time, on the demo's folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.number = 0
        self._folder = folder
        self._url = url
        self._process: asyncio.subprocess.Process | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        self.number += 1
        # A session of its own: Ctrl-C in the terminal reaches the parent alone, which then stops the worker.
        with (self._folder / LOG).open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "nexus.demo.worker", str(self._folder.resolve()), str(self.number)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
                env=os.environ | {BACKEND: self._url},  # not among the arguments, which everybody may read
            )

    def check(self) -> None:
        """Raise `WorkerDied` if the worker ended by itself."""
        if self._process is not None and self._process.returncode is not None:
            raise WorkerDied(f"worker {self.number} ended with {self._process.returncode}; see {self._folder / LOG}")

    async def crash(self) -> float:
        """Kill the worker as `kill -9` does; returns when."""
        assert self._process is not None
        at = time.time()
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()
        return at

    async def stop(self) -> None:
        """Have the worker drain and end, whatever state it is in. Idempotent."""
        process, self._process = self._process, None
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            async with asyncio.timeout(_STOP_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
