"""The options of a backend: names are known, values have the types of the settings they are for.

The settings of a backend are a struct, and its fields are the only place where an option is declared: what has a
default may be given, in the URL, in the environment or in a file. Two kinds of text are marked, since they are handled
with care: a `Secret` is never shown and never stands in a URL, a `File` is the name of a file.

>>> class Store(BackendSettings, frozen=True):
...     path: str
...     lease_s: float = 10.0
...     password: Secret | None = None
>>> read_options(Store, {"path": "a.db"}, [("lease_s", "5")], "a store", {"lease_s": 7.0, "password": "x"})
Store(path='a.db', lease_s=5.0, password=...)
>>> options_of(Store)["lease_s"].form
'a number'
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import NoneType
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from nexus.errors import SettingsError

T = TypeVar("T", bound=msgspec.Struct)

Secret = Annotated[str, msgspec.Meta(extra={"secret": True})]
File = Annotated[str, msgspec.Meta(extra={"file": True})]


class BackendSettings(msgspec.Struct, frozen=True):
    """What the settings of a backend have in common: no secret shows when they are printed."""

    def __repr__(self) -> str:
        secret = {name for name, option in options_of(type(self)).items() if option.secret}
        fields = self.__struct_fields__
        shown = (f"{name}={'...' if name in secret else repr(getattr(self, name))}" for name in fields)
        return f"{type(self).__name__}({', '.join(shown)})"


class Option(msgspec.Struct, frozen=True):
    """One field that may be given."""

    name: str
    kind: Any
    """Its type, None left out."""
    default: object
    secret: bool
    file: bool

    @property
    def form(self) -> str:
        """Say what fits, to follow "must be"."""
        if self.file:
            return "the name of a file"
        if get_origin(self.kind) is Literal:
            return "one of " + ", ".join(map(str, get_args(self.kind)))
        if get_origin(self.kind) is tuple:
            return f"a list, each {_FORMS[get_args(self.kind)[0]]}"
        return _FORMS[self.kind]

    def read(self, value: object, *, text_only: bool) -> object:
        """Return the value to hold; ``text_only``: ``"16"`` may be a number. Raises `msgspec.ValidationError`."""
        if get_origin(self.kind) is tuple:
            value = _parted(value)
        return msgspec.convert(value, self.kind, strict=not text_only)


_FORMS: dict[object, str] = {bool: "true or false", int: "a whole number", float: "a number", str: "a text"}


def options_of(kind: type[msgspec.Struct]) -> dict[str, Option]:
    """The fields of a backend's settings that may be given: those with a default."""
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for field in msgspec.structs.fields(kind):
        if field.required:
            continue
        marks = {name for extra in _extras(hints[field.name]) for name in extra}
        of = _bare(hints[field.name])
        found[field.name] = Option(field.name, of, field.default, "secret" in marks, "file" in marks)
    return found


def _extras(hint: Any) -> Iterator[Mapping[str, object]]:
    for mark in getattr(hint, "__metadata__", ()):
        yield mark.extra
    for inner in get_args(hint):
        yield from _extras(inner)


def _bare(hint: Any) -> Any:
    """The type itself, without None and without marks."""
    inner = [each for each in get_args(hint) if each is not NoneType]
    if len(inner) < len(get_args(hint)):
        return _bare(inner[0])
    return hint.__origin__ if hasattr(hint, "__metadata__") else hint


def _parted(value: object) -> object:
    if isinstance(value, str):
        return value.split(",")
    return value if isinstance(value, list | tuple) else [value]


def read_options(
    kind: type[T],
    given: Mapping[str, Any],
    options: Iterable[tuple[str, Any]],
    what: str,
    others: Mapping[str, Any] | None = None,
    *,
    apart: Sequence[str] = (),
) -> T:
    """Make settings of what the rest of a URL has ``given`` and of its options, by name and text.

    ``what`` they are for is told in errors. ``others`` are options from elsewhere, which the URL's win over. ``apart``
    are fields that no option of the URL sets, besides those in ``given``; the same holds for every `Secret`. Raises
    `SettingsError` naming the option at fault.
    """
    declared = options_of(kind)
    secrets = [name for name, option in declared.items() if option.secret]
    known = [name for name in declared if name not in given and name not in apart and name not in secrets]
    values = {**(others or {}), **given}
    for name, value in options:
        if name in secrets:
            raise SettingsError(
                f"{name} stands in the URL of {what}, and URLs are logged",
                hint="give it in the environment or in a file",
            )
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            raise SettingsError(
                f"unknown option {name!r} of {what}",
                hint=f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}",
            )
        values[name] = _parted(value) if get_origin(declared[name].kind) is tuple else value
    try:
        return msgspec.convert(values, kind, strict=False)
    except msgspec.ValidationError as error:
        raise SettingsError(f"option of {what}: {error}") from error
