"""`nexus publish`: one event, and lines of them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from nexus.cli import publish
from nexus.cli._exits import BadLine
from nexus.cli._lines import LINE_LIMIT_BYTES

from .conftest import Run, lines, rows

pytestmark = pytest.mark.usefixtures("store")


@pytest.fixture(autouse=True)
def _url(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NEXUS_URL", store)


def stored(nexus: Run) -> list[dict[str, object]]:
    """All events of the store, in CloudEvents' format."""
    return lines(nexus("tail", "--from", "earliest", "-o", "ce").stdout)


def test_an_event_has_what_the_options_say(nexus: Run) -> None:
    result = nexus(
        "publish", "order.placed", '{"total": 3.50}', "--key", "k", "--subject", "s", "--id", "1", "--tenant", "t",
        "--source", "/shop", "--time", "2013-01-01T00:00:00Z", "--expires", "10m", "--extension", "colour=red",
        "-o", "json",
    )  # fmt: skip
    receipt = json.loads(result.stdout)
    assert receipt["id"] == "1"
    assert (receipt["topic"], receipt["durability"], receipt["duplicate"]) == ("events", "disk", False)
    (event,) = stored(nexus)
    assert event.pop("expirytime")
    assert event == {
        "specversion": "1.0", "id": "1", "source": "/shop", "type": "order.placed", "time": "2013-01-01T00:00:00Z",
        "partitionkey": "k", "nexustenant": "t", "subject": "s", "datacontenttype": "application/json",
        "colour": "red", "data": {"total": 3.5},
    }  # fmt: skip


def test_the_table_of_a_receipt_has_the_same_fields(nexus: Run) -> None:
    table = nexus("publish", "a.b", "--id", "1").stdout
    told = json.loads(nexus("publish", "a.b", "--id", "1", "-o", "json").stdout)
    assert [line.split()[0] for line in table.splitlines()] == list(told)
    assert told["duplicate"] is True


def test_the_payload_may_come_from_stdin(nexus: Run) -> None:
    nexus("publish", "a.b", "-", input='{"n": 12345678901234567890}')
    assert "12345678901234567890" in nexus("tail", "-o", "raw").stdout


@pytest.mark.parametrize("text", ["hello", "hello, you 2", "Grüße"])
def test_a_text_without_quotes_is_shown_with_them(nexus: Run, text: str) -> None:
    for verb in (["publish", "a.b", text], ["schedules", "later", "a.b", text, "--in", "1h"]):
        assert f"""Next: write text as '"{text}"'\n""" in nexus(*verb, code=1).stderr
    nexus("publish", "a.b", f'"{text}"')
    for other in ("{a: 1}", "NaN", "01", "['x']"):
        assert "write text as" not in nexus("publish", "a.b", other, code=1).stderr


def test_no_payload_is_no_body(nexus: Run) -> None:
    nexus("publish", "a.b")
    assert "data" not in stored(nexus)[0]


@pytest.mark.parametrize("data", ['{"a":1,"a":2}', "NaN", "{", "", "[" * 201 + "]" * 201, "\udcff"])
def test_a_payload_that_is_not_strict_json_is_refused(nexus: Run, data: str) -> None:
    result = nexus("publish", "a.b", data, code=1)
    assert "NXS-2100" in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "given",
    [
        ["--time", "yesterday"], ["--time", "2013-01-01T00:00:00"], ["--expires", "10"], ["--extension", "colour"],
        ["--extension", "a=1", "--extension", "a=2"],
    ],
)  # fmt: skip
def test_options_that_make_no_sense_are_usage(nexus: Run, given: list[str]) -> None:
    nexus("publish", "a.b", *given, code=2)


def test_an_attribute_that_is_not_allowed_is_refused(nexus: Run) -> None:
    assert "extension attribute" in nexus("publish", "a.b", "--extension", "Colour=red", code=1).stderr


