"""What all tests share: how many examples Hypothesis draws, and a random order that one seed replays."""

from __future__ import annotations

import os
import random
import signal

import pytest
from hypothesis import settings

# No deadline: a loaded machine is not a failing test. Not derandomized: each run looks at new examples, and a failure
# prints the blob and the seed that bring it back.
settings.register_profile("quick", max_examples=50, deadline=None, derandomize=False, print_blob=True)
settings.register_profile("full", max_examples=400, deadline=None, derandomize=False, print_blob=True)
settings.load_profile("quick")

# What a shell starts in the background ignores Ctrl-C, and so would every program that a test starts and interrupts.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Shuffle the files, and the tests inside each, when a seed is given (``./nexus test`` always gives one)."""
    seed = config.getoption("hypothesis_seed", default=None)
    if seed is None:
        return
    dice = random.Random(str(seed))
    files: dict[object, list[pytest.Item]] = {}
    for item in items:
        files.setdefault(item.path, []).append(item)
    groups = list(files.values())
    dice.shuffle(groups)
    for group in groups:
        dice.shuffle(group)
    items[:] = [item for group in groups for item in group]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, exitstatus: int) -> None:
    """Say how to run a failing run again, with its order and its examples."""
    replay = os.environ.get("REPLAY_COMMAND")
    if replay and exitstatus == pytest.ExitCode.TESTS_FAILED:
        terminalreporter.line(f"replay: {replay}")
