"""Writes docs/settings.md from the table of settings and from the structs of the backends' own.

So the page cannot say anything else. What an option means is the text below its field.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from pathlib import Path

import msgspec

from nexus.config.sources import variable
from nexus.config.table import TABLE, Duration, Row, Size, shown_duration, shown_size
from nexus.core.options import Option, options_of
from nexus.plugins import OWN, settings_type

PAGE = Path(__file__).resolve().parent.parent / "docs" / "settings.md"

_HEAD = """\
# Settings

<!-- Written by ./nexus docs from src/nexus/config/table.py and src/nexus/backends/*/settings.py; change it there. -->

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
variable or from the file of a secret, are never shown in an error. `nexus config show` tells every value and where it
came from.

```toml
backend = "sqlite:////var/lib/shop/nexus.db"
durability = "replicated"

[publish]
timeout = "5s"

[schemas]
"order.*" = "schemas/order.json"

[topics.orders]
patterns = ["order.**", "invoice.*"]
partitions = 64
retention_age = "30d"

[kafka]
linger_ms = 5
password = "${KAFKA_PASSWORD}"
```

"""
_BACKENDS = """\
## Options of backends

What a backend takes besides its place may stand in its URL (`kafka://one:9092/?linger_ms=5`), in a table of its name
(`[kafka]`) or in a variable (`NEXUS_KAFKA__LINGER_MS`); the URL wins, then the order above. The table of a backend that
is not chosen is not looked at, so one file may have several. A backend that a package adds takes its options the same
way, under the scheme of its URL.

Passwords and tokens never stand in a URL: `NEXUS_KAFKA__PASSWORD`, or `NEXUS_KAFKA__PASSWORD_FILE` for a file that
holds it. Where the option is itself the name of a file, as `ca`, `key` and `creds` are, `NEXUS_KAFKA__KEY_FILE` is the
same as `NEXUS_KAFKA__KEY`. Units are in the names: numbers have none.

"""


def render() -> str:
    """Return the whole page."""
    sections = {"": "All", "publish": "`[publish]`", "topics.*": "`[topics.NAME]`"}
    parts = [_HEAD]
    for section, title in sections.items():
        parts.append(f"## {title}\n\n| Setting | Default | Value | Meaning | Variable |\n|---|---|---|---|---|\n")
        parts.extend(_line(row) for row in TABLE if row.path.rpartition(".")[0] == section)
        parts.append("\n")
    parts.append(_BACKENDS)
    for scheme in OWN:
        parts.append(f"### `[{scheme}]`\n\n| Setting | Default | Value | Meaning | Variable |\n|---|---|---|---|---|\n")
        kind = settings_type(scheme)
        meanings = dict(_meanings(kind))
        parts.extend(_option(scheme, option, meanings[name]) for name, option in options_of(kind).items())
        parts.append("\n")
    return "".join(parts).rstrip("\n") + "\n"


def _meanings(kind: type[msgspec.Struct]) -> Iterator[tuple[str, str]]:
    """The text below each field. A field without one has none."""
    (found,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(found, ast.ClassDef)
    for field, below in zip(found.body, [*found.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
            text = below.value.value if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) else ""
            yield field.target.id, " ".join(str(text).replace("``", "`").split())


def _option(scheme: str, option: Option, meaning: str) -> str:
    match option.default:
        case None:
            default = "unset"
        case tuple(values):
            default = "`" + ",".join(map(str, values)) + "`" if values else "none"
        case bool(value):
            default = f"`{str(value).lower()}`"
        case int(value) | float(value):
            default = f"`{value:,}`"
        case value:
            default = f"`{value}`"
    cells = (f"`{option.name}`", default, option.form, meaning, f"`{variable(f'{scheme}.{option.name}')}`")
    return "| " + " | ".join(cells) + " |\n"


def _line(row: Row) -> str:
    name = variable(row.path.replace("*", "NAME"))
    cells = (f"`{row.path.rpartition('.')[2]}`", _default(row), row.kind.form, row.meaning, f"`{name}`")
    return "| " + " | ".join(cells) + " |\n"


def _default(row: Row) -> str:
    match row.default, row.kind:
        case (None, _):
            return "unset"
        case (() | dict(), _):
            return "none"
        case (int(value), Size()):
            return f"`{shown_size(value)}`"
        case (float(value), Duration()):
            return f"`{shown_duration(value)}`"
    return f"`{row.default}`"
