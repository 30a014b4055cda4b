"""Each contestant does its work on a real broker, on as few events as are ever measured."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from nexus.bench import MISSING, runner
from nexus.bench.scenarios import SCENARIOS

_MEETINGS = sorted(
    {
        (scenario.broker, contestant)
        for scenario in SCENARIOS.values()
        if scenario.broker is not None
        for contestant in scenario.contestants
    }
)


@pytest.mark.broker
@pytest.mark.slow
@pytest.mark.parametrize(("broker", "contestant"), _MEETINGS)
def test_a_contestant_gives_the_figures_that_its_goals_read(
    broker: str, contestant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "TIMEOUT_S", 120.0)
    figures = runner.measure(contestant, runner.LEAST_EVENTS, tmp_path, broker)
    read = {
        goal.figure
        for scenario in SCENARIOS.values()
        if scenario.broker == broker
        for goal in scenario.goals
        if contestant in (goal.ours, *goal.theirs)
    }
    assert read <= set(figures)
    assert all(math.isfinite(value) and value > 0 for value in figures.values())


def test_a_contestant_that_is_not_installed_names_the_extra() -> None:
    hidden = "import sys; sys.modules['pyventus'] = None; sys.argv[1:] = ['pyventus', '10', '.']; "
    done = subprocess.run(
        [sys.executable, "-c", hidden + "from nexus.bench.__main__ import main; sys.exit(main())"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == MISSING
    assert "nexus-bus[bench]" in done.stderr


def test_a_contestant_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "TIMEOUT_S", 0.001)
    with pytest.raises(RuntimeError, match="nexus_memory took longer"):
        runner.measure("nexus_memory", 1_000, None)
