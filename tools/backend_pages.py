"""Writes one section of each backend's page from a run of the conformance suite: what it does itself, what is promised.

`./nexus docs --backends` runs the suite, which starts the brokers, and keeps the outcome of every case in
``docs/conformance``; `./nexus docs` writes the sections from what is kept there. The tests compare both with the suite
and with the capabilities that the code states, without a broker. What stands around a section is written by hand.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, NamedTuple
from xml.etree import ElementTree

from nexus import brokers
from nexus.backends.kafka import KafkaLog
from nexus.backends.memory import MemoryBackend
from nexus.backends.nats import NatsLog
from nexus.backends.rabbitmq import RabbitLog
from nexus.backends.rabbitmq import Settings as RabbitSettings
from nexus.backends.sqlite import SqliteBackend
from nexus.spi.backend import Capabilities
from nexus.spi.log import LogCapabilities
from nexus.testing import conformance

ROOT = Path(__file__).resolve().parent.parent
REPORTS = ROOT / "docs" / "conformance"
BEGIN = "<!-- Written by ./nexus docs from docs/conformance; ./nexus docs --backends runs the suite again. -->"
END = "<!-- The end of what is written by ./nexus docs. -->"
BACKENDS = ("memory", "sqlite", "kafka", "nats", "rabbitmq")


class Promise(NamedTuple):
    """A group of cases: what they hold, and what it costs where a broker's log has it from above."""

    code: str
    title: str
    native: str
    above: str


PROMISES = (
    Promise("G1", "What was acknowledged is kept, and comes back as it was",
            "waiting for the commit, which many share", "waiting for the broker's acknowledgement"),
    Promise("G2", "A partition is read in the order in which it was appended", "nothing", "nothing"),
    Promise("G3", "Every event ends as done, or as a dead letter; none is dropped",
            "a settle each 200 ms", "a settle each 200 ms: an append to the group's journal, and reading it back"),
    Promise("G4", "A former owner moves no cursor; a dead or frozen one is replaced",
            "a lease that is renewed", "a record a second for each process and group, in the group's journal"),
    Promise("G5", "Events of one key are handled in order, one at a time",
            "a parking topic for what waits long", "a parking topic for what waits long"),
    Promise("G6", "An attempt is counted before the handler runs, also across crashes",
            "it goes with the settle", "it goes with the settle"),
    Promise("G7", "An end is no failure", "nothing", "nothing"),
    Promise("G8", "Memory is bounded by events and bytes", "nothing", "nothing"),
    Promise("G9", "Who watches or replays moves no group",
            "nothing; a replay is a group of its own", "nothing; a replay is a group of its own"),
    Promise("G10", "A second copy is recognised", "", ""),
    Promise("topics", "Topics are made, described, sealed and trimmed",
            "nothing", "a second of waiting for each seal"),
    Promise("reading", "Reads keep to their bounds; news come in time", "nothing", "nothing"),
    Promise("groups", "Members share the partitions; cursors and lag are kept",
            "rows of the store", "one more topic of one partition for each group"),
    Promise("control", "Groups are paused, moved, filtered, created while they run; all processes follow",
            "one more topic, of one partition", "one more topic, of one partition"),
    Promise("later", "Events are published later, in time and once",
            "two appends for each event", "two appends for each event"),
    Promise("requests", "A request is answered by what it caused",
            "a reader of all topics while one waits", "a reader of all topics while one waits"),
    Promise("handlers", "A handler gets what it asks for", "nothing", "nothing"),
)  # fmt: skip

