"""What load does on each backend, at a size that fits a test run. `python -m tests.proofs` has it in full."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus import brokers

from . import load

pytestmark = pytest.mark.slow

ON_ALL = pytest.mark.parametrize(
    "backend", ["memory", "sqlite", *(pytest.param(kind, marks=pytest.mark.broker) for kind in brokers.KINDS)]
)


@ON_ALL
def test_a_blocked_handler_with_a_backlog_keeps_memory_bounded(backend: str, tmp_path: Path) -> None:
    report = load.measure("backlog", tmp_path, backend, events=50_000 if backend == "sqlite" else 20_000)
    assert report["grew_mib"] < 64, report


@ON_ALL
def test_who_publishes_more_than_fits_waits_or_is_told_so_and_memory_stays_bounded(
    backend: str, tmp_path: Path
) -> None:
    report = load.measure("pressure", tmp_path, backend, events=5_000)
    assert report["acknowledged"] + report["overloaded"] == report["events"], report
    assert report["stored_as_said"], report
    assert report["most_under_way"] <= report["bound"] <= report["acknowledged"], report
    assert report["grew_mib"] < 64, report  # all of them at once would be 80


@ON_ALL
def test_a_blocked_key_with_followers_keeps_memory_bounded_and_flows_after_the_repair(
    backend: str, tmp_path: Path
) -> None:
    report = load.measure("followers", tmp_path, backend, events=20_000 if backend == "sqlite" else 5_000)
    assert report["grew_mib"] < 64, report


@ON_ALL
def test_a_hot_key_that_parked_flows_again_in_order(backend: str, tmp_path: Path) -> None:
    report = load.measure("hot_key", tmp_path, backend, rate=1_000 if backend == "sqlite" else 500, fail_s=1)
    assert report["in_order"], report
    assert report["flows_again_after_s"] is not None, report
    assert report["flows_again_after_s"] < 30, report


@ON_ALL
def test_keys_that_fail_keep_their_order_and_hold_no_other_up(backend: str, tmp_path: Path) -> None:
    sizes = {"seconds": 2.0} if backend == "sqlite" else {"seconds": 1.0, "warm": 2_000.0}
    report = load.measure("neighbours", tmp_path, backend, **sizes)
    assert report["failed"] > (50 if backend == "sqlite" else 20), report
    assert report["out_of_key_order"] == 0, report
