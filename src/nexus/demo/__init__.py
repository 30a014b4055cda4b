"""The demo: real flights as events, a crash in the middle, a repair at the end, and figures that add up.

``nexus demo``, or ``python -m nexus.demo``. ``docs/demo.md`` tells what is shown and what is wrong with the data.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus.demo.cli import command

__all__ = ["command"]


def __getattr__(name: str) -> Any:
    """Load the command on first use: the worker process starts without click and rich, so it recovers faster."""
    if name == "command":
        from nexus.demo.cli import command

        return command
    raise AttributeError(name)