def test_another_content_under_the_same_id_is_a_conflict(nexus: Run) -> None:
    nexus("publish", "a.b", "1", "--id", "1")
    assert "NXS-3001" in nexus("publish", "a.b", "2", "--id", "1", code=4).stderr


def test_neither_a_type_nor_lines_is_usage(nexus: Run) -> None:
    assert "--lines" in nexus("publish", code=2).stderr
    assert "leave out 'key'" in nexus("publish", "--lines", "-", "--key", "k", code=2).stderr
    assert "--rate goes with --lines" in nexus("publish", "a.b", "--rate", "5/s", code=2).stderr
    assert "--batch goes with --lines" in nexus("publish", "a.b", "--batch", "5", code=2).stderr


# -- lines -----------------------------------------------------------------------------------------------------------


def summary(text: str) -> dict[str, str]:
    return dict(line.split() for line in text.splitlines())


def test_lines_are_published_with_their_attributes(nexus: Run, place: Path) -> None:
    cloud = {"specversion": "1.0", "id": "9", "source": "/x", "type": "c.d", "time": "2013-01-01T00:00:00Z", "data": 1}
    given = [
        {"type": "a.b", "data": {"n": 1}, "key": "k", "id": "1", "tenant": "t", "subject": "s",
         "time": "2013-01-01T01:00:00+01:00"},
        {"type": "a.b"},
        cloud,
    ]  # fmt: skip
    (place / "events.jsonl").write_text("\n\n".join(map(json.dumps, given)))
    told = summary(nexus("publish", "--lines", "events.jsonl").stdout)
    assert (told["published"], told["duplicates"]) == ("3", "0")
    by_id = {str(event["id"]): event for event in stored(nexus)}
    assert by_id["9"].items() >= cloud.items()
    assert by_id["1"]["partitionkey"] == "k"
    assert by_id["1"]["time"] == "2013-01-01T00:00:00Z"  # the same moment
    assert len(by_id) == 3


def test_lines_come_in_order_across_batches(nexus: Run) -> None:
    text = "".join(f'{{"type": "a.b", "data": {n}, "key": "k"}}\n' for n in range(250))
    nexus("publish", "--lines", "-", "--batch", "7", input=text)
    assert [event["data"] for event in stored(nexus)] == list(range(250))


def test_publishing_lines_again_counts_duplicates(nexus: Run) -> None:
    text = "".join(f'{{"type": "a.b", "id": "{n}"}}\n' for n in range(5))
    nexus("publish", "--lines", "-", input=text)
    told = summary(nexus("publish", "--lines", "-", input=text).stdout)
    assert (told["published"], told["duplicates"]) == ("5", "5")


def test_receipts_of_lines_are_lines_of_json(nexus: Run) -> None:
    result = nexus("publish", "--lines", "-", "-o", "json", input='{"type":"a.b","id":"1"}\n{"type":"a.b","id":"2"}\n')
    assert [receipt["id"] for receipt in lines(result.stdout)] == ["1", "2"]
    assert "published=2" in result.stderr


BAD_LINES = [
    '{"type": "a.b", "data": {"x": 1, "x": 2}}',
    '{"type": "a.b", "data": NaN}',
    '{"type": "a.b", "colour": 1}',
    '{"type": "a.b", "key": 1}',
    '{"type": "a.b", "time": "2013-01-01"}',
    '{"data": 1}',
    '{"type": "a b"}',
    '{"type": null}',
    '{"type": "a.b", "id": ""}',
    '{"specversion": "1.0", "type": "a.b"}',
    '{"specversion": "2.0", "type": "a.b", "id": "1", "source": "/x", "time": "2013-01-01T00:00:00Z"}',
    "[]",
    '"a.b"',
    "not JSON",
    "{",
]


