"""What operators' tools do on each backend, at a size that fits a test run. `python -m tests.proofs` has it in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import load
from .test_load import ON_ALL

pytestmark = pytest.mark.slow


@ON_ALL
def test_delayed_events_are_handled_in_time_and_never_early(backend: str, tmp_path: Path) -> None:
    report = load.measure("delays", tmp_path, backend, events=500, over_s=1)
    assert (report["handled"], report["early"]) == (500, 0), report


@ON_ALL
def test_a_replay_that_is_killed_twice_brings_all_in_order_and_moves_no_group(backend: str, tmp_path: Path) -> None:
    report = load.measure("replay", tmp_path, backend, events=5_000)
    assert (report["state"], report["lost"], report["out_of_key_order_or_changed"]) == ("done", 0, 0), report
    assert not report["live_group_moved"], report
    assert report["repeated"] <= 2 * 2_000, report
