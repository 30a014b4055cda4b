"""`nexus dlq`: look at dead letters, repair them, try again, give up."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
import pytest

from nexus import Nexus, Retry
from nexus.cli import _asking, _repair
from nexus.cli._letters import ERROR_FIELDS, FIELDS, SHOW_FIELDS
from nexus.core.outcome import DeadLetter

from .conftest import Run, lines, rows

ORDERS: Sequence[tuple[str, bytes]] = (
    ("k1", b'{"total": -1, "exact": 12345678901234567890.10}'),
    ("k2", b'{"total": -2}'),
    ("k3", b'{"total": -3, "note": "\\u001b[31m"}'),
)


def consume(store: str, until_dead: int = 0, until_handled: int = 0, publish: bool = False) -> list[object]:
    """Run the group ``billing`` until so many events are dead or handled; return what was handled."""
    handled: list[object] = []

    async def go() -> None:
        bus = Nexus(store)
        changed = asyncio.Event()
        dead = 0

        @bus.on("order.*", group="billing", retry=Retry(max_attempts=1), start="earliest")
        async def charge(order: dict[str, Any]) -> DeadLetter | None:
            nonlocal dead
            changed.set()
            if order["total"] < 0:
                dead += 1
                raise ValueError(f"\x1b[31mtotal is {order['total']}")
            handled.append(order)
            return None

        async with bus:
            if publish:
                for key, body in ORDERS:
                    await bus.publish(
                        bus.event("order.placed", body, key=key, tenant="t", datacontenttype="application/json")
                    )
            while dead < until_dead or len(handled) < until_handled:
                changed.clear()
                await changed.wait()

    asyncio.run(go())
    return handled


@pytest.fixture
def dead(store: str) -> str:
    """A store with three dead letters, each of its own key."""
    consume(store, until_dead=3, publish=True)
    return store


def ids(nexus: Run, *filters: str) -> list[str]:
    return [str(row["id"]) for row in rows(nexus("dlq", "ls", "-o", "json", *filters))]


def id_of(nexus: Run, key: str) -> str:
    (found,) = [row["id"] for row in rows(nexus("dlq", "ls", "-o", "json")) if row["key"] == key]
    return str(found)


@pytest.fixture
def editor(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A script that is ``$EDITOR``; a test writes what it does, with the file as its first argument."""
    script = place / "my editor"
    monkeypatch.setenv("EDITOR", f"'{script}'")
    script.touch(stat.S_IRWXU)
    return script


def test_without_dead_letters_there_is_nothing(nexus: Run, store: str) -> None:
    nexus("publish", "a.b", "--url", store)
    assert ids(nexus) == []
    assert nexus("dlq", "ls", "-o", "yaml").stdout == "[]\n"
    assert nexus("dlq", "requeue", "--all", "--yes").stderr == "requeued 0 of 0\n"


