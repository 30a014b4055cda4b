"""The ready queue is fair between tenants."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.lanes import Lane, ReadyQueue
from nexus.core.parking import LaneKey

OWNER: Any = None


def lane(tenant: str | None, key: str) -> Lane:
    return Lane(OWNER, (tenant, key))


def test_a_backlog_of_one_tenant_delays_another_by_one_turn() -> None:
    ready = ReadyQueue()
    for number in range(1000):
        ready.push(lane("big", str(number)))
    ready.push(lane("small", "only"))
    assert [ready.pop().tenant for _ in range(3)] == ["big", "small", "big"]
    assert len(ready) == 998


def test_weights_share_the_turns() -> None:
    ready = ReadyQueue({"gold": 3})
    for number in range(40):
        ready.push(lane("gold", str(number)))
        ready.push(lane("iron", str(number)))
    turns = [ready.pop().tenant for _ in range(40)]
    assert turns.count("gold") == 30


@given(st.lists(st.tuples(st.sampled_from([None, "a", "b", "c"]), st.integers(0, 3)), max_size=60))
def test_nothing_is_lost_and_each_tenant_keeps_its_order(pushed: list[tuple[str | None, int]]) -> None:
    ready = ReadyQueue({"b": 2})
    for number, (tenant, _) in enumerate(pushed):
        ready.push(lane(tenant, str(number)))
    popped: list[LaneKey] = []
    while ready:
        popped.append(ready.pop().key)
    assert sorted(map(str, popped)) == sorted(str((tenant, str(n))) for n, (tenant, _) in enumerate(pushed))
    for tenant in {tenant for tenant, _ in pushed}:
        own = [int(key[1]) for key in popped if isinstance(key, tuple) and key[0] == tenant]
        assert own == sorted(own)


def test_an_event_without_key_has_no_tenant() -> None:
    assert Lane(OWNER, 5).tenant is None
