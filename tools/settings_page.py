"""Writes docs/settings.md from the table of settings, so that the page cannot say anything else."""

from __future__ import annotations

from pathlib import Path

from nexus.config.sources import variable
from nexus.config.table import TABLE, Duration, Row, Size, shown_duration, shown_size

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_HEAD = """\
# Settings

<!-- Written by ./nexus docs from src/nexus/config/table.py; change it there. -->

Every setting has a default, so a file is not needed. The first of these that has a value wins:

1. an argument of the call, or a flag of the command;
2. a variable of the environment, as in the last column (sections and names are joined by two underscores);
   `NEXUS_X_FILE` gives the value of `NEXUS_X` in a file, for secrets;
3. `nexus.toml` in the working directory, or `[tool.nexus]` in its `pyproject.toml` (not both);
4. `$XDG_CONFIG_HOME/nexus/config.toml` (`~/.config/nexus/config.toml`);
5. the default.

Files are TOML. In the text of a file `${NAME}` stands for a variable of the environment, which must be set; `$${` is a
plain `${`. Durations have a unit (`200ms`, `30s`, `1h30m`, `7d`), sizes may have one (`1048576`, `1MiB`, `10GB`). An
unknown name is an error that says which one was probably meant. The value of `backend`, and those that came from a
variable or from the file of a secret, are never shown in an error.

```toml
backend = "sqlite:////var/lib/shop/nexus.db"
durability = "replicated"

[publish]
timeout = "5s"

[topics.orders]
patterns = ["order.**", "invoice.*"]
partitions = 64
retention_age = "30d"
```

"""


def render() -> str:
    """Return the whole page."""
    sections = {"": "All", "publish": "`[publish]`", "topics.*": "`[topics.NAME]`"}
    parts = [_HEAD]
    for section, title in sections.items():
        parts.append(f"## {title}\n\n| Setting | Default | Value | Meaning | Variable |\n|---|---|---|---|---|\n")
        parts.extend(_line(row) for row in TABLE if row.path.rpartition(".")[0] == section)
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _line(row: Row) -> str:
    name = variable(row.path.replace("*", "NAME"))
    cells = (f"`{row.path.rpartition('.')[2]}`", _default(row), row.kind.form, row.meaning, f"`{name}`")
    return "| " + " | ".join(cells) + " |\n"


def _default(row: Row) -> str:
    match row.default, row.kind:
        case (None, _):
            return "unset"
        case ((), _):
            return "none"
        case (int(value), Size()):
            return f"`{shown_size(value)}`"
        case (float(value), Duration()):
            return f"`{shown_duration(value)}`"
    return f"`{row.default}`"
