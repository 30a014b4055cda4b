"""Regular expressions that match in linear time: does a text contain what the expression describes?

Python's ``re`` tries one way after the other, so that ``(a+)+$`` on thirty letters takes minutes. Here all ways are
followed at once (Thompson 1968): the expression becomes an automaton of states, sets of states are met once per
character, and each set that was met is remembered with what follows it.

>>> Regex("^order-[0-9]{3,}$").search("order-1234"), Regex("(a+)+$").search("a" * 5_000 + "b")
(True, False)

The language is a subset of RE2: literals, ``.`` (no newline), ``[a-z]``, ``[^...]``, ``\\d \\w \\s`` and their
opposites (ASCII), ``^`` and ``$`` (ends of the text), ``(...)``, ``(?:...)``, ``|``, ``* + ? {m} {m,} {m,n}``.
Back-references, looking around, flags and ``\\b`` are refused. `search` is true when any part of the text fits.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from itertools import pairwise
from typing import NamedTuple, NoReturn

STATES_LIMIT = 500
"""States of an automaton; ``{m,n}`` repeats the states of what it stands behind."""
DEPTH_LIMIT = 32
WORK_LIMIT = 1_000_000
"""States times characters that one search may cost: at worst some 0.4 s. It depends on nothing but expression and
text, so that every node gives the same answer."""
CACHE_LIMIT = 1_000
"""Sets of states that are remembered; some expressions have 2^n of them."""

_LAST = 0x10FFFF
Ranges = tuple[tuple[int, int], ...]
"""Characters, as ranges of code points with both ends inside, sorted, apart from each other."""


class RegexError(ValueError):
    """The expression cannot be read; ``at`` is the character of it that is at fault."""

    def __init__(self, message: str, at: int) -> None:
        super().__init__(message)
        self.at = at


class TooMuchWork(Exception):
    """The text is too long for an expression of this size."""


# -- sets of characters ----------------------------------------------------------------------------------------------


def _merged(ranges: list[tuple[int, int]]) -> Ranges:
    merged: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if merged and first <= merged[-1][1] + 1:
            merged[-1] = (merged[-1][0], max(last, merged[-1][1]))
        else:
            merged.append((first, last))
    return tuple(merged)


def _without(ranges: Ranges) -> Ranges:
    others: list[tuple[int, int]] = []
    start = 0
    for first, last in ranges:
        if start < first:
            others.append((start, first - 1))
        start = last + 1
    if start <= _LAST:
        others.append((start, _LAST))
    return tuple(others)


def _of(chars: str) -> Ranges:
    return _merged([(ord(char), ord(char)) for char in chars])


_DIGIT: Ranges = ((48, 57),)
_WORD = _merged([(48, 57), (65, 90), (95, 95), (97, 122)])
_SPACE = _of("\t\n\f\r ")
_CLASSES = {"d": _DIGIT, "w": _WORD, "s": _SPACE} | {
    "D": _without(_DIGIT), "W": _without(_WORD), "S": _without(_SPACE)
}  # fmt: skip
_CONTROLS = {"n": "\n", "t": "\t", "r": "\r", "f": "\f", "v": "\v", "a": "\a"}
_ANY = _without(_of("\n"))


# -- the automaton ---------------------------------------------------------------------------------------------------

_MATCH, _SPLIT, _START, _END = "match", "split", "start", "end"


class _State:
    """Either takes a character out of ``ranges``, or is passed without one (``kind`` says on what condition)."""

    __slots__ = ("bounds", "following", "kind")

    def __init__(self, kind: str, ranges: Ranges = ()) -> None:
        self.kind = kind
        # In and out by turns, so that one binary search tells whether a character is in: expressions may have
        # thousands of ranges.
        self.bounds = [bound for low, high in ranges for bound in (low, high + 1)]
        self.following: list[int] = []


class _Piece(NamedTuple):
    """A part of the automaton: where it begins, and the states whose following state is not known yet."""

    first: int
    open: list[int]


class _Builder:
    """Reads the expression and builds the automaton in one pass.

    A repeated part is built again for each repetition, by reading it again.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.depth = 0
        self.states: list[_State] = []

    def build(self) -> int:
        piece = self.alternatives()
        if self.at < len(self.text):
            self.fail("unexpected ')'")
        self.close(piece, self.state(_MATCH))
        return piece.first

    def fail(self, message: str, at: int | None = None) -> NoReturn:
        raise RegexError(message, self.at if at is None else at)

    def peek(self) -> str:
        return self.text[self.at : self.at + 1]

    def state(self, kind: str, ranges: Ranges = ()) -> int:
        if len(self.states) >= STATES_LIMIT:
            self.fail(f"the expression needs more than {STATES_LIMIT} states", 0)
        self.states.append(_State(kind, ranges))
        return len(self.states) - 1

    def single(self, kind: str, ranges: Ranges = ()) -> _Piece:
        state = self.state(kind, ranges)
        return _Piece(state, [state])

    def split(self, *following: int) -> int:
        state = self.state(_SPLIT)
        self.states[state].following.extend(following)
        return state

    def close(self, piece: _Piece, following: int) -> None:
        for state in piece.open:
            self.states[state].following.append(following)

    def joined(self, pieces: list[_Piece]) -> _Piece:
        if not pieces:
            return self.single(_SPLIT)
        for before, after in pairwise(pieces):
            self.close(before, after.first)
        return _Piece(pieces[0].first, pieces[-1].open)

    def alternatives(self) -> _Piece:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            self.fail(f"groups are nested deeper than {DEPTH_LIMIT} levels")
        pieces = [self.sequence()]
        while self.peek() == "|":
            self.at += 1
            pieces.append(self.sequence())
        self.depth -= 1
        if len(pieces) == 1:
            return pieces[0]
        return _Piece(self.split(*(piece.first for piece in pieces)), [s for piece in pieces for s in piece.open])

    def sequence(self) -> _Piece:
        pieces: list[_Piece] = []
        while self.peek() not in ("", "|", ")"):
            pieces.append(self.repeated())
        return self.joined(pieces)

    def repeated(self) -> _Piece:
        start = self.at
        piece = self.atom()
        end = self.at
        bounds = self.quantifier()
        if bounds is None:
            return piece
        after = self.at
        least, most = bounds
        if self.peek() in ("*", "+", "?") or self.braces() is not None:
            self.fail("a repetition behind a repetition")
        copies = max(least, 1 if most is None else most)
        pieces = [piece]
        for _ in range(1, copies):
            self.at = start
            pieces.append(self.atom())
            assert self.at == end, "the same text is read the same way"
        self.at = after
        if not copies:
            return self.single(_SPLIT)  # x{0}: x is read and left out
        if most is None:
            loop = self.split(pieces[-1].first)
            self.close(pieces[-1], loop)
            pieces[-1] = _Piece(pieces[-1].first if least else loop, [loop])
            return self.joined(pieces)
        skipped: list[int] = []
        for number in range(least, copies):
            way = self.split(pieces[number].first)
            skipped.append(way)
            pieces[number] = _Piece(way, pieces[number].open)
        whole = self.joined(pieces)
        return _Piece(whole.first, whole.open + skipped)

    def quantifier(self) -> tuple[int, int | None] | None:
        char = self.peek()
        simple: dict[str, tuple[int, int | None]] = {"*": (0, None), "+": (1, None), "?": (0, 1)}
        bounds = simple.get(char)
        if bounds is not None:
            self.at += 1
        else:
            braces = self.braces()
            if braces is None:
                return None
            least, comma, most = braces.groups()
            bounds = int(least), int(most) if most else None if comma else int(least)
            if bounds[1] is not None and bounds[1] < bounds[0]:
                self.fail("the bounds of the repetition are in the wrong order")
            self.at = braces.end()
        # `*?` takes as little as it can: a difference of what is found, not of whether.
        if self.peek() == "?":
            self.at += 1
        return bounds

    def braces(self) -> re.Match[str] | None:
        return re.compile(r"\{([0-9]+)(,)?([0-9]+)?\}").match(self.text, self.at)

    def atom(self) -> _Piece:
        char = self.peek()
        if char in ("*", "+", "?") or self.braces() is not None:
            self.fail(f"nothing to repeat before {char!r}")
        self.at += 1
        match char:
            case "(":
                if self.text.startswith("?:", self.at):
                    self.at += 2
                elif self.peek() == "?":
                    self.fail("flags, names and looking around are not in the subset")
                opened = self.at - 1
                piece = self.alternatives()
                if self.peek() != ")":
                    self.fail("the group has no end", opened)
                self.at += 1
                return piece
            case "^":
                return self.single(_START)
            case "$":
                return self.single(_END)
            case ".":
                return self.single("take", _ANY)
            case "[":
                return self.single("take", self.charset())
            case "\\":
                return self.single("take", self.escape())
            case _:
                return self.single("take", _of(char))

    def escape(self) -> Ranges:
        char = self.peek()
        if not char:
            self.fail("a backslash at the end")
        if char in _CLASSES:
            found = _CLASSES[char]
        elif char in _CONTROLS:
            found = _of(_CONTROLS[char])
        elif char.isalnum():
            self.fail(f"\\{char} is not in the subset")
        else:
            found = _of(char)
        self.at += 1
        return found

    def charset(self) -> Ranges:
        opened = self.at - 1
        inverted = self.peek() == "^"
        self.at += inverted
        found: list[tuple[int, int]] = []
        while self.peek() != "]" or not found:
            start = self.at
            low = self.member(opened)
            if self.peek() == "-" and self.text[self.at + 1 : self.at + 2] not in ("]", ""):
                self.at += 1
                high = self.member(opened)
                if len(low) != 1 or len(high) != 1 or low[0][0] != low[0][1] or high[0][0] < low[0][0]:
                    self.fail("a range of characters with wrong ends", start)
                low = ((low[0][0], high[0][1]),)
            found.extend(low)
        self.at += 1
        merged = _merged(found)
        return _without(merged) if inverted else merged

    def member(self, opened: int) -> Ranges:
        char = self.peek()
        if not char:
            self.fail("the set of characters has no end", opened)
        self.at += 1
        if char == "[" and self.peek() == ":":
            self.fail("named sets are not in the subset")
        return self.escape() if char == "\\" else _of(char)


