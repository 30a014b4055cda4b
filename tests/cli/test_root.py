"""What holds for the command as a whole: help, exit codes, near names, secrets, colours, start."""

from __future__ import annotations

import importlib
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from nexus import errors
from nexus.cli import COMMANDS, _exits, help_text
from nexus.cli._root import Verbs, root
from nexus.runtime.deadletters import NotDead

from .conftest import ROOT, Run


def commands() -> list[tuple[str, click.Command]]:
    """All commands, those of groups included, each with its whole name."""
    found: list[tuple[str, click.Command]] = []
    context = click.Context(root)
    for name in root.list_commands(context):
        one = root.get_command(context, name)
        assert one is not None
        found.append((name, one))
        if isinstance(one, click.Group):
            found += [(f"{name} {below}", command) for below, command in one.commands.items()]
    return found


def process(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def test_086_no_argument_gives_help_and_exit_code_2() -> None:
    done = process("from nexus.cli import main; main()")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == help_text()


@pytest.mark.parametrize("name", ["dlq", "topics", "groups", "config"])
def test_086_a_group_alone_gives_help_and_exit_code_2(nexus: Run, name: str) -> None:
    result = nexus(name, code=2)
    assert result.stdout == ""
    assert f"Usage: nexus {name}" in result.stderr


def test_help_goes_to_stdout_and_names_every_command() -> None:
    done = process("from nexus.cli import main; main()", "--help")
    assert (done.returncode, done.stdout, done.stderr) == (0, help_text(), "")
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_the_help_of_clicks_own_is_the_same(nexus: Run) -> None:
    assert nexus("--no-color", "--help").stdout == help_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(nexus: Run, name: str) -> None:
    assert "Usage: " in nexus(name, "--help").stdout


def test_the_line_about_a_command_is_the_one_in_its_own_help() -> None:
    for name, command in commands():
        if name in COMMANDS:
            assert command.get_short_help_str(200) == COMMANDS[name]


def test_the_line_about_a_command_of_a_group_is_a_whole_sentence() -> None:
    for name, command in commands():
        if isinstance(command, click.Group):
            room = 80 - 6 - max(map(len, command.commands))
            lines = [one.get_short_help_str(room) for one in command.commands.values()]
            assert [line for line in lines if line.endswith("...")] == [], name


def test_every_command_and_every_option_has_a_line_of_help() -> None:
    for name, command in commands():
        assert command.help, name
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{name} {option.opts}"


def test_version(nexus: Run) -> None:
    assert process("from nexus.cli import main; main()", "--version").stdout.startswith("nexus ")
    assert '"python": "' in nexus("version", "-o", "json").stdout


@pytest.mark.parametrize(
    ("given", "near"), [(["tial"], "tail"), (["publsh"], "publish"), (["dlq", "requeu"], "requeue")]
)
def test_an_unknown_command_suggests_the_near_one(nexus: Run, given: list[str], near: str) -> None:
    result = nexus(*given, code=2)
    assert f"did you mean {near!r}?" in result.stderr
    assert result.stdout == ""


def test_an_unknown_command_without_a_near_one_lists_those_that_are_known(nexus: Run) -> None:
    assert "known: ls, show, edit, requeue, discard" in nexus("dlq", "qqq", code=2).stderr


def test_the_command_imports_nothing_heavy_by_itself() -> None:
    # Under a stand-in for the package, whose own imports are not the command's to answer for.
    code = f"""
import sys, types
package = types.ModuleType("nexus"); package.__path__ = [{str(ROOT / "src" / "nexus")!r}]
sys.modules["nexus"] = package
import nexus.cli
heavy = {{"nexus.app", "apsw", "rich", "asyncio", "click", "msgspec"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = process(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_its_extra_the_command_says_what_to_install(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from nexus.cli import main; main(['tail'])"
    done = process(code)
    assert done.returncode == 69
    assert f"NXS-1102 the command line needs click and rich, which are not installed ({missing} is" in done.stderr
    assert "pip install 'nexus-bus[cli]'" in done.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.NexusError("x"), 1),
        (errors.SettingsError("x"), 2),
        (errors.DurabilityUnavailable("x"), 2),
        (errors.MissingExtra("x"), 69),
        (errors.InvalidEvent("x"), 1),
        (errors.PayloadTooLarge("x"), 1),
        (errors.FilterError("x"), 2),
        (errors.IdConflict("x"), 4),
        (errors.Overloaded("x", retry_after_s=1), 75),
        (errors.UnknownOutcome("x"), 75),
        (errors.BackendError("x"), 1),
        (errors.Unavailable("x"), 69),
        (errors.StoreFull("x"), 75),
        (errors.ReadOnly("x"), 1),
        (errors.CorruptData("x"), 1),
        (errors.UnknownTopic("x"), 3),
        (errors.UnknownGroup("x"), 3),
        (errors.HandlerError("x"), 2),
        (errors.CursorLost("x"), 1),
        (errors.Closed("x"), 1),
        (NotDead("x"), 3),
        (_exits.NotFound("x"), 3),
        (_exits.Gone("x"), 4),
        (_exits.BadLine("x"), 1),
    ],
)
def test_errors_have_their_exit_codes(error: errors.NexusError, code: int) -> None:
    assert _exits.exit_code(error) == code


def test_ctrl_c_exits_with_130(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    assert _exits.run(interrupted) == 130
    assert capsys.readouterr().err == "interrupted\n"


SECRETS = [
    "kafka://user:hunter2@host:9092",
    "nats://:hunter2@host",
    "redis://user:hun/ter2@host",
    "kafka://host?sasl_password=hunter2",
    "nats://host?token=hunter2",
]


@pytest.mark.parametrize("url", SECRETS)
@pytest.mark.parametrize(
    "command",
    [["tail", "--url"], ["publish", "a.b", "--url"], ["dlq", "ls", "--url"], ["worker", "--backend"],
     ["dev", "--backend"], ["doctor", "--url"]],
)  # fmt: skip
def test_092_a_secret_in_an_argument_is_refused_and_not_repeated(nexus: Run, command: list[str], url: str) -> None:
    result = nexus(*command, url, code=2)
    assert "NEXUS_BACKEND_FILE" in result.stderr
    assert "hunter2" not in result.output
    assert "ter2" not in result.output


def test_a_url_without_a_secret_is_taken(nexus: Run, place: Path) -> None:
    for path in ("a:b@c.db", "plain.db"):
        nexus("publish", "a.b", "--url", f"sqlite:///{path}")
        assert (place / path).exists()


def test_every_verb_that_lists_or_shows_takes_the_same_formats() -> None:
    for name, command in commands():
        if name.endswith((" ls", " show")) or name in ("doctor", "version"):
            (output,) = [option for option in command.params if option.name == "output"]
            assert isinstance(output.type, click.Choice)
            assert list(output.type.choices) == ["table", "json", "yaml"], name


def test_every_verb_has_no_color() -> None:
    for name, command in commands():
        if name != "demo":
            assert any("--no-color" in option.opts for option in command.params), name


def test_the_module_of_each_command_is_named_as_it_is() -> None:
    for name in COMMANDS:
        command = importlib.import_module(f"nexus.cli.{name}").command
        assert command.name == name
        assert isinstance(command, Verbs) or not isinstance(command, click.Group)


@pytest.mark.parametrize(
    ("error", "hint"),
    [
        (errors.Unavailable("x"), "nexus doctor"),
        (errors.ReadOnly("x"), "check who may read and write"),
        (errors.CorruptData("x"), "nexus explain NXS-4004"),
    ],
)
def test_every_error_says_what_to_do_next(
    error: errors.NexusError, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise error

    _exits.run(fail)
    assert f"\nNext: {hint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    "given", [["--url", "x", "topics", "ls"], ["topics", "--url", "x", "ls"], ["-o", "json", "tail"]]
)
def test_an_option_before_its_command_is_told_where_it_belongs(nexus: Run, given: list[str]) -> None:
    option = next(word for word in given if word.startswith("-"))
    assert f"put {option} behind the command" in nexus(*given, code=2).stderr
    assert "No such option" in nexus("--nothing", "topics", "ls", code=2).stderr


@pytest.mark.parametrize(
    "given",
    [
        ["publish", "a.\udcff", "1"], ["publish", "a.b", "--key", "\udcff"], ["subscribe", "a.\udcff", "--group", "g"],
        ["topics", "show", "\udcff"], ["dlq", "discard", "x", "--why", "\udcff"], ["dlq", "show", "\udcff"],
        ["tail", "--where", "key == '\udcff'"], ["schedules", "every", "\udcff", "* * * * *", "a.b"],
        ["subscriptions", "create", "g", "a.\udcff", "--handler", "h"], ["subscriptions", "seek", "\udcff", "-1m"],
        ["worker", "\udcff:bus"], ["replay", "run", "--to-topic", "\udcff"], ["trace", "\udcff"],
        ["topics", "ls", "--url", "sqlite:///\udcff.db"], ["explain", "\udcff"],
    ],
)  # fmt: skip
def test_bytes_that_are_no_text_are_a_slip_of_whoever_typed_them(nexus: Run, store: str, given: list[str]) -> None:
    nexus("publish", "a.b", "--url", store)
    assert "this is not UTF-8" in nexus(*given, code=2).stderr


def test_an_empty_table_says_none(nexus: Run, store: str) -> None:
    nexus("publish", "a.b", "--url", store)
    for verb in (["groups", "ls"], ["dlq", "ls"], ["schedules", "ls"], ["replay", "ls"], ["subscriptions", "ls"]):
        assert nexus(*verb).stderr == "none\n"
        assert nexus(*verb, "-o", "json").stderr == ""
    assert nexus("topics", "ls").stderr == ""


def test_the_script_of_a_clone_tells_its_own_verbs_with_those_of_the_command(tmp_path: Path) -> None:
    # Nothing is on PATH that could install: its own verbs are told before.
    for name in ("sh", "dirname", "cat", "cksum", "id", "rm"):
        (tmp_path / name).symlink_to(shutil.which(name) or name)
    for name in ("nexus", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [tmp_path / "nexus", "--help"], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    for verb in ("test", "check", "docs"):
        assert f"\n  {verb} " in done.stdout
