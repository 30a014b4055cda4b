"""Makes the plug-in's option and fixture work when the package is on the path and not installed."""

from __future__ import annotations

import pytest

from nexus.testing import plugin
from nexus.testing.plugin import nexus_backend_url

__all__ = ["nexus_backend_url"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if plugin not in metafunc.config.pluginmanager.get_plugins():
        plugin.pytest_generate_tests(metafunc)
