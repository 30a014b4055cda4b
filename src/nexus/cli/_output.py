"""The same fields as a table for people, as JSON, or as YAML (which is JSON on lines of its own)."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import click

from nexus.cli._exits import say
from nexus.cli._text import escape, escape_json

Row = Mapping[str, Any]


def output_option(*formats: str) -> Callable[[Callable[..., object]], Callable[..., object]]:
    """Add ``-o``; the first format is the default."""
    return click.option(
        "-o", "--output", type=click.Choice(formats), default=formats[0], show_default=True, help="How to print."
    )


def print_rows(rows: Sequence[Row], fields: Sequence[str], output: str, *, none: str | None = "none") -> None:
    """Print a list; every row has all fields, in this order. Of an empty table ``none`` is said."""
    for row in rows:
        assert list(row) == list(fields), row
    if output == "json":
        click.echo(to_json(rows, indent=2))
    elif output == "yaml":
        click.echo("\n".join(_yaml_item(row) for row in rows) or "[]")
    else:
        for line in table(rows, fields):
            click.echo(line)
        if not rows and none is not None:
            say(none)


def print_one(row: Row, output: str, table_lines: Callable[[], Sequence[str]] | None = None) -> None:
    """Print one thing."""
    if output == "json":
        click.echo(to_json(row, indent=2))
    elif output == "yaml":
        click.echo("\n".join(f"{name}: {to_json(value)}" for name, value in row.items()))
    elif table_lines is not None:
        for line in table_lines():
            click.echo(line)
    else:
        width = max(map(len, row), default=0) + 2
        for name, value in row.items():
            click.echo(f"{click.style(f'{name:{width}}', bold=True)}{cell(value)}")


def to_json(value: object, indent: int | None = None) -> str:
    """Write JSON that is safe to show."""
    return escape_json(json.dumps(value, indent=indent, ensure_ascii=False))


def cell(value: object) -> str:
    """Write a value as one cell of a table."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ",".join(cell(item) for item in value) or "-"
    if isinstance(value, dict):
        return to_json(value)
    return escape(str(value)) or '""'


def table(rows: Sequence[Row], fields: Sequence[str]) -> list[str]:
    """Lay rows out in columns as wide as they need."""
    texts = [[cell(row[name]) for name in fields] for row in rows]
    right = [bool(rows) and all(_is_number(row[name]) for row in rows) for name in fields]
    heads = [name.upper() for name in fields]
    widths = [max(map(len, column)) for column in zip(heads, *texts, strict=True)]

    def line(cells: Sequence[str]) -> str:
        placed = [
            text.rjust(width) if number else text.ljust(width)
            for text, width, number in zip(cells, widths, right, strict=True)
        ]
        return "  ".join(placed).rstrip()

    return [click.style(line(heads), bold=True), *(line(cells) for cells in texts)]


def _is_number(value: object) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))


def _yaml_item(row: Row) -> str:
    lines = [f"{name}: {to_json(value)}" for name, value in row.items()]
    return "- " + "\n  ".join(lines)
