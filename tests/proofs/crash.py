"""Processes that are killed: nothing acknowledged is lost, no key is out of order, partitions move soon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apsw

from nexus import Nexus
from nexus.core.cursor import State, encode
from nexus.core.parking import Claim, Done, Entry, Fold
from nexus.runtime.journal import Journal, parking_spec, parking_topic, record_of
from nexus.spi.backend import Cursor, Settlement

from .child import bus_in

ROOT = Path(__file__).parents[2]
_RUNNING: list[subprocess.Popen[bytes]] = []


def spawn(folder: Path, role: str, **options: object) -> subprocess.Popen[bytes]:
    return run_module("tests.proofs.child", folder, role, *(f"{name}={value}" for name, value in options.items()))


def run_module(module: str, folder: Path, *words: str) -> subprocess.Popen[bytes]:
    """Start a process of the proofs; what it says goes into the folder's ``stderr.txt``."""
    command = [sys.executable, "-m", module, str(folder), *words]
    with open(folder / "stderr.txt", "ab") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=stderr)
    _RUNNING.append(process)
    return process


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


def kill_all() -> None:
    """End what a proof that broke off left running."""
    for process in _RUNNING:
        kill(process)
    _RUNNING.clear()


def lines(folder: Path) -> Iterator[dict[str, Any]]:
    for file in sorted(folder.glob("log-*.jsonl")):
        for line in file.read_bytes().splitlines():
            with contextlib.suppress(ValueError):  # the last line of a killed process may be cut
                yield json.loads(line)


def wait_for(condition: Any, within_s: float, poll_s: float = 0.01) -> bool:
    """Wait for what another process does; it cannot be awaited."""
    deadline = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True


async def prefill(folder: Path, events: int, records: int) -> None:
    """Store events that the group is done with, and finished records in its parking topic."""
    bus = bus_in(folder)
    await bus.start(consume=False)
    for first in range(0, events, 1000):
        count = min(1000, events - first)
        await bus.publish_many([bus.event("other.thing", {"n": first + n}, key=f"k{n}") for n in range(count)])
    if records:
        await park_finished(bus, records)
    await bus.close()


async def park_finished(bus: Nexus, records: int) -> None:
    partitions = bus.publisher.default.partitions
    await bus.backend.ensure(parking_spec("events", "proof", partitions))
    member = await bus.backend.claim("proof", ["events"], "prefill", lambda: None, "earliest")
    # Who has claimed has a cursor; without it the next one would rightly say that it is lost.
    begun = Cursor(1, 0, encode(0, State()) or "")
    answers = await member.settle([Settlement("events", partition, begun) for partition in range(partitions)])
    assert answers == ["ok"] * partitions
    await member.leave()
    journal = Journal(bus.backend, bus.clock, bus.new_id, "/proof")
    each = records // partitions // 2
    for partition in range(partitions):
        batch: list[Any] = [(partition, Claim(1, "prefill"))]
        for number in range(each):
            event = bus.event("other.thing", {"n": number})
            batch += [(partition, Entry(1, -2 - number, 0, event)), (partition, Done(1, -2 - number, 0, 0))]
        for first in range(0, len(batch), 2000):
            await journal.append(parking_topic("events", "proof"), batch[first : first + 2000])


async def settled(folder: Path) -> bool:
    """Everything is behind the cursors, and nothing in the parking topic is unfinished."""
    bus = bus_in(folder)
    await bus.start(consume=False)
    try:
        lags = await bus.backend.lag("proof")
        if any(lag.low != lag.end for lag in lags):
            return False
        journal = Journal(bus.backend, bus.clock, bus.new_id, "/proof")
        for lag in lags:
            fold = Fold()
            records, _ = await journal.read(parking_topic("events", "proof"), lag.partition, 0)
            for stored in records:
                if not fold.place:
                    fold = Fold(stored.position, getattr(record_of(stored), "epoch", 0))
                fold.apply(stored.position, record_of(stored))
            if fold.unfinished:
                return False
        return True
    finally:
        await bus.close()


