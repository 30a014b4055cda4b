"""What load does: bounded memory, publishers that wait, keys that fail and hurt no other, a hot key that flows again.

Each part runs in a process of its own (`measure`), because memory is measured by what the process grows.
"""

from __future__ import annotations

import asyncio
import gc
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nexus import Context, Event, Nexus, Overloaded, Park, Retry
from nexus.testing.backends import fresh_url

from .child import bus_in

ROOT = Path(__file__).parents[2]
PAYLOAD = {"note": "x" * 400}


def measure(part: str, folder: Path, backend: str = "sqlite", **options: float) -> dict[str, Any]:
    """Run a part in a fresh process, on a new store of this kind, and return what it prints."""
    (folder / "url.txt").write_text(fresh_url(backend, folder))
    words = [f"{name}={value}" for name, value in options.items()]
    command = [sys.executable, "-m", "tests.proofs.load", part, str(folder), *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def resident_mib() -> float:
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")


async def fill(bus: Nexus, events: int, keys: int = 1000) -> None:
    for first in range(0, events, 1000):
        count = min(1000, events - first)
        await bus.publish_many([bus.event("load.step", PAYLOAD, key=f"key-{(first + n) % keys}") for n in range(count)])


async def until(condition: Any, within_s: float) -> None:
    """Wait for what the bus does by itself; it announces it to nobody."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def backlog(folder: Path, events: float = 100_000) -> dict[str, Any]:
    """A handler that never returns, and a backlog: how much the consumer's memory grows."""
    filler = bus_in(folder)
    await filler.start(consume=False)
    await fill(filler, int(events))
    await filler.close()
    bus = bus_in(folder, drain="0s")
    gate = asyncio.Event()
    started = 0

    @bus.on("load.**", group="blocked", start="earliest")
    async def handle(event: Event[Any]) -> None:
        nonlocal started
        started += 1
        await gate.wait()

    before = resident_mib()
    await bus.start()
    await until(lambda: started == 16, 30)
    samples = []
    for _ in range(20):
        await asyncio.sleep(0.1)
        samples.append(resident_mib())
    await bus.kill()
    return {"events": int(events), "before_mib": round(before, 1), "grew_mib": round(max(samples) - before, 1)}


async def pressure(folder: Path, events: float = 50_000) -> dict[str, Any]:
    """Everybody publishes at once, far more than fits: who waits, who is told to come later, and what it costs."""
    queue, size = 100, 16 * 1024
    bus = bus_in(folder, publish={"queue_events": queue, "timeout": "500ms"})
    await bus.start(consume=False)
    append = bus.backend.append
    under_way = most = 0

    async def counted(topic: str, batch: Any) -> Any:
        nonlocal under_way, most
        under_way += len(batch)
        most = max(most, under_way)
        try:
            return await append(topic, batch)
        finally:
            under_way -= len(batch)

    bus.backend.append = counted  # type: ignore[method-assign]
    body = bytes(size)  # one for all, so that what grows is what the bus and the store keep of it
    acknowledged: set[str] = set()
    overloaded: set[str] = set()

    async def one(number: int) -> None:
        event = bus.event("load.big", body, key=f"key-{number % 1000}")
        try:
            acknowledged.add((await bus.publish(event)).id)
        except Overloaded:
            overloaded.add(event.id)

    before = peak = resident_mib()
    # All that wait are tasks of the caller's own, so there are never more than a few thousand of them at once.
    for first in range(0, int(events), 5_000):
        tasks = [asyncio.ensure_future(one(number)) for number in range(first, min(first + 5_000, int(events)))]
        while not all(task.done() for task in tasks):
            peak = max(peak, resident_mib())
            await asyncio.wait(tasks, timeout=0.05)
        await asyncio.gather(*tasks)
    stored = [seen.stored.event.id async for seen in bus.tail("load.big", start="earliest", follow=False)]
    await bus.close()
    return {
        "events": int(events),
        "acknowledged": len(acknowledged),
        "overloaded": len(overloaded),
        "stored_as_said": sorted(stored) == sorted(acknowledged),
        "most_under_way": most,
        "bound": queue,
        "grew_mib": round(peak - before, 1),
    }


async def followers(folder: Path, events: float = 100_000) -> dict[str, Any]:
    """A key whose first event is dead, and all that follow it: memory, and whether it flows after the repair."""
    bus = bus_in(folder)
    broken = True
    handled = 0

    @bus.on("load.**", group="blocked", start="earliest", retry=Retry(1))
    async def handle(event: Event[Any]) -> None:
        nonlocal handled
        if broken:
            raise ValueError("the first of this key fails")
        handled += 1

    await bus.start()
    await fill(bus, 1, 1)
    await until(lambda: bus.consumer("blocked").stats.dead == 1, 10)
    before = resident_mib()
    began = time.monotonic()
    peak = before
    for first in range(0, int(events), 10_000):
        await fill(bus, min(10_000, int(events) - first), 1)
        peak = max(peak, resident_mib())
    (letter,) = await bus.dead_letters.all("blocked")

    async def parked() -> bool:
        (lag,) = [lag for lag in await bus.backend.lag("blocked") if lag.partition == letter.partition]
        return lag.low == lag.end

    while not await parked():
        await asyncio.sleep(0.1)
        peak = max(peak, resident_mib())
    took = time.monotonic() - began
    broken = False
    (letter,) = await bus.dead_letters.all("blocked")
    repaired = time.monotonic()
    await bus.dead_letters.requeue(letter)
    sample = min(int(events), 20_000)
    await until(lambda: handled >= sample, 120)
    rate = sample / (time.monotonic() - repaired)
    await bus.close()
    return {
        "followers": int(events),
        "grew_mib": round(peak - before, 1),
        "parked_per_s": round(events / took),
        "flow_after_requeue_per_s": round(rate),
    }


async def hot_key(folder: Path, rate: float = 2_000, fail_s: float = 5) -> dict[str, Any]:
    """One key at a high rate parks for some seconds: how long until it flows as before."""
    bus = bus_in(folder)
    failing_until = 0.0
    waits: list[tuple[float, float]] = []
    order: list[int] = []

    @bus.on("load.**", group="hot", start="earliest", retry=Retry(1_000), hold_s=0.05)
    async def handle(event: Event[Any]) -> Park | None:
        now = time.monotonic()
        if now < failing_until:
            return Park(max(0.1, failing_until - now))
        waits.append((now, now - event.data["at"]))
        order.append(event.data["n"])
        return None

    await bus.start()
    stop = asyncio.Event()
    number = 0

    async def publisher() -> None:
        nonlocal number
        began = time.monotonic()
        pending: set[asyncio.Task[Any]] = set()
        while not stop.is_set():
            due = int((time.monotonic() - began) * rate)
            batch = []
            while number < due:
                batch.append(bus.event("load.hot", {"n": number, "at": time.monotonic()}, key="hot"))
                number += 1
            if batch:
                await bus.publish_many(batch)
            await asyncio.sleep(0.005)
        await asyncio.gather(*pending)

    publishing = asyncio.create_task(publisher())
    await asyncio.sleep(2)
    failing_until = time.monotonic() + fail_s
    await asyncio.sleep(fail_s)
    healed = time.monotonic()
    flows = None
    while time.monotonic() - healed < 60:
        await asyncio.sleep(0.1)
        if waits and waits[-1][0] > healed and waits[-1][1] < 0.5:
            flows = waits[-1][0] - healed
            break
    stop.set()
    await publishing
    await until(lambda: len(order) >= number, 60)
    await bus.close()
    return {
        "rate": rate,
        "flows_again_after_s": None if flows is None else round(flows, 2),
        "events": number,
        "in_order": order == sorted(order) and len(order) == number,
    }


async def neighbours(
    folder: Path, seconds: float = 5, share: float = 0.3, failing: float = 0.1, warm: float = 10_000
) -> dict[str, Any]:
    """Open loop at a share of the measured capacity, 64 workers: the p99 of the keys that do not fail."""
    bus = bus_in(folder)
    keys = 1000
    bad = {f"key-{n}" for n in range(int(keys * failing))}
    waits: list[float] = []
    last: dict[str, int] = {}
    out_of_order = 0
    handled = 0

    @bus.on("load.**", group="n", start="earliest", workers=64, retry=Retry(3, base_s=0.2, cap_s=1.0), hold_s=0.01)
    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal handled, out_of_order
        data = event.data
        key = event.key or ""
        if key in bad and data["n"] % 7 == 0 and (key, data["n"]) not in failed:
            failed.add((key, data["n"]))
            raise ValueError("this key fails")
        out_of_order += context.position < last.get(key, -1)
        last[key] = context.position
        handled += 1
        if key not in bad and data["at"]:
            waits.append(time.monotonic() - data["at"])

    failed: set[tuple[str, int]] = set()
    await bus.start()

    def made(n: int, at: float) -> Event[Any]:
        return bus.event("load.step", {"n": n, "at": at}, key=f"key-{(n * 7919) % keys}")

    began = time.monotonic()
    good = {"n": 0}

    async def capacity(worker: int) -> None:
        for _ in range(int(warm) // 100):
            n = good["n"]
            good["n"] += 1
            await bus.publish(made(n, 0.0))

    await asyncio.gather(*(capacity(worker) for worker in range(100)))
    await until(lambda: handled >= warm * 0.98, 60)
    rate = warm / (time.monotonic() - began) * share
    sent = int(warm)
    began = time.monotonic()
    tasks: set[asyncio.Task[Any]] = set()
    while time.monotonic() - began < seconds:
        due = int(warm) + int((time.monotonic() - began) * rate)
        while sent < due:
            task = asyncio.create_task(bus.publish(made(sent, time.monotonic())))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            sent += 1
        await asyncio.sleep(0.002)
    await asyncio.gather(*tasks)
    await until(lambda: handled >= sent, 60)
    await bus.close()
    waits.sort()
    return {
        "rate": round(rate),
        "events": sent,
        "failed": len(failed),
        "p50_ms": round(waits[len(waits) // 2] * 1e3, 2),
        "p99_ms": round(waits[int(len(waits) * 0.99)] * 1e3, 2),
        "out_of_key_order": out_of_order,
    }


def neighbour_pairs(folder: Path, pairs: int, seconds: float, backend: str = "sqlite") -> dict[str, Any]:
    """Interleaved pairs, without and with failures; the ratio of their p99s by the median of the pairs."""
    ratios = []
    runs = []
    for number in range(pairs):
        pair = []
        order = [0.0, 0.1] if random.Random(number).random() < 0.5 else [0.1, 0.0]
        for failing in order:
            own = folder / f"{number}-{failing}"
            own.mkdir(parents=True)
            pair.append((failing, measure("neighbours", own, backend, seconds=seconds, failing=failing)))
        found = dict(pair)
        runs.append(found)
        ratios.append(found[0.1]["p99_ms"] / found[0.0]["p99_ms"])
    return {
        "pairs": pairs,
        "p99_ratio_median": round(statistics.median(ratios), 2),
        "p99_ratios": [round(ratio, 2) for ratio in ratios],
        "out_of_key_order": sum(run["out_of_key_order"] for found in runs for run in found.values()),
        "p99_ms": [[found[0.0]["p99_ms"], found[0.1]["p99_ms"]] for found in runs],
    }


PARTS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {
    "backlog": backlog,
    "pressure": pressure,
    "followers": followers,
    "hot_key": hot_key,
    "neighbours": neighbours,
}


def main() -> None:
    from . import operations, requeue, traffic  # which take from here what all parts need

    part, folder = sys.argv[1], Path(sys.argv[2])
    options = {name: float(value) for name, value in (word.split("=", 1) for word in sys.argv[3:])}
    print(json.dumps(asyncio.run((PARTS | operations.PARTS | traffic.PARTS | requeue.PARTS)[part](folder, **options))))


if __name__ == "__main__":
    main()
