"""Settings: which value holds, where did it come from, and does it fit?

The first of these that has a value wins: an argument, the environment (``NEXUS_WORKERS``, ``NEXUS_PUBLISH__TIMEOUT``,
``NEXUS_BACKEND_FILE`` for a secret in a file), ``nexus.toml`` or ``[tool.nexus]`` in ``pyproject.toml`` of the working
directory, ``nexus/config.toml`` in the user's configuration directory, the default. A topic may get its partitions from
one source and its patterns from another.

>>> loaded = load({"workers": 4}, environment={"NEXUS_PUBLISH__TIMEOUT": "5s"}, directory="/nowhere")
>>> loaded.settings.workers, loaded.settings.publish.timeout_s
(4, 5.0)
>>> str(loaded.origins["workers"]), str(loaded.origins["publish.timeout"]), str(loaded.origins["backend"])
('argument', 'NEXUS_PUBLISH__TIMEOUT', 'default')
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nexus.config import sources, table
from nexus.config.sources import Found, Origin, Source
from nexus.config.table import TABLE, PublishSettings, Row, Settings, TopicSettings
from nexus.errors import SettingsError

__all__ = ["TABLE", "Loaded", "Origin", "PublishSettings", "Row", "Settings", "TopicSettings", "load"]

_TOPIC_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VARIABLE = re.compile(r"\$(\$?)\{([^}]*)(\}?)")
_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Loaded(msgspec.Struct, frozen=True):
    """The settings, and for each of them where it came from."""

    settings: Settings
    origins: Mapping[str, Origin]
    """By path, such as ``publish.timeout``; every setting is there."""


def load(
    arguments: Mapping[str, object] | None = None,
    *,
    file: str | os.PathLike[str] | None = None,
    environment: Mapping[str, str] | None = None,
    directory: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Gather the settings. Raises `SettingsError` that names the setting, the file and the line.

    ``arguments`` are named as in a file, sections as mappings. ``file`` is read instead of those of the working
    directory (``directory``) and must exist. ``environment`` is the process's unless given.
    """
    environment = os.environ if environment is None else environment
    directory = "" if directory is None else os.fspath(directory)
    found: dict[table.Path, Found] = {}
    # From the weakest to the strongest: what is set later wins.
    for source in (
        _user_source(environment),
        _project_source(directory, file),
        sources.from_environment(environment),
        sources.from_arguments(arguments or {}),
    ):
        found.update(source)
    values = {path: _checked(path, item, environment) for path, item in found.items()}
    _refuse_equal_names({path[1]: found[path].origin for path in found if path[0] == "topics"})
    settings = table.build(values)
    return Loaded(settings, _origins(settings, found))


def _user_source(environment: Mapping[str, str]) -> Source:
    given, home = environment.get("XDG_CONFIG_HOME", ""), environment.get("HOME", "")
    # The XDG specification: a relative path is to be ignored.
    base = given if os.path.isabs(given) else os.path.join(home, ".config") if home else ""
    file = os.path.join(base, "nexus", "config.toml")
    return sources.from_file(file, file) if base else {}


def _project_source(directory: str, file: str | os.PathLike[str] | None) -> Source:
    if file is not None:
        return sources.from_file(os.fspath(file), os.fspath(file), required=True)
    own = sources.from_file(os.path.join(directory, "nexus.toml"), "nexus.toml")
    shared = sources.from_file(os.path.join(directory, "pyproject.toml"), "pyproject.toml", table=("tool", "nexus"))
    if own and shared:
        raise SettingsError(
            "settings are in nexus.toml and in [tool.nexus] of pyproject.toml", hint="move them to one of the two"
        )
    return own or shared


# -- checks ----------------------------------------------------------------------------------------------------------


def _checked(path: table.Path, found: Found, environment: Mapping[str, str]) -> Any:
    name, where = ".".join(path), _where(found.origin)
    row = table.row_of(path)
    if row is None:
        raise _unknown(path, where)
    if path[0] == "topics":
        _check_topic_name(path[1], where)
    value, expanded = _expanded(found, name, where, environment)
    if isinstance(value, str) and (found.text_only or expanded):
        value = row.kind.parse(value)
    try:
        return row.kind.read(value)
    except ValueError as error:
        # A secret, or what a variable stood for, must not reach a log through its error.
        secret = row.secret or expanded or found.origin.name.endswith("_FILE")
        reason = "" if secret else f": {error}" if str(error) else f", not {_shown(value)}"
        raise SettingsError(f"{where}{name} must be {row.kind.form}{reason}") from None


def _where(origin: Origin) -> str:
    return "" if origin.layer == "argument" else f"{origin}: "


def _shown(value: object) -> str:
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _unknown(path: table.Path, where: str) -> SettingsError:
    name, known = ".".join(path), table.known_below(path[:-1])
    if table.general(path) in table.SECTIONS:
        return SettingsError(f"{where}{name} must be a table")
    from difflib import get_close_matches  # only a fault needs it, not every start

    near = get_close_matches(path[-1], known, n=1, cutoff=0.6)
    return SettingsError(
        f"{where}unknown setting {name!r}",
        hint=f"did you mean {'.'.join((*path[:-1], near[0]))!r}?" if near else f"known here: {', '.join(known)}",
    )


def _check_topic_name(name: str, where: str) -> None:
    if not _TOPIC_NAME.fullmatch(name):
        hint = "1 to 100 lower-case letters, digits, '.', '_' or '-', the first a letter or a digit"
        raise SettingsError(f"{where}{name!r} cannot be the name of a topic", hint=hint)
    if name.split(".")[0] == "nexus":
        raise SettingsError(f"{where}topics named nexus belong to Nexus itself")


def _refuse_equal_names(origins: Mapping[str, Origin]) -> None:
    """Refuse names that differ only in a separator: some brokers hold them for the same topic."""
    plain: dict[str, str] = {}
    for name in sorted(origins):
        other = plain.setdefault(re.sub(r"[._-]", "-", name), name)
        if other != name:
            raise SettingsError(
                f"{_where(origins[name])}topics {other!r} and {name!r} would have one name on some backends",
                hint="let their names differ in more than '.', '_' and '-'",
            )


# -- variables in values ---------------------------------------------------------------------------------------------


def _expanded(found: Found, name: str, where: str, environment: Mapping[str, str]) -> tuple[Any, bool]:
    """Put the variables of the environment in the place of ``${NAME}``; ``$${`` is a plain ``${``."""
    expanded = False

    def replace(match: re.Match[str]) -> str:
        nonlocal expanded
        escaped, variable, end = match.groups()
        if escaped:
            return match.group()[1:]
        if not end or not _VARIABLE_NAME.fullmatch(variable):
            raise SettingsError(f"{where}{name} has a '${{' that is not ${{NAME}}", hint="write '$${' for a plain '${'")
        if variable not in environment:
            raise SettingsError(f"{where}{name} needs the variable {variable}, which is not set")
        expanded = True
        return environment[variable]

    value = found.value
    if not found.expands:
        return value, False
    if isinstance(value, str):
        value = _VARIABLE.sub(replace, value)
    elif isinstance(value, list):
        value = [_VARIABLE.sub(replace, item) if isinstance(item, str) else item for item in value]
    return value, expanded


# -- origins ---------------------------------------------------------------------------------------------------------


def _origins(settings: Settings, found: Source) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for row in TABLE:
        for topic in settings.topics if row.path.startswith("topics.") else ("",):
            path = tuple(topic if part == "*" else part for part in row.path.split("."))
            origins[".".join(path)] = found[path].origin if path in found else Origin("default")
    return origins
