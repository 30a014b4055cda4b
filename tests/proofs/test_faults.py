"""A short pass of each fault on each real broker. `python -m tests.proofs faults` has them at full length."""

from __future__ import annotations

from pathlib import Path

import pytest

from nexus import brokers

from . import faults

pytestmark = [pytest.mark.slow, pytest.mark.broker]

SECONDS = {"kill": 3.0, "freeze": 10.0, "cut": 8.0, "slow": 5.0, "storm": 6.0, "members": 8.0}


@pytest.mark.parametrize("fault", faults.FAULTS)
@pytest.mark.parametrize("kind", brokers.KINDS)
def test_a_broker_that_fails_loses_nothing_and_the_group_goes_on(kind: str, fault: str, tmp_path: Path) -> None:
    report = faults.under_fault(tmp_path, kind, fault, SECONDS[fault])
    broken = [promise for promise, holds in faults.CHECKS.items() if not holds(report)]
    assert not broken, report
