"""Makes the plug-in's fixture work when the package is on the path and not installed."""

from __future__ import annotations

from nexus.testing.plugin import nexus_clock

__all__ = ["nexus_clock"]
