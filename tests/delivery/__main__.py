"""Play delivery schedules: `python -m tests.delivery 20000`, `--seed N [--killer]` for one, `--table N` for the rules.

Run it from the repository's root.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter

from .ablations import ABLATIONS
from .test_rules import violation
from .world import Rules, Violation, World, run


def play(job: tuple[str, int, int, bool]) -> Counter[str]:
    name, first, last, killer = job
    if name:
        rules = ABLATIONS[name][0]
        return Counter(what for seed in range(first, last) if (what := violation(rules, seed, killer)))
    return Counter(f"{what} (seed {seed})" for seed in range(first, last) if (what := run(seed, killer=killer)))


def total(name: str, schedules: int, killer: bool) -> Counter[str]:
    jobs = [(name, first, min(first + 250, schedules), killer) for first in range(0, schedules, 250)]
    with multiprocessing.Pool(2) as pool:
        return sum(pool.imap_unordered(play, jobs), Counter())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.delivery", description=__doc__)
    parser.add_argument("schedules", nargs="?", type=int, default=500)
    parser.add_argument("--seed", type=int)
    parser.add_argument("--killer", action="store_true")
    parser.add_argument("--table", type=int, metavar="N")
    options = parser.parse_args()
    if options.seed is not None:
        world = World(options.seed, Rules(), options.killer)
        try:
            world.run()
        except Violation as broken:
            print("\n".join(world.trace), f"broken: {broken}", sep="\n")
            return 1
        print("no guarantee was broken")
        return 0
    if options.table:
        missed = 0
        for name, (_, killer, _) in ABLATIONS.items():
            seen = total(name, options.table, killer)
            missed += not seen
            print(f"{name:40} {options.table:6} schedules, {seen.total():5} violations  {dict(seen.most_common(3))}")
        return 1 if missed else 0
    began = time.monotonic()
    bad = total("", options.schedules, False) + total("", options.schedules, True)
    print(f"{options.schedules:,} schedules and as many with an event that kills its process: {bad.total()} violations")
    print(f"{time.monotonic() - began:.0f} s", *bad.most_common(20), sep="\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
