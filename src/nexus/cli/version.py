"""`nexus version`: what runs here."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as version_of

from nexus.cli import version
from nexus.cli._output import output_option, print_one
from nexus.cli._root import command as make_command

PACKAGES = ("apsw", "msgspec", "cronsim", "click", "rich")


@make_command("version")
@output_option("table", "json", "yaml")
def command(output: str) -> None:
    """Print the versions of Nexus and of what it runs on."""
    found: dict[str, object] = {"nexus": version(), "python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version_of(package)
        except PackageNotFoundError:
            found[package] = None
    print_one(found, output)