@pytest.mark.usefixtures("dead")
class TestLooking:
    def test_they_are_listed(self, nexus: Run) -> None:
        found = rows(nexus("dlq", "ls", "-o", "json"))
        assert sorted(row["key"] for row in found) == ["k1", "k2", "k3"]
        for row in found:
            assert row["id"] == f"billing/events/{row['partition']}/{row['position']}"
            assert (row["type"], row["tenant"], row["attempts"]) == ("order.placed", "t", 1)
            assert (row["reason"], row["followers"]) == ("attempts_exhausted", 0)

    def test_filters_choose(self, nexus: Run) -> None:
        assert len(ids(nexus, "--group", "billing", "--topic", "events")) == 3
        assert "known: events" in nexus("dlq", "ls", "--topic", "other", code=3).stderr
        assert "did you mean 'events'?" in nexus("dlq", "requeue", "--all", "--topic", "event", code=3).stderr
        assert "no fingerprint" in nexus("dlq", "ls", "--error", "zzz", code=2).stderr
        assert ids(nexus, "--where", "data.total < -2") == [id_of(nexus, "k3")]
        assert "NXS-4008" in nexus("dlq", "ls", "--group", "other", code=3).stderr
        nexus("dlq", "ls", "--where", "data.", code=2)

    def test_all_formats_show_the_same_fields(self, nexus: Run) -> None:
        id = id_of(nexus, "k3")
        told = json.loads(nexus("dlq", "show", id, "-o", "json").stdout)
        assert tuple(told) == SHOW_FIELDS
        yaml = dict(line.split(": ", 1) for line in nexus("dlq", "show", id, "-o", "yaml").stdout.splitlines())
        assert {name: json.loads(value) for name, value in yaml.items()} == told
        page = nexus("dlq", "show", id).stdout
        for name in SHOW_FIELDS:
            assert name in page or (name == "edited" and told["edited"] is None)
        assert SHOW_FIELDS[: len(FIELDS)] == FIELDS

    def test_the_history_and_the_event_are_shown(self, nexus: Run) -> None:
        told = json.loads(nexus("dlq", "show", id_of(nexus, "k2"), "-o", "json").stdout)
        (attempt,) = told["history"]
        assert attempt["attempt"] == 1
        assert "total is -2" in attempt["error"]
        assert told["event"]["data"] == {"total": -2}
        assert told["edited"] is None

    def test_090_escape_codes_are_shown_escaped(self, nexus: Run) -> None:
        page = nexus("dlq", "show", id_of(nexus, "k3")).stdout
        assert "\\x1b[31mtotal is -3" in page
        assert page.replace("\n", "").isprintable()

    @pytest.mark.parametrize("id", ["billing/events/0/99999", "nonsense", "a/b/c/d", "billing/events/999/0"])
    def test_one_that_is_not_there_is_not_found(self, nexus: Run, id: str) -> None:
        for verb in (["show", id], ["edit", id], ["requeue", id], ["discard", id, "--yes"]):
            nexus("dlq", *verb, code=3)


# -- editing ---------------------------------------------------------------------------------------------------------


def test_an_edited_event_is_requeued_and_handled(nexus: Run, dead: str, editor: Path) -> None:
    editor.write_text("#!/bin/sh\nsed -i 's/-1/10/' \"$1\"\n")
    result = nexus("dlq", "edit", id_of(nexus, "k1"), "--yes")
    assert '-  "total": -1,' in result.stderr
    assert '+  "total": 10,' in result.stderr
    assert "requeued" in result.stdout
    assert len(ids(nexus)) == 2
    assert consume(dead, until_handled=1) == [{"total": 10, "exact": 12345678901234567890.10}]


def test_the_editor_gets_pretty_json_in_a_file_of_its_own(nexus: Run, dead: str, editor: Path, place: Path) -> None:
    editor.write_text(f'#!/bin/sh\ncat "$1" > {place}/seen; stat -c %a "$(dirname "$1")" >> {place}/seen\n')
    assert "nothing was changed" in nexus("dlq", "edit", id_of(nexus, "k1"), "--yes").stderr
    assert (place / "seen").read_text() == '{\n  "total": -1,\n  "exact": 12345678901234567890.10\n}\n700\n'
    assert len(ids(nexus)) == 3


def test_an_edit_needs_a_yes(nexus: Run, dead: str, editor: Path) -> None:
    editor.write_text("#!/bin/sh\nsed -i 's/-1/10/' \"$1\"\n")
    id = id_of(nexus, "k1")
    assert "nothing was done" in nexus("dlq", "edit", id, input="n\n", code=1).stderr
    assert "--yes" in nexus("dlq", "edit", id, input="", code=2).stderr
    assert len(ids(nexus)) == 3
    nexus("dlq", "edit", id, input="y\n")
    assert len(ids(nexus)) == 2


@pytest.mark.parametrize("bad", ['{"a": 1, "a": 2}', "NaN", "{", ""])
def test_an_edit_that_is_not_strict_json_is_refused(nexus: Run, dead: str, editor: Path, bad: str) -> None:
    editor.write_text(f"#!/bin/sh\nprintf '%s' '{bad}' > \"$1\"\n")
    result = nexus("dlq", "edit", id_of(nexus, "k1"), "--yes", input="n\n", code=1)
    assert "NXS-2100" in result.stderr
    assert len(ids(nexus)) == 3


