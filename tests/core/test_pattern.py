"""Event-type patterns, against a matcher so plain that it can be checked by eye."""

from __future__ import annotations

import doctest
import re
import sys
from collections.abc import Callable
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core import pattern as pattern_module
from nexus.core.pattern import CACHE_LIMIT, LIMIT_CHARS, Pattern, Router, validate_pattern, validate_type
from nexus.errors import FilterError, InvalidEvent

Item = tuple[str, str]


def items(text: str) -> list[Item]:
    return re.findall(r"([.:]?)([^.:]+)", text)


def reference(pattern: list[Item], event_type: list[Item], *, start: bool = True) -> bool:
    """The rules of the module, one line each."""
    if not pattern:
        return not event_type
    (separator, segment), rest = pattern[0], pattern[1:]
    if segment == "**":
        if not rest and not event_type:
            return not start
        if start and rest and reference([("", rest[0][1]), *rest[1:]], event_type):
            return True
        if not start and reference(rest, event_type, start=False):
            return True
        if event_type and event_type[0][0] == separator:
            return any(reference(rest, event_type[taken:], start=False) for taken in range(1, len(event_type) + 1))
        return False
    if not event_type or event_type[0][0] != separator:
        return False
    if segment not in ("*", event_type[0][1]):
        return False
    return reference(rest, event_type[1:], start=False)


def joined(segments: st.SearchStrategy[str], most: int) -> st.SearchStrategy[str]:
    def join(parts: list[tuple[str, str]]) -> str:
        return "".join(separator + segment for separator, segment in parts)[1:]

    return st.lists(st.tuples(st.sampled_from(".:"), segments), min_size=1, max_size=most).map(join)


TYPES = joined(st.sampled_from(["a", "b", "order"]), 6)
PATTERNS = joined(st.sampled_from(["a", "b", "order", "*", "**"]), 5)


@given(PATTERNS, TYPES)
def test_a_pattern_agrees_with_the_reference(pattern: str, event_type: str) -> None:
    assert Pattern(pattern).matches(event_type) is reference(items(pattern), items(event_type))


@given(st.lists(st.lists(PATTERNS, min_size=1, max_size=3), max_size=12), st.lists(TYPES, min_size=1, max_size=5))
def test_a_router_gives_each_fitting_value_once_in_the_order_of_adding(
    subscriptions: list[list[str]], event_types: list[str]
) -> None:
    router = Router[int]()
    for number, patterns in enumerate(subscriptions):
        router.add(number, *patterns)
    for event_type in event_types * 2:  # the second time from the cache
        expected = tuple(
            number
            for number, patterns in enumerate(subscriptions)
            if any(reference(items(pattern), items(event_type)) for pattern in patterns)
        )
        assert router.match(event_type) == expected


@given(TYPES)
def test_every_type_is_a_pattern_that_matches_itself(event_type: str) -> None:
    validate_type(event_type)
    assert Pattern(event_type).matches(event_type)


@pytest.mark.parametrize(
    ("pattern", "event_type", "fits"),
    [
        ("order.placed", "order.placed", True),
        ("order.placed", "order:placed", False),
        ("order.*", "order", False),
        ("order.*", "order.placed", True),
        ("order.*", "order.placed.eu", False),
        ("*", "order", True),
        ("order.**", "order", True),
        ("order.**", "order.placed", True),
        ("order.**", "order:placed", False),
        ("order.**", "order.placed:eu", True),
        ("order.**", "orders.placed", False),
        ("**", "order.placed:v1", True),
        ("**.placed", "placed", True),
        ("**.placed", "order.placed", True),
        ("**.placed", "order:placed", False),
        ("order.**:failed", "order:failed", True),
        ("order.**:failed", "order.failed", False),
        ("order.**:failed", "order.x:failed", True),
        ("*:*:v1:**", "commerce:create_order:v1:success", True),
        ("**.**", "order", True),
    ],
)
def test_patterns_by_example(pattern: str, event_type: str, fits: bool) -> None:
    assert Pattern(pattern).matches(event_type) is fits


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("x" * (LIMIT_CHARS + 1), "1,025 characters"),
        ("a*b", "'*' at character 2"),
        ("order.>", "'>' at character 7"),
        ("order placed", "' ' at character 6"),
        ("order\x00", r"'\x00' at character 6"),
        ("order\n", r"'\n' at character 6"),
        ("order\x85", r"'\x85' at character 6"),
        ("order\u2028x", r"'\u2028' at character 6"),
        ("order..placed", "empty segment at character 6"),
        (".order", "empty segment at character 1"),
        ("order:", "empty segment at character 6"),
        ("a.:b", "empty segment at character 2"),
        ("order.\ud800", r"'\ud800' at character 7"),
        (7, "not int"),
    ],
)
def test_a_bad_type_is_refused_and_the_place_named(text: str, fault: str) -> None:
    with pytest.raises(InvalidEvent, match=re.escape(fault)):
        validate_type(text)


