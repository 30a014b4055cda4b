"""What files and the environment say to a backend: ``[kafka]`` in a file, ``NEXUS_KAFKA__LINGER_MS``, and then its URL.

Which options there are is declared by the backend, in the struct of its settings, and nowhere else
(`nexus.plugins.settings_type`). So a table is looked at only when its backend is chosen: to read another's would load
that one's client. The URL's own options win.

A value is what the option takes; in the environment it is text, and lists have commas. ``NEXUS_KAFKA__PASSWORD_FILE``
names a file that holds the value. For an option that is itself the name of a file, that is the file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from nexus.config.sources import Found, Origin, Source, secret
from nexus.config.table import Path
from nexus.config.values import expanded, shown, where
from nexus.core.options import Option, options_of
from nexus.errors import SettingsError
from nexus.plugins import plain, settings_type

_LAYERS = ("file", "environment", "argument")
"""From the weakest to the strongest."""


class Chosen(msgspec.Struct, frozen=True):
    """One option of the chosen backend."""

    path: str
    """Such as ``kafka.linger_ms``."""
    value: object
    """What holds; None where it is a secret that was not given, and ``***`` for one that was."""
    origin: Origin


class Backends:
    """What was found for all backends."""

    def __init__(self, found: Source, environment: Mapping[str, str]) -> None:
        self._found = found
        self._environment = environment

    def options(self, url: str) -> dict[str, object]:
        """The options of the backend of a URL that the URL does not say. Raises `SettingsError`."""
        values, origins = self._given(url)
        if values:
            self._parse(url, values, origins)
        return values

    def chosen(self, url: str) -> list[Chosen]:
        """All options of the backend of a URL, each with its origin. Raises `SettingsError`."""
        scheme, _, rest = url.partition("://")
        kind = settings_type(scheme)
        if kind is None:
            return []
        from urllib.parse import parse_qsl  # only a listing needs it, not every start

        values, origins = self._given(url)
        settings = self._parse(url, values, origins)
        in_url = {name for name, _ in parse_qsl(rest.partition("?")[2], keep_blank_values=True)}
        found = []
        for name, option in options_of(kind).items():
            value = getattr(settings, name)
            if name in in_url:
                origin = Origin("url")
            elif name in values and values[name] == value:
                origin = origins[name]
            else:  # what is not in the query may be in the rest of the URL, as a user is
                origin = Origin("default" if value == option.default else "url")
            hidden = option.secret and value is not None
            found.append(Chosen(f"{scheme}.{name}", "***" if hidden else value, origin))
        return found

    def _parse(self, url: str, values: Mapping[str, object], origins: Mapping[str, Origin]) -> Any:
        """Have the backend read it all; say of what it refuses where that came from."""
        try:
            return settings_type(url.partition("://")[0]).parse(url, values)
        except SettingsError as error:
            named = dict.fromkeys(re.findall(r"[a-z][a-z0-9_]*", error.message))
            from_elsewhere = [str(origins[name]) for name in named if name in origins]
            if not from_elsewhere:
                raise
            raise SettingsError(f"{', '.join(from_elsewhere)}: {error.message}", hint=error.hint) from None

    def _given(self, url: str) -> tuple[dict[str, object], dict[str, Origin]]:
        scheme = url.partition("://")[0]
        mine = {path: item for path, item in self._found.items() if plain(path[0]) == plain(scheme) and len(path) == 2}
        if not mine:
            return {}, {}
        kind = settings_type(scheme)
        if kind is None:
            first = min(mine)
            raise SettingsError(
                f"{where(mine[first].origin)}unknown setting {'.'.join(first)!r}",
                hint=f"the backend {scheme} takes what its URL says and nothing else",
            )
        declared = options_of(kind)
        values: dict[str, object] = {}
        origins: dict[str, Origin] = {}
        for path, item in sorted(mine.items(), key=lambda each: _LAYERS.index(each[1].origin.layer)):
            option, from_file = _declared(path, item, declared)
            other = origins.get(option.name)
            if other is not None and other.layer == item.origin.layer == "environment":
                raise SettingsError(f"{other} and {item.origin} both give {'.'.join(path)}", hint="unset one of them")
            values[option.name] = self._value(path, item, option, from_file=from_file)
            origins[option.name] = item.origin
        return values, origins

    def _value(self, path: Path, item: Found, option: Option, *, from_file: bool) -> object:
        name = f"{path[0]}.{option.name}"
        if from_file and option.file:
            return item.value
        if from_file:
            value, indirect = secret(item.origin.name, item.value), True
        else:
            value, indirect = expanded(item, name, self._environment)
        try:
            return option.read(value, text_only=item.text_only or indirect)
        except msgspec.ValidationError:
            # A secret, or what a variable stood for, must not reach a log through its error.
            reason = "" if option.secret or indirect else f", not {shown(value)}"
            raise SettingsError(f"{where(item.origin)}{name} must be {option.form}{reason}") from None


def _declared(path: Path, item: Found, declared: Mapping[str, Option]) -> tuple[Option, bool]:
    """The option that a place is for, and whether the value is in a file. Raises `SettingsError` if there is none."""
    section, name = path
    if name in declared:
        return declared[name], False
    if item.origin.layer == "environment" and name.removesuffix("_file") in declared:
        return declared[name.removesuffix("_file")], True
    from difflib import get_close_matches  # only a fault needs it, not every start

    near = get_close_matches(name, declared, n=1, cutoff=0.6)
    raise SettingsError(
        f"{where(item.origin)}unknown setting {section + '.' + name!r}",
        hint=f"did you mean {section + '.' + near[0]!r}?" if near else f"known here: {', '.join(declared)}",
    )
