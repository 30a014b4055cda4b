"""``python -m nexus.demo``."""

from nexus.demo.cli import command

command(prog_name="nexus demo")
