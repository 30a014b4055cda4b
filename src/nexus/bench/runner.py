"""Runs contestants in turn, each in a process of its own, and compares them by the medians of their rounds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec


class Ratio(msgspec.Struct, frozen=True):
    """A figure of ours over the best of theirs, and what it should reach."""

    name: str
    figure: str
    ours: str
    theirs: tuple[str, ...]
    goal: float
    inverse: bool = False
    """For times: theirs over ours."""


class Scenario(msgspec.Struct, frozen=True):
    """Contestants that are compared, and with how many events."""

    name: str
    events: int
    contestants: tuple[str, ...]
    ratios: tuple[Ratio, ...] = ()


_DURABLE_PEERS = ("huey", "persist_queue", "litequeue")
SCENARIOS = {
    scenario.name: scenario
    for scenario in (
        Scenario(
            "memory", 60_000, ("nexus_memory", "pyventus"),
            (Ratio("publish to handled, over pyventus", "deliveries", "nexus_memory", ("pyventus",), 3.0),),
        ),
        Scenario(
            "memory-groups", 15_000, ("nexus_memory_10_groups", "pyventus_10_handlers"),
            (Ratio("10 groups, over pyventus", "deliveries", "nexus_memory_10_groups",
                   ("pyventus_10_handlers",), 3.0),),
        ),
        Scenario(
            "sqlite-publish", 60_000, ("nexus_sqlite_publish_100", "raw_apsw_publish_100"),
            (Ratio("awaited singly, 100 at once, over raw apsw", "events", "nexus_sqlite_publish_100",
                   ("raw_apsw_publish_100",), 0.5),),
        ),
        Scenario(
            "sqlite-alone", 60_000, ("nexus_sqlite_publish_alone", "raw_apsw_publish_alone"),
            (Ratio("alone, raw apsw's median time over ours", "p50_ms", "nexus_sqlite_publish_alone",
                   ("raw_apsw_publish_alone",), 0.667, True),),
        ),
        Scenario(
            "sqlite-many", 60_000, ("nexus_sqlite_publish_many", "raw_apsw_batches"),
            (Ratio("publish_many of 100, over raw apsw", "events", "nexus_sqlite_publish_many",
                   ("raw_apsw_batches",), 0.6),),
        ),
        Scenario(
            "sqlite-settled", 30_000, ("nexus_sqlite_settled", *_DURABLE_PEERS),
            (Ratio("publish to settled, over the best durable peer", "end_to_end", "nexus_sqlite_settled",
                   _DURABLE_PEERS, 15.0),),
        ),
        Scenario("growth", 10_000_000, ("nexus_sqlite_growth",)),
    )
}  # fmt: skip
DEFAULT = [name for name in SCENARIOS if name != "growth"]


def run(
    names: Sequence[str], *, rounds: int, scale: float, folder: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run scenarios and return everything measured, as plain data. ``tell`` gets a line after each measurement."""
    out: dict[str, Any] = {"machine": machine(), "rounds": rounds, "scenarios": {}}
    for name in names:
        scenario = SCENARIOS[name]
        events = max(1000, int(scenario.events * scale))
        figures: dict[str, list[dict[str, float]]] = {}
        missing: dict[str, str] = {}
        for number in range(rounds if name != "growth" else 1):
            for contestant in scenario.contestants:
                if contestant in missing:
                    continue
                try:
                    figures.setdefault(contestant, []).append(measure(contestant, events, folder))
                except ModuleNotFoundError as error:
                    missing[contestant] = str(error)
                tell(f"{name}: round {number + 1} of {rounds}, {contestant}")
        medians = {
            contestant: {figure: statistics.median(one[figure] for one in all_rounds) for figure in all_rounds[0]}
            for contestant, all_rounds in figures.items()
            if all_rounds
        }
        out["scenarios"][name] = {
            "events": events,
            "figures": figures,
            "medians": medians,
            "missing": missing,
            "ratios": [answer for ratio in scenario.ratios if (answer := compare(ratio, medians, figures))],
        }
    return out


def compare(
    ratio: Ratio, medians: dict[str, dict[str, float]], figures: dict[str, list[dict[str, float]]]
) -> dict[str, Any] | None:
    """Return ours over the best of theirs, with the lowest and highest of the rounds; None if nobody is there."""
    present = [peer for peer in ratio.theirs if peer in medians]
    if not present:
        return None
    choose = min if ratio.inverse else max
    best = choose(present, key=lambda peer: medians[peer][ratio.figure])
    pairs = zip(figures[ratio.ours], figures[best], strict=False)
    by_round = [ours[ratio.figure] / theirs[ratio.figure] for ours, theirs in pairs]
    if ratio.inverse:
        by_round = [1 / value for value in by_round]
    return {
        "name": ratio.name,
        "against": best,
        "ratio": statistics.median(by_round),
        "lowest": min(by_round),
        "highest": max(by_round),
        "goal": ratio.goal,
    }


def measure(contestant: str, events: int, folder: Path | None) -> dict[str, float]:
    """Run one contestant once, in a fresh process and an empty folder. Raises `ModuleNotFoundError` for a peer."""
    with tempfile.TemporaryDirectory(prefix="nexus-bench-", dir=folder) as empty:
        command = [sys.executable, "-m", "nexus.bench", contestant, str(events), empty]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 3:
        raise ModuleNotFoundError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{contestant} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, str | None] = {}
    for package in ("nexus-bus", "apsw", "msgspec", "pyventus", "huey", "persist-queue", "litequeue"):
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "versions": versions,
    }
