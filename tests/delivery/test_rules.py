"""The delivery rules hold in the product's own core, and the checker would see each one missing.

`python -m tests.delivery 20000` plays more schedules, and the whole table of rules switched off.
"""

from __future__ import annotations

import pytest

from .ablations import ABLATIONS
from .world import Rules, run

QUICK_SCHEDULES = 500
KNOWN_SEEDS = {"14 attempts kept at shutdown": 318, "11 commands without round": 413}
"""Where rare violations were seen; the search begins there and goes on elsewhere if the world has changed."""


@pytest.mark.parametrize("start", range(0, QUICK_SCHEDULES, 100))
def test_no_schedule_breaks_a_guarantee(start: int) -> None:
    broken = {seed: what for seed in range(start, start + 100) if (what := run(seed))}
    assert not broken, f"replay with: python -m tests.delivery --seed {min(broken)}"


def test_an_event_that_kills_its_process_is_dead_lettered_and_no_neighbour_is() -> None:
    broken = {seed: what for seed in range(150) if (what := run(seed, killer=True))}
    assert not broken, f"replay with: python -m tests.delivery --killer --seed {min(broken)}"


def violation(rules: Rules, seed: int, killer: bool) -> str | None:
    try:
        return run(seed, rules, killer=killer)
    except (AssertionError, IndexError, KeyError, ValueError):
        return None  # a switched-off rule may also break the core's own assertions; only the checker's word counts


@pytest.mark.parametrize("name", ABLATIONS)
def test_a_rule_switched_off_is_seen(name: str) -> None:
    rules, killer, schedules = ABLATIONS[name]
    first = KNOWN_SEEDS.get(name, 0)
    seeds = [first, *range(schedules)]
    assert any(violation(rules, seed, killer) for seed in seeds)
