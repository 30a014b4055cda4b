"""The shipped suite, run here as users run it with ``--pyargs``: every case of every module, on every backend."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from nexus.testing import conformance

for _module in iter_modules(conformance.__path__):
    if _module.name.startswith("test_"):
        for _name, _value in vars(import_module(f"{conformance.__name__}.{_module.name}")).items():
            if _name.startswith("test_"):
                globals()[f"{_module.name}__{_name.removeprefix('test_')}"] = _value
