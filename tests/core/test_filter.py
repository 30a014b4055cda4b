"""Filters: what they answer, what they refuse, and that no text makes them do anything else."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core import filter as filter_module
from nexus.core.filter import compile_filter
from nexus.core.filter.compiler import ATTRIBUTES
from nexus.core.filter.values import SIZE_LIMIT, equal
from nexus.errors import FilterError
from nexus.event import Event

DATA: dict[str, Any] = {
    "total": 120,
    "price": 99.5,
    "country": "CH",
    "paid": True,
    "none": None,
    "in": 1,
    "at": "2013-01-01T10:00:00+01:00",
    "lines": [{"sku": "A-1", "n": 2}, {"sku": "B-7", "n": 1}],
    "big": 2**63,
    "address": {"city": "Zürich", "zip": "8000"},
}


def event(data: object = DATA, **changes: Any) -> Event[Any]:
    attributes: dict[str, Any] = {
        "id": "e-1",
        "source": "/shop",
        "type": "order.placed",
        "time": datetime(2013, 1, 1, 9, 30, tzinfo=UTC),
        "key": "o-1",
        "extensions": {"region": "eu", "weight": 7, "urgent": True},
        "body": msgspec.json.encode(data),
    }
    return Event(**attributes | changes)


EVENT = event()


def true(text: str) -> bool:
    return compile_filter(text).matches(EVENT)


def unanswered(text: str) -> bool:
    """Neither the filter nor its opposite is true: a part has no value."""
    return not true(text) and not true(f"!({text})") and true(f"({text}) || true")


# -- answers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "type == 'order.placed'",
        'type == "order.placed"',
        "type != 'order.lost'",
        "'order.placed' == type",
        "key == 'o-1' && source == '/shop' && id == 'e-1'",
        "type.startsWith('order.') && type.endsWith('placed') && type.contains('er.pl')",
        "!type.startsWith('x')",
        "headers.region == 'eu' && headers['weight'] > 6 && 'region' in headers && size(headers) == 3",
        "data.total > 100 && data.total >= 120 && data.total < 121 && data.total <= 120",
        "data.price == 99.5 && data.price > 99 && 100 > data.price",
        "data.country in ['CH', 'DE']",
        "!(data.country in ['FR'])",
        "'city' in data.address && !('street' in data.address) && !(1 in data.address)",
        "data.lines[0].sku == 'A-1' && data['lines'][1]['n'] == 1",
        "data.lines.size() == 2 && size(data.lines) == 2 && data.address.city.size() == 6",
        "data.none == null && data.paid == true && data.paid != 1",
        "data.in == 1",
        "data.total == 120.0 && 120.0 == data.total && data.total != '120'",
        "data.lines[1] == {'sku': 'B-7', 'n': 1.0} && data.lines != [] && {} != {'a': 1}",
        "[1, 'a', null] == [1.0, 'a', null] && [1] != [true] && [1] != [1, 2]",
        "data.total % 7 == 1 && data.total / 7 == 17 && -7 / 2 == -3 && 7 / -2 == -3 && -7 % 2 == -1 && 7 % -2 == 1",
        "1 + 2 * 3 - 4 / 2 == 5 && (1 + 2) * 3 == 9 && 10 - 3 - 2 == 5",
        "1.5 * 2.0 - 1.0 == 2.0 && 1.0 / 4.0 == 0.25 && -data.price < 0.0 && 1.0 + 0.5 == 15e-1",
        "1.0 / 0.0 > 1e308 && -1.0 / 0.0 < -1e308 && 1.0 / -0.0 < 0.0 && 0.0 / 0.0 != 0.0 / 0.0",
        "data.country + '-' + data.address.zip == 'CH-8000' && [1] + [2] == [1, 2]",
        "data.total > 100 ? data.paid : data.missing",
        "data.total < 100 ? data.missing : true ? data.paid : false",
        "has(data.total) && !has(data.discount) && has(data.address.city) && has(key) && !has(subject)",
        "has(headers.region) && !has(headers.campaign) && headers.urgent",
        "time == timestamp('2013-01-01T09:30:00Z') && time > timestamp('2013-01-01T10:00:00+01:00')",
        "timestamp(data.at) + duration('30m') == time && duration('1h30m') - duration('90m') == duration('0s')",
        "time - duration('1.5h') == timestamp('2013-01-01T08:00:00Z') && duration('1m') + time > time",
        "time - timestamp(data.at) == duration('1800s') && duration('-20ms') < duration('1us') + duration('1s')",
        "duration('2h') >= duration('120m') && false < true",
        "data.country.matches('^[A-Z]{2}$') && type.matches('plac') && !type.matches('^plac')",
        r"r'a\d' == 'a\\d' && 'a\tb' == '\x61\t\u0062' && '\U0001F600'.size() == 1 && \"it's\" == 'it\'s'",
        "0x1F == 31 && int(3.9) == 3 && int(-3.9) == -3 && int(data.total) == 120",
        "double(data.total) / 100.0 == 1.2 && double(1.5) == 1.5",
        "-9223372036854775807 - 1 == -9223372036854775808 && 9223372036854775806 + 1 > 0",
        "-9223372036854775808 < 0 && 9223372036854775807 > 0 && data.big > 9223372036854775807",
        "data.total >\n 100 \t && true",
        "--1 == 1 && !!true",
    ],
)  # fmt: skip
def test_is_true(text: str) -> None:
    text = text.replace('\\"', '"')
    assert true(text)
    assert not true(f"!({text})")


@pytest.mark.parametrize(
    "text",
    [
        "data.missing == 1",
        "data.missing != 1",
        "data.total.x == 1",
        "subject == 'x'",
        "headers.campaign == 'x'",
        "data.lines[2] == 1",
        "data.lines[-1] == 1",
        "data.lines['a'] == 1",
        "data.address[0] == 1",
        "data.lines[0.0] == 1",
        "has(data.total.x)",
        "has(data.missing.x)",
        "'a' < 1",
        "1 < true",
        "null < null",
        "[1] < [2]",
        "1 in 1",
        "'a' in 'abc'",
        "1 + 1.0 == 2",
        "'a' + 1 == 'a1'",
        "1.0 - 1 == 0.0",
        "true * true == 1",
        "true + true == 2",
        "1.0 % 1.0 == 0.0",
        "1 / 1.0 == 1.0",
        "1.0 / 1 == 1.0",
        "[1] + 1 == [1]",
        "'a' + [1] == [1]",
        "1 / 0 == 0",
        "1 % 0 == 0",
        "9223372036854775807 + 1 > 0",
        "-9223372036854775808 - 1 < 0",
        "9223372036854775807 * 2 > 0",
        "-9223372036854775808 / -1 > 0",
        "-(-9223372036854775808) > 0",
        "-'a' == 'a'",
        "!(1)",
        "1 == 1 && 7",
        "data.total ? true : true",
        "data.total.startsWith('1')",
        "type.contains(1)",
        "data.total.matches('1')",
        "size(1) == 1",
        "timestamp(data.country) < time",
        "timestamp(data.country + 'x') < time",
        "timestamp(data.total) < time",
        "duration(data.country) < duration('1s')",
        "duration(data.total) < duration('1s')",
        "time + duration('2000000h') * 1 > time",
        "time + duration('200000000h') > time",
        "time - timestamp('9999-12-31T00:00:00Z') - duration('999999999h') - duration('23000000000h') < duration('0s')",
        "int('7') == 7",
        "int(1.0 / 0.0) == 0",
        "int(1e300) == 0",
        "double('7') == 7.0",
        "data.missing && true",
        "true && data.missing",
        "data.missing || false",
        "false || 1",
    ],
)
def test_has_no_answer(text: str) -> None:
    assert unanswered(text)


def test_a_filter_that_is_not_a_truth_is_not_true() -> None:
    assert not true("data.total")
    assert not true("key")


def test_an_impossible_date_in_the_data_has_no_answer() -> None:
    text = "timestamp(data.at) < time || !(timestamp(data.at) < time)"
    assert not compile_filter(text).matches(event({"at": "2013-02-30T00:00:00Z"}))


def test_integers_too_large_for_a_float_have_no_double() -> None:
    assert not compile_filter("double(data) > 0.0").matches(event(body=b"1" + b"0" * 400))


def test_a_duration_too_long_has_no_answer() -> None:
    text = "duration(data.wait) > duration('1s')"
    assert compile_filter(text).matches(event({"wait": "2s"}))
    assert not compile_filter(text).matches(event({"wait": "99999999999999h"}))


def test_a_time_without_offset_has_no_answer() -> None:
    naive = event(time=datetime(2013, 1, 1))
    assert not compile_filter("time > timestamp('2000-01-01T00:00:00Z') || true && time != time").matches(naive)


def test_a_sum_of_texts_is_bounded() -> None:
    half = event({"a": "x" * (SIZE_LIMIT // 2)})
    assert compile_filter("size(data.a + data.a) > 1").matches(half)
    assert not compile_filter("size(data.a + data.a + 'x') > 1").matches(half)


def test_a_regular_expression_on_too_long_a_text_has_no_answer() -> None:
    long = event({"a": "x" * 600_000})
    assert compile_filter("!data.a.matches('y')").matches(event({"a": "x" * 6_000}))
    assert not compile_filter("data.a.matches('y') || !data.a.matches('y')").matches(long)


# -- data ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "needed"),
    [("data.total > 1", True), ("type == 'data'", False), ("headers.data == 'x'", False), ("has(data.x)", True)],
)
def test_says_whether_it_needs_the_data(text: str, needed: bool) -> None:
    assert compile_filter(text).needs_data is needed


@pytest.mark.parametrize("body", [b"{", b"\xff", b'{"a": "\xff"}', b"[" * 100_000])
def test_broken_data_has_no_answer_and_harms_nothing_else(body: bytes) -> None:
    broken = event(body=body)
    assert not compile_filter("data.a == 1 || data.a != 1").matches(broken)
    assert compile_filter("type == 'order.placed' || data.a == 1").matches(broken)


def test_no_body_is_null_and_other_content_is_no_map() -> None:
    assert compile_filter("data == null").matches(event(body=b""))
    assert not compile_filter("data.a == 1").matches(event(body=b"x", datacontenttype="text/plain"))
    assert compile_filter("!has(headers.campaign) && size(headers) == 0").matches(event(extensions=None))
    assert not compile_filter("headers.campaign == 'x'").matches(event(extensions=None))


def test_every_attribute_can_be_asked_for() -> None:
    full = event(
        subject="s", tenant="t", correlationid="c", causationid="d", dataschema="e", traceparent="f", tracestate="g",
        expirytime=datetime(2014, 1, 1, tzinfo=UTC),
    )  # fmt: skip
    assert set(ATTRIBUTES) == {*Event.__struct_fields__} - {"body", "extensions"}
    for name in ATTRIBUTES:
        assert compile_filter(f"has({name}) && {name} == {name}").matches(full)


# -- properties ------------------------------------------------------------------------------------------------------

Answer = bool | None
LEAVES: dict[str, Answer] = {"true": True, "false": False, "data.missing": None, "data.total": None, "data.paid": True}


@st.composite
def logic(draw: st.DrawFn, depth: int = 4) -> tuple[str, Answer]:
    """A formula, and what three-valued logic answers."""
    kind = draw(st.sampled_from(["leaf", "!", "&&", "||", "?"])) if depth else "leaf"
    if kind == "leaf":
        return draw(st.sampled_from(sorted(LEAVES.items(), key=str)))
    if kind == "!":
        text, answer = draw(logic(depth - 1))
        return f"!({text})", None if answer is None else not answer
    if kind == "?":
        (first, condition), (then, yes), (otherwise, no) = (draw(logic(depth - 1)) for _ in range(3))
        return f"(({first}) ? ({then}) : ({otherwise}))", None if condition is None else yes if condition else no
    parts = draw(st.lists(logic(depth - 1), min_size=2, max_size=4))
    answers = [answer for _, answer in parts]
    decides = kind == "||"
    answer = decides if decides in answers else None if None in answers else not decides
    return f" {kind} ".join(f"({text})" for text, _ in parts), answer


@given(logic())
def test_logic_is_three_valued(formula: tuple[str, Answer]) -> None:
    text, answer = formula
    # A lone data.total is a number: as a part of logic it has no answer, alone it is not true either.
    assert true(text) is (answer is True)
    assert true(f"!({text})") is (answer is False)


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 99)), min_size=1, max_size=8), st.data())
def test_arithmetic_has_the_precedence_of_arithmetic(terms: list[tuple[str, int]], data: st.DataObject) -> None:
    text = "".join(f" {operator} {number}" for operator, number in terms)
    text = f"{data.draw(st.integers(0, 99))}{text}"
    expected = eval(text)  # digits and + - * only; the oracle, not the product
    assert true(f"{text} == {expected}" if expected >= 0 else f"{text} == -{-expected}")


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_integers_divide_towards_zero_within_64_bits(left: int, right: int) -> None:
    both = event({"l": left, "r": right})
    if right == 0 or (left, right) == (-(2**63), -1):
        assert not compile_filter("data.l / data.r == data.l / data.r").matches(both)
        return
    quotient = abs(left) // abs(right) * (1 if (left < 0) == (right < 0) else -1)
    answered = event({"l": left, "r": right, "q": quotient, "m": left - quotient * right})
    assert compile_filter("data.l / data.r == data.q && data.l % data.r == data.m").matches(answered)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 3)
    | st.sampled_from([0.0, 1.0, -1.5])
    | st.sampled_from(["", "a", "1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("ab"), inner, max_size=2),
    max_leaves=6,
)


def canonical(value: Any) -> Any:
    """A form in which Python's own equality is the one that filters promise."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return type(value).__name__, value
    if isinstance(value, int | float):
        return "number", float(value)
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return {key: canonical(item) for key, item in value.items()}


