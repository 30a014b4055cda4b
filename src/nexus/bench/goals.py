"""What is to be reached: a figure of ours held against the best of theirs, round by round. Pure.

>>> goal = Goal("publish, over raw", "events", "ours", ("raw",), 0.8)
>>> answer = compare(goal, {"ours": [{"events": 90.0}], "raw": [{"events": 100.0}]})
>>> answer["median"], answer["state"]
(0.9, 'met')
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

Rounds = Mapping[str, Sequence[Mapping[str, float]]]
"""By contestant, its figures in each round."""

Measure = Literal["rate", "time", "added"]
"""``rate``: ours over theirs; ``time``: theirs over ours; ``added``: ours less theirs, in milliseconds."""

_CPU = "cpu_us"
_VALUE: dict[Measure, Callable[[float, float], float]] = {
    "rate": lambda ours, theirs: ours / theirs,
    "time": lambda ours, theirs: theirs / ours,
    "added": lambda ours, theirs: ours - theirs,
}


class Goal(msgspec.Struct, frozen=True):
    """A figure of ours, against whom it is held, and what it should reach."""

    name: str
    figure: str
    ours: str
    theirs: tuple[str, ...]
    goal: float | None
    """At least this; at most, where a time is added. None: it is only told."""
    measure: Measure = "rate"


def compare(goal: Goal, rounds: Rounds) -> dict[str, Any]:
    """Return the median of the rounds with its lowest and highest, and whether the goal is met.

    The best of theirs by its own median is compared. ``state`` is ``met``, ``short``, ``told`` without a goal, or
    ``not measured`` when nobody is there to compare with. ``by_cpu``: the ratio of rates that the processor time of
    each event alone would give, where it is known; it depends less on what else the machine does, and decides nothing.
    """
    answer: dict[str, Any] = {
        "name": goal.name,
        "measure": goal.measure,
        "against": None,
        "median": None,
        "lowest": None,
        "highest": None,
        "by_cpu": None,
        "goal": goal.goal,
        "state": "not measured",
    }
    present = [peer for peer in goal.theirs if rounds.get(peer)]
    if not present or not rounds.get(goal.ours):
        return answer
    choose = max if goal.measure == "rate" else min
    best = choose(present, key=lambda peer: statistics.median(one[goal.figure] for one in rounds[peer]))
    pairs = list(zip(rounds[goal.ours], rounds[best], strict=True))
    values = [_VALUE[goal.measure](ours[goal.figure], theirs[goal.figure]) for ours, theirs in pairs]
    known = goal.measure == "rate" and all(_CPU in ours and _CPU in theirs for ours, theirs in pairs)
    median = statistics.median(values)
    if goal.goal is None:
        state = "told"
    else:
        met = median <= goal.goal if goal.measure == "added" else median >= goal.goal
        state = "met" if met else "short"
    return answer | {
        "against": best,
        "median": median,
        "lowest": min(values),
        "highest": max(values),
        "by_cpu": statistics.median(theirs[_CPU] / ours[_CPU] for ours, theirs in pairs) if known else None,
        "state": state,
    }


def medians(rounds: Rounds) -> dict[str, dict[str, float]]:
    """By contestant, the median of each figure."""
    return {
        contestant: {figure: statistics.median(one[figure] for one in figures) for figure in figures[0]}
        for contestant, figures in rounds.items()
        if figures
    }
