"""Real brokers that are killed, frozen, cut off and slowed under load, and groups whose members come and go.

Whatever happens, every acknowledged event is handled, keys keep their order, no write of a former owner is accepted by
a store that checks the fence, and the group goes on by itself.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from nexus import brokers
from nexus.brokers import Broker

from . import crash
from .proxy import Proxy

FAULTS = ("kill", "freeze", "cut", "slow", "storm", "members")
BY_PROXY = ("cut", "slow")
DEAD_S = {"kafka": 12.0, "nats": 8.0, "rabbitmq": 5.0}
"""How soon the partitions of a member that was killed move, on a machine with nothing else to do."""
MOVED_S = 15.0
"""How soon they must have moved anywhere, also those of a member that is stopped and may wake up."""
WAIT_S = 90.0


def under_fault(folder: Path, kind: str, fault: str, seconds: float) -> dict[str, Any]:
    """Publish and consume in processes of their own while a fault lasts so many seconds; then drain and check."""
    with ExitStack() as stack:
        broker, url, proxy = _broker(kind, fault, stack)
        (folder / "url.txt").write_text(f"{url}{'&' if '?' in url else '?'}prefix=proof-{secrets.token_hex(4)}")
        publisher = crash.spawn(folder, "publish", name="publisher", rate=300)
        stack.callback(crash.kill, publisher)
        consumers = [crash.spawn(folder, "consume", fail=1) for _ in range(3 if fault == "members" else 2)]
        for consumer in consumers:
            stack.callback(crash.kill, consumer)
        assert crash.wait_for(lambda: handled(folder) > 300, WAIT_S), said(folder)
        began = time.monotonic()
        members, ended = 0, 0.0
        if fault == "members":
            ended = _two_of_three(folder, consumers, seconds)
        elif fault == "storm":
            members = _storm(folder, seconds)
        else:
            _break(fault, broker, proxy, seconds)
        healed, before = time.monotonic(), handled(folder)
        assert crash.wait_for(lambda: handled(folder) > before + 300, WAIT_S), f"stuck: {said(folder)}"
        went_on = time.monotonic() - healed
        crash.kill(publisher)
        drained = crash.wait_for(lambda: asyncio.run(crash.settled(folder)), WAIT_S, 0.5)
        assert drained, f"the group did not drain: {said(folder)}"
        return {
            "kind": kind,
            "fault": f"{kind}: {fault} for {seconds:g} s",
            **crash.check(folder),
            **crash.fence_store(folder),
            "lasted_s": round(healed - began, 1),
            "went_on_after_s": round(went_on, 2),
            "joined_and_left": members,
            "resident_mib": _resident_mib([consumer.pid for consumer in consumers if consumer.poll() is None]),
            **(_moved(folder, ended, consumers) if fault == "members" else {}),
        }


def _broker(kind: str, fault: str, stack: ExitStack) -> tuple[Broker, str, Proxy | None]:
    """A broker of its own for each way to reach it, which other tests do not share."""
    if fault not in BY_PROXY:
        broker = brokers.up(kind, name="faults")
        stack.callback(brokers.down, kind, name="faults", data=True)
        return broker, broker.url, None
    # Clients follow the address that Kafka and RabbitMQ streams give, so these must give that of the proxy.
    proxy = Proxy(0)
    stack.callback(proxy.close)
    settings = {
        "kafka": {"advertised.listeners": f"PLAINTEXT://127.0.0.1:{proxy.port}"},
        "rabbitmq": {"stream.advertised_port": str(proxy.port)},
    }.get(kind, {})
    broker = brokers.up(kind, name="faults-proxy", settings=settings)
    stack.callback(brokers.down, kind, name="faults-proxy", data=True)
    port = broker.nodes[0].ports["stream" if kind == "rabbitmq" else "client"]
    proxy.target_port = port
    return broker, broker.url.replace(str(port), str(proxy.port)), proxy


def _break(fault: str, broker: Broker, proxy: Proxy | None, seconds: float) -> None:
    """Let something happen to the broker or to the way there, and end."""
    if fault == "kill":
        broker.kill(0)
        time.sleep(seconds)
        broker.start(0)
        return
    if fault == "freeze":
        broker.freeze(0)
        time.sleep(seconds)
        broker.thaw(0)
        return
    assert proxy is not None
    if fault == "slow":
        proxy.delay_s = 0.2
        time.sleep(seconds)
        proxy.delay_s = 0.0
        return
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        proxy.cut()
        time.sleep(1.0)
        proxy.mend()
        time.sleep(2.0)


def _two_of_three(folder: Path, consumers: list[subprocess.Popen[bytes]], seconds: float) -> float:
    """Kill one of three members and stop another, which wakes up later; return when that began."""
    dead, frozen, _ = consumers
    assert crash.wait_for(lambda: _all_deliver(folder, consumers), WAIT_S, 0.1), f"not shared: {said(folder)}"
    began = time.monotonic()
    dead.kill()
    frozen.send_signal(signal.SIGUSR1)
    time.sleep(seconds)
    frozen.send_signal(signal.SIGCONT)
    return began


def _moved(folder: Path, ended: float, consumers: list[subprocess.Popen[bytes]]) -> dict[str, Any]:
    """How many partitions of the dead and of the stopped member moved, and how soon the last of them."""
    report: dict[str, Any] = {}
    for name, process in zip(("dead", "frozen"), consumers, strict=False):
        gaps = crash.gaps(folder, [(ended, process.pid)])
        report[f"{name}_moved"] = len(gaps)
        report[f"{name}_moved_after_s"] = round(max(gaps, default=float("inf")), 2)
    return report


def _all_deliver(folder: Path, consumers: list[subprocess.Popen[bytes]]) -> bool:
    """Whether each has its share of the partitions, and none is on its way."""
    newest = {one["p"]: one["who"].partition("-")[0] for one in crash.by_time(folder)}
    shares = Counter(newest.values())
    return all(shares[str(consumer.pid)] >= len(newest) // len(consumers) for consumer in consumers)


def _storm(folder: Path, seconds: float) -> int:
    """Every second a member joins, and every second one is killed: each lives two seconds."""
    count = 0
    running: list[Any] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        running.append(crash.spawn(folder, "consume", fail=1))
        count += 1
        time.sleep(1.0)
        if len(running) > 2:
            victim = running.pop(0)
            victim.terminate() if count % 2 else victim.kill()
            victim.wait()
    for process in running:
        crash.kill(process)
    return count


def handled(folder: Path) -> int:
    return sum(file.read_bytes().count(b'"did"') for file in folder.glob("log-*.jsonl"))


def said(folder: Path) -> str:
    return (folder / "stderr.txt").read_text()[-2_000:]


def _resident_mib(pids: list[int]) -> int:
    found = [
        int(line.split()[1]) // 1024
        for pid in pids
        for line in Path(f"/proc/{pid}/status").read_text().splitlines()
        if line.startswith("VmRSS:")
    ]
    return max(found, default=0)


CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "every acknowledged event is handled": lambda report: report["lost"] == 0 and report["acknowledged"] > 300,
    "keys keep their order": lambda report: report["out_of_key_order"] == 0,
    "attempts stay within their bound": lambda report: report["attempts_over_bound"] == 0,
    "no former owner's write is accepted": lambda report: report["accepted_out_of_epoch_order"] == 0,
    "memory stays bounded": lambda report: report["resident_mib"] < 200,
    "partitions of dead and frozen members move": lambda report: all(
        report.get(f"{name}_moved_after_s", 0.0) < MOVED_S for name in ("dead", "frozen")
    ),
}
