"""Every branch of the core is taken by its own tests: properties, examples and the delivery schedules."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_every_branch_of_the_core_is_taken(tmp_path: Path) -> None:
    environment = os.environ | {"COVERAGE_FILE": str(tmp_path / "coverage")}
    include = f"--include={ROOT / 'src/nexus/core'}/*,{ROOT / 'src/nexus/event.py'}"
    tests = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/core", "tests/delivery"]
    run = [sys.executable, "-m", "coverage", "run", "--branch", include, *tests[1:]]
    done = subprocess.run(run, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:]
    report = [
        sys.executable,
        "-m",
        "coverage",
        "report",
        "--show-missing",
        "--skip-covered",
        "--fail-under=100",
        include,
    ]
    told = subprocess.run(report, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout
