"""A cluster of three in which the node that leads a topic's partition is killed while a bus publishes and consumes."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nexus import brokers
from nexus.brokers import Broker
from nexus.testing.backends import fresh_prefix

from . import admin, crash
from .faults import WAIT_S, handled, said

GAP_S = 30.0
"""How long no event of a partition may be delivered because its leader died."""
_QUIET_S = 5.0
_CLUSTER = "proofs"
OPTIONS = {"kafka": "&replicas=3&min_insync_replicas=2"}
"""What the URL of a store on three nodes says; the other brokers keep three copies by themselves."""


@contextmanager
def cluster(kind: str, **settings: str) -> Iterator[Broker]:
    """Three nodes, gone with all they held at the end."""
    try:
        yield brokers.up(kind, 3, name=_CLUSTER, settings=settings)
    finally:
        brokers.down(kind, 3, name=_CLUSTER, data=True)


def store_url(broker: Broker, prefix: str) -> str:
    """A new store with three copies of each topic."""
    return f"{broker.url}{'&' if '?' in broker.url else '?'}prefix={prefix}{OPTIONS.get(broker.kind, '')}"


def killed(folder: Path, broker: Broker, times: int) -> dict[str, Any]:
    """Kill the leader of a partition so many times, and bring the node back; drain, and check what was written."""
    prefix = fresh_prefix()
    (folder / "url.txt").write_text(store_url(broker, prefix))
    with ExitStack() as stack:
        publisher = crash.spawn(folder, "publish", name="publisher", rate=100)
        stack.callback(crash.kill, publisher)
        for _ in range(2):
            stack.callback(crash.kill, crash.spawn(folder, "consume", fail=1))
        assert crash.wait_for(lambda: handled(folder) > 100, WAIT_S), said(folder)
        kills = []
        for _ in range(times):
            partition = next(line["p"] for line in crash.lines(folder) if "did" in line)
            victim = admin.leader(broker, prefix, "events", partition)
            kills.append(time.monotonic())
            broker.kill(victim)
            _await_all(folder, kills[-1])
            time.sleep(_QUIET_S)
            broker.start(victim)
            _await_all(folder, time.monotonic())
        crash.kill(publisher)
        drained = crash.wait_for(lambda: asyncio.run(crash.settled(folder)), WAIT_S, 0.5)
        assert drained, f"the group did not drain: {said(folder)}"
    return {
        "broker": broker.kind,
        "leaders_killed": times,
        **crash.check(folder),
        **crash.fence_store(folder),
        "longest_gap_s": [
            round(_longest_gap(folder, at, until), 2) for at, until in itertools.pairwise([*kills, float("inf")])
        ],
    }


def _by_partition(folder: Path) -> dict[int, list[float]]:
    times: dict[int, list[float]] = defaultdict(list)
    for one in crash.by_time(folder):
        times[one["p"]].append(one["t"])
    return times


def _await_all(folder: Path, since: float) -> None:
    """Wait until something of every partition was handled after a moment."""

    def all_went_on() -> bool:
        return all(times[-1] > since for times in _by_partition(folder).values())

    assert crash.wait_for(all_went_on, WAIT_S, 0.25), f"stuck: {said(folder)}"


def _longest_gap(folder: Path, since: float, until: float) -> float:
    """Of all partitions: the longest time without a delivery that ended or began between two moments."""
    return max(
        later - earlier
        for times in _by_partition(folder).values()
        for earlier, later in itertools.pairwise(times)
        if earlier < until and later > since
    )


CHECKS: dict[str, Callable[[dict[str, Any]], bool]] = {
    "every acknowledged event is handled": lambda report: report["lost"] == 0 and report["acknowledged"] > 100,
    "keys keep their order": lambda report: report["out_of_key_order"] == 0,
    "no former owner's write is accepted": lambda report: report["accepted_out_of_epoch_order"] == 0,
    "deliveries go on soon": lambda report: max(report["longest_gap_s"]) < GAP_S,
}
