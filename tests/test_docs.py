"""The documentation runs, is complete, and says what the code says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from tools import backend_pages, settings_page

from nexus.config import TABLE
from nexus.core.options import options_of
from nexus.plugins import OWN, settings_type

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
    for scheme in OWN:
        section = page.partition(f"### `[{scheme}]`")[2].partition("###")[0]
        lines = {line.split("`")[1]: line for line in section.splitlines() if line.startswith("| `")}
        assert set(lines) == set(options_of(settings_type(scheme)))
        assert all(line.count(" |  | ") == 0 for line in lines.values()), "an option without a meaning"


@pytest.mark.parametrize("backend", backend_pages.BACKENDS)
def test_the_page_of_a_backend_is_what_the_run_of_the_suite_said(backend: str) -> None:
    found = backend_pages.read_report(backend)
    cases = {code: sorted(outcomes) for code, outcomes in found["cases"].items()}
    assert cases == backend_pages.suite(), f"the suite has changed: run ./nexus docs --backends {backend}"
    assert backend_pages.page(backend).read_text("utf-8") == backend_pages.render(backend), "run ./nexus docs"


def test_every_promise_has_cases_and_every_case_a_promise() -> None:
    suite = backend_pages.suite()
    assert set(suite) == {promise.code for promise in backend_pages.PROMISES}
    assert all(suite.values())
    with pytest.raises(LookupError, match="test_new has no place"):
        backend_pages.promise_of("test_new", "a_case")


def test_a_case_with_parameters_passed_if_it_did_with_all_of_them() -> None:
    case = '<testcase classname="nexus.testing.conformance.test_model" name="test_x[kafka-{}]">{}</testcase>'
    told = "".join(case.format(number, "<failure/>" if number == 1 else "") for number in range(3))
    told += '<testcase classname="nexus.testing.conformance.test_model" name="test_y[kafka]"></testcase>'
    found = backend_pages.report("memory", f"<testsuites><testsuite>{told}</testsuite></testsuites>")
    assert found["cases"]["groups"] == {"test_model.x": "failure", "test_model.y": "passed"}
    assert "1 of 2 cases passed (this machine)" in backend_pages.section(found)


@pytest.mark.parametrize("backend", backend_pages.BACKENDS)
def test_what_is_native_is_what_the_code_states(backend: str) -> None:
    rows = {name: native for name, native, _ in backend_pages.capability_rows(backend)}
    native = backend_pages.capabilities(backend)
    assert rows["positions on receipts"].startswith("native") == native.positions_on_append
    assert rows["trimming"].startswith("native") == native.trim
    assert rows["groups, leases, cursors"].startswith("above") == (backend in ("kafka", "nats", "rabbitmq"))
    assert rows["recognising a second copy"].startswith("native") == (backend in ("memory", "sqlite", "nats"))


def test_every_link_to_a_file_leads_to_one() -> None:
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for target in LINK.findall(page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{shown(page)}: {target}"
