"""`nexus plugins`: what packages add to Nexus, and whether it can be loaded."""

from __future__ import annotations

from importlib.metadata import entry_points

from nexus.cli._output import output_option, print_rows
from nexus.cli._root import command as make_command
from nexus.plugins import ENTRY_POINTS, OWN

FIELDS = ("kind", "name", "package", "version", "state")


@make_command("plugins")
@output_option("table", "json", "yaml")
def command(output: str) -> None:
    """List the backends that packages offer by entry point."""
    rows = []
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        try:
            point.load()
            state = "ok"
        except Exception as error:  # whatever a foreign package does when it is imported
            state = f"{type(error).__name__}: {error}"
        package = point.dist.name if point.dist is not None else None
        version = point.dist.version if point.dist is not None else None
        rows.append({"kind": "backend", "name": point.name, "package": package, "version": version, "state": state})
    print_rows(rows, FIELDS, output, none=f"none beside {', '.join(OWN)}")
