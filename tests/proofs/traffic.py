"""Groups changed under traffic: four members share them while an operator alters, pauses, seeks and removes.

Members are processes, on memory buses of one process. Events are numbered and published one after the other, so that in
each partition the order of numbers is that of positions, on every backend.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from nexus import Context, Event, Nexus, Receipt

from . import crash
from .child import Log, bus_in
from .load import until

MEMBERS = 4
KEYS = 40
GROUPS = ("altered", "paused", "back", "forward", "witness")
MADE = "made"


def join(bus: Nexus, log: Log, name: str) -> None:
    """Give a member its handlers, which write down what they start."""

    def handler(group: str) -> Callable[..., Any]:
        async def handle(event: Event[Any], context: Context) -> None:
            log.write(
                g=group,
                n=event.data["n"],
                p=context.partition,
                fence=context.fence,
                key=event.key,
                t=time.monotonic(),
                who=name,
            )

        return handle

    for group in GROUPS:
        bus.on("traffic.*", group=group, start="earliest")(handler(group))
    bus.handler(MADE)(handler(MADE))


class Said(logging.Handler):
    """Keeps what a member says beside what it handles, so that a report tells why something came twice."""

    def __init__(self, log: Log, name: str) -> None:
        super().__init__(logging.INFO)
        self._log = log
        self._name = name

    def emit(self, record: logging.LogRecord) -> None:
        if "nexus" in record.name:
            self._log.write(said=record.getMessage()[:200], t=time.monotonic(), who=self._name)


async def members(folder: Path, stack: AsyncExitStack) -> None:
    """Start the members; they end with the stack."""
    if "memory" in (folder / "url.txt").read_text():
        for number in range(MEMBERS):
            bus = bus_in(folder, settle_interval="50ms")
            join(bus, Log(folder, f"m{number}"), f"m{number}")
            await bus.start()
            stack.push_async_callback(bus.close)
        return
    for number in range(MEMBERS):
        stack.callback(crash.kill, crash.run_module("tests.proofs.traffic", folder, f"m{number}"))
    await until(lambda: all((folder / f"log-m{number}.jsonl").exists() for number in range(MEMBERS)), 60)


class Traffic:
    """Publishes numbered events, one after the other, at a rate."""

    def __init__(self, bus: Nexus, rate: float) -> None:
        self._bus = bus
        self._rate = rate
        self.partitions: list[int] = []
        """By number of the event: where it went."""
        self.over = False
        """Set when no more are to be published: what is under way then is stored, and counted."""

    async def run(self) -> None:
        while not self.over:
            number = len(self.partitions)
            data = {"n": number, "kind": "even" if number % 2 == 0 else "odd"}
            event = self._bus.event("traffic.step", data, key=f"key-{number % KEYS}")
            answer = (await self._bus.publish_many([event]))[0]
            assert isinstance(answer, Receipt), answer
            self.partitions.append(answer.partition)
            await asyncio.sleep(1 / self._rate)

    async def more(self, count: int) -> int:
        """Wait until so many more are stored; return how many there are."""
        wanted = len(self.partitions) + count
        await until(lambda: len(self.partitions) >= wanted, 60)
        return len(self.partitions)


def starts(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """By group, what was started, in the order of time."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in sorted((line for line in crash.lines(folder) if "g" in line), key=lambda line: line["t"]):
        found[line["g"]].append(line)
    return found


async def traffic(folder: Path, rate: float = 200, each: float = 100, stops_s: float = 2) -> dict[str, Any]:
    """Change groups while events flow; ``each``: events between one change and the next.

    ``stops_s``: how long a wish may take until every member keeps to it.
    """
    pace = int(each)
    async with AsyncExitStack() as stack:
        await members(folder, stack)
        bus = bus_in(folder)
        await bus.start(consume=False)
        stack.push_async_callback(bus.close)
        groups = bus.subscriptions
        # A group can be changed once it has run.
        for group in GROUPS:
            await _exists(bus, group)
        await groups.create(MADE, "traffic.*", handler=MADE, start="earliest")
        flow = Traffic(bus, rate)
        flowing = asyncio.create_task(flow.run())
        stack.callback(flowing.cancel)

        await flow.more(pace)
        await groups.alter("altered", where='data.kind == "even"')
        await flow.more(pace)
        await groups.alter("altered", where=None)
        await flow.more(pace)

        await groups.pause("paused")
        paused_at = time.monotonic()
        await asyncio.sleep(stops_s + 1)
        resumed_at = time.monotonic()
        await groups.resume("paused")

        await flow.more(pace)
        await groups.seek("back", "earliest")
        await groups.pause("forward")
        await asyncio.sleep(stops_s)
        skipped_from = await flow.more(pace)
        surely_skipped = await flow.more(pace)
        await groups.seek("forward", "latest")
        # What was stored meanwhile may be on either side; one may be stored already that is not counted yet.
        skipped_to = len(flow.partitions) + 1
        await groups.resume("forward")
        await flow.more(pace)

        await groups.remove(MADE)
        removed_at = time.monotonic()
        await asyncio.sleep(stops_s + 1)
        made_again_at = time.monotonic()
        await groups.create(MADE, "traffic.*", handler=MADE, start="earliest")
        await flow.more(pace)
        flow.over = True
        await flowing
        count = len(flow.partitions)
        whole = ("altered", "paused", "back", "forward", "witness", MADE)
        last = {partition: number for number, partition in enumerate(flow.partitions)}

        def all_in() -> bool:
            found = starts(folder)
            return all({one["n"] for one in found[group]} >= set(last.values()) for group in whole)

        drained = await asyncio.to_thread(crash.wait_for, all_in, 60, 0.2)
    found = starts(folder)
    numbers = {group: [one["n"] for one in found[group]] for group in whole}
    everything = set(range(count))
    once = ("altered", "paused", "forward", "witness", MADE)
    return {
        "events": count,
        "drained": drained,
        "members": len({one["who"] for one in found["witness"]}),
        "lost": {group: len(everything - set(numbers[group])) for group in ("paused", "back", "witness", MADE)},
        "repeated": {group: len(numbers[group]) - len(set(numbers[group])) for group in once},
        "altered_as_asked": _left_out_a_run(flow.partitions, set(numbers["altered"]), lambda n: n % 2 == 1),
        "left_out_by_the_filter": count - len(set(numbers["altered"])),
        "back_is_a_prefix": _went_back_once(flow.partitions, numbers["back"]),
        "handled_again": len(numbers["back"]) - len(set(numbers["back"])),
        "forward_as_asked": _left_out_a_run(flow.partitions, set(numbers["forward"]), lambda n: True)
        and set(range(skipped_to, count)) <= set(numbers["forward"])
        and not set(range(skipped_from, surely_skipped)) & set(numbers["forward"]),
        "skipped": count - len(set(numbers["forward"])),
        "paused_after_s": _last_between(found["paused"], paused_at, resumed_at),
        "removed_after_s": _last_between(found[MADE], removed_at, made_again_at),
        "out_of_key_order": {group: _out_of_key_order(found[group]) for group in once},
        "lost_shares": sorted(group for group in once if _lost_a_share(folder, group)),
        "said": _said(folder, first=found["witness"][0]["t"]),
    }


