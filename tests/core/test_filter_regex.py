"""The regular expressions of filters agree with Python's on the subset, and never take longer than a line through."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nexus.core.filter.regex import (
    CACHE_LIMIT,
    STATES_LIMIT,
    WORK_LIMIT,
    Regex,
    RegexError,
    TooMuchWork,
)

ATOMS = st.sampled_from(
    ["a", "b", "-", ".", r"\.", r"\n", "[ab]", "[^a]", "[a-c1]", "[]a]", "[a-]", r"[\d-]", r"[^\w]", r"\d", r"\D",
     r"\w", r"\W", r"\s", r"\S", "^", "$", "é"]
)  # fmt: skip
QUANTIFIERS = st.sampled_from(["*", "+", "?", "{0}", "{2}", "{1,}", "{0,2}", "{1,3}", "*?", "+?", "{2,3}?"])


def _compound(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    group = inner.map(lambda text: f"({text})") | inner.map(lambda text: f"(?:{text})")
    return (
        st.lists(inner, min_size=2, max_size=3).map("".join)
        | st.lists(inner | st.just(""), min_size=2, max_size=3).map(lambda parts: f"({'|'.join(parts)})")
        | st.tuples(group | st.sampled_from(["a", ".", "[ab]", r"\d"]), QUANTIFIERS).map("".join)
    )


EXPRESSIONS = st.recursive(ATOMS, _compound, max_leaves=8)
TEXTS = st.text(alphabet="aab1-\n é_.", max_size=12)


@given(EXPRESSIONS, st.lists(TEXTS, min_size=1, max_size=4))
@example("(|a)*$", ["", "a"])
@example("^$|b", ["", "b", "ab", "a"])
@example("a^b|$a", ["ab", "a", ""])
def test_agrees_with_python(expression: str, texts: list[str]) -> None:
    # RE2's `$` is the end of the text; Python's also stands before a last newline.
    oracle = re.compile(re.sub(r"(?<!\\)\$", r"\\Z", expression), re.ASCII)
    ours = Regex(expression)
    for text in texts:
        assert ours.search(text) is (oracle.search(text) is not None), text


@pytest.mark.parametrize(
    ("expression", "text", "fits"),
    [
        ("", "", True),
        ("", "anything", True),
        ("^order-[0-9]{3,}$", "order-1234", True),
        ("^order-[0-9]{3,}$", "order-12", False),
        ("colou?r", "the color red", True),
        ("^(?:cat|dog)s?$", "dogs", True),
        ("^(?:ca)t$", "cat", True),
        ("^(?:ca)t$", "at", False),
        ("a.c", "a\nc", False),
        (r"\x2e".replace(r"\x2e", r"\."), "x", False),
        ("{", "{", True),
        ("a{,2}", "a{,2}", True),
        ("x{0}y", "y", True),
        ("[^\0-a]", "b", True),
        ("[^\0-a]", "A", False),
        ("[^\0-\U0010ffff]", "a", False),
        ("[^\\s]+@", "me@", True),
        ("^a?$", "aa", False),
        ("^a+$", "a", True),
        ("^a*b$", "b", True),
        ("a{499}", "a" * 498, False),
        ("a{499}", "a" * 499, True),
        ("[a-a]", "a", True),
        ("[a:]", ":", True),
        ("[[b]", "[", True),
        ("\\t\\r\\f\\v\\a", "\t\r\f\v\a", True),
    ],
)
def test_by_example(expression: str, text: str, fits: bool) -> None:
    assert Regex(expression).search(text) is fits


@pytest.mark.parametrize(
    "expression",
    [r"\d", r"\D", r"\w", r"\W", r"\s", r"\S", ".", "[b-y]", "[^b-y]", "[b-df-hd-e]", r"[\w-]", r"[+-\-]", "b"],
)
def test_a_set_of_characters_holds_what_python_says(expression: str) -> None:
    ours, oracle = Regex(expression), re.compile(expression, re.ASCII)
    # RE2's \s leaves out the vertical tab, which Python's holds.
    for char in map(chr, {*range(256), 0x10FFFF} - {0x0B}):
        assert ours.search(char) is (oracle.search(char) is not None), char


@pytest.mark.parametrize(
    ("expression", "message", "at"),
    [
        ("(a", "the group has no end", 0),
        ("a)", "unexpected ')'", 1),
        ("*a", "nothing to repeat before '*'", 0),
        ("{2}a", "nothing to repeat before '{'", 0),
        ("a**", "a repetition behind a repetition", 2),
        ("a{2}{3}", "a repetition behind a repetition", 4),
        ("a{3,2}", "in the wrong order", 1),
        ("a{500}", f"more than {STATES_LIMIT} states", 0),
        ("a{999999999}", f"more than {STATES_LIMIT} states", 0),
        ("[a", "the set of characters has no end", 0),
        ("x[a-", "the set of characters has no end", 1),
        ("[b-a]", "wrong ends", 1),
        (r"[\d-z]", "wrong ends", 1),
        ("[[:alpha:]]", "named sets", 2),
        ("(?i)a", "flags, names and looking around", 1),
        ("(?=a)", "flags, names and looking around", 1),
        (r"(a)\1", r"\1 is not in the subset", 4),
        (r"\b", r"\b is not in the subset", 1),
        ("a\\", "a backslash at the end", 2),
        ("(" * 33 + ")" * 33, "nested deeper than 32", 32),
        ("(a{100}){100}", f"more than {STATES_LIMIT} states", 0),
        ("((){500}){500}", f"more than {STATES_LIMIT} states", 0),
    ],
)
def test_is_refused(expression: str, message: str, at: int) -> None:
    with pytest.raises(RegexError) as caught:
        Regex(expression)
    assert message in str(caught.value)
    assert caught.value.at == at


def test_058_an_expression_that_hangs_python_is_answered_in_one_pass() -> None:
    # Python's re needs about 2^5000 steps for this.
    assert Regex("(a+)+$").search("a" * 5_000 + "b") is False


def test_the_sets_that_are_remembered_are_bounded() -> None:
    expression = Regex("(a|b)*a(a|b){11}c")  # has 2^11 sets of states
    text = "".join(random.Random(1).choices("ab", k=15_000))
    assert expression.search(text) is False
    assert len(expression._sets) <= CACHE_LIMIT
    assert expression.search(text + "abbbbbbbbbbbc") is True


def test_a_text_too_long_for_the_expression_is_refused_by_size_alone() -> None:
    expression = Regex("ab")  # 3 states
    assert expression.search("x" * (WORK_LIMIT // 3)) is False
    with pytest.raises(TooMuchWork):
        expression.search("x" * (WORK_LIMIT // 3 + 1))
