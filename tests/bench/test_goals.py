"""The arithmetic of the goals, and that each goal reads a figure that its contestants give."""

from __future__ import annotations

import pytest

from nexus.bench import on_kafka as on_kafka
from nexus.bench import on_nats as on_nats
from nexus.bench import on_rabbitmq as on_rabbitmq
from nexus.bench.contestants import CONTESTANTS
from nexus.bench.goals import Goal, Measure, compare, medians
from nexus.bench.scenarios import SCENARIOS
from nexus.brokers import KINDS


def rounds(**values: list[float]) -> dict[str, list[dict[str, float]]]:
    return {contestant: [{"figure": value} for value in each] for contestant, each in values.items()}


def goal(wanted: float | None, measure: Measure = "rate", theirs: tuple[str, ...] = ("raw",)) -> Goal:
    return Goal("what", "figure", "ours", theirs, wanted, measure)


def test_rounds_are_compared_one_by_one_and_the_median_counts() -> None:
    # The machine was half as fast in the second round; no ratio is, and that of the medians would be 0.6.
    answer = compare(goal(0.8), rounds(ours=[90, 40, 60], raw=[100, 50, 100]))
    assert (answer["median"], answer["lowest"], answer["highest"]) == (0.8, 0.6, 0.9)
    assert answer["state"] == "met"
    assert compare(goal(0.81), rounds(ours=[90, 40, 60], raw=[100, 50, 100]))["state"] == "short"


def test_the_best_of_theirs_is_compared() -> None:
    answer = compare(goal(1.0, theirs=("slow", "raw")), rounds(ours=[100], slow=[50], raw=[200]))
    assert (answer["against"], answer["median"]) == ("raw", 0.5)
    answer = compare(goal(1.0, "time", ("slow", "raw")), rounds(ours=[4], slow=[5], raw=[2]))
    assert (answer["against"], answer["median"]) == ("raw", 0.5)


def test_a_time_that_is_added_is_at_most_the_goal() -> None:
    figures = rounds(ours=[1.5, 3.0, 2.0], raw=[1.25, 1.0, 1.5])
    assert compare(goal(0.5, "added"), figures)["median"] == 0.5
    assert compare(goal(0.5, "added"), figures)["state"] == "met"
    assert compare(goal(0.49, "added"), figures)["state"] == "short"
    assert compare(goal(0.5, "added"), rounds(ours=[1.0], raw=[2.0]))["state"] == "met"


def test_the_processor_time_of_each_event_is_told_beside_and_decides_nothing() -> None:
    ours = [{"figure": 50.0, "cpu_us": 10.0}, {"figure": 60.0, "cpu_us": 12.0}, {"figure": 70.0, "cpu_us": 40.0}]
    raw = [{"figure": 100.0, "cpu_us": 8.0}] * 3
    answer = compare(goal(0.7), {"ours": ours, "raw": raw})
    assert (answer["by_cpu"], answer["state"]) == (pytest.approx(8 / 12), "short")
    assert compare(goal(0.7), {"ours": ours, "raw": [{"figure": 100.0}] * 3})["by_cpu"] is None


def test_without_a_goal_it_is_only_told() -> None:
    assert compare(goal(None), rounds(ours=[1.0], raw=[2.0]))["state"] == "told"


@pytest.mark.parametrize("figures", [rounds(ours=[1.0]), rounds(raw=[1.0]), rounds(ours=[1.0], raw=[])])
def test_who_is_missing_leaves_the_goal_unmeasured(figures: dict[str, list[dict[str, float]]]) -> None:
    answer = compare(goal(1.0), figures)
    assert (answer["state"], answer["median"], answer["against"]) == ("not measured", None, None)


def test_medians_are_of_each_figure() -> None:
    assert medians(rounds(ours=[3.0, 1.0, 2.0], none=[])) == {"ours": {"figure": 2.0}}


def test_every_goal_is_read_off_contestants_of_its_scenario() -> None:
    for scenario in SCENARIOS.values():
        assert set(scenario.contestants) <= set(CONTESTANTS)
        for each in scenario.goals:
            assert {each.ours, *each.theirs} <= set(scenario.contestants)


@pytest.mark.parametrize("broker", KINDS)
def test_each_broker_has_goals_for_publishing_consuming_and_latency(broker: str) -> None:
    names = {name for name, scenario in SCENARIOS.items() if scenario.broker == broker}
    assert {f"{broker}-publish", f"{broker}-consume", f"{broker}-latency"} <= names
    assert all(any(each.goal is not None for each in SCENARIOS[name].goals) for name in names)
