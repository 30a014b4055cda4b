"""The proofs at a size that fits a test run. `python -m tests.proofs` has them all, in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import crash, load

pytestmark = pytest.mark.slow


def test_killed_20_times_nothing_acknowledged_is_lost_and_keys_stay_in_order(tmp_path: Path) -> None:
    report = crash.kill_loop(tmp_path, 20, events=20_000, records=5_000)
    assert report["acknowledged"] > 1_000
    assert (report["lost"], report["out_of_key_order"], report["attempts_over_bound"]) == (0, 0, 0), report
    assert report["recovery_p99_s"] < 2, report


def test_four_processes_share_a_group_while_they_are_killed(tmp_path: Path) -> None:
    report = crash.four_processes(tmp_path, 6)
    assert (report["lost"], report["out_of_key_order"], report["accepted_out_of_epoch_order"]) == (0, 0, 0), report
    assert report["takeovers"] >= 4, report
    assert report["takeover_max_s"] < 1, report


def test_a_blocked_handler_with_a_backlog_keeps_memory_bounded(tmp_path: Path) -> None:
    report = load.measure("backlog", tmp_path, events=50_000)
    assert report["grew_mib"] < 64, report


def test_a_blocked_key_with_followers_keeps_memory_bounded_and_flows_after_the_repair(tmp_path: Path) -> None:
    report = load.measure("followers", tmp_path, events=20_000)
    assert report["grew_mib"] < 64, report


def test_a_hot_key_that_parked_flows_again_in_order(tmp_path: Path) -> None:
    report = load.measure("hot_key", tmp_path, rate=1_000, fail_s=1)
    assert report["in_order"], report
    assert report["flows_again_after_s"] is not None, report
    assert report["flows_again_after_s"] < 30, report


def test_keys_that_fail_keep_their_order_and_hold_no_other_up(tmp_path: Path) -> None:
    report = load.measure("neighbours", tmp_path, seconds=2)
    assert report["failed"] > 50, report
    assert report["out_of_key_order"] == 0, report
