"""No process of a proof outlives its test, whatever became of the test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import crash


@pytest.fixture(autouse=True)
def nothing_left_running() -> Iterator[None]:
    yield
    crash.kill_all()
