"""The proofs at a size that fits a test run. `python -m tests.proofs` has them all, in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from . import crash

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
