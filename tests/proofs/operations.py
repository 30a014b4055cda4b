"""What operators' tools do at size: delayed events in time, and replays that are killed and go on.

Each part runs in a process of its own, as those of `load` do.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from nexus import Context, Event, Selection

from .child import bus_in
from .load import PAYLOAD, until


async def delays(folder: Path, events: float = 2_000, over_s: float = 5, after_s: float = 3) -> dict[str, Any]:
    """So many pending events, due evenly over some seconds: how late each is handled."""
    bus = bus_in(folder)
    errors: list[float] = []
    early = 0

    @bus.on("later.**", group="later", workers=64)
    async def handle(event: Event[Any]) -> None:
        nonlocal early
        late = time.time() - event.data["due"]
        early += late < 0
        errors.append(late)

    await bus.start()
    began = time.time()
    first = began + after_s + events / 4_000  # publishing takes its time
    count = int(events)

    async def publish(worker: int) -> None:
        for number in range(worker, count, 200):
            due = first + number / count * over_s
            await bus.publish_later("later.due", {"due": due}, at=due, key=f"key-{number % 500}")

    await asyncio.gather(*(publish(worker) for worker in range(200)))
    published = time.time()
    await until(lambda: len(errors) >= count, over_s + after_s + 300)
    await bus.close()
    errors.sort()
    return {
        "events": count,
        "published_in_s": round(published - began, 1),
        "in_time": published < first,
        "handled": len(errors),
        "early": early,
        "p50_ms": round(errors[len(errors) // 2] * 1e3, 1),
        "p99_ms": round(errors[int(len(errors) * 0.99)] * 1e3, 1),
        "max_ms": round(errors[-1] * 1e3, 1),
    }


async def replay(folder: Path, events: float = 20_000, kills: float = 2) -> dict[str, Any]:
    """A replay by type and time into a live group, killed on the way: order, bytes, and what is repeated."""
    filler = bus_in(folder)
    await filler.start(consume=False)
    wanted: dict[str, list[tuple[str, bytes]]] = {}
    began = 0.0
    for first in range(0, int(events), 1_000):
        if first >= events * 0.1 and not began:
            await asyncio.sleep(0.05)  # so that no event before has a time as late as this
            began = time.time()
        made = [
            filler.event("load.even" if n % 2 == 0 else "load.odd", PAYLOAD | {"n": n}, key=f"key-{n % 100}")
            for n in range(first, min(first + 1_000, int(events)))
        ]
        await filler.publish_many(made)
        if began:
            for event in made:
                if event.type == "load.even":
                    wanted.setdefault(event.key or "", []).append((event.id, _digest(event)))
    await filler.close()
    total = sum(map(len, wanted.values()))
    seen: dict[str, list[tuple[str, bytes]]] = {}
    live: list[int] = []
    count = 0

    def make() -> Any:
        bus = bus_in(folder, settle_interval="50ms")

        @bus.on("load.**", group="live", start="latest")
        async def handle(event: Event[Any], context: Context) -> None:
            nonlocal count
            if context.replay is None:
                live.append(1)
                return
            seen.setdefault(event.key or "", []).append((event.id, _digest(event)))
            count += 1

        return bus

    bus = make()
    await bus.start()
    lows = {(lag.topic, lag.partition): lag.low for lag in await bus.backend.lag("live")}
    id = await bus.replays.start(Selection(("load.even",), start=began), group="live")
    started = time.monotonic()
    for number in range(int(kills)):
        await until(lambda number=number: count >= total * (number + 1) / (kills + 1), 600)  # type: ignore[misc]
        await bus.kill()
        bus = make()
        await bus.start()
    info = await bus.replays.wait(id)
    took = time.monotonic() - started
    after = {(lag.topic, lag.partition): lag.low for lag in await bus.backend.lag("live")}
    await bus.close()
    lost = repeated = out_of_order = 0
    for key, order in wanted.items():
        got = seen.get(key, [])
        place = {one: index for index, one in enumerate(order)}
        lost += len(set(order) - set(got))
        repeated += len(got) - len(set(got))
        reached = 0
        for one in got:
            at = place.get(one, -1)
            out_of_order += at < 0 or at > reached
            reached = max(reached, at + 1)
    return {
        "events": int(events),
        "replayed": total,
        "state": info.state,
        "lost": lost,
        "repeated": repeated,
        "out_of_key_order_or_changed": out_of_order,
        "live_group_moved": lows != after or bool(live),
        "per_s": round(count / took),
    }


def _digest(event: Event[Any]) -> bytes:
    return hashlib.blake2b(event.body, digest_size=8).digest()


PARTS: dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]] = {"delays": delays, "replay": replay}