def kill_loop(folder: Path, times: int, *, events: int, records: int, seed: int = 1) -> dict[str, Any]:
    """Kill a process that publishes and consumes, again and again; then let it drain, and check what was written."""
    dice = random.Random(seed)
    asyncio.run(prefill(folder, events, records))
    first_run = spawn(folder, "consume", name="first")  # reads past what was stored before it
    assert wait_for(lambda: asyncio.run(settled(folder)), 120, 0.5), "the group does not catch up"
    kill(first_run)
    recoveries = []
    for _ in range(times):
        began = time.monotonic()
        process = spawn(folder, "publish+consume", name=f"run-{began:.4f}", rate=800, fail=1)
        log = folder / f"log-run-{began:.4f}.jsonl"
        assert wait_for(lambda log=log: log.exists() and b'"did"' in log.read_bytes(), 30), (
            "the process does not recover"
        )
        handled = [line["t"] for line in map(json.loads, log.read_bytes().splitlines()[:-1]) if "did" in line]
        first = handled[0] if handled else time.monotonic()
        recoveries.append(first - began)
        time.sleep(dice.uniform(0.05, 0.6))
        kill(process)
    process = spawn(folder, "consume", name="last", fail=1)
    drained = wait_for(lambda: asyncio.run(settled(folder)), 60, 0.3)
    kill(process)
    assert drained, "the group did not drain"
    report = check(folder)
    recoveries.sort()
    report["kills"] = times
    report["recovery_p50_s"] = round(recoveries[len(recoveries) // 2], 3)
    report["recovery_p99_s"] = round(recoveries[min(len(recoveries) - 1, int(len(recoveries) * 0.99))], 3)
    return report


def check(folder: Path) -> dict[str, Any]:
    """Compare what was acknowledged with what was handled. An event is known by its id."""
    acked: set[str] = set()
    deliveries: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in lines(folder):
        if "acked" in line:
            acked.add(line["acked"])
        elif "did" in line:
            deliveries[line["did"]].append(line)
    lost = [id for id in acked if not any(one["ok"] for one in deliveries.get(id, []))]
    out_of_order = 0
    by_key: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for many in deliveries.values():
        for one in many:
            by_key[one["key"]].append(one)
    for many in by_key.values():
        many.sort(key=lambda one: one["t"])
        done: set[str] = set()
        highest = -1
        for one in many:
            # The first success of an event comes after that of every earlier one of its key.
            if one["ok"] and one["did"] not in done:
                out_of_order += one["at"] < highest
                highest = max(highest, one["at"])
                done.add(one["did"])
    over_attempts = 0
    for many in deliveries.values():
        by_process: dict[tuple[str, int], int] = defaultdict(int)
        for one in many:
            by_process[one["who"], one["fence"]] += 1
        # In one ownership: the first attempt fails for some keys, the second succeeds.
        over_attempts += any(count > 2 for count in by_process.values())
    handled = sum(len(many) for many in deliveries.values())
    return {
        "acknowledged": len(acked),
        "lost": len(lost),
        "out_of_key_order": out_of_order,
        "attempts_over_bound": over_attempts,
        "deliveries": handled,
        "repeated": handled - len(deliveries),
    }


def four_processes(
    folder: Path, seconds: float, *, every_s: float = 1.0, rate: float = 400, seed: int = 1
) -> dict[str, Any]:
    """Four processes share a group while one of them is killed every second and replaced."""
    dice = random.Random(seed)
    publisher = spawn(folder, "publish", name="publisher", rate=rate)
    consumers = [spawn(folder, "consume", fail=1) for _ in range(4)]
    assert wait_for(lambda: len({one["who"] for one in lines(folder) if "did" in one}) >= 2, 30)
    kills: list[tuple[float, int]] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        time.sleep(every_s)
        victim = consumers.pop(dice.randrange(len(consumers)))
        kills.append((time.monotonic(), victim.pid))
        kill(victim)
        consumers.append(spawn(folder, "consume", fail=1))
    kill(publisher)
    drained = wait_for(lambda: asyncio.run(settled(folder)), 60, 0.3)
    for process in consumers:
        kill(process)
    assert drained, "the group did not drain"
    report = check(folder)
    report["kills"] = len(kills)
    report |= takeovers(folder, kills)
    return report


def takeovers(folder: Path, kills: list[tuple[float, int]]) -> dict[str, Any]:
    """How long the partitions of a dead process stood still, and what a fence-checking store accepted."""
    found = gaps(folder, kills)
    return {
        "takeover_p50_s": round(found[len(found) // 2], 3) if found else None,
        "takeover_max_s": round(found[-1], 3) if found else None,
        "takeovers": len(found),
        **fence_store(folder),
    }


def by_time(folder: Path) -> list[dict[str, Any]]:
    """All deliveries, in the order of time."""
    return sorted((one for one in lines(folder) if "did" in one), key=lambda one: one["t"])


def gaps(folder: Path, kills: list[tuple[float, int]]) -> list[float]:
    """Per partition of a process that ended then: seconds until another one handled an event of it; sorted."""
    by_partition: dict[int, list[dict[str, Any]]] = defaultdict(list)
    for one in by_time(folder):
        by_partition[one["p"]].append(one)
    found = []
    for at, pid in kills:
        for many in by_partition.values():
            before = [one for one in many if one["t"] <= at]
            after = [one for one in many if one["t"] > at and not one["who"].startswith(f"{pid}-")]
            if before and before[-1]["who"].startswith(f"{pid}-") and after:
                found.append(after[0]["t"] - at)
    return sorted(found)


def fence_store(folder: Path) -> dict[str, Any]:
    """Read the store that the handlers wrote to: what it accepted, in its own order."""
    rows = apsw.Connection(str(folder / "fence.db")).execute("SELECT p, fence, accepted FROM write ORDER BY rowid")
    highest: dict[int, int] = {}
    out_of_order = refused = count = 0
    for partition, fence, accepted in rows:
        count += 1
        refused += not accepted
        if accepted:
            out_of_order += fence < highest.get(partition, 0)
            highest[partition] = max(fence, highest.get(partition, 0))
    return {"fenced_writes": count, "refused_by_the_fence": refused, "accepted_out_of_epoch_order": out_of_order}
