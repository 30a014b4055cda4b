"""Dead letters sent again: very many at a rate, cancelled and resumed; and some while members drain, freeze and die."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nexus import Context, Event, Receipt, Retry

from . import crash
from .child import Log, bus_in
from .load import until

GROUP = "mended"
KEYS = 1_000


async def requeue(folder: Path, letters: float = 2_000, rate: float = 1_000) -> dict[str, Any]:
    """So many dead letters are requeued by the command at a rate, cancelled after a third, and resumed."""
    logging.getLogger("nexus.delivery").setLevel(logging.CRITICAL)
    count = int(letters)
    bodies = await _all_die(folder, count)
    bus = bus_in(folder)
    seen: dict[str, list[bytes]] = defaultdict(list)
    order: dict[str | None, list[int]] = defaultdict(list)
    handled: list[float] = []

    @bus.on("mended.**", group=GROUP, start="earliest", on_dead="skip", workers=64)
    async def handle(event: Event[Any], context: Context) -> None:
        seen[event.id].append(_digest(event.body))
        order[event.key].append(event.data["n"])
        handled.append(time.monotonic())

    await bus.start()
    first = await asyncio.to_thread(_command, folder, rate, lambda: len(handled) >= count / 3)
    cancelled_at = len(handled)
    second = await asyncio.to_thread(_command, folder, rate, lambda: False)
    await until(lambda: len(seen) >= count, 120)
    left = [letter async for letter in bus.dead_letters.each(GROUP)]
    await bus.close()
    return {
        "dead": count,
        "first_run": first,
        "handled_when_cancelled": cancelled_at,
        "second_run": second,
        "left": len(left),
        "lost": count - len(seen),
        "changed": sum(set(got) != {bodies[id]} for id, got in seen.items()),
        "handled_twice": sum(len(got) - 1 for got in seen.values()),
        "out_of_key_order": sum(numbers != sorted(numbers) for numbers in order.values()),
        "per_s": round(len(handled) / (handled[-1] - handled[0])),
    }


async def _all_die(folder: Path, count: int) -> dict[str, bytes]:
    """Publish events whose handler fails each of them once, and for ever; return digests of their bodies."""
    bus = bus_in(folder)
    died = 0

    @bus.on("mended.**", group=GROUP, start="earliest", on_dead="skip", retry=Retry(1), workers=64)
    async def fail(event: Event[Any]) -> None:
        nonlocal died
        died += 1
        raise ValueError("it is down")

    bodies: dict[str, bytes] = {}
    dice = random.Random(1)
    await bus.start()
    for at in range(0, count, 1_000):
        made = [
            bus.event("mended.step", {"n": n, "noise": dice.random()}, key=f"key-{n % KEYS}")
            for n in range(at, min(at + 1_000, count))
        ]
        for answer in await bus.publish_many(made):
            assert isinstance(answer, Receipt), answer
        bodies |= {event.id: _digest(event.body) for event in made}
        await until(lambda at=at: died >= at - 10_000, 120)  # type: ignore[misc]
    await until(lambda: died >= count, 600)
    await bus.close()
    return bodies


def _command(folder: Path, rate: float, enough: Callable[[], bool]) -> dict[str, Any]:
    """Run the command, and interrupt it as soon as it is ``enough``; return what it says at its end."""
    url = (folder / "url.txt").read_text()
    words = ["dlq", "requeue", "--all", "--group", GROUP, "--rate", f"{rate:g}/s", "--yes", "-o", "json", "--url", url]
    began = time.monotonic()
    with (folder / "requeued.json").open("wb") as out, (folder / "said.txt").open("wb") as said:
        process = subprocess.Popen([sys.executable, "-m", "nexus", *words], stdout=out, stderr=said)
    while process.poll() is None:
        if enough():
            process.send_signal(signal.SIGINT)
            process.wait()
        time.sleep(0.01)
    ended = time.monotonic() - began
    talk = (folder / "said.txt").read_text().splitlines()
    return {"code": process.returncode, "s": round(ended, 1), "said": talk[-1] if talk else ""}


def _digest(body: bytes) -> bytes:
    return hashlib.blake2b(body, digest_size=8).digest()


# ---- while members drain, freeze and die -----------------------------------------------------------------------------


async def repair(folder: Path, keys: float = 100, each: float = 10, freeze_s: float = 0) -> dict[str, Any]:
    """The first event of each key is dead, the others wait; all are requeued while members drain, freeze and die.

    With ``freeze_s`` one is stopped for so long. Not on SQLite: who is stopped inside a commit holds the file.
    """
    bus = bus_in(folder)
    await bus.start(consume=False)
    made = [
        bus.event("mended.step", {"n": n}, key=f"key-{key}", id=f"{key}/{n}")
        for n in range(int(each))
        for key in range(int(keys))
    ]
    for answer in await bus.publish_many(made):
        assert isinstance(answer, Receipt), answer
    members = [_member(folder, number) for number in range(3)]
    try:
        letters: list[Any] = []

        async def all_dead() -> bool:
            letters[:] = await bus.dead_letters.all(GROUP) if GROUP in await bus.backend.groups() else []
            return len(letters) == int(keys)

        async with asyncio.timeout(60):
            while not await all_dead():  # noqa: ASYNC110 - nobody tells
                await asyncio.sleep(0.1)
        (folder / "mended").touch()
        quarter = len(letters) // 4
        parts = [letters[at : at + quarter] for at in range(0, 4 * quarter, quarter)]
        parts[3] += letters[4 * quarter :]
        members[0].terminate()
        await _one_by_one(bus, parts[0])
        if freeze_s:
            os.kill(members[1].pid, signal.SIGUSR1)
        await _one_by_one(bus, parts[1])
        members[2].kill()
        await _one_by_one(bus, parts[2])
        members += [_member(folder, 3), _member(folder, 4)]
        await _one_by_one(bus, parts[3])
        await asyncio.sleep(freeze_s)
        with contextlib.suppress(ProcessLookupError):
            os.kill(members[1].pid, signal.SIGCONT)
        drained = await asyncio.to_thread(crash.wait_for, lambda: len(_done(folder)) >= len(made), 60, 0.2)
    finally:
        for process in members:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            crash.kill(process)
        await bus.close()
    order: dict[str, list[int]] = defaultdict(list)
    for line in sorted((line for line in crash.lines(folder) if line.get("ok")), key=lambda line: line["t"]):
        order[line["key"]].append(line["n"])
    wrong = 0
    for numbers in order.values():
        first = list(dict.fromkeys(numbers))
        wrong += first != sorted(first)
    found = _done(folder)
    return {
        "events": len(made),
        "dead": int(keys),
        "drained": drained,
        "lost": len(made) - len(found),
        "out_of_key_order": wrong,
        "repeated": sum(map(len, order.values())) - len(found),
    }


async def _one_by_one(bus: Any, letters: list[Any]) -> None:
    for letter in letters:
        assert await bus.dead_letters.requeue(letter, who="proof")


def _done(folder: Path) -> set[tuple[str, int]]:
    return {(line["key"], line["n"]) for line in crash.lines(folder) if line.get("ok")}


def _member(folder: Path, number: int) -> subprocess.Popen[bytes]:
    return crash.run_module("tests.proofs.requeue", folder, f"m{number}")


async def _run_member(folder: Path, name: str) -> None:
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, os.kill, os.getpid(), signal.SIGSTOP)
    bus = bus_in(folder, settle_interval="50ms", drain="5s")
    log = Log(folder, name)

    @bus.on("mended.**", group=GROUP, start="earliest", retry=Retry(1), workers=64)
    async def handle(event: Event[Any], context: Context) -> None:
        wrong = event.data["n"] == 0 and not (folder / "mended").exists()
        log.write(n=event.data["n"], key=event.key, t=time.monotonic(), ok=not wrong, fence=context.fence)
        if wrong:
            raise ValueError("it is down")

    await bus.run()


PARTS: dict[str, Callable[..., Any]] = {"requeue": requeue, "repair": repair}

if __name__ == "__main__":
    asyncio.run(_run_member(Path(sys.argv[1]), sys.argv[2]))
