"""`nexus config`: which settings hold here, and where each came from."""

from __future__ import annotations

import contextlib
from typing import Any

import click

from nexus import InvalidEvent, SettingsError
from nexus.cli._exits import say
from nexus.cli._output import output_option, print_rows
from nexus.cli._root import group
from nexus.cli._store import shown
from nexus.config import TABLE, Loaded, load
from nexus.config.table import Duration, Size, shown_duration, shown_size
from nexus.event import JSON
from nexus.runtime.schemas import Schemas

FIELDS = ("setting", "value", "origin")


@group("config")
def command() -> None:
    """Show the settings and where each came from, or check them."""


def _file(function: Any) -> Any:
    return click.option(
        "--file", type=click.Path(dir_okay=False), help="Read this file instead of those of the working directory."
    )(function)


@command.command("show")
@_file
@output_option("table", "json", "yaml")
def show(file: str | None, output: str) -> None:
    """Show each setting and where it came from.

    Also each option of the chosen backend. Values are as a file of settings takes them; no secret is shown.
    """
    loaded = load(file=file)
    rows = [_row(loaded, path) for path in loaded.origins]
    rows += [
        {"setting": option.path, "value": _plain(option.value), "origin": str(option.origin)}
        for option in loaded.backends.chosen(loaded.settings.backend)
    ]
    if output == "table":
        rows = [row | {"value": str(row["value"]).lower()} if isinstance(row["value"], bool) else row for row in rows]
    print_rows(rows, FIELDS, output)


@command.command("check")
@_file
def check(file: str | None) -> None:
    """Read the settings, and say what is wrong; exits with 2 then.

    The JSON Schema files that they name are read too.
    """
    loaded = load(file=file)
    _check_schemas(loaded)
    options = loaded.backends.chosen(loaded.settings.backend)
    origins = [*loaded.origins.values(), *(option.origin for option in options)]
    given = sum(origin.layer != "default" for origin in origins)
    say(f"the settings are in order: {given} given, {len(origins) - given} by default")


def _check_schemas(loaded: Loaded) -> None:
    """Raise `SettingsError` for a file that is no schema, `MissingExtra` without what reads them."""
    for file in loaded.settings.schemas.values():
        try:
            with contextlib.suppress(InvalidEvent):  # whether null fits is not the question
                Schemas({"any": file}).check("any", JSON, b"null")
        except SettingsError as error:
            raise type(error)(f"{loaded.origins['schemas']}: {error.message}", hint=error.hint) from error


def _row(loaded: Loaded, path: str) -> dict[str, object]:
    value = _value(loaded, path)
    row = next(row for row in TABLE if row.path == path or _fits(row.path, path))
    if row.secret:
        value = shown(str(value))
    elif value is not None and isinstance(row.kind, Duration):
        value = shown_duration(value)
    elif value is not None and isinstance(row.kind, Size):
        value = shown_size(value)
    return {"setting": path, "value": _plain(value), "origin": str(loaded.origins[path])}


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _fits(general: str, path: str) -> bool:
    begin, star, end = general.partition("*")
    return bool(star) and path.startswith(begin) and path.endswith(end)


def _value(loaded: Loaded, path: str) -> Any:
    """Find a value by its path; settings with a unit are held with it in their name."""
    value: Any = loaded.settings
    if path.startswith("topics."):
        topic, _, path = path.removeprefix("topics.").rpartition(".")
        value = value.topics[topic]
    for name in path.split("."):
        fields = value.__struct_encode_fields__
        value = getattr(value, value.__struct_fields__[fields.index(name)])
    return value
