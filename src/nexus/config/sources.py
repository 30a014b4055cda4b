"""Where settings are found: arguments, the environment, files. Each source gives values by place, with their origin.

Nothing is checked here but the form of the source itself; whether a value fits is the table's question.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from nexus.config.table import SECTIONS, TABLE, Path, general, row_of
from nexus.errors import SettingsError
from nexus.plugins import OWN, is_scheme

FILE_LIMIT_BYTES = 1_048_576
SECRET_LIMIT_BYTES = 65_536


class Origin(msgspec.Struct, frozen=True):
    """Where a value came from."""

    layer: str
    """``argument``, ``environment``, ``file``, ``url`` (of the backend) or ``default``."""
    name: str = ""
    """The variable or the file."""
    line: int | None = None

    def __str__(self) -> str:
        if self.layer in ("argument", "url", "default"):
            return self.layer
        return f"{self.name}:{self.line}" if self.line else self.name


class Found(msgspec.Struct, frozen=True):
    """A value as it was found."""

    value: Any
    origin: Origin
    text_only: bool = False
    """The source knows nothing but text, so ``"16"`` may be a number."""
    expands: bool = True
    """``${NAME}`` in the value stands for a variable."""


Source = Mapping[Path, Found]


def leaves(tree: Mapping[str, object], prefix: Path = ()) -> Iterator[tuple[Path, object]]:
    """Walk to the values of a tree, no deeper than the table goes."""
    for name, value in tree.items():
        path = (*prefix, str(name))
        # A table that the table does not have may be that of a backend; it has no tables in it.
        if isinstance(value, Mapping) and (
            general(path) in SECTIONS or (len(path) == 1 and value and row_of(path) is None)
        ):
            yield from leaves(value, path)
        else:
            yield path, value


# -- arguments -------------------------------------------------------------------------------------------------------


def from_arguments(arguments: Mapping[str, object]) -> Source:
    """Take the arguments of a call or the flags of a command; None is not given."""
    return {path: Found(value, Origin("argument")) for path, value in leaves(arguments) if value is not None}


# -- environment -----------------------------------------------------------------------------------------------------


def variable(path: str) -> str:
    """Return the name of the variable that gives the setting ``path``."""
    return "NEXUS_" + path.upper().replace(".", "__")


def from_environment(environment: Mapping[str, str]) -> Source:
    """Take the variables ``NEXUS_*``, and for ``NEXUS_*_FILE`` what the file holds."""
    found: dict[Path, Found] = {}
    for name in sorted(environment):
        if not name.startswith("NEXUS_"):
            continue
        path, from_file = _place(name), False
        if row_of(path) is None and name.endswith("_FILE"):
            path, from_file = _place(name.removesuffix("_FILE")), True
        if row_of(path) is None:
            path, from_file = _place(name), False
            if not _is_option(path):
                _refuse_slip(name)
                continue
        if path in found:
            raise SettingsError(f"{name} and {found[path].origin} both give {'.'.join(path)}", hint="unset one of them")
        value = secret(name, environment[name]) if from_file else environment[name]
        found[path] = Found(value, Origin("environment", name), text_only=True, expands=False)
    return found


def _place(name: str) -> Path:
    return tuple(name.removeprefix("NEXUS_").lower().split("__"))


def _is_option(path: Path) -> bool:
    """Whether a variable is said to a backend. The backend knows whether ``_file`` at its end means a file."""
    return len(path) == 2 and path[:1] not in SECTIONS and is_scheme(path[0])


def _refuse_slip(name: str) -> None:
    """Refuse a variable that was probably meant for a setting.

    Not every unknown one: the environment is shared. Kubernetes sets ``NEXUS_SERVICE_HOST`` for a service called nexus.
    """
    from difflib import get_close_matches  # only a doubtful name needs it, not every start

    known = {variable(row.path).removeprefix("NEXUS_") for row in TABLE}
    near = get_close_matches(name.removeprefix("NEXUS_"), known, n=1, cutoff=0.8)
    if "__" in name:
        section, _, option = name.removeprefix("NEXUS_").partition("__")
        near += [f"{one}__{option}" for one in get_close_matches(section, map(str.upper, OWN), n=1, cutoff=0.8)]
    if near or _place(name)[:1] in SECTIONS:
        hint = f"did you mean NEXUS_{near[0]}?" if near else "docs/settings.md lists the variables"
        raise SettingsError(f"unknown setting in the environment: {name}", hint=hint)


def secret(name: str, file: str) -> str:
    """What the ``file`` holds that the variable ``name`` leads to."""
    data = _bytes_of(file, SECRET_LIMIT_BYTES, f"{name} names the file {file}, which")
    if data is None:
        raise SettingsError(f"{name} names the file {file}, which does not exist")
    try:
        return data.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError:
        raise SettingsError(f"{name} names the file {file}, which is not UTF-8 text") from None


# -- files -----------------------------------------------------------------------------------------------------------


def from_file(file: str, shown: str, *, table: Path = (), required: bool = False) -> Source:
    """Take the settings of a TOML file, or of one ``table`` in it; a missing file has none unless it is ``required``.

    Errors and origins call the file by its ``shown`` name.
    """
    if file.lower().endswith((".yaml", ".yml")):
        raise SettingsError(f"{shown}: settings are read from TOML only; this YAML file was not opened")
    data = _bytes_of(file, FILE_LIMIT_BYTES, shown)
    if data is None:
        if required:
            raise SettingsError(f"{shown} does not exist")
        return {}
    import tomllib  # only where there is a file: 4 ms of every start otherwise

    try:
        text = data.decode("utf-8-sig")
        tree: object = tomllib.loads(text)
    except UnicodeDecodeError as error:
        raise SettingsError(f"{shown} is not UTF-8 text (byte {error.start})") from error
    except tomllib.TOMLDecodeError as error:
        raise SettingsError(f"{shown} is not TOML: {error}") from error
    except RecursionError:
        raise SettingsError(f"{shown} is nested too deep") from None
    for name in table:
        tree = tree.get(name, {}) if isinstance(tree, dict) else {}
    if not isinstance(tree, dict):
        raise SettingsError(f"{shown}: {'.'.join(table)} must be a table")
    lines = _lines(text)
    return {path: Found(value, Origin("file", shown, _line_of((*table, *path), lines))) for path, value in leaves(tree)}


def _bytes_of(file: str, limit: int, what: str) -> bytes | None:
    try:
        with open(file, "rb") as stream:
            data = stream.read(limit + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        folder = os.path.dirname(file)
        if isinstance(error, PermissionError) and folder and not os.access(folder, os.X_OK):
            return None  # in a folder of somebody else's nothing is meant for this process
        raise SettingsError(f"{what} cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise SettingsError(f"{what} is larger than {limit:,} bytes")
    return data


# Plain texts, which `re` reads and keeps when there is a file: reading them costs 2 ms of every start otherwise.
_HEADER = r"\s*\[([^\[\]]+)\]\s*(?:#.*)?$"
_KEY = r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
_NAME = r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'"""


def _lines(text: str) -> dict[Path, int]:
    """Find the line of each key, which `tomllib` does not tell. Only messages depend on it."""
    found: dict[Path, int] = {}
    header: Path = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if match := re.match(_HEADER, line):
            header = _names(match.group(1))
            found.setdefault(header, number)
        elif match := re.match(_KEY, line):
            found.setdefault((*header, *_names(match.group(1))), number)
    return found


def _names(key: str) -> Path:
    return tuple(name.strip("\"'") for name in re.findall(_NAME, key))


def _line_of(path: Path, lines: Mapping[Path, int]) -> int | None:
    """The line of the key, or of the inline table that it stands in."""
    return next((lines[path[:size]] for size in range(len(path), 0, -1) if path[:size] in lines), None)