@given(JSON, JSON)
def test_values_of_different_kinds_are_never_equal(left: Any, right: Any) -> None:
    assert equal(left, right) is (canonical(left) == canonical(right))
    assert equal(left, left)


def test_a_number_that_is_none_equals_nothing() -> None:
    assert not equal(math.nan, math.nan)


PIECES = (
    "type", "data", "headers", "in", "has", "size", "matches", "true", "null", "1", "-1", "1.5", "'a'", "r'('", "(",
    ")", "[", "]", "{", "}", ".", ",", ":", "?", "!", "-", "+", "*", "/", "%", "==", "<", "&&", "||", "timestamp", "x",
)  # fmt: skip


@given(st.text() | st.lists(st.sampled_from(PIECES), max_size=30).map(" ".join))
def test_any_text_is_a_filter_or_an_error_with_a_place(text: str) -> None:
    try:
        made = compile_filter(text)
    except FilterError as error:
        shown = error.message
    else:
        assert made.matches(EVENT) in (True, False)
        return
    assert "(character " in shown
    assert shown.endswith("^")


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "unexpected the end (character 1)", None),
        ("type ==", "unexpected the end (character 8)", None),
        ("type = 'a'", "unexpected '=' (character 6)", "equality is '=='"),
        ("true & false", "unexpected '&' (character 6)", "write '&&'"),
        ("type == 'a", "unexpected \"'\" (character 9)", "no closing quote"),
        ("true and false", "unexpected 'and' (character 6)", "write '&&'"),
        ("true true", "unexpected 'true' (character 6)", None),
        ("(true", "unexpected the end, expected ')'", None),
        ("data.'a'", "unexpected 'a', expected 'a name'", None),
        ("in == 1", "unexpected 'in'", None),
        ("* 1", "unexpected '*'", None),
        ("[1 2]", "unexpected 2, expected ','", None),
        ("{'a': 1 'b': 2} == {}", "unexpected 'b', expected ','", None),
        ("true ? 1", "expected ':'", None),
        ("1u == 1", "unexpected 'u' after a number (character 2)", None),
        ("1e400 > 0.0", "too large for a float", None),
        ("9223372036854775808 > 0", "over the largest integer", None),
        (r"'\q' == type", r"unknown escape \q (character 2)", "r'...'"),
        (r"'\ud800' == type", "unknown escape", None),
        (r"'\Uffffffff' == type", "unknown escape", None),
        ("typ == 'a'", "unknown name 'typ' (character 1)", "did you mean 'type'? Else a field"),
        ("total > 10", "unknown name 'total' (character 1)", "data.total, an extension attribute headers.total"),
        ("has(region)", "unknown name 'region'", "headers.region"),
        ("correlationId == 'a'", "unknown name 'correlationId'", "did you mean 'correlationid'?"),
        ("partitionkey == 'a'", "unknown name 'partitionkey'", "did you mean 'key'?"),
        ("Zzz == 'a'", "unknown name 'Zzz'", "data.Zzz"),
        ("has(typ)", "unknown name 'typ'", "did you mean 'type'?"),
        ("startswith('a')", "unknown function 'startswith'", None),
        ("type.startswith('a')", "unknown method 'startswith' (character 6)", "did you mean 'startsWith'?"),
        ("type.zzz()", "unknown method 'zzz'", None),
        ("type.startsWith()", "startsWith() takes 1 argument (", None),
        ("type.size(1) == 1", "size() takes no arguments (", None),
        ("size() == 1", "size() takes 1 argument (", None),
        ("has(data)", "has() asks for an attribute or a field", "'key' in data"),
        ("has(data['a'])", "has() asks for an attribute or a field", "'key' in data"),
        ("type.matches(key)", "a literal text", None),
        ("type.matches(1)", "a literal text", None),
        ("type.matches('(a')", "the group has no end at character 1 of the regular expression", "docs/filters.md"),
        ("time > timestamp('yesterday')", "'yesterday' is not a time as", None),
        ("time > timestamp('2013-02-30T00:00:00Z')", "is not a time as", None),
        ("time > timestamp(7)", "7 is not a time as", None),
        ("duration('1 h') > duration('1s')", "'1 h' is not a duration as", None),
        ("{1: 2} == {}", "the keys of a map are texts", None),
        ("{key: 2} == {}", "the keys of a map are texts", None),
        ("{'a': 1, 'a': 2} == {}", "the key 'a' is here twice", None),
        ("1", "a filter answers true or false", None),
        ("data.total + 1", "a filter answers true or false", None),
        ("[true]", "a filter answers true or false", None),
        ("{}", "a filter answers true or false", None),
        ("true || '" + "x" * 4_096 + "' == key", "4,113 bytes; the limit is 4,096", None),
        ("1 'in' [1] == true", "unexpected 'in' (character 3)", None),
        ("(true) && " * 40 + "(" * 32 + "true" + ")" * 32, "nested deeper than 32 levels", None),
        ("(" * 33 + "true" + ")" * 33, "nested deeper than 32 levels", None),
        ("!" * 40 + "true", "nested deeper than 32 levels", None),
        ("1" + " + 1" * 40 + " == 41", "nested deeper than 32 levels", None),
        ("data" + ".a" * 40 + " == 41", "nested deeper than 32 levels", None),
    ],
)  # fmt: skip
def test_is_refused(text: str, message: str, hint: str | None) -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter(text)
    assert message in caught.value.message
    if hint:
        assert hint in (caught.value.hint or "")


