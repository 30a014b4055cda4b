"""`nexus tail`: watching, from anywhere to anywhere, in any form, and nothing that commands the terminal."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus import Event, Nexus
from nexus.cli import _values
from nexus.cli._text import escape, escape_json
from nexus.cli.tail import FIELDS
from nexus.runtime import reading

from .conftest import Run, lines


class Ticking:
    """A clock that a test moves; the store's recorded times come from it."""

    def __init__(self) -> None:
        self.at = 1_000_000.0

    def now(self) -> float:
        return self.at

    def monotonic(self) -> float:
        return time.monotonic()


def fill(store: str, events: Sequence[Event[object]], step_s: float = 60.0) -> None:
    """Store events, ``step_s`` apart, the first at 1,000,000 s."""
    clock = Ticking()

    async def publish() -> None:
        bus = Nexus(store, clock=clock)
        await bus.start(consume=False)
        for event in events:
            await bus.publish(event)
            clock.at += step_s
        await bus.close()

    asyncio.run(publish())


def event(number: int, type: str = "a.b", body: bytes | None = None, **more: object) -> Event[object]:
    body = str(number).encode() if body is None else body
    return Event(str(number), "/test", type, datetime(2013, 1, 1, tzinfo=UTC), body=body, **more)  # type: ignore[arg-type]


def ids(nexus: Run, *arguments: str) -> list[str]:
    return [one["id"] for one in lines(nexus("tail", "-o", "json", *arguments).stdout)]


@pytest.fixture
def twelve(store: str) -> None:
    """Twelve events over many partitions: even ones a.b, odd ones c.d."""
    fill(store, [event(number, "a.b" if number % 2 == 0 else "c.d") for number in range(12)])