@pytest.mark.parametrize("bad", BAD_LINES)
@pytest.mark.parametrize("batch", ["1", "2", "500"])
def test_a_bad_line_is_named_and_nothing_after_it_is_published(nexus: Run, bad: str, batch: str) -> None:
    good = [f'{{"type": "a.b", "data": {n}, "key": "k"}}' for n in range(5)]
    text = "\n".join([*good[:3], bad, *good[3:]]) + "\n"
    result = nexus("publish", "--lines", "-", "--batch", batch, input=text, code=1)
    assert "published 3, 0 of them duplicates, before this:" in result.stderr
    assert "line 4: " in result.stderr
    assert [event["data"] for event in stored(nexus)] == [0, 1, 2]


def test_a_slip_in_a_name_suggests_the_near_one(nexus: Run) -> None:
    result = nexus("publish", "--lines", "-", input='{"type": "a.b", "tenat": "x"}', code=1)
    assert "did you mean 'tenant'?" in result.stderr


def test_a_conflict_in_a_line_is_named(nexus: Run) -> None:
    text = '{"type":"a.b","id":"1","data":1}\n{"type":"a.b","id":"1","data":2}\n'
    result = nexus("publish", "--lines", "-", "--batch", "1", input=text, code=4)
    assert "line 2: " in result.stderr
    assert "published 1," in result.stderr


def test_a_line_has_a_bound(nexus: Run) -> None:
    result = nexus("publish", "--lines", "-", input=b'{"type":"a.b"}\n"' + b"x" * (LINE_LIMIT_BYTES + 10), code=1)
    assert BadLine.code in result.stderr
    assert "line 2: longer than" in result.stderr


def test_the_rate_makes_small_batches_and_waits() -> None:
    assert publish._batch_of(500, None) == 500
    assert publish._batch_of(500, 100.0) == 10
    assert publish._batch_of(500, 1.0) == 1
    waits: list[float] = []

    class Runner:
        def run(self, work: object) -> None:
            waits.append(work.cr_frame.f_locals["delay"])  # type: ignore[attr-defined]
            work.close()  # type: ignore[attr-defined]

    count = publish._Count()
    count.published = 100
    publish._keep_to(50.0, count, Runner())  # type: ignore[arg-type]
    assert waits == [pytest.approx(2.0, abs=0.5)]


def test_a_rate_is_kept(nexus: Run) -> None:
    text = '{"type":"a.b"}\n' * 20
    told = summary(nexus("publish", "--lines", "-", "--rate", "100/s", input=text).stdout)
    assert float(told["seconds"]) >= 0.19


def test_lines_are_published_as_they_come(start: Callable[..., subprocess.Popen[str]]) -> None:
    process = start("publish", "--lines", "-", "-o", "json", stdin=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    for number in ("1", "2"):
        process.stdin.write(f'{{"type":"a.b","id":"{number}"}}\n')
        process.stdin.flush()
        assert json.loads(process.stdout.readline())["id"] == number
    process.send_signal(signal.SIGINT)
    code = process.wait(30)  # by Ctrl-C and not the end of its input, which stays open
    _, talk = process.communicate(timeout=30)
    assert code == 130, talk
    assert "published 2" in talk
    assert "Traceback" not in talk


def test_without_a_terminal_nothing_moves(start: Callable[..., subprocess.Popen[str]], place: Path) -> None:
    (place / "events.jsonl").write_text('{"type":"a.b"}\n')
    out, talk = start("publish", "--lines", "events.jsonl").communicate(timeout=30)
    assert "\x1b" not in out + talk
    assert "\r" not in out + talk


def test_a_file_that_is_not_there_is_usage(nexus: Run) -> None:
    assert "nowhere.jsonl" in nexus("publish", "--lines", "nowhere.jsonl", code=2).stderr


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "nexus", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("nexus ")


def test_events_are_counted_by_topic(nexus: Run) -> None:
    nexus("publish", "a.b")
    assert rows(nexus("topics", "ls", "-o", "json"))[0]["events"] == 1