def test_long_chains_of_logic_are_not_deep() -> None:
    assert true(" && ".join(["headers.urgent"] * 200))
    assert true(" || ".join(["false"] * 400) + " || true")


def test_the_depth_that_is_allowed_is_allowed_everywhere() -> None:
    assert true("(true) && " * 40 + "(" * 31 + "true" + ")" * 31)
    assert true("1" + " + 1" * 30 + " == 31")
    with pytest.raises(FilterError, match="nested deeper than 32 levels"):
        compile_filter("1" + " + 1" * 31 + " == 32")


def test_the_caret_stands_under_the_place_in_its_line() -> None:
    with pytest.raises(FilterError) as caught:
        compile_filter("true &&\n\ttyp == 1 &&\nfalse")
    assert caught.value.message.splitlines()[1:] == ["   typ == 1 &&", "   ^"]
    with pytest.raises(FilterError) as caught:
        compile_filter("true && " * 50 + "typ == 1" + " && true" * 50)
    _, line, caret = caught.value.message.splitlines()
    assert line[caret.index("^") :].startswith("typ")
    assert len(line) < 130


def test_something_else_than_text_is_refused() -> None:
    with pytest.raises(FilterError, match="not int"):
        compile_filter(7)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "text", ["__import__('os')", "type.__class__ == 1", "data.__class__.__mro__ == []", "(lambda: 1)()"]
)
def test_python_is_out_of_reach(text: str) -> None:
    with contextlib.suppress(FilterError):
        assert not compile_filter(text).matches(EVENT)


def test_a_filter_shows_its_text() -> None:
    assert repr(compile_filter("true")) == "Filter('true')"
    assert compile_filter("true").text == "true"


@pytest.mark.parametrize("name", ["", ".values", ".lexer", ".regex"])
def test_the_examples_in_the_modules_run(name: str) -> None:
    assert doctest.testmod(importlib.import_module(filter_module.__name__ + name)).failed == 0
