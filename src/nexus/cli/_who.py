"""Who is at the keyboard? It stands in each decision that a command writes."""

from __future__ import annotations

import getpass


def who() -> str:
    """Return the name of the person, as far as the system knows it; empty without one."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a user without a name, as in some containers
        return ""
