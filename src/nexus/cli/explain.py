"""`nexus explain`: what an error code means, what causes it, and what to do. The page comes with the package."""

from __future__ import annotations

import re
from pathlib import Path

import click

from nexus.cli._exits import NotFound
from nexus.cli._output import output_option, print_one, print_rows
from nexus.cli._root import command as make_command

FIELDS = ("code", "error", "means", "cause", "do")


@make_command("explain")
@click.argument("code", required=False)
@output_option("table", "json", "yaml")
def command(code: str | None, output: str) -> None:
    """Tell what the error CODE means, what causes it and what to do; without one, list all."""
    known = entries()
    if code is None:
        rows = [{name: row[name] for name in FIELDS[:3]} for row in known.values()]
        print_rows(rows, FIELDS[:3], output)
        return
    wanted = code.upper() if code.upper().startswith("NXS-") else f"NXS-{code}"
    if wanted not in known:
        raise NotFound(f"there is no error {code!r}", hint="nexus explain lists all")
    print_one(known[wanted], output)


def entries() -> dict[str, dict[str, str]]:
    """Read the page of errors: a row for each code."""
    rows: dict[str, dict[str, str]] = {}
    for line in _page().read_text("utf-8").splitlines():
        if line.startswith("| NXS-"):
            cells = [_plain(cell.strip()) for cell in line.strip("| ").split(" | ")]
            rows[cells[0]] = dict(zip(FIELDS, cells, strict=True))
    return rows


def _plain(text: str) -> str:
    """Write Markdown for a terminal: without marks, a link as the page's place in the repository."""
    return re.sub(r"\[[^]]*\]\(([^)]*)\)", r"docs/\1", text).replace("`", "")


def _page() -> Path:
    packaged = Path(__file__).parent / "errors.md"
    return packaged if packaged.exists() else Path(__file__).parents[3] / "docs" / "errors.md"
