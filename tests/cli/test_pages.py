"""The pages about commands and errors are whole."""

from __future__ import annotations

import importlib
import pkgutil
import re

import click

import nexus
from nexus import errors as found_in
from nexus.errors import NexusError

from .conftest import ROOT
from .test_root import commands

CLI = (ROOT / "docs" / "cli.md").read_text("utf-8")
ERRORS = (ROOT / "docs" / "errors.md").read_text("utf-8")


def sections() -> dict[str, str]:
    """The text below each heading, by the words after ``nexus``; that of a group includes what is below it."""
    parts = re.split(r"^(##+) (.*)$", CLI, flags=re.MULTILINE)
    found: dict[str, str] = {}
    for heading, text in zip(parts[2::3], parts[3::3], strict=True):
        match = re.match(r"`nexus ([a-z ]*[a-z])", heading)
        found[match[1] if match else ""] = text
    return found


def test_every_command_and_every_option_is_on_its_page() -> None:
    found = sections()
    for name, command in commands():
        assert f"`nexus {name}" in CLI, name
        text = found[""] + found.get(name, found[name.split()[0]])
        for option in command.params:
            if isinstance(option, click.Option):
                for flag in (*option.opts, *option.secondary_opts):
                    assert f"`{flag}`" in text, f"nexus {name} {flag}"


def test_the_page_says_which_commands_have_formats() -> None:
    told, lines, own = re.search(
        r"^`-o` is an option of (.*?); without `yaml`,(.*?); with formats of their own(.*?)\n\n", CLI, re.M | re.S
    ).groups()  # type: ignore[union-attr]
    has: dict[tuple[str, ...], set[str]] = {}
    for name, command in commands():
        for option in command.params:
            if option.name == "output":
                assert isinstance(option.type, click.Choice)
                has.setdefault(tuple(option.type.choices), set()).add(name)
    assert has.pop(("table", "json", "yaml")) == set(re.findall(r"`([a-z ]+)`", told))
    assert has.pop(("table", "json")) == set(re.findall(r"`([a-z ]+)`", lines))
    assert set.union(*has.values()) == set(re.findall(r"`([a-z ]+)`", own))


def test_every_option_of_the_page_exists() -> None:
    known = {flag for _, one in commands() for option in one.params for flag in (*option.opts, *option.secondary_opts)}
    known |= {"--help", "--version"}
    assert set(re.findall(r"^\| `(-[a-z-]+)`", CLI, re.MULTILINE)) <= known


def errors() -> list[type[NexusError]]:
    """Every error of the package; all of its modules are imported for it."""
    for module in pkgutil.walk_packages(nexus.__path__, "nexus."):
        if not module.name.startswith(("nexus.testing", "nexus.bench")) and not module.name.endswith("__main__"):
            importlib.import_module(module.name)
    found, todo = [], [NexusError]
    for kind in todo:
        found.append(kind)
        todo += kind.__subclasses__()
    return [kind for kind in found if kind.__module__.startswith("nexus.")]


def test_every_error_has_a_code_of_its_own_and_a_line_on_the_page() -> None:
    kinds = errors()
    codes = [kind.code for kind in kinds]
    assert len(codes) == len(set(codes))
    for kind in kinds:
        assert re.search(rf"^\| {kind.code} \| `{kind.__name__}` \|(?: [^|]+ \|){{3}}$", ERRORS, re.MULTILINE), kind


def test_every_code_of_the_page_exists_and_stands_once() -> None:
    told = re.findall(r"^\| (NXS-\d{4}) ", ERRORS, re.MULTILINE)
    assert sorted(told) == sorted(kind.code for kind in errors())


def test_codes_in_the_code_are_those_of_errors() -> None:
    source = "\n".join(file.read_text("utf-8") for file in (ROOT / "src" / "nexus").rglob("*.py"))
    assert set(re.findall(r"NXS-\d{4}", source)) <= {kind.code for kind in errors()}


def test_every_error_that_a_program_may_meet_is_imported_from_one_place() -> None:
    for kind in errors():
        if not kind.__module__.startswith(("nexus.cli", "nexus.backends")):
            assert getattr(found_in, kind.__name__) is kind
            assert kind.__name__ in dir(found_in)
    not_for_import = {kind.__name__ for kind in errors() if not hasattr(found_in, kind.__name__)}
    text = ERRORS.partition("Not for import are")[2].partition("## ")[0]
    assert not_for_import == set(re.findall(r"`(\w+)`", text)) - {"BackendError"}
