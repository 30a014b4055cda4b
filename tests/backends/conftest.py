"""Marks the tests that need a real broker, so that the inner loop can leave them out."""

from __future__ import annotations

import pytest

from nexus import brokers

WITHOUT = ("binding", "buffer", "codec", "names", "pure", "settings")
"""How the files end whose tests ask nothing of a broker."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent.name in brokers.KINDS and not item.path.stem.endswith(WITHOUT):
            item.add_marker(pytest.mark.broker)
