"""The cursor's text: whole, small, and never guessed at."""

from __future__ import annotations

import random
from base64 import b64encode

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nexus.core.cursor import ATTEMPTS_LIMIT, CHARS_LIMIT, State, decode, encode
from nexus.errors import CorruptData

LOW = 1_000_000


@given(
    st.sets(st.integers(1, 5_000), max_size=400),
    st.dictionaries(st.integers(0, 5_000), st.integers(1, 100), max_size=ATTEMPTS_LIMIT),
    st.booleans(),
    st.integers(0, 50),
    st.integers(0, 2**40),
)
def test_what_is_written_is_read(
    done: set[int], attempts: dict[int, int], clean: bool, unclean: int, place: int
) -> None:
    state = State(
        done=tuple(sorted(LOW + offset for offset in done)),
        attempts=tuple(sorted((LOW + offset, count) for offset, count in attempts.items())),
        clean=clean,
        unclean=unclean,
        place=place,
        place_epoch=7,
        base=place,
    )
    text = encode(LOW, state)
    assert text is not None
    assert text.isascii()
    assert text.isprintable()
    assert decode(LOW, text) == state


@pytest.mark.parametrize("part", [0.0001, 0.01, 0.1, 0.5, 0.9, 1.0])
def test_a_full_window_fits(part: float) -> None:
    dice = random.Random(1)
    done = tuple(LOW + offset for offset in range(1, 16_384) if dice.random() < part)
    attempts = tuple((LOW + offset, 9) for offset in range(0, 16_384, 16_384 // ATTEMPTS_LIMIT))
    text = encode(LOW, State(done=done, attempts=attempts))
    assert text is not None
    assert len(text) <= CHARS_LIMIT
    assert decode(LOW, text).done == done


def test_what_does_not_fit_is_not_written() -> None:
    dice = random.Random(2)
    ragged = tuple(sorted(LOW + offset for offset in dice.sample(range(1, 1_000_000), 16_384)))
    assert encode(LOW, State(done=ragged)) is None


def test_wide_gaps_cost_runs_and_not_memory() -> None:
    state = State(done=tuple(LOW + offset * 2**30 for offset in range(1, 40)))
    text = encode(LOW, state)
    assert text is not None
    assert decode(LOW, text) == state


def test_of_too_many_attempts_the_highest_are_kept() -> None:
    attempts = tuple((LOW + offset, 1 + (offset % 5 == 0)) for offset in range(ATTEMPTS_LIMIT * 3))
    text = encode(LOW, State(attempts=attempts))
    assert text is not None
    kept = decode(LOW, text).attempts
    assert len(kept) == ATTEMPTS_LIMIT
    assert sum(count == 2 for _, count in kept) == 77


def test_no_text_is_a_fresh_cursor() -> None:
    assert decode(5, "") == State()


def wire(*fields: object) -> str:
    return "1" + b64encode(msgspec.msgpack.encode(fields)).decode()


@pytest.mark.parametrize(
    "text",
    [
        "2abc",
        "kafka-streams metadata",
        "1!!!",
        "1" + b64encode(b"junk").decode(),
        wire(True, 0, 0, 0, 0, [1], 0, b""),
        wire(True, 0, 0, 0, 0, [], 2, b"not zlib"),
        wire(True, 0, 0, 0, 0, [], 0, b"\x01"),
        wire(True, 0, 0, 0, 0, [], 0, b"\x00\xff\xff\xff\xff\x7f"),
    ],
)
def test_a_foreign_or_broken_text_is_an_error(text: str) -> None:
    with pytest.raises(CorruptData):
        decode(LOW, text)
