"""Runs contestants in turn, each in a process of its own, and compares them by the medians of their rounds."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from nexus import brokers
from nexus.bench import MISSING
from nexus.bench.goals import compare, medians
from nexus.bench.scenarios import DEFAULT as DEFAULT
from nexus.bench.scenarios import SCENARIOS

LEAST_EVENTS = 1_000
"""Fewer are not measured, whatever the scale."""
TIMEOUT_S = 3_600.0
"""A contestant that takes longer has failed; growth to ten million events takes half an hour."""
PACKAGES = (
    "nexus-bus", "apsw", "msgspec", "pyventus", "huey", "persist-queue", "litequeue", "confluent-kafka", "nats-py",
    "rstream", "aio-pika", "faststream",
)  # fmt: skip


def run(
    names: Sequence[str], *, rounds: int, scale: float, folder: Path | None, tell: Callable[[str], None]
) -> dict[str, Any]:
    """Run scenarios and return everything measured, as plain data. ``tell`` gets a line after each measurement."""
    out: dict[str, Any] = {"machine": machine(), "rounds": rounds, "scenarios": {}}
    for name in names:
        scenario = SCENARIOS[name]
        events = max(LEAST_EVENTS, int(scenario.events * scale))
        figures: dict[str, list[dict[str, float]]] = {}
        missing: dict[str, str] = {}
        loads = []
        for number in range(rounds if name != "growth" else 1):
            for contestant in scenario.contestants:
                if contestant in missing:
                    continue
                loads.append(os.getloadavg()[0])
                try:
                    figures.setdefault(contestant, []).append(measure(contestant, events, folder, scenario.broker))
                except ModuleNotFoundError as error:
                    missing[contestant] = str(error)
                tell(f"{name}: round {number + 1} of {rounds}, {contestant}")
        out["scenarios"][name] = {
            "events": events,
            "load": [min(loads), max(loads)],
            "figures": figures,
            "medians": medians(figures),
            "missing": missing,
            "goals": [compare(goal, figures) for goal in scenario.goals],
        }
    return out


def measure(contestant: str, events: int, folder: Path | None, broker: str | None = None) -> dict[str, float]:
    """Run one contestant once, in a fresh process and an empty folder.

    Raises `ModuleNotFoundError` for a peer that is not installed, and `RuntimeError` for one that fails.
    """
    with tempfile.TemporaryDirectory(prefix="nexus-bench-", dir=folder) as empty:
        command = [sys.executable, "-m", "nexus.bench", contestant, str(events), empty]
        environment = dict(os.environ)
        if broker is not None:
            url = brokers.up(broker).url
            mark = "&" if "?" in url else "?"
            environment["NEXUS_BENCH_URL"] = f"{url}{mark}prefix=bench-{secrets.token_hex(4)}"
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, check=False, timeout=TIMEOUT_S
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"{contestant} took longer than {TIMEOUT_S:,.0f} s") from error
    if done.returncode == MISSING:
        raise ModuleNotFoundError(done.stderr.strip())
    if done.returncode:
        raise RuntimeError(f"{contestant} failed:\n{done.stderr}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def machine() -> dict[str, Any]:
    """What the figures depend on."""
    versions: dict[str, str | None] = {}
    for package in PACKAGES:
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