_RULES: tuple[tuple[str, str, str], ...] = (
    ("test_append", r"order|positions_rise|concurrent_calls", "G2"),
    (
        "test_append",
        r"duplicate|same_event|same_id|conflict|source_and_id|published_again|stored_once|first_event",
        "G10",
    ),
    ("test_append", r"same_content|other_content|takes_the_same", "G10"),
    ("test_append", r"largest|too_large", "G8"),
    ("test_append", r"", "G1"),
    ("test_store", r"ids_are_known", "G10"),
    ("test_store", r"", "G1"),
    ("test_topics", r"still_known_as_a_duplicate", "G10"),
    ("test_topics", r"", "topics"),
    ("test_read", r"", "reading"),
    ("test_model", r"", "groups"),
    ("test_groups", r"fenced|frozen|dead|at_most_one|token|deadline|still_owned|died", "G4"),
    ("test_groups", r"", "groups"),
    ("test_cursors", r"epoch|does_not_own", "G4"),
    ("test_cursors", r"bounds", "G8"),
    ("test_cursors", r"", "groups"),
    ("test_bus_publish", r"again|another_content|unknown_outcome", "G10"),
    ("test_bus_publish", r"too_much|room|too_large|full", "G8"),
    ("test_bus_publish", r"one_key", "G2"),
    ("test_bus_publish", r"closing|closed", "G7"),
    ("test_bus_publish", r"", "G1"),
    ("test_bus_delivery", r"two_buses|second_copy|published_once", "G10"),
    ("test_bus_delivery", r"bound|no_more_than|noisy", "G8"),
    ("test_bus_delivery", r"watching", "G9"),
    ("test_bus_delivery", r"order|key", "G5"),
    ("test_bus_delivery", r"every_event|turns_down|expired|fail_alone|acknowledges", "G3"),
    ("test_bus_delivery", r"", "handlers"),
    ("test_bus_life", r"attempts|takes_its_process_down", "G6"),
    ("test_bus_life", r"dead_process|frozen", "G4"),
    ("test_bus_life", r"closing|clean_end|drain|release|an_end|start_together", "G7"),
    ("test_bus_life", r"order|key", "G5"),
    ("test_bus_life", r"", "G3"),
    ("test_bus_control", r"", "control"),
    ("test_bus_replay", r"created", "control"),
    ("test_bus_replay", r"", "G9"),
    ("test_bus_delays", r"", "later"),
    ("test_bus_requests", r"", "requests"),
    ("test_bus_repair", r"attempt|delay|time_limit", "G6"),
    ("test_bus_repair", r"key|waited|skip|stop", "G5"),
    ("test_bus_repair", r"full", "G8"),
    ("test_bus_repair", r"", "G3"),
)
"""Module and pattern of a case's name, and the promise it is one of: the first that fits."""


def promise_of(module: str, name: str) -> str:
    """The code of the promise that a case holds. Raises `LookupError` for a module that nobody has placed."""
    for its, pattern, code in _RULES:
        if its == module and re.search(pattern, name):
            return code
    raise LookupError(f"{module} has no place in tools/backend_pages.py")


def suite() -> dict[str, list[str]]:
    """The cases of the suite as it is now, by promise."""
    found: dict[str, list[str]] = {promise.code: [] for promise in PROMISES}
    for module in sorted(each.name for each in iter_modules(conformance.__path__)):
        if module.startswith("test_"):
            for name in vars(import_module(f"{conformance.__name__}.{module}")):
                if name.startswith("test_"):
                    found[promise_of(module, name)].append(f"{module}.{name.removeprefix('test_')}")
    return {code: sorted(cases) for code, cases in found.items()}


# -- the run ---------------------------------------------------------------------------------------------------------


def run_suite(backend: str) -> dict[str, Any]:
    """Run the suite on one backend, and return the report of it."""
    with tempfile.TemporaryDirectory() as folder:
        told = Path(folder, "told.xml")
        suite_name = conformance.__name__
        options = [f"--nexus-backends={backend}", "-n", "2", f"--junitxml={told}"]
        subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "--pyargs", suite_name, *options],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])},
            stdin=subprocess.DEVNULL,
            check=False,  # what failed stands in the report
        )
        return report(backend, told.read_text("utf-8"))


def report(backend: str, junit: str) -> dict[str, Any]:
    """The outcome of each case, by promise, from pytest's own report."""
    outcomes: dict[str, dict[str, str]] = {promise.code: {} for promise in PROMISES}
    for case in ElementTree.fromstring(junit).iter("testcase"):
        module = case.get("classname", "").rpartition(".")[2]
        name = case.get("name", "").partition("[")[0].removeprefix("test_")
        outcome = next((child.tag for child in case if child.tag in ("failure", "error", "skipped")), "passed")
        of_promise = outcomes[promise_of(module, name)]
        # A case with several parameters has passed when it did with all of them.
        if of_promise.get(f"{module}.{name}", "passed") == "passed":
            of_promise[f"{module}.{name}"] = outcome
    return {
        "backend": backend,
        "on": _version(backend),
        "cases": {code: dict(sorted(cases.items())) for code, cases in outcomes.items()},
    }


def _version(backend: str) -> str:
    if backend in brokers.KINDS:
        nodes = brokers.up(backend).nodes
        return f"version {nodes[0].state.version}, {len(nodes)} node" if nodes else "a broker given by its address"
    return "this machine"


def write_report(found: Mapping[str, Any]) -> None:
    """Keep a report."""
    REPORTS.mkdir(exist_ok=True)
    (REPORTS / f"{found['backend']}.json").write_text(json.dumps(found, indent=1) + "\n", "utf-8")


def read_report(backend: str) -> dict[str, Any]:
    """The report that is kept."""
    found: dict[str, Any] = json.loads((REPORTS / f"{backend}.json").read_text("utf-8"))
    return found


# -- the section -----------------------------------------------------------------------------------------------------


def capabilities(backend: str) -> Capabilities | LogCapabilities:
    """What a backend does natively, as its code states it before it has asked the broker."""
    match backend:
        case "memory":
            return MemoryBackend.capabilities
        case "sqlite":
            return SqliteBackend.capabilities
        case "kafka":
            return KafkaLog("kafka://localhost").capabilities
        case "nats":
            return NatsLog("nats://localhost").capabilities
        case _:
            return RabbitLog(RabbitSettings.parse("rabbitmq://localhost")).capabilities


