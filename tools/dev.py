"""The developer verbs behind ``./nexus test``, ``check`` and ``docs``: each runs plain commands and says which.

Arguments that a verb does not know go to pytest, so ``./nexus test -k router --lf`` works.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from tools import backend_pages, checks, settings_page  # noqa: E402

from nexus import brokers  # noqa: E402  # the line above makes the import possible

PYTHON = sys.executable
os.environ.setdefault("NEXUS_BROKERS_DIR", str(ROOT / ".nexus" / "brokers"))  # wherever a test happens to stand


def run(command: Sequence[str], *, quiet: bool = False, replay: str = "") -> subprocess.CompletedProcess[str]:
    """Run ``command`` in the repository without a standard input, so that nothing can ask questions."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])}
    if replay:
        environment["REPLAY_COMMAND"] = replay
    return subprocess.run(
        command,
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        text=True,
        check=False,
    )


_NO_TESTS = 5
"""How pytest ends when no test was chosen."""

BACKENDS = ("memory", "sqlite", "log+sqlite?positions=no&trim=no")
"""What the shipped suite runs on, with the brokers; the inner loop takes the first only."""

# -- test ------------------------------------------------------------------------------------------------------------


def test(options: argparse.Namespace, pytest_arguments: list[str]) -> int:
    """Run the tests. One seed decides both their order and the examples, and is printed when something fails."""
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(2**32)
    profile = "quick" if options.quick else "full"
    command = [PYTHON, "-m", "pytest", f"--hypothesis-seed={seed}", f"--hypothesis-profile={profile}"]
    # The tests print this themselves when they fail, so that pytest's summary stays the last line.
    replay = ["./nexus", "test", *(["--quick"] if options.quick else []), "--seed", str(seed), *pytest_arguments]
    if options.quick:
        part = ["--nexus-backends=memory", "-n", "2", "-m", "not slow and not broker"]
        return run([*command, *part, *pytest_arguments], replay=shlex.join(replay)).returncode
    replay[2:2] = [] if options.brokers else ["--no-brokers"]
    command.append(f"--nexus-backends={','.join([*BACKENDS, *(brokers.KINDS if options.brokers else ())])}")
    without = "" if options.brokers else " and not broker"
    # The second part one after the other: its tests kill processes and look at the clock.
    parts = [["-n", "2", "-m", f"not slow{without}"], ["-m", f"slow{without}"]]
    with _brokers(at_once=not pytest_arguments) if options.brokers else contextlib.nullcontext():
        codes = [run([*command, *part, *pytest_arguments], replay=shlex.join(replay)).returncode for part in parts]
    bad = [code for code in codes if code not in (0, _NO_TESTS)]
    return bad[0] if bad else min(codes)


@contextlib.contextmanager
def _brokers(*, at_once: bool) -> Iterator[None]:
    """Have brokers run, ``at_once`` or when a test asks for one; what did not run before is ended with its data."""
    running = {broker.kind for broker in brokers.status() if broker.name == "default" and len(broker.nodes) == 1}
    started = [kind for kind in brokers.KINDS if kind not in running]
    try:
        for kind in started if at_once else ():
            brokers.up(kind, tell=lambda line: print(line, file=sys.stderr, flush=True))
        yield
    finally:
        for kind in started:
            brokers.down(kind, data=True)


# -- check -----------------------------------------------------------------------------------------------------------


def _command(*command: str) -> Callable[[], list[str]]:
    def step() -> list[str]:
        done = run(command, quiet=True)
        return [] if done.returncode == 0 else (done.stdout.splitlines() or [f"exit code {done.returncode}"])

    return step


STEPS: dict[str, Callable[[], list[str]]] = {
    "format": _command(PYTHON, "-m", "ruff", "format", "--check", "."),
    "lint": _command(PYTHON, "-m", "ruff", "check", "."),
    "types": _command(PYTHON, "-m", "mypy", "--strict", "-p", "nexus", "-p", "tools"),
    "imports": _command(PYTHON, "-c", "from importlinter.cli import lint_imports_command as c; c()"),
    "docs": _command(PYTHON, "-m", "pytest", "-q", "tests/test_docs.py"),
    "public names": checks.public_names,
    "words": checks.words,
}


def check(options: argparse.Namespace, unknown: list[str]) -> int:
    """Run every step, one line each, with its output only when it found something; fail when any did."""
    failed = 0
    for name, step in STEPS.items():
        problems = step()
        print(f"{'ok  ' if not problems else 'FAIL'} {name}", flush=True)
        for line in problems:
            print(f"     {line}")
        failed += bool(problems)
    return 1 if failed else 0


# -- docs ------------------------------------------------------------------------------------------------------------


def docs(options: argparse.Namespace, unknown: list[str]) -> int:
    """Write the generated pages again, after a run of the conformance suite on the backends that were named."""
    with _brokers(at_once=False) if options.backends else contextlib.nullcontext():
        for backend in options.backends:
            backend_pages.write_report(backend_pages.run_suite(backend))
    settings_page.PAGE.write_text(settings_page.render(), encoding="utf-8")
    for page in (settings_page.PAGE, *backend_pages.write_pages()):
        print(f"wrote {page.relative_to(ROOT)}")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Read the verb, run it, return its exit code."""
    parser = argparse.ArgumentParser(prog="./nexus", description="Developer verbs of Nexus.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    test_verb = verbs.add_parser("test", help="run the tests; other arguments go to pytest")
    test_verb.add_argument("--quick", action="store_true", help="leave out the tests marked slow")
    test_verb.add_argument(
        "--no-brokers", dest="brokers", action="store_false", help="leave out what needs Kafka, NATS and RabbitMQ"
    )
    test_verb.add_argument("--seed", type=int, help="replay the order and the examples of an earlier run")
    test_verb.set_defaults(run=test)
    verbs.add_parser("check", help="format, lint, types, imports, docs, names, words").set_defaults(run=check)
    docs_verb = verbs.add_parser("docs", help="write the generated pages of docs/ again")
    docs_verb.add_argument(
        "--backends",
        nargs="*",
        choices=backend_pages.BACKENDS,
        help="run the conformance suite first, on these backends or on all; it takes minutes on each broker",
    )
    docs_verb.set_defaults(run=docs)
    options, unknown = parser.parse_known_args(arguments)
    if unknown and options.run is not test:
        parser.error(f"unknown arguments: {' '.join(unknown)}")
    if options.run is docs:
        options.backends = list(backend_pages.BACKENDS) if options.backends == [] else options.backends or []
    code: int = options.run(options, unknown)
    return code


if __name__ == "__main__":
    sys.exit(main())