def _lost_a_share(folder: Path, group: str) -> bool:
    """Tell whether a member lost a partition of the group that it had not given up: a slow machine does that."""
    told = re.compile(rf"group {group}:? .*(\blost\b|not given up in time|ran out|is taken out)")
    return any(told.match(line["said"]) for line in crash.lines(folder) if "said" in line)


def _said(folder: Path, first: float) -> list[str]:
    """What members said once events flowed, with the seconds since."""
    said = sorted((line["t"], line["who"], line["said"]) for line in crash.lines(folder) if "said" in line)
    return [f"{at - first:.2f} {who}: {text}" for at, who, text in said if at >= first][:100]


async def _exists(bus: Nexus, group: str) -> None:
    async with asyncio.timeout(60):
        while group not in await bus.backend.groups():  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.05)


def _by_partition(partitions: list[int], chosen: Iterable[int]) -> list[list[int]]:
    found: dict[int, list[int]] = defaultdict(list)
    for number in chosen:
        found[partitions[number]].append(number)
    return [sorted(of) for of in found.values()]


def _left_out_a_run(partitions: list[int], handled: set[int], may: Callable[[int], bool]) -> bool:
    """Tell whether in each partition what was left out is a run without a gap of those that may be."""
    allowed = [number for number in range(len(partitions)) if may(number)]
    if set(range(len(partitions))) - handled - set(allowed):
        return False
    for of in _by_partition(partitions, allowed):
        flags = "".join("1" if number in handled else "0" for number in of)
        if "0" in flags.strip("1").strip("0") or "1" in flags.strip("1"):
            return False
    return True


def _went_back_once(partitions: list[int], handled: list[int]) -> bool:
    """Tell whether each partition was handled up to some event, and after its first came anew, whole.

    Either may hold what a new owner handles again, so only the first start of each event is looked at.
    """
    for of in _by_partition(partitions, range(len(partitions))):
        own = [number for number in handled if partitions[number] == partitions[of[0]]]
        back = len(own) - 1 - own[::-1].index(of[0])
        before, after = ({*own[:back]}, {*own[back:]})
        if after != set(of) or before != set(of[: len(before)]):
            return False
    return True


def _last_between(started: list[dict[str, Any]], since: float, until: float) -> float:
    """Return how long after ``since`` the last start before ``until`` was, in seconds; 0 without any."""
    times = [one["t"] - since for one in started if since <= one["t"] < until]
    return round(max(times, default=0.0), 3)


def _out_of_key_order(started: list[dict[str, Any]]) -> int:
    """Count starts out of the order of their key: a first start after a later event's, or any in one ownership.

    A new owner handles again, in order, what the one before had not settled.
    """
    reached: dict[tuple[str, int | None], int] = {}
    seen: set[int] = set()
    wrong = 0
    for one in started:
        number, key = one["n"], one["key"]
        for place in [(key, one["fence"])] + [(key, None)] * (number not in seen):
            wrong += number <= reached.get(place, -1)
            reached[place] = number
        seen.add(number)
    return wrong


PARTS: dict[str, Callable[..., Any]] = {"traffic": traffic}


async def _member(folder: Path, name: str) -> None:
    bus = bus_in(folder, settle_interval="50ms")
    log = Log(folder, name)
    logging.basicConfig(level=logging.INFO, handlers=[Said(log, name), logging.StreamHandler()])
    join(bus, log, name)
    await bus.start()
    log.write(started=name)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_member(Path(sys.argv[1]), sys.argv[2]))
