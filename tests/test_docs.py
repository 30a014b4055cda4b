"""The documentation runs, is complete, and says what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools import settings_page

from nexus.config import TABLE

ROOT = Path(__file__).resolve().parent.parent
SNIPPETS = ROOT / "docs" / "snippets"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(
    r"(?:^<!-- snippet: (?P<file>\S+) -->\n)?^```python[^\n]*\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")

BLOCKS = [(page, match["file"], match["code"]) for page in PAGES for match in FENCE.finditer(page.read_text("utf-8"))]


def shown(page: Path) -> str:
    return str(page.relative_to(ROOT))


def test_every_python_block_is_a_file_of_snippets_byte_for_byte() -> None:
    for page, file, code in BLOCKS:
        assert file, f"{shown(page)}: a block without <!-- snippet: FILE --> above it:\n{code}"
        assert (SNIPPETS / file).read_text("utf-8") == code, f"{shown(page)}: differs from docs/snippets/{file}"


def test_every_snippet_is_on_some_page() -> None:
    assert {file.name for file in SNIPPETS.glob("*.py")} == {file for _, file, _ in BLOCKS}


@pytest.mark.parametrize("file", sorted(file.name for file in SNIPPETS.glob("*.py")))
def test_every_snippet_runs(file: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NEXUS_")}
    done = subprocess.run(
        [sys.executable, "-W", "error", str(SNIPPETS / file)],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(ROOT / "src"), "HOME": str(tmp_path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_error_on_the_page_of_filters_is_the_one_that_is_printed() -> None:
    done = subprocess.run(
        [sys.executable, str(SNIPPETS / "filter_errors.py")],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"```\n{done.stdout}```\n" in (ROOT / "docs" / "filters.md").read_text("utf-8")


def test_the_page_of_settings_is_what_the_table_says() -> None:
    assert settings_page.PAGE.read_text("utf-8") == settings_page.render(), "run ./nexus docs"


def test_the_page_of_settings_has_every_setting() -> None:
    page = settings_page.PAGE.read_text("utf-8")
    for row in TABLE:
        assert f"| `{row.path.rpartition('.')[2]}` |" in page


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in LINK.findall(page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{shown(page)}: {target}"
