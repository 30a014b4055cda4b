"""What a value that was found stands for, and how it is told in an error."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from nexus.config.sources import Found, Origin
from nexus.errors import SettingsError

_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def where(origin: Origin) -> str:
    """How an error begins that is about a value from there."""
    return "" if origin.layer == "argument" else f"{origin}: "


def shown(value: object) -> str:
    """A value that was refused, in short."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def expanded(found: Found, name: str, environment: Mapping[str, str]) -> tuple[Any, bool]:
    """Put the variables of the environment in the place of ``${NAME}``; ``$${`` is a plain ``${``.

    Also tells whether there was any. Raises `SettingsError` for a variable that is not set.
    """
    any_found = False
    place = where(found.origin)

    def replace(match: re.Match[str]) -> str:
        nonlocal any_found
        escaped, variable, end = match.groups()
        if escaped:
            return match.group()[1:]
        if not end or not _VARIABLE_NAME.fullmatch(variable):
            raise SettingsError(f"{place}{name} has a '${{' that is not ${{NAME}}", hint="write '$${' for a plain '${'")
        if variable not in environment:
            raise SettingsError(f"{place}{name} needs the variable {variable}, which is not set")
        any_found = True
        return environment[variable]

    value = found.value
    if not found.expands:
        return value, False
    if isinstance(value, str):
        value = _VARIABLE.sub(replace, value)
    elif isinstance(value, list):
        value = [_VARIABLE.sub(replace, item) if isinstance(item, str) else item for item in value]
    return value, any_found