def test_a_slip_can_be_edited_again(nexus: Run, dead: str, editor: Path, place: Path) -> None:
    editor.write_text(
        f'#!/bin/sh\nif [ -e {place}/again ]; then echo 5 > "$1"; else touch {place}/again; echo NaN > "$1"; fi\n'
    )
    nexus("dlq", "edit", id_of(nexus, "k1"), "--yes", input="y\n")
    assert len(ids(nexus)) == 2


def test_an_editor_that_fails_or_is_not_there_does_nothing(
    nexus: Run, dead: str, editor: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    editor.write_text("#!/bin/sh\necho 1 > $1; exit 3\n")
    assert "nothing was done" in nexus("dlq", "edit", id_of(nexus, "k1"), "--yes", code=1).stderr
    for wrong in ("/nowhere/editor", "'unclosed"):
        monkeypatch.setenv("EDITOR", wrong)
        assert "cannot be started" in nexus("dlq", "edit", id_of(nexus, "k1"), "--yes", code=1).stderr
    assert len(ids(nexus)) == 3


def test_a_patch_is_merged_and_other_numbers_keep_their_digits(nexus: Run, dead: str, place: Path) -> None:
    (place / "fix.json").write_text('{"total": 7, "exact": null, "new": {"a": 1e400}}')
    result = nexus("dlq", "edit", id_of(nexus, "k1"), "--patch", "fix.json", "--yes")
    assert '+  "total": 7,' in result.stderr
    assert '+    "a": 1e400' in result.stderr
    nexus("dlq", "edit", id_of(nexus, "k2"), "--patch", "-", "--yes", input='{"total": 8}')
    assert len(ids(nexus)) == 1


def test_a_patch_that_is_not_strict_json_is_refused(nexus: Run, dead: str) -> None:
    assert "NXS-2100" in nexus("dlq", "edit", id_of(nexus, "k1"), "--patch", "-", "--yes", input="{,}", code=1).stderr


def test_one_that_went_meanwhile_is_a_conflict(nexus: Run, dead: str, editor: Path) -> None:
    id = id_of(nexus, "k1")
    # While the editor is open, somebody discards it.
    editor.write_text(f'#!/bin/sh\npython3 -m nexus dlq discard {id} --yes >&2\necho 1 > "$1"\n')

    editor.write_text(editor.read_text().replace("python3", sys.executable))
    assert "NXS-6101" in nexus("dlq", "edit", id, "--yes", code=4).stderr


# -- requeue and discard ---------------------------------------------------------------------------------------------


def test_requeue_by_id_asks_nothing(nexus: Run, dead: str) -> None:
    id = id_of(nexus, "k1")
    assert rows(nexus("dlq", "requeue", id, "-o", "json")) == [{"id": id, "result": "requeued"}]
    assert len(ids(nexus)) == 2
    assert rows(nexus("dlq", "requeue", id, "-o", "json", code=3)) == [{"id": id, "result": "not found"}]


def test_all_that_the_filters_leave_are_requeued_after_a_yes(nexus: Run, dead: str) -> None:
    result = nexus("dlq", "requeue", "--all", "--where", "data.total < -1", input="n\n", code=1)
    assert "2 dead letters of billing" in result.stderr
    assert len(ids(nexus)) == 3
    nexus("dlq", "requeue", "--all", "--where", "data.total < -1", input="y\n")
    assert ids(nexus) == [id_of(nexus, "k1")]
    assert nexus("dlq", "requeue", "--all", "--yes").stderr == "requeued 1 of 1\n"


def test_the_requeued_come_again(nexus: Run, dead: str) -> None:
    nexus("dlq", "requeue", "--all", "--yes", "--rate", "1000/s")
    assert ids(nexus) == []
    consume(dead, until_dead=3)
    assert len(ids(nexus)) == 3
    assert json.loads(nexus("dlq", "show", id_of(nexus, "k1"), "-o", "json").stdout)["round"] == 2


def test_discard_says_what_and_how_many_and_asks(nexus: Run, dead: str) -> None:
    id = id_of(nexus, "k1")
    for given in ([id], ["--all"]):
        result = nexus("dlq", "discard", *given, input="n\n", code=1)
        assert f"{'1 dead letter' if given == [id] else '3 dead letters'} of billing: " in result.stderr
        assert "Discard " in result.stderr
        assert "--yes" in nexus("dlq", "discard", *given, input="", code=2).stderr
    assert len(ids(nexus)) == 3
    nexus("dlq", "discard", id, "--why", "wrong", input="y\n")
    nexus("dlq", "discard", "--all", "--yes")
    assert ids(nexus) == []


def test_one_that_is_gone_when_the_command_arrives_is_a_conflict(
    nexus: Run, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = id_of(nexus, "k1")
    asked = _repair.ask

    def slow_answer(question: str, yes: bool, about: str) -> None:
        monkeypatch.setattr(_repair, "ask", asked)
        nexus("dlq", "discard", id, "--yes")

    monkeypatch.setattr(_repair, "ask", slow_answer)
    assert rows(nexus("dlq", "discard", id, "-o", "json", code=4)) == [{"id": id, "result": "gone"}]


@pytest.mark.parametrize(
    "given", [["ls"], ["requeue", "--all", "--yes"], ["discard", "--all", "--yes"], ["export", "-"]]
)
def test_an_empty_filter_does_not_mean_all(nexus: Run, dead: str, given: list[str]) -> None:
    assert "NXS-2200" in nexus("dlq", *given, "--where", "", code=2).stderr
    assert len(ids(nexus)) == 3


@pytest.mark.parametrize("given", [[], ["--all", "x"], ["x", "--group", "billing"], ["x", "--where", ""]])
@pytest.mark.parametrize("verb", ["requeue", "discard"])
def test_either_ids_or_all(nexus: Run, verb: str, given: list[str]) -> None:
    nexus("dlq", verb, *given, code=2)


def test_the_difference_has_no_colours_where_no_terminal_reads(nexus: Run, dead: str, editor: Path) -> None:
    editor.write_text("#!/bin/sh\necho 1 > $1\n")
    assert "\x1b" not in nexus("dlq", "edit", id_of(nexus, "k3"), "--yes").output


def test_ctrl_c_at_the_question_is_an_interruption(nexus: Run, dead: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> bool:
        try:  # as click does it
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise click.Abort from None

    monkeypatch.setattr(_asking, "on_terminal", lambda: True)
    monkeypatch.setattr(click, "confirm", interrupted)
    nexus("dlq", "discard", "--all", code=130)
    assert len(ids(nexus)) == 3


def test_a_question_to_nobody_is_one_line_and_no_editor_is_opened(
    nexus: Run, dead: str, editor: Path, place: Path
) -> None:
    editor.write_text(f"#!/bin/sh\ntouch {place}/opened\n")
    for verb in (["requeue", "--all"], ["discard", id_of(nexus, "k1")], ["edit", id_of(nexus, "k1")]):
        told = nexus("dlq", *verb, input="", code=2).stderr
        assert told == "Error: nobody is there to be asked; say --yes to do it without asking\n"
    assert not (place / "opened").exists()
    assert nexus("subscriptions", "seek", "billing", "earliest", input="", code=2).stderr.count("\n") == 1


def test_an_id_that_no_dead_letter_ever_had_is_not_said_to_be_requeued(nexus: Run, dead: str) -> None:
    for id, why in (
        ("nogroup/events/0/0", "as there is no group 'nogroup'\nNext: known: billing"),
        ("billing/event/0/0", "as there is no topic 'event'\nNext: did you mean 'events'?"),
        ("billing/events/99/0", "as no event was ever stored there"),
        ("billing/events/0/99999", "as no event was ever stored there"),
    ):
        for verb in ("show", "edit"):
            assert why in nexus("dlq", verb, id, code=3).stderr
    id = id_of(nexus, "k1")
    nexus("dlq", "requeue", id)
    assert "requeued or discarded" in nexus("dlq", "show", id, code=3).stderr


# -- kinds of errors ---------------------------------------------------------------------------------------------------


def test_they_are_grouped_by_their_error(nexus: Run, dead: str) -> None:
    (kind,) = rows(nexus("dlq", "ls", "--by-error", "-o", "json"))
    assert tuple(kind) == ERROR_FIELDS
    assert (kind["count"], kind["groups"]) == (3, ["billing"])
    assert "ValueError: " in kind["error"]
    assert kind["first"] <= kind["last"]
    assert kind["sample"] in ids(nexus)
    assert {row["fingerprint"] for row in rows(nexus("dlq", "ls", "-o", "json"))} == {kind["fingerprint"]}
    assert "\\x1b[31m" in nexus("dlq", "ls", "--by-error").stdout


def test_an_error_is_a_filter_of_every_verb(nexus: Run, dead: str, place: Path) -> None:
    (kind,) = rows(nexus("dlq", "ls", "--by-error", "-o", "json"))
    assert ids(nexus, "--error", "000000000000") == []
    assert len(ids(nexus, "--error", kind["fingerprint"])) == 3
    nexus("dlq", "export", "none", "--error", "000000000000")
    assert (place / "none").read_bytes() == b""
    for verb in ("requeue", "discard"):
        assert nexus("dlq", verb, "--all", "--yes", "--error", "000000000000").stderr.endswith(" 0 of 0\n")
        nexus("dlq", verb, "x", "--error", "000000000000", code=2)
    nexus("dlq", "requeue", "--all", "--yes", "--error", kind["fingerprint"], "--where", "data.total == -1")
    assert len(ids(nexus)) == 2


def test_every_attempt_is_told_with_its_traceback(nexus: Run, dead: str) -> None:
    nexus("dlq", "requeue", "--all", "--yes")
    consume(dead, until_dead=3)
    id = id_of(nexus, "k1")
    for attempt in json.loads(nexus("dlq", "show", id, "-o", "json").stdout)["history"]:
        assert "Traceback (most recent call last)" in attempt["error"]
        assert ", in charge" in attempt["error"]
    assert nexus("dlq", "show", id).stdout.count(", in charge") == 2, "both lives are there"


# -- export ------------------------------------------------------------------------------------------------------------


def test_an_export_holds_everything_and_numbers_as_they_were_written(nexus: Run, dead: str, place: Path) -> None:
    assert nexus("dlq", "export", "dead.jsonl").stderr == "exported 3\n"
    told = lines((place / "dead.jsonl").read_text())
    assert sorted(line["id"] for line in told) == sorted(ids(nexus))
    for line in told:
        assert line == json.loads(nexus("dlq", "show", line["id"], "-o", "json").stdout)
    assert b"12345678901234567890.10" in (place / "dead.jsonl").read_bytes()
    assert lines(nexus("dlq", "export", "-", "--where", "data.total == -1").stdout) == [
        line for line in told if line["key"] == "k1"
    ]


def test_an_export_that_fails_leaves_what_was_there(nexus: Run, dead: str, place: Path) -> None:
    (place / "dead.jsonl").write_text("before")
    nexus("dlq", "export", "dead.jsonl", "--group", "other", code=3)
    assert (place / "dead.jsonl").read_text() == "before"
    assert [file.name for file in place.iterdir() if "dead" in file.name] == ["dead.jsonl"]
    assert "cannot be written" in nexus("dlq", "export", "nowhere/dead.jsonl", code=1).stderr


def test_an_export_touches_no_other_file_and_keeps_what_a_link_leads_to(nexus: Run, dead: str, place: Path) -> None:
    (place / "dead.jsonl.part").write_text("mine")
    (place / "real.jsonl").touch(0o600)
    (place / "dead.jsonl").symlink_to("real.jsonl")
    nexus("dlq", "export", "dead.jsonl")
    assert (place / "dead.jsonl.part").read_text() == "mine"
    assert (place / "dead.jsonl").is_symlink()
    assert len(lines((place / "real.jsonl").read_text())) == 3
    assert stat.S_IMODE((place / "real.jsonl").stat().st_mode) == 0o600
    assert [file.name for file in place.iterdir() if file.name.startswith(".dead") or ".real" in file.name] == []


def test_an_export_into_a_pipe_is_written_there(nexus: Run, dead: str, place: Path) -> None:
    os.mkfifo(place / "pipe")
    with open(os.open(place / "pipe", os.O_RDONLY | os.O_NONBLOCK), "rb") as reader:
        nexus("dlq", "export", "pipe")
        assert len(lines(reader.read().decode())) == 3
    assert stat.S_ISFIFO((place / "pipe").stat().st_mode)
    command = f"{sys.executable} -m nexus dlq export >(cat >&2)"
    told = subprocess.run(["bash", "-c", f"{command}; wait"], capture_output=True, text=True, check=True).stderr
    assert len(told.splitlines()) == 4, "three of them, and how many"


# -- schemas -----------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"total": {"type": "integer", "minimum": 0}}, "required": ["total"]}


@pytest.fixture
def schema(place: Path) -> None:
    (place / "schemas").mkdir()
    (place / "schemas" / "order.json").write_text(json.dumps(SCHEMA))
    (place / "nexus.toml").write_text('[schemas]\n"order.*" = "schemas/order.json"\n')


@pytest.mark.usefixtures("schema")
def test_an_edit_that_does_not_fit_the_schema_is_refused_with_the_place(nexus: Run, dead: str, editor: Path) -> None:
    id = id_of(nexus, "k1")
    result = nexus("dlq", "edit", id, "--patch", "-", "--yes", input='{"total": "10"}', code=1)
    assert "NXS-2100 the body does not fit " in result.stderr
    assert "schemas/order.json: /total: " in result.stderr
    editor.write_text("#!/bin/sh\nsed -i 's/-1/-7/' \"$1\"\n")
    assert "/total: " in nexus("dlq", "edit", id, "--yes", input="n\n", code=1).stderr
    assert len(ids(nexus)) == 3
    nexus("dlq", "edit", id, "--patch", "-", "--yes", input='{"total": 10}')
    assert len(ids(nexus)) == 2


@pytest.mark.usefixtures("schema")
def test_a_slip_against_the_schema_can_be_edited_again(nexus: Run, dead: str, editor: Path) -> None:
    editor.write_text("#!/bin/sh\nsed -i 's/-5/5/; s/-1/-5/' \"$1\"\n")
    nexus("dlq", "edit", id_of(nexus, "k1"), "--yes", input="y\n")
    assert len(ids(nexus)) == 2


# -- many --------------------------------------------------------------------------------------------------------------


def test_many_are_requeued_in_batches_at_a_rate_interrupted_and_resumed(
    nexus: Run, store: str, start: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 120
    monkeypatch.setattr("tests.cli.test_dlq.ORDERS", [(f"k{n}", b'{"total": -%d}' % n) for n in range(1, count + 1)])
    consume(store, until_dead=count, publish=True)
    process = start("dlq", "requeue", "--all", "--yes", "--rate", "60/s")
    while len(left := ids(nexus)) == count:
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert f" of {count} before this; the same command again does the rest" in err
    left = ids(nexus)
    assert 0 < len(left) < count
    result = nexus("dlq", "requeue", "--all", "--yes")
    assert result.stderr == f"requeued {len(left)} of {len(left)}\n"
    assert ids(nexus) == []
    consume(store, until_dead=count)
    assert {row["attempts"] for row in rows(nexus("dlq", "ls", "-o", "json"))} == {1}
    assert len(ids(nexus, "--where", "data.total < 0")) == count