@pytest.mark.usefixtures("twelve")
class TestWhatIsShown:
    def test_alone_it_shows_the_last_ten(self, nexus: Run) -> None:
        assert ids(nexus) == [str(number) for number in range(2, 12)]

    def test_a_limit_alone_shows_the_last_so_many(self, nexus: Run) -> None:
        assert ids(nexus, "--limit", "3") == ["9", "10", "11"]
        assert ids(nexus, "--limit", "100") == [str(number) for number in range(12)]

    def test_from_the_earliest_it_shows_all_in_the_order_of_storing(self, nexus: Run) -> None:
        assert ids(nexus, "--from", "earliest") == [str(number) for number in range(12)]
        assert ids(nexus, "--from", "earliest", "--limit", "2") == ["0", "1"]

    def test_patterns_choose_types(self, nexus: Run) -> None:
        assert ids(nexus, "a.*", "--limit", "2") == ["8", "10"]
        assert ids(nexus, "c.d", "x.y", "--from", "earliest", "--limit", "2") == ["1", "3"]
        assert ids(nexus, "nothing.*") == []

    def test_a_filter_chooses_among_them(self, nexus: Run) -> None:
        assert ids(nexus, "--where", "data > 9") == ["10", "11"]

    def test_a_filter_that_cannot_be_read_is_usage(self, nexus: Run) -> None:
        assert "did you mean 'type'" in nexus("tail", "--where", "typ == 'x'", code=2).stderr
        nexus("tail", "ord*", code=2)
        assert "NXS-2200" in nexus("tail", "--where", "", code=2).stderr
        assert "NXS-2200" in nexus("subscribe", "a.*", "--group", "g", "--where", "", code=2).stderr

    def test_a_range_by_time(self, nexus: Run) -> None:
        stamps = [datetime.fromtimestamp(1_000_000 + at, UTC).isoformat() for at in (120, 240)]
        assert ids(nexus, "--from", stamps[0], "--to", stamps[1]) == ["2", "3", "4"]
        assert ids(nexus, "--to", stamps[0]) == ["0", "1", "2"]

    def test_a_range_by_id(self, nexus: Run) -> None:
        assert ids(nexus, "--from", "@9") == ["9", "10", "11"]
        assert ids(nexus, "--from", "@3", "--to", "@5") == ["3", "4", "5"]

    def test_an_id_that_is_not_stored_is_not_found(self, nexus: Run) -> None:
        assert "'99'" in nexus("tail", "--from", "@99", code=3).stderr

    def test_the_last_minutes(self, nexus: Run) -> None:
        assert ids(nexus, "--from", "-10m") == []
        assert ids(nexus, "--from", "latest") == []

    @pytest.mark.parametrize(
        "span",
        [
            ["--from", "-5m", "--to", "-10m"],
            ["--from", "latest", "--to", "-10m"],
            ["--from", "2013-01-02T00:00:00Z", "--to", "2013-01-01T00:00:00Z"],
            ["--from", "@5", "--to", "@3"],
            ["--from", "@5", "--to", "1970-01-01T00:00:00Z"],
        ],
    )
    def test_088_from_after_to_is_an_error(self, nexus: Run, span: list[str]) -> None:
        result = nexus("tail", *span, code=2)
        assert "--from is after --to" in result.stderr
        assert result.stdout == ""

    @pytest.mark.parametrize(
        "given",
        [["--from", "noon"], ["--from", "-10"], ["--to", "2013-01-01"], ["-f", "--to", "latest"], ["--limit", "0"]],
    )
    def test_places_that_make_no_sense_are_usage(self, nexus: Run, given: list[str]) -> None:
        nexus("tail", *given, code=2)

    def test_the_table_has_the_fields_of_json(self, nexus: Run) -> None:
        (told,) = lines(nexus("tail", "--limit", "1", "-o", "json").stdout)
        assert tuple(told) == FIELDS
        row = nexus("tail", "--limit", "1").stdout
        assert f"{told['topic']}[{told['partition']}]@{told['position']}" in row
        for name in ("recorded_at", "type", "id", "data"):
            assert str(told[name]) in row

    def test_nothing_is_consumed_and_no_topic_is_made(self, nexus: Run) -> None:
        before = nexus("topics", "ls", "--all", "-o", "json").stdout
        ids(nexus)
        assert nexus("topics", "ls", "--all", "-o", "json").stdout == before
        assert json.loads(nexus("groups", "ls", "-o", "json").stdout) == []


# -- formats, and what payloads may hold -----------------------------------------------------------------------------

NASTY = "\x1b[31m\x9b31m\x07\x7f‮reversed\u2028"


def test_090_escape_codes_in_payloads_are_printed_escaped(nexus: Run, store: str) -> None:
    body = json.dumps({"x": NASTY, "y": 1}, ensure_ascii=False).encode()
    fill(store, [event(1, body=body, key="k"), event(2, body=NASTY.encode(), datacontenttype="text/plain")])
    for output in ("table", "json", "ce"):
        text = nexus("tail", "-o", output).stdout
        assert text.replace("\n", "").isprintable(), output
    (first, second) = lines(nexus("tail", "-o", "json").stdout)
    assert first["data"]["x"] == NASTY
    assert second["data_base64"]
    assert "\\x9b31m\\x07\\x7f\\u202ereversed" in nexus("tail", "--limit", "1").stdout


def test_raw_is_the_payload_byte_for_byte_where_no_terminal_reads(nexus: Run, store: str) -> None:
    fill(store, [event(1, body=b"\xff\x1b[31m", datacontenttype="application/octet-stream"), event(2, body=b"{ }")])
    assert nexus("tail", "-o", "raw").stdout_bytes == b"\xff\x1b[31m\n{ }\n"


def test_numbers_stay_as_they_were_written_and_an_event_stays_on_one_line(nexus: Run, store: str) -> None:
    fill(store, [event(1, body=b'{\n "n": 1e400,\n "m": 0.10000000000000000001\n}')])
    assert '"data": {"n":1e400,"m":0.10000000000000000001}' in nexus("tail", "-o", "json").stdout