_DEDUP = {
    "exact": ("native: the append knows every event that is kept", "an entry in memory for each event"),
    "window": ("native: the append knows those of a window", "a look-up of the id with each append"),
    "none": (
        "above: the publishing process knows what it appended, and whoever consumes passes over other copies",
        "an id for each of the last 100,000 events of a topic; 512 events read back at a takeover",
    ),
}


def capability_rows(backend: str) -> Iterator[tuple[str, str, str]]:
    """Each capability: native or built above, and what it costs."""
    native = capabilities(backend)
    on_log = isinstance(native, LogCapabilities)
    yield ("groups, leases, cursors", *(
        ("above: a fold over the group's journal", "a record a second; 1 to 5 ms for a settle") if on_log
        else ("native", "part of the store")
    ))  # fmt: skip
    yield "recognising a second copy", *_DEDUP[native.dedup]
    yield ("positions on receipts", *(
        ("native", "nothing") if native.positions_on_append else ("no: a receipt says `None`", "a read to find out")
    ))  # fmt: skip
    yield ("trimming", *(
        ("native", "nothing") if native.trim
        else ("above: the catalogue keeps where a partition begins", "space is freed by retention only")
    ))  # fmt: skip
    yield ("sealing", *(
        ("above: a record of the catalogue", "appends look at the catalogue each 0.5 s; a seal takes a second")
        if on_log else ("native", "nothing")
    ))  # fmt: skip


_NEEDS: Mapping[str, Sequence[tuple[str, str]]] = {
    "kafka": (
        ("`min.insync.replicas=2`, three replicas (`min_insync_replicas=2&replicas=3` for new topics)", "`replicated`"),
        ("`flush.messages=1` of the topics as well", "`replicated+disk`"),
        ("`auto.create.topics.enable=false`", "a topic that is deleted while it is in use stays deleted"),
        ("`message.max.bytes`", "the largest body, plus 64 KiB"),
    ),
    "nats": (
        ("JetStream with files, three servers (`replicas=3` for new topics)", "`replicated`"),
        ("`sync_interval: always`, and the option `monitor` so that it is seen", "`disk`, `replicated+disk`"),
        ("`max_payload`", "the largest body, plus a quarter or 64 KiB for attributes"),
    ),
    "rabbitmq": (
        ("`rabbitmq_stream` enabled, port 5552 reachable", "anything at all"),
        ("`stream.advertised_host` reachable from clients, with several nodes", "finding the leaders of streams"),
        ("three nodes: new streams have a copy on each", "`replicated`"),
        ("a limit of open files that counts a few for each partition", "thousands of partitions"),
    ),
    "sqlite": (("a local file system; network file systems are refused", "several processes, and `disk`"),),
    "memory": (),
}


def section(found: Mapping[str, Any]) -> str:
    """The whole section of a backend, from the report of it."""
    backend = str(found["backend"])
    on_log = isinstance(capabilities(backend), LogCapabilities)
    lines = [BEGIN, "", "## What the conformance suite found", ""]
    total = [outcome for cases in found["cases"].values() for outcome in cases.values()]
    lines += [f"{total.count('passed')} of {len(total)} cases passed ({found['on']}).", ""]
    lines += ["| Capability | Native or built above | What it costs |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in capability_rows(backend)]
    lines += ["", "| Promise | What it costs here | Cases passed |", "|---|---|---|"]
    for promise in PROMISES:
        outcomes = list(found["cases"].get(promise.code, {}).values())
        costs = promise.above if on_log else promise.native
        costs = costs or _DEDUP[capabilities(backend).dedup][1]
        title = f"{promise.code}: {promise.title}" if promise.code.startswith("G") else promise.title
        lines.append(f"| {title} | {costs} | {outcomes.count('passed')} of {len(outcomes)} |")
    if _NEEDS[backend]:
        lines += ["", "| Needed setting | For |", "|---|---|"]
        lines += [f"| {setting} | {purpose} |" for setting, purpose in _NEEDS[backend]]
    return "\n".join([*lines, "", END])


def page(backend: str) -> Path:
    """The page of a backend."""
    return ROOT / "docs" / f"{backend}.md"


def render(backend: str) -> str:
    """The page as it should be: with the section of the report, before the last part where it has none yet."""
    text = page(backend).read_text("utf-8")
    new = section(read_report(backend))
    if BEGIN in text:
        return text[: text.index(BEGIN)] + new + text[text.index(END) + len(END) :]
    return text.rstrip("\n") + "\n\n" + new + "\n"


def write_pages() -> list[Path]:
    """Write the sections again, and return the pages."""
    for backend in BACKENDS:
        page(backend).write_text(render(backend), "utf-8")
    return [page(backend) for backend in BACKENDS]
