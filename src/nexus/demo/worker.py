"""The worker process of the demo: ``python -m nexus.demo.worker FOLDER NUMBER``.

It runs the handlers until SIGTERM, or until its standard input ends: the parent holds the other end, so a worker never
outlives the parent, however that dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import sys
import threading
from pathlib import Path

from nexus.demo.handlers import make_bus, register
from nexus.demo.process import BACKEND
from nexus.demo.statistics import FILE, Statistics


def main(folder: Path, number: int) -> None:
    logging.basicConfig(
        filename=folder / "worker.log",
        level=logging.WARNING,
        format="%(asctime)s %(process)d %(levelname)s %(message)s",
    )
    threading.Thread(target=_stop_with_parent, daemon=True).start()
    with contextlib.closing(Statistics(folder / FILE)) as statistics:
        statistics.begin_worker(number, os.getpid())
        bus = make_bus(os.environ[BACKEND])
        register(bus, statistics)
        asyncio.run(bus.run())


def _stop_with_parent() -> None:
    with contextlib.suppress(OSError):
        while os.read(0, 1):
            pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
