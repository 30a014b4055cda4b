"""The house itself: what an import costs, what an install brings, and that the checks of the house can fail."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

import pytest
from tools import checks, dev

import nexus

ROOT = Path(__file__).resolve().parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": ""}


# -- imports and installs --------------------------------------------------------------------------------------------


def test_importing_nexus_loads_no_optional_package() -> None:
    # What msgspec loads by itself is not ours to count.
    code = "import sys, msgspec; before = set(sys.modules); import nexus; print(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in done.stdout.split()} - sys.stdlib_module_names
    assert {name for name in loaded if not name.startswith("_")} == {"nexus"}


def seconds(*commands: list[str]) -> list[float]:
    """The best time of each command out of ten, taken in turns: noise of the machine only ever adds."""
    best = [float("inf")] * len(commands)
    for _ in range(10):
        for number, command in enumerate(commands):
            before = getrusage(RUSAGE_CHILDREN)
            subprocess.run(command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, check=True)
            after = getrusage(RUSAGE_CHILDREN)
            # The processor's time of the child, not the wall's: other work on the machine does not count.
            spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            best[number] = min(best[number], spent)
    return best


BARE = [sys.executable, "-c", "import asyncio"]
BARE_S = 0.060
"""What `BARE` takes on the machine that the bars were set on."""


def slower(bare: float) -> float:
    """How much slower this machine is than the one that the bars were set on; a faster one sets no lower bar."""
    return max(1.0, bare / BARE_S)


@pytest.mark.slow  # alone, so that no other test shares the processor's caches
def test_importing_nexus_costs_at_most_60_ms_more_than_asyncio() -> None:
    bare, ours = seconds(
        BARE,
        [sys.executable, "-c", "import asyncio; from nexus import Nexus, Event, Retry"],
    )
    assert ours - bare <= 0.060 * slower(bare), (ours, bare)


@pytest.mark.slow
def test_help_is_there_within_150_ms() -> None:
    bare, best = seconds(
        BARE, [sys.executable, "-c", "import sys; sys.argv = ['nexus', '--help']; import nexus.cli; nexus.cli.main()"]
    )
    assert best <= 0.150 * slower(bare), (best, bare)


def test_the_core_installs_at_most_three_packages() -> None:
    assert len(PYPROJECT["project"]["dependencies"]) <= 3


def test_every_dependency_of_a_first_run_is_pinned_and_nothing_else_is_said() -> None:
    lines = (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", line) for line in lines)
    assert lines == sorted(lines, key=lambda line: line.partition("==")[0])
    pinned = {line.partition("==")[0] for line in lines}
    needed = [
        *PYPROJECT["project"]["dependencies"],
        *PYPROJECT["project"]["optional-dependencies"]["cli"],
        *PYPROJECT["dependency-groups"]["dev"],
    ]
    assert {re.split(r"[<>=!~ \[]", need)[0] for need in needed} <= pinned


# -- public names and words ------------------------------------------------------------------------------------------

PUBLIC_NAMES = [
    "Ack", "BlockingNexus", "Closed", "Context", "DeadLetter", "Event", "HandlerError", "IdConflict", "InvalidEvent",
    "Nexus", "NexusError", "Overloaded", "Park", "Publish", "Receipt", "Retry", "RetryIn", "Selection", "SettingsError",
    "UnknownOutcome",
]  # fmt: skip
"""A name that appears or goes is a decision: it changes this list."""


def test_the_public_names_are_those_agreed_on() -> None:
    assert nexus.__all__ == PUBLIC_NAMES


def test_the_public_names_are_sorted_few_and_documented() -> None:
    assert checks.public_names() == []


def test_unsorted_many_and_undocumented_names_are_found() -> None:
    assert checks.name_problems(["B", "A"], "`A` and `nexus.B`") == ["nexus.__all__ is not sorted"]
    assert checks.name_problems(["Bus"], "`Business`") == ["nexus.Bus is on no page of docs/ (write `Bus`)"]
    names = [f"N{number:02}" for number in range(26)]
    assert checks.name_problems(names, " ".join(f"`{name}`" for name in names)) == [
        "nexus.__all__ has 26 names; 25 are the most"
    ]


def test_names_keep_to_the_glossary() -> None:
    assert checks.words() == []


@pytest.mark.parametrize(
    ("name", "word"),
    [("MessageRouter", "message"), ("queue_size", "queue"), ("groupId", "group id"), ("dlq.reprocess", "reprocess")],
)
def test_a_refused_word_is_found(name: str, word: str) -> None:
    glossary = checks.DOCS.joinpath("glossary.md").read_text("utf-8")
    (problem,) = checks.word_problems([("public name", name)], glossary)
    assert f'do not say "{word}"' in problem


def test_an_exception_of_the_glossary_holds_for_that_name_only() -> None:
    glossary = checks.DOCS.joinpath("glossary.md").read_text("utf-8")
    assert checks.word_problems([("setting", "prefetch_events")], glossary) == []
    assert len(checks.word_problems([("setting", "prefetch_lines")], glossary)) == 1


# -- the two commands ------------------------------------------------------------------------------------------------


def test_the_script_is_short_and_plain() -> None:
    script = (ROOT / "nexus").read_text("utf-8")
    assert len(script.splitlines()) <= 80
    assert script.startswith("#!/bin/sh\n")
    assert os.access(ROOT / "nexus", os.X_OK)
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def script(tmp_path: Path, *arguments: str, python: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run the script in a directory of its own, with nothing on PATH but plain tools and one kind of ``python3``."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sh", "dirname", "cat", "cksum", "id", "rm"):
        (tools / name).symlink_to(shutil.which(name) or name)
    for name in ("python3.14", "python3.11", "python3"):
        if python is not None:
            (tools / name).write_text(f"#!/bin/sh\n{python}\n")
            (tools / name).chmod(0o755)
    for name in ("nexus", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    return subprocess.run(
        [tmp_path / "nexus", *arguments],
        env={"PATH": str(tools)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )


def test_086_without_an_argument_it_helps_and_exits_with_2(tmp_path: Path) -> None:
    done = script(tmp_path)
    assert done.returncode == 2
    assert "usage: ./nexus" in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("python", [None, "exit 127"])
def test_without_a_python_that_runs_it_says_how_to_get_one(tmp_path: Path, python: str | None) -> None:
    done = script(tmp_path, "version", python=python)
    assert done.returncode == 1
    assert "needs Python 3.11 or newer" in done.stderr


def test_without_ensurepip_it_names_the_package(tmp_path: Path) -> None:
    # A Python as Debian's without python3-venv: it runs, and cannot import ensurepip.
    done = script(tmp_path, "version", python=f'case "$2" in *ensurepip*) exit 1;; esac; exec "{sys.executable}" "$@"')
    assert done.returncode == 1
    assert "sudo apt-get install -y python3-venv" in done.stderr


def test_a_run_of_the_tests_can_be_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[tuple[list[str], str]] = []

    def run(command: list[str], replay: str) -> subprocess.CompletedProcess[str]:
        ran.append((command, replay))
        return subprocess.CompletedProcess(command, 1)

    monkeypatch.setattr(dev, "run", run)
    assert dev.main(["test", "--quick", "--seed", "7", "-k", "a or b"]) == 1
    ((command, replay),) = ran
    assert "--hypothesis-seed=7" in command
    assert command[-4:] == ["-m", "not slow and not broker", "-k", "a or b"]
    assert replay == "./nexus test --quick --seed 7 -k 'a or b'"


def test_a_failing_run_says_how_to_replay_it(tmp_path: Path) -> None:
    shutil.copy(ROOT / "tests" / "conftest.py", tmp_path)
    (tmp_path / "test_it.py").write_text("def test_it(): assert False")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path), "--hypothesis-seed=7", str(tmp_path)],
        env=ENVIRONMENT | {"REPLAY_COMMAND": "./nexus test --seed 7"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "\nreplay: ./nexus test --seed 7\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 failed")


def test_a_check_runs_every_step_and_fails_when_one_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dev, "STEPS", {"one": lambda: ["a fault"], "two": list})
    assert dev.main(["check"]) == 1
    assert capsys.readouterr().out == "FAIL one\n     a fault\nok   two\n"
    monkeypatch.setattr(dev, "STEPS", {"two": list})
    assert dev.main(["check"]) == 0
