"""House checks: are the public names few, sorted and documented, and does every name keep to the glossary?

Each check returns a list of problems, empty when all is well, so that the verb and the tests share them.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
MOST_PUBLIC_NAMES = 25

Phrase = tuple[str, ...]


# -- public names ----------------------------------------------------------------------------------------------------


def public_names() -> list[str]:
    """The names of ``nexus.__all__``: sorted, few, and each in code type on some page of docs/."""
    import nexus

    names = list(getattr(nexus, "__all__", ()))
    pages = "\n".join(page.read_text(encoding="utf-8") for page in sorted(DOCS.rglob("*.md")))
    return name_problems(names, pages)


def name_problems(names: list[str], pages: str) -> list[str]:
    """What is wrong with the public ``names``, given the text of all documentation ``pages``."""
    problems = [] if names == sorted(names) else ["nexus.__all__ is not sorted"]
    if len(names) > MOST_PUBLIC_NAMES:
        problems.append(f"nexus.__all__ has {len(names)} names; {MOST_PUBLIC_NAMES} are the most")
    problems += [
        f"nexus.{name} is on no page of docs/ (write `{name}`)"
        for name in names
        if not re.search(rf"`(?:nexus\.)?{re.escape(name)}\b", pages)
    ]
    return problems


# -- words -----------------------------------------------------------------------------------------------------------


def words() -> list[str]:
    """Public names, settings and commands against the "Do not say" column of the glossary."""
    import nexus
    from nexus.config import TABLE
    from nexus.core.options import options_of
    from nexus.plugins import OWN, settings_type

    glossary = (DOCS / "glossary.md").read_text(encoding="utf-8")
    names = [("public name", name) for name in getattr(nexus, "__all__", ())]
    names += [("setting", row.path) for row in TABLE]
    names += [("setting", f"{scheme}.{name}") for scheme in OWN for name in options_of(settings_type(scheme))]
    # One file per command is the layout of the command room, so the file names are the commands.
    names += [("command", file.stem) for file in sorted((ROOT / "src/nexus/cli").glob("[!_]*.py"))]
    return word_problems(names, glossary)


def word_problems(names: Iterable[tuple[str, str]], glossary: str) -> list[str]:
    """Every (kind, name) that holds a word which the ``glossary`` page tells not to say, unless it is excepted."""
    refused = dict(_refused(glossary))
    excepted = set(re.findall(r"^- `([\w.]+)`:", glossary, re.MULTILINE))
    problems = []
    for kind, name in names:
        if name in excepted:
            continue
        parts = tuple(part.lower() for part in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+", name))
        problems += [
            f'{kind} {name}: do not say "{" ".join(phrase)}", say "{word}"'
            for phrase, word in refused.items()
            if any(parts[i : i + len(phrase)] == phrase for i in range(len(parts)))
        ]
    return problems


def _refused(glossary: str) -> Iterator[tuple[Phrase, str]]:
    for line in glossary.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.startswith("|") and len(cells) == 3 and cells[0] != "Word" and not cells[0].startswith("-"):
            for phrase in filter(None, (part.strip() for part in cells[2].split(","))):
                yield tuple(phrase.lower().split()), cells[0]
