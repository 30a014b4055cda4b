"""`nexus demo`: the demonstration, which is a room of its own."""

from __future__ import annotations

from nexus.demo import command

__all__ = ["command"]
