"""`nexus bench`: speed as ratios against peers, measured in one run."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import click

from nexus.cli._exits import FAILED, say
from nexus.cli._output import table
from nexus.cli._root import command as make_command

_SPREAD = ("median", "lowest", "highest", "by_cpu")
_MODULE = "nexus.bench.runner"  # loaded when it is called: it belongs to a higher room


@make_command("bench")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds; medians count.")
@click.option("--scale", type=click.FloatRange(0.001, 100), default=1.0, show_default=True, help="Events, times this.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Disk to measure on.")
@click.option("--growth", is_flag=True, help="Also what ten million events do to a store; it takes minutes.")
@click.option("--backend", help="Instead, all that is measured on kafka, nats or rabbitmq.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a goal is missed or was not measured.")
def command(
    scenarios: tuple[str, ...],
    rounds: int,
    scale: float,
    file: Path | None,
    folder: Path | None,
    growth: bool,
    backend: str | None,
    strict: bool,
) -> None:
    """Run SCENARIOs (all but growth without one) in turns, and compare with peers that are installed."""
    runner: Any = importlib.import_module(_MODULE)
    unknown = [name for name in scenarios if name not in runner.SCENARIOS]
    if unknown:
        raise click.UsageError(f"unknown scenario {unknown[0]!r}; known: {', '.join(runner.SCENARIOS)}")
    if backend is not None:
        if scenarios:
            raise click.UsageError("name scenarios or --backend, not both")
        scenarios = tuple(name for name, one in runner.SCENARIOS.items() if one.broker == backend)
        if not scenarios:
            raise click.UsageError(f"nothing is measured on {backend!r}")
    names = [*(scenarios or runner.DEFAULT), *(["growth"] if growth and "growth" not in scenarios else [])]
    try:
        measured = runner.run(names, rounds=rounds, scale=scale, folder=folder, tell=say)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    if file is not None:
        file.write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    click.echo("\n".join(page(measured)))
    missed = [
        goal["name"]
        for one in measured["scenarios"].values()
        for goal in one["goals"]
        if goal["state"] in ("short", "not measured")
    ]
    if missed and strict:
        say(f"missed: {', '.join(missed)}")
        click.get_current_context().exit(FAILED)


def page(measured: dict[str, Any]) -> list[str]:
    """Lay out what was measured: medians of each contestant, then each goal with its spread and whether it is met."""
    machine = measured["machine"]
    lines = [
        f"python {machine['python']}, {machine['system']}, {machine['cores']} cores; "
        f"medians of {measured['rounds']} rounds",
        ", ".join(f"{package} {version}" for package, version in machine["versions"].items() if version),
        *(
            f"{name}: {one['events']:,} events, load {one['load'][0]:.1f} to {one['load'][1]:.1f}"
            for name, one in measured["scenarios"].items()
        ),
        "",
    ]
    rows = []
    for name, one in measured["scenarios"].items():
        rows += [
            {"scenario": name, "contestant": contestant, "figure": figure, "median": _figure(value)}
            for contestant, figures in one["medians"].items()
            for figure, value in figures.items()
        ]
        rows += [
            {"scenario": name, "contestant": contestant, "figure": None, "median": "not installed"}
            for contestant in one["missing"]
        ]
    lines += table(rows, ("scenario", "contestant", "figure", "median"))
    goals = [_goal(name, goal) for name, one in measured["scenarios"].items() for goal in one["goals"]]
    if goals:
        lines += ["", *table(goals, tuple(goals[0]))]
    for name, one in measured["scenarios"].items():
        lines += [f"{name}: {contestant} is not installed: {why}" for contestant, why in one["missing"].items()]
    return lines


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.4g}"


def _goal(scenario: str, goal: dict[str, Any]) -> dict[str, Any]:
    spread = {name: None if goal[name] is None else f"{goal[name]:.2f}" for name in _SPREAD}
    mark = "<=" if goal["measure"] == "added" else ">="
    wanted = None if goal["goal"] is None else f"{mark} {goal['goal']:.2f}"
    return {"scenario": scenario, "what": goal["name"], **spread, "goal": wanted, "state": goal["state"]}
