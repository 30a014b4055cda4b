"""Run proofs at their full size and print their figures as JSON: `python -m tests.proofs [NAME…] [--backend KIND]`.

Run it from the repository's root. Names: kills, processes, backlog, pressure, followers, hot-key, delays, replay,
requeue, repair, traffic and neighbours, on the backend that is named or on SQLite; faults and leaders, on that broker
or on all three, and not among those that run without a name.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus import brokers
from nexus.testing.backends import fresh_url

from . import crash, faults, leaders, load

Proof = Callable[[Path, str], dict[str, Any]]


def _crash(run: Callable[[Path], dict[str, Any]]) -> Proof:
    def on(folder: Path, backend: str) -> dict[str, Any]:
        (folder / "url.txt").write_text(fresh_url(backend, folder))
        return run(folder)

    return on


def _load(part: str, **options: float) -> Proof:
    return lambda folder, backend: load.measure(part, folder, backend, **options)


FULL: dict[str, Proof] = {
    "kills": _crash(lambda folder: crash.kill_loop(folder, 100, events=1_000_000, records=100_000)),
    "processes": _crash(lambda folder: crash.four_processes(folder, 60)),
    "backlog": _load("backlog", events=1_000_000),
    "pressure": _load("pressure", events=50_000),
    "followers": _load("followers", events=1_000_000),
    "hot-key": _load("hot_key"),
    "delays": _load("delays", events=100_000, over_s=120, after_s=60),
    "replay": _load("replay", events=1_000_000),
    "requeue": _load("requeue", letters=100_000, rate=1_000),
    "repair": lambda folder, backend: load.measure(
        "repair", folder, backend, keys=500, freeze_s=0 if backend == "sqlite" else 20
    ),
    "traffic": _load("traffic", stops_s=5),
    "neighbours": lambda folder, backend: load.neighbour_pairs(folder, 5, 5.0, backend),
}


def each_fault(folder: Path, kind: str) -> dict[str, Any]:
    """Each fault on one kind of broker, frozen for 40 s and a storm of a minute among them."""
    seconds = {"kill": 10.0, "freeze": 40.0, "cut": 20.0, "slow": 20.0, "storm": 60.0, "members": 20.0}
    found: dict[str, Any] = {}
    for fault in faults.FAULTS:
        own = folder / f"{kind}-{fault}"
        own.mkdir()
        try:
            report = faults.under_fault(own, kind, fault, seconds[fault])
        except AssertionError as stuck:
            report = {"broken": [str(stuck)]}
        else:
            report["broken"] = [promise for promise, holds in faults.CHECKS.items() if not holds(report)]
        report["slow"] = report.get("dead_moved_after_s", 0.0) >= faults.DEAD_S[kind]
        print(json.dumps(report), file=sys.stderr, flush=True)
        found[fault] = report
    return found


def each_leader(folder: Path, kind: str) -> dict[str, Any]:
    """Three times in a cluster of three: the leader is killed, and comes back."""
    with leaders.cluster(kind) as broker:
        report = leaders.killed(folder, broker, times=3)
    report["broken"] = [promise for promise, holds in leaders.CHECKS.items() if not holds(report)]
    return report


ON_BROKERS: dict[str, Proof] = {"faults": each_fault, "leaders": each_leader}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.proofs", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*FULL, *ON_BROKERS, []], default=list(FULL))
    parser.add_argument(
        "--backend", choices=["memory", "sqlite", *brokers.KINDS], help="where to run (default: sqlite)"
    )
    parser.add_argument("--folder", type=Path, help="where to keep the files (default: a temporary folder)")
    options = parser.parse_args()
    for name in options.names:
        everywhere = list(brokers.KINDS) if name in ON_BROKERS else ["sqlite"]
        for backend in [options.backend] if options.backend else everywhere:
            with tempfile.TemporaryDirectory(prefix=f"nexus-{name}-", dir=options.folder) as folder:
                try:
                    found = (FULL | ON_BROKERS)[name](Path(folder), backend)
                finally:
                    crash.kill_all()
            print(json.dumps({f"{name} {backend}": found}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
