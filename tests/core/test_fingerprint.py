"""What is particular in an error's message does not change its fingerprint; what kind of error it is does."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.fingerprint import LIMIT_CHARS, fingerprint, own_frame, plain
from nexus.runtime.worker import describe

numbers = st.one_of(
    st.integers().map(str),
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers(min_value=0).map("{:,}".format),
    st.decimals(allow_nan=False, allow_infinity=False).map(str),
)
hexes = st.one_of(
    st.integers(min_value=0).map(hex), st.binary(min_size=4, max_size=40).map(bytes.hex), st.uuids().map(str)
)
quoted = st.one_of(st.text(max_size=60).map(repr), st.binary(max_size=60).map(repr))
ids = st.from_regex(r"\A[a-zA-Z]{0,5}[_-]?[0-9]{1,12}[a-zA-Z]{0,3}\Z")
particulars = st.one_of(numbers, hexes, quoted, ids)


@given(
    particulars, particulars, st.sampled_from(["{} is not known", "cannot take {}", "order {}: no", "a={}; b", "[{}]"])
)
def test_particulars_do_not_change_it(one: str, other: str, message: str) -> None:
    first, second = (fingerprint(f"shop.Refused: {message.format(text)}") for text in (one, other))
    assert first == second, (plain(message.format(one)), plain(message.format(other)))


@given(st.lists(numbers, min_size=1, max_size=9), st.lists(numbers, min_size=1, max_size=9))
def test_a_series_is_as_good_as_one(one: list[str], other: list[str]) -> None:
    assert plain(f"rows {', '.join(one)} are wrong") == plain(f"rows {' '.join(other)} are wrong")


@given(
    st.sampled_from(["ValueError", "TypeError", "shop.Refused"]),
    st.sampled_from(["too low", "can't be", "isn't"]),
    particulars,
)
def test_the_type_and_the_words_do_change_it(kind: str, words: str, text: str) -> None:
    error = f"{kind}: {words} {text}"
    others = {"KeyError: ", "ValueError: ", "TypeError: ", "shop.Refused: "} - {f"{kind}: "}
    assert fingerprint(error) not in {fingerprint(f"{other}{words} {text}") for other in others}
    assert fingerprint(error) != fingerprint(f"{kind}: other {words} {text}")


@given(st.text(), st.text())
def test_any_text_has_one_and_twice_the_same(error: str, reason: str) -> None:
    found = fingerprint(error, reason)
    assert len(found) == 12
    assert found == fingerprint(error, reason)


def fail(message: str) -> None:
    raise ValueError(message)


def fail_elsewhere(message: str) -> None:
    raise ValueError(message)


def fail_in_the_library(message: str) -> None:
    uuid.UUID(message)  # the raising frame is the standard library's


def described(act: Callable[[str], None], message: str) -> str:
    try:
        act(message)
    except ValueError as error:
        return describe(error)
    raise AssertionError("it did not fail")


def test_the_innermost_own_frame_changes_it() -> None:
    assert own_frame(described(fail, "x")) == "test_fingerprint.py:fail"
    assert own_frame(described(fail_in_the_library, "x")) == "test_fingerprint.py:fail_in_the_library"
    assert fingerprint(described(fail, "x")) != fingerprint(described(fail_elsewhere, "x"))


@pytest.mark.parametrize("length", [1, 3_000, 100_000])
def test_a_long_message_hides_neither_the_frame_nor_the_kind(length: int) -> None:
    error = described(fail, f"wrong: {'9' * length}")
    assert own_frame(error) == "test_fingerprint.py:fail"
    assert fingerprint(error) == fingerprint(described(fail, "wrong: 5"))
    assert fingerprint(described(fail, "many\n" + "lines\n" * length)) == fingerprint(described(fail, "many\nx"))


def test_lines_of_code_and_folders_do_not_change_it() -> None:
    frame = 'ValueError: no\nTraceback (most recent call last):\n  File "{}app.py", line {}, in charge\n    x()'
    assert fingerprint(frame.format("/srv/a/", 3)) == fingerprint(frame.format("C:\\shop\\", 44))
    foreign = '\n  File "/usr/lib/python3.11/json/decoder.py", line 7, in decode\n  File "<frozen x>", line 1, in y'
    assert fingerprint(frame.format("", 1) + foreign) == fingerprint(frame.format("", 1))


def test_without_an_error_the_reason_speaks() -> None:
    assert fingerprint("", "unwanted 3") == fingerprint("", "unwanted 4") != fingerprint("", "interrupted")
    assert own_frame("no traceback") == ""


def test_only_so_much_is_looked_at() -> None:
    assert fingerprint("x " * LIMIT_CHARS) == fingerprint("x " * LIMIT_CHARS + "y")
