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


@ON_ALL
def test_groups_are_changed_under_traffic_without_a_gap_or_a_leak(backend: str, tmp_path: Path) -> None:
    report = load.measure("traffic", tmp_path, backend, stops_s=5)
    assert (report["drained"], report["members"]) == (True, 4), report
    assert not any(report["lost"].values()), report
    # Where a slow machine lets a lease run out, the next owner handles again what was not settled; nowhere else.
    assert {group for group, count in report["repeated"].items() if count} <= {*report["lost_shares"]}, report
    assert not any(report["out_of_key_order"].values()), report
    assert (report["altered_as_asked"], report["back_is_a_prefix"], report["forward_as_asked"]) == (True,) * 3, report
    assert min(report["left_out_by_the_filter"], report["handled_again"], report["skipped"]) > 0, report
    assert max(report["paused_after_s"], report["removed_after_s"]) < 5, report


def test_a_bulk_requeue_that_is_cancelled_goes_on_and_changes_no_byte(tmp_path: Path) -> None:
    report = load.measure("requeue", tmp_path, letters=2_000, rate=1_000)
    assert (report["first_run"]["code"], report["second_run"]["code"]) == (130, 0), report
    assert 600 < report["handled_when_cancelled"] < 1_500, report
    assert {report[name] for name in ("left", "lost", "changed", "handled_twice", "out_of_key_order")} == {0}, report


@pytest.mark.parametrize(("backend", "freeze_s"), [("sqlite", 0), pytest.param("nats", 10, marks=pytest.mark.broker)])
def test_a_requeue_keeps_order_while_members_drain_freeze_and_die(
    backend: str, freeze_s: float, tmp_path: Path
) -> None:
    report = load.measure("repair", tmp_path, backend, keys=40, freeze_s=freeze_s)
    assert (report["drained"], report["lost"], report["out_of_key_order"]) == (True, 0, 0), report
