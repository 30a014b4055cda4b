"""Settings: which value holds, where did it come from, and does it fit?

The first of these that has a value wins: an argument, the environment (``NEXUS_WORKERS``, ``NEXUS_PUBLISH__TIMEOUT``,
``NEXUS_BACKEND_FILE`` for a secret in a file), ``nexus.toml`` or ``[tool.nexus]`` in ``pyproject.toml`` of the working
directory, ``nexus/config.toml`` in the user's configuration directory, the default. A topic may get its partitions from
one source and its patterns from another. What is in a table of a backend's name, such as ``[kafka]``, is for that
backend alone, and is looked at when it is chosen (`nexus.config.backends`).

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
from nexus.config.backends import Backends
from nexus.config.sources import Found, Origin, Source
from nexus.config.table import TABLE, PublishSettings, Row, Settings, TopicSettings
from nexus.config.values import expanded, shown, where
from nexus.errors import SettingsError
from nexus.plugins import OWN, is_scheme

__all__ = [
    "TABLE",
    "Loaded",
    "Origin",
    "PublishSettings",
    "Row",
    "Settings",
    "TopicSettings",
    "check_topic_name",
    "load",
]

_TOPIC_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")


class Loaded(msgspec.Struct, frozen=True):
    """The settings, and for each of them where it came from."""

    settings: Settings
    origins: Mapping[str, Origin]
    """By path, such as ``publish.timeout``; every setting is there."""
    backends: Backends
    """What was said to backends, each in a table of its own."""


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
    options = {path: found.pop(path) for path in list(found) if _is_option(path, found[path])}
    values = {path: _checked(path, item, environment) for path, item in found.items()}
    _refuse_equal_names({path[1]: found[path].origin for path in found if path[0] == "topics"})
    settings = table.build(values)
    return Loaded(settings, _origins(settings, found), Backends(options, environment))


def _is_option(path: table.Path, found: Found) -> bool:
    """Whether it is said to a backend, in a table of the name of its scheme."""
    whole = len(path) == 2 or found.value == {}  # an empty table says nothing, and is no fault
    return whole and table.general(path[:1]) not in table.SECTIONS and is_scheme(path[0])


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
    name, place = ".".join(path), where(found.origin)
    row = table.row_of(path)
    if row is None:
        raise _unknown(path, place)
    if path[0] == "topics":
        check_topic_name(path[1], place)
    value, variables = expanded(found, name, environment)
    if isinstance(value, str) and (found.text_only or variables):
        value = row.kind.parse(value)
    try:
        held = row.kind.read(value)
        if isinstance(row.kind, table.Files) and found.origin.layer == "file":
            folder = os.path.dirname(found.origin.name)
            held = {pattern: os.path.join(folder, file) for pattern, file in row.kind.read(value).items()}
        return held
    except ValueError as error:
        # A secret, or what a variable stood for, must not reach a log through its error.
        secret = row.secret or variables or found.origin.name.endswith("_FILE")
        reason = "" if secret else f": {error}" if str(error) else f", not {shown(value)}"
        raise SettingsError(f"{place}{name} must be {row.kind.form}{reason}") from None


def _unknown(path: table.Path, place: str) -> SettingsError:
    if table.general(path[:1]) not in table.SECTIONS:
        path = path[:1]  # neither a section nor a backend: what is wrong is the name of the table
    name, known = ".".join(path), table.known_below(path[:-1])
    if table.general(path) in table.SECTIONS or (len(path) == 1 and is_scheme(name)):
        return SettingsError(f"{place}{name} must be a table")
    if len(path) == 1:
        known = sorted({*known, *OWN})
    from difflib import get_close_matches  # only a fault needs it, not every start

    near = get_close_matches(path[-1], known, n=1, cutoff=0.6)
    return SettingsError(
        f"{place}unknown setting {name!r}",
        hint=f"did you mean {'.'.join((*path[:-1], near[0]))!r}?" if near else f"known here: {', '.join(known)}",
    )


def check_topic_name(name: str, place: str = "") -> None:
    """Raise `SettingsError` for what no topic can be named; ``place`` is where it was found, said first."""
    if not _TOPIC_NAME.fullmatch(name):
        hint = "1 to 100 lower-case letters, digits, '.', '_' or '-', the first a letter or a digit"
        raise SettingsError(f"{place}{name!r} cannot be the name of a topic", hint=hint)
    if name.split(".")[0] == "nexus":
        raise SettingsError(f"{place}topics named nexus belong to Nexus itself")
    if name.endswith(".park"):
        raise SettingsError(f"{place}{name!r}: names that end in .park are those of parking topics")


def _refuse_equal_names(origins: Mapping[str, Origin]) -> None:
    """Refuse names that differ only in a separator: some brokers hold them for the same topic."""
    plain: dict[str, str] = {}
    for name in sorted(origins):
        other = plain.setdefault(re.sub(r"[._-]", "-", name), name)
        if other != name:
            raise SettingsError(
                f"{where(origins[name])}topics {other!r} and {name!r} would have one name on some backends",
                hint="let their names differ in more than '.', '_' and '-'",
            )


# -- origins ---------------------------------------------------------------------------------------------------------


def _origins(settings: Settings, found: Source) -> dict[str, Origin]:
    origins: dict[str, Origin] = {}
    for row in TABLE:
        for topic in settings.topics if row.path.startswith("topics.") else ("",):
            path = tuple(topic if part == "*" else part for part in row.path.split("."))
            origins[".".join(path)] = found[path].origin if path in found else Origin("default")
    return origins
