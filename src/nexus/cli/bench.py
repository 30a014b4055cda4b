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

_MODULE = "nexus.bench.runner"  # loaded when it is called: it belongs to a higher room


@make_command("bench")
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--rounds", type=click.IntRange(1, 100), default=3, show_default=True, help="Rounds; medians count.")
@click.option("--scale", type=click.FloatRange(0.001, 100), default=1.0, show_default=True, help="Events, times this.")
@click.option("--json", "file", type=click.Path(dir_okay=False, path_type=Path), help="Write all figures to this file.")
@click.option("--folder", type=click.Path(exists=True, file_okay=False, path_type=Path), help="Disk to measure on.")
@click.option("--growth", is_flag=True, help="Also what ten million events do to a store; it takes minutes.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a goal is missed.")
def command(
    scenarios: tuple[str, ...],
    rounds: int,
    scale: float,
    file: Path | None,
    folder: Path | None,
    growth: bool,
    strict: bool,
) -> None:
    """Run SCENARIOs (all but growth without one) in turns, and compare with peers that are installed."""
    runner: Any = importlib.import_module(_MODULE)
    unknown = [name for name in scenarios if name not in runner.SCENARIOS]
    if unknown:
        raise click.UsageError(f"unknown scenario {unknown[0]!r}; known: {', '.join(runner.SCENARIOS)}")
    names = [*(scenarios or runner.DEFAULT), *(["growth"] if growth and "growth" not in scenarios else [])]
    try:
        measured = runner.run(names, rounds=rounds, scale=scale, folder=folder, tell=say)
    except RuntimeError as error:
        raise click.ClickException(str(error)) from None
    if file is not None:
        file.write_text(json.dumps(measured, indent=2) + "\n", "utf-8")
    click.echo("\n".join(page(measured)))
    missed = [ratio["name"] for one in measured["scenarios"].values() for ratio in one["ratios"] if not _met(ratio)]
    if missed and strict:
        say(f"missed: {', '.join(missed)}")
        click.get_current_context().exit(FAILED)


def _met(ratio: dict[str, Any]) -> bool:
    return bool(ratio["ratio"] >= ratio["goal"])


def page(measured: dict[str, Any]) -> list[str]:
    """Lay out what was measured: medians of each contestant, then the ratios with their spread and goal."""
    machine = measured["machine"]
    lines = [
        f"python {machine['python']}, {machine['system']}, {machine['cores']} cores, load {machine['load']:.1f}; "
        f"medians of {measured['rounds']} rounds",
        "",
    ]
    medians = [
        {"scenario": name, "contestant": contestant, "figure": figure, "median": f"{value:,.4g}"}
        for name, one in measured["scenarios"].items()
        for contestant, figures in one["medians"].items()
        for figure, value in figures.items()
    ]
    lines += table(medians, ("scenario", "contestant", "figure", "median"))
    ratios = [
        {
            "ratio": ratio["name"],
            "against": ratio["against"],
            "median": f"{ratio['ratio']:.2f}",
            "lowest": f"{ratio['lowest']:.2f}",
            "highest": f"{ratio['highest']:.2f}",
            "goal": f"{ratio['goal']:.2f}",
            "met": _met(ratio),
        }
        for one in measured["scenarios"].values()
        for ratio in one["ratios"]
    ]
    if ratios:
        lines += ["", *table(ratios, ("ratio", "against", "median", "lowest", "highest", "goal", "met"))]
    for name, one in measured["scenarios"].items():
        lines += [f"{name}: {contestant} left out: {why}" for contestant, why in one["missing"].items()]
    return lines
