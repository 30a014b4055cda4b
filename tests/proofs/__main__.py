"""Run proofs at their full size and print their figures as JSON: `python -m tests.proofs [NAME…]`.

Run it from the repository's root. Names: kills, processes, backlog, followers, hot-key, neighbours.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from . import crash, load

FULL: dict[str, Callable[[Path], dict[str, Any]]] = {
    "kills": lambda folder: crash.kill_loop(folder, 100, events=1_000_000, records=100_000),
    "processes": lambda folder: crash.four_processes(folder, 60),
    "backlog": lambda folder: load.measure("backlog", folder, events=1_000_000),
    "followers": lambda folder: load.measure("followers", folder, events=1_000_000),
    "hot-key": lambda folder: load.measure("hot_key", folder),
    "neighbours": lambda folder: load.neighbour_pairs(folder, 5, 5.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FULL, []], default=list(FULL))
    parser.add_argument("--folder", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args()
    for name in options.names:
        with tempfile.TemporaryDirectory(prefix=f"nexus-{name}-", dir=options.folder) as folder:
            print(json.dumps({name: FULL[name](Path(folder))}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