# -- search ----------------------------------------------------------------------------------------------------------


class _Set:
    """A set of states that was met: what it matches already, and what follows it for each class of characters."""

    __slots__ = ("following", "matched", "states")

    def __init__(self, states: frozenset[int], matched: bool) -> None:
        self.states = states
        self.matched = matched
        self.following: dict[int, _Set] = {}


class Regex:
    """One expression, read once. Raises `RegexError` when it is outside the subset or too large."""

    def __init__(self, text: str) -> None:
        self.text = text
        builder = _Builder(text)
        self._first = builder.build()
        self._states = builder.states
        # Characters between two bounds are alike for every state, so they share one entry.
        self._bounds = sorted({bound for state in self._states for bound in state.bounds})
        self._sets: dict[frozenset[int], _Set] = {}
        self._restart = self._reached([self._first], start=False, end=False)
        self._begin = self._met(self._reached([self._first], start=True, end=False))

    def search(self, text: str) -> bool:
        """Tell whether any part of ``text`` fits. Raises `TooMuchWork` for a text that is too long."""
        if len(text) * len(self._states) > WORK_LIMIT:
            raise TooMuchWork
        bounds = self._bounds
        here = self._begin
        for char in text:
            if here.matched:
                return True
            kind = bisect_right(bounds, ord(char))
            following = here.following.get(kind)
            if following is None:
                following = here.following[kind] = self._step(here, ord(char))
            here = following
        if here.matched:
            return True
        ends = [state for state in here.states if self._states[state].kind is _END]
        return self._matches(self._reached(ends, start=not text, end=True))

    def _step(self, here: _Set, code: int) -> _Set:
        taken: list[int] = []
        for number in here.states:
            state = self._states[number]
            if bisect_right(state.bounds, code) % 2:
                taken.extend(state.following)
        return self._met(self._reached(taken, start=False, end=False) | self._restart)

    def _met(self, states: frozenset[int]) -> _Set:
        known = self._sets.get(states)
        if known is None:
            if len(self._sets) >= CACHE_LIMIT:
                # Forget all: sets hold each other, so forgetting some would keep them alive.
                for old in self._sets.values():
                    old.following.clear()
                self._sets.clear()
            known = self._sets[states] = _Set(states, self._matches(states))
        return known

    def _matches(self, states: frozenset[int]) -> bool:
        return any(self._states[state].kind is _MATCH for state in states)

    def _reached(self, states: list[int], *, start: bool, end: bool) -> frozenset[int]:
        """Follow all ways that take no character, at the start or the end of the text or inside it."""
        reached: set[int] = set()
        todo = list(states)
        while todo:
            number = todo.pop()
            if number in reached:
                continue
            reached.add(number)
            state = self._states[number]
            if state.kind is _SPLIT or (state.kind is _START and start) or (state.kind is _END and end):
                todo.extend(state.following)
        return frozenset(reached)