@pytest.mark.parametrize(
    "text", ["order", "order.placed", "commerce:create_order:v1:success", "x" * LIMIT_CHARS, "größe.é-1/x"]
)
def test_a_good_type_is_taken(text: str) -> None:
    validate_type(text)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "is empty"),
        ("*" * (LIMIT_CHARS + 1), "1,025 characters"),
        ("order.>", "'>'"),
        ("ord*", "inside the segment 'ord*'"),
        ("***", "inside the segment '***'"),
        ("a." * 32 + "a", "33 segments"),
        ("order.", "empty segment at character 6"),
        ("a b", "' ' at character 2"),
        (None, "not NoneType"),
    ],
)
def test_a_bad_pattern_is_refused_and_the_place_named(text: str, fault: str) -> None:
    with pytest.raises(FilterError, match=re.escape(fault)):
        validate_pattern(text)


@pytest.mark.parametrize("text", ["x" * LIMIT_CHARS, "a." * 31 + "**", "*", "**:*"])
def test_a_good_pattern_is_taken(text: str) -> None:
    validate_pattern(text)


def test_a_bad_pattern_leaves_the_router_as_it_was() -> None:
    router = Router[str]()
    with pytest.raises(FilterError):
        router.add("bad", "order.*", "order.>")
    assert router.match("order.placed") == ()


def test_adding_forgets_what_was_remembered() -> None:
    router = Router[str]()
    router.add("one", "a.*")
    assert router.match("a.b") == ("one",)
    router.add("two", "**")
    assert router.match("a.b") == ("one", "two")


def test_the_router_remembers_a_bounded_number_of_types() -> None:
    router = Router[str]()
    router.add("all", "**")
    for number in range(CACHE_LIMIT + 10):
        assert router.match(f"order.{number}") == ("all",)
    assert len(router._cache) == CACHE_LIMIT
    assert f"order.{CACHE_LIMIT + 9}" in router._cache


def c_calls(action: Callable[[], object]) -> int:
    """How many built-in calls ``action`` makes: a measure of work that no busy machine changes."""
    calls = 0

    def count(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "c_call"

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        action()
    finally:
        sys.setprofile(before)
    return calls


def test_a_thousand_patterns_cost_less_than_twice_one() -> None:
    few, many = Router[int](), Router[int]()
    few.add(0, "shop.order.placed")
    for number in range(1_000):
        many.add(number, f"shop.order{number}.placed" if number else "shop.order.placed")
    assert few.match("shop.order.placed") == many.match("shop.order.placed") == (0,)
    for event_type in ("shop.order.placed", "shop.order.lost"):  # one remembered, one new
        assert c_calls(partial(many.match, event_type)) < 2 * c_calls(partial(few.match, event_type))


def test_a_hostile_pattern_does_not_blow_up() -> None:
    pattern = Pattern(".".join(["**", "a"] * 15) + ".b")
    event_type = ".".join(["a"] * 500)
    # A backtracking matcher would try 500 over 15 ways, some 10^28; this is bounded by segments times states.
    assert c_calls(lambda: pattern.matches(event_type)) < 500_000
    assert pattern.matches(event_type) is False


def test_a_pattern_shows_its_text() -> None:
    assert repr(Pattern("order.*")) == "Pattern('order.*')"


def test_the_examples_in_the_module_run() -> None:
    assert doctest.testmod(pattern_module).failed == 0