def test_json_that_is_none_is_shown_as_bytes(nexus: Run, store: str) -> None:
    fill(store, [event(1, body=b"{no json")])
    assert lines(nexus("tail", "-o", "json").stdout)[0]["data_base64"] == "e25vIGpzb24="


@given(st.text())
def test_escaped_text_is_printable_or_kept(text: str) -> None:
    shown = escape(text, keep="\n")
    assert all(char == "\n" or not (ord(char) < 32 or 127 <= ord(char) < 160) for char in shown)


@given(st.dictionaries(st.text(), st.text()))
def test_escaped_json_is_the_same_value(value: dict[str, str]) -> None:
    assert json.loads(escape_json(json.dumps(value, ensure_ascii=False))) == value


# -- the merge -------------------------------------------------------------------------------------------------------


def test_partitions_are_merged_by_time_across_reads(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One partition has many events in little time, another few in much: one read of each is not one line of time."""
    monkeypatch.setattr(reading, "_READ_EVENTS", 3)
    fill(store, [event(number, key="fast" if number % 7 else "slow") for number in range(60)])

    async def read() -> list[str]:
        bus = Nexus(store)
        await bus.backend.open()
        places = await reading.starts(bus.backend, ["events"], "earliest")
        found = [seen.stored.event.id async for seen in reading.merged(bus.backend, places)]
        await bus.backend.close()
        return found

    assert asyncio.run(read()) == [str(number) for number in range(60)]


# -- processes -------------------------------------------------------------------------------------------------------


def test_follow_shows_what_comes_until_ctrl_c(
    nexus: Run, store: str, start: Callable[..., subprocess.Popen[str]]
) -> None:
    fill(store, [event(0)])
    process = start("tail", "-f", "--from", "earliest", "-o", "json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["id"] == "0"
    for id in ("new", "newer"):
        nexus("publish", "a.b", "--id", id)
        assert json.loads(process.stdout.readline())["id"] == id
    process.send_signal(signal.SIGINT)
    _, talk = process.communicate(timeout=30)
    assert (process.returncode, talk) == (0, "")


def test_follow_ends_at_its_limit(nexus: Run, store: str, start: Callable[..., subprocess.Popen[str]]) -> None:
    fill(store, [event(number) for number in range(3)])
    out, _ = start("tail", "-f", "--from", "earliest", "--limit", "2", "-o", "json").communicate(timeout=30)
    assert [one["id"] for one in lines(out)] == ["0", "1"]


def test_087_a_closed_stdout_is_quiet(store: str, start: Callable[..., subprocess.Popen[str]]) -> None:
    fill(store, [event(number, body=b'"' + b"x" * 2000 + b'"') for number in range(300)])
    process = start("tail", "--from", "earliest", "-o", "ce")
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert process.wait(30) == 0


def test_087_a_stdout_that_was_closed_before_is_quiet(store: str, place: Path) -> None:
    fill(store, [event(0)])
    command = f"{sys.executable} -m nexus topics ls | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# -- values ----------------------------------------------------------------------------------------------------------


def test_places_are_read() -> None:
    assert _values.place("-1h30m", 10_000.0) == 4_600.0
    assert _values.place("2013-01-01T00:00:00Z", 0) == 1_356_998_400.0
    assert _values.place("@x", 0) == "@x"


@pytest.mark.parametrize("text", ["", "@", "-", "-x", "10m", "2013-01-01T00:00:00", "latest "])
def test_places_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a|no offset"):
        _values.place(text, 0)


def test_rates_are_read() -> None:
    assert [_values.per_second(text) for text in ("5", "500/s", "30/m", "0.5/s")] == [5, 500, 0.5, 0.5]
    for bad in ("0", "-1", "x", "5/d"):
        with pytest.raises(ValueError, match="not a rate"):
            _values.per_second(bad)
