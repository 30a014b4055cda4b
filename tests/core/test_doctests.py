"""The examples in the docstrings of the core hold."""

from __future__ import annotations

import doctest
from importlib import import_module
from pkgutil import walk_packages

import pytest

from nexus import core

MODULES = ["nexus.event", *(module.name for module in walk_packages(core.__path__, "nexus.core."))]


@pytest.mark.parametrize("name", MODULES)
def test_examples_hold(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0
