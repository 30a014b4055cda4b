"""What is found of a broker, in the same words on all of them."""

from __future__ import annotations

from nexus.core.findings import durabilities, few, nodes, release, rights
from nexus.spi.backend import Finding


def test_topics_are_told_by_what_survives_the_weakest_first() -> None:
    weak, strong = durabilities({"a": "disk", "c": "memory", "b": "memory"})
    assert weak == Finding("durability", "yellow", "memory (lost with its process): b, c")
    assert strong == Finding("durability", "green", "disk (synced at every commit): a")
    assert durabilities({}) == []


def test_the_setting_that_decides_and_the_one_to_set_are_told() -> None:
    (found,) = durabilities({"a": "process"}, "replicas", {"process": "more of them"})
    assert "decided by replicas" in found.found
    assert found.advice == "more of them"


def test_nodes_that_do_not_answer_are_named() -> None:
    assert nodes({"b:1": "2.12", "a:1": ""}, "start it") == Finding("nodes", "green", "2 of 2 answer: a:1, b:1 2.12")
    some = nodes({"b:1": "2.12", "a:1": None}, "start it")
    assert (some.state, some.found, some.advice) == ("yellow", "1 of 2 answer: b:1 2.12; not a:1", "start it")
    assert nodes({"a:1": None}, "start it") == Finding("nodes", "red", "none answers: a:1", "start it")


def test_each_right_that_is_missing_says_what_to_set() -> None:
    assert rights(["read", "write"], {}) == [Finding("rights", "green", "may read, write")]
    assert rights([], {"read": "let it"}) == [Finding("rights", "red", "may not read", "let it")]


def test_a_long_list_is_cut() -> None:
    assert few("abcde") == "a, b, c, d, e"
    assert few("abcdefg") == "a, b, c, d, e and 2 more"


def test_a_version_is_compared_by_its_first_two_numbers() -> None:
    assert [release(text) for text in ("2.15.1", "4", "4.0-beta.1", "", "new")] == [(2, 15), (4, 0), None, None, None]
