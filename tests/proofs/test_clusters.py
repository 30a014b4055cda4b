"""What one node and three say that survives, and that it does: the leader of a partition is killed under load."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from nexus import brokers
from nexus.testing.backends import fresh_prefix

from . import leaders, levels

pytestmark = [pytest.mark.slow, pytest.mark.broker]


@pytest.mark.parametrize("kind", brokers.KINDS)
def test_one_node_says_what_one_node_is_worth(kind: str) -> None:
    url = levels.url_of(brokers.up(kind), fresh_prefix())
    asyncio.run(levels.check(url, "process", above="replicated+disk"))


@pytest.mark.parametrize("kind", brokers.KINDS)
def test_three_nodes_say_what_they_give(kind: str) -> None:
    with leaders.cluster(kind, **levels.THREE[kind]) as broker:
        asyncio.run(levels.on_three_nodes(broker))


def test_a_killed_leader_loses_nothing(tmp_path: Path) -> None:
    with leaders.cluster("nats") as broker:  # the others take minutes: `python -m tests.proofs leaders`
        report = leaders.killed(tmp_path, broker, times=1)
    broken = [promise for promise, holds in leaders.CHECKS.items() if not holds(report)]
    assert not broken, report
