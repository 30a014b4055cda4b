"""What the operators of a filter answer, and when they have no answer. The rules are CEL's.

Types are strict: ``1 + 1.0``, ``"1" < 2`` and ``!1`` have no answer. Numbers compare by value whatever their type,
anything may be compared for equality, and a truth value is no number:

>>> equal(1, 1.0), equal(1, True), equal([1], [1.0])
(True, False, True)
>>> ARITHMETIC["/"](-7, 2), ARITHMETIC["%"](-7, 2)
(-3, -1)
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from datetime import datetime, timedelta

SIZE_LIMIT = 1_048_576
"""Characters of a text or items of a list that ``+`` may make: data may be large, and ``+`` may be repeated."""

_INT_START, _INT_END = -(2**63), 2**63
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_DURATION = re.compile(r"([+-]?)((?:\d+(?:\.\d+)?(?:h|ms|m|s|us|µs|ns))+)", re.ASCII)
_DURATION_PART = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s|us|µs|ns)")
_UNIT_S = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}


class NoAnswer(Exception):
    """A part of the expression has no value for this event: a field is missing or a type does not fit."""


# -- equality and order ----------------------------------------------------------------------------------------------


def equal(left: object, right: object) -> bool:
    """Compare deeply; values of different kinds are different."""
    kind, other = type(left), type(right)
    if kind is not other:
        return (kind is int or kind is float) and (other is int or other is float) and left == right
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(value, right[key]) for key, value in left.items())
    return left == right


def _ordered(compare: Callable[..., bool]) -> Callable[[object, object], bool]:
    def answer(left: object, right: object) -> bool:
        kind, other = type(left), type(right)
        if kind is other and kind in (int, float, str, bool, datetime, timedelta):
            return compare(left, right)
        if kind in (int, float) and other in (int, float):
            return compare(left, right)
        raise NoAnswer

    return answer


def contains(item: object, holder: object) -> bool:
    """Answer ``item in holder``: an item of a list, or a key of a map."""
    if isinstance(holder, list):
        return any(equal(item, held) for held in holder)
    if isinstance(holder, dict):
        return isinstance(item, str) and item in holder
    raise NoAnswer


RELATIONS: dict[str, Callable[[object, object], bool]] = {
    "==": equal,
    "!=": lambda left, right: not equal(left, right),
    "<": _ordered(operator.lt),
    "<=": _ordered(operator.le),
    ">": _ordered(operator.gt),
    ">=": _ordered(operator.ge),
    "in": contains,
}


# -- arithmetic ------------------------------------------------------------------------------------------------------


def _int(value: int) -> int:
    if _INT_START <= value < _INT_END:
        return value
    raise NoAnswer


def _sized(value: str | list[object]) -> str | list[object]:
    if len(value) <= SIZE_LIMIT:
        return value
    raise NoAnswer


def _add(left: object, right: object) -> object:
    if isinstance(left, str) and isinstance(right, str):
        return _sized(left + right)
    if isinstance(left, list) and isinstance(right, list):
        return _sized(left + right)
    if (type(left), type(right)) in ((datetime, timedelta), (timedelta, datetime), (timedelta, timedelta)):
        return _time(operator.add, left, right)
    return _number(operator.add, left, right)


def _subtract(left: object, right: object) -> object:
    if (type(left), type(right)) in ((datetime, timedelta), (datetime, datetime), (timedelta, timedelta)):
        return _time(operator.sub, left, right)
    return _number(operator.sub, left, right)


def _multiply(left: object, right: object) -> object:
    return _number(operator.mul, left, right)


def _divide(left: object, right: object) -> object:
    if type(left) is int and type(right) is int:
        if right == 0:
            raise NoAnswer
        # Python rounds down, CEL and C towards zero.
        quotient = abs(left) // abs(right)
        return _int(quotient if (left < 0) == (right < 0) else -quotient)
    if type(left) is float and type(right) is float and right == 0:
        # IEEE 754, which Python departs from by raising.
        if left == 0 or math.isnan(left):
            return math.nan
        return math.copysign(math.inf, left) * math.copysign(1.0, right)
    return _number(operator.truediv, left, right)


def _remainder(left: object, right: object) -> object:
    if type(left) is not int or type(right) is not int or right == 0:
        raise NoAnswer
    remainder = abs(left) % abs(right)
    return -remainder if left < 0 else remainder


def _number(compute: Callable[..., object], left: object, right: object) -> object:
    if type(left) is float and type(right) is float:
        return compute(left, right)
    if type(left) is int and type(right) is int:
        value = compute(left, right)
        assert isinstance(value, int), "integers are divided elsewhere"
        return _int(value)
    raise NoAnswer


def _time(compute: Callable[..., object], left: object, right: object) -> object:
    try:
        return compute(left, right)
    except OverflowError:
        raise NoAnswer from None


ARITHMETIC: dict[str, Callable[[object, object], object]] = {
    "+": _add,
    "-": _subtract,
    "*": _multiply,
    "/": _divide,
    "%": _remainder,
}


def negate(value: object) -> object:
    """Answer ``-value``."""
    if type(value) is int:
        return _int(-value)
    if type(value) is float:
        return -value
    raise NoAnswer


# -- functions -------------------------------------------------------------------------------------------------------


def select(holder: object, field: str) -> object:
    """Answer ``holder.field``."""
    if isinstance(holder, dict) and field in holder:
        return holder[field]
    raise NoAnswer


def index(holder: object, place: object) -> object:
    """Answer ``holder[place]``: a key of a map, or a place in a list from 0."""
    if isinstance(place, str):
        return select(holder, place)
    if isinstance(holder, list) and type(place) is int and 0 <= place < len(holder):
        return holder[place]
    raise NoAnswer


def size(value: object) -> int:
    """Answer how many characters, items or entries ``value`` has."""
    if isinstance(value, str | list | dict):
        return len(value)
    raise NoAnswer


def timestamp(value: object) -> datetime:
    """Read an RFC 3339 time, with its offset."""
    if isinstance(value, str) and _TIMESTAMP.fullmatch(value):
        try:
            return datetime.fromisoformat(value.upper())
        except ValueError:
            raise NoAnswer from None
    raise NoAnswer


def duration(value: object) -> timedelta:
    """Read a length of time: ``1h30m``, ``1.5s``, ``-20ms``."""
    match = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise NoAnswer
    sign, parts = match.groups()
    seconds = sum(float(number) * _UNIT_S[unit] for number, unit in _DURATION_PART.findall(parts))
    try:
        return timedelta(seconds=-seconds if sign == "-" else seconds)
    except OverflowError:
        raise NoAnswer from None


def to_int(value: object) -> int:
    """Answer ``int(value)`` of a number, cut towards zero."""
    if type(value) is int:
        return value
    if type(value) is float and math.isfinite(value):
        return _int(int(value))
    raise NoAnswer


def to_double(value: object) -> float:
    """Answer ``double(value)`` of a number."""
    if type(value) is float:
        return value
    if type(value) is int:
        try:
            return float(value)
        except OverflowError:
            raise NoAnswer from None
    raise NoAnswer


def _texts(answer: Callable[[str, str], bool]) -> Callable[[object, object], bool]:
    def method(text: object, part: object) -> bool:
        if isinstance(text, str) and isinstance(part, str):
            return answer(text, part)
        raise NoAnswer

    return method


TEXT_METHODS: dict[str, Callable[[object, object], bool]] = {
    "startsWith": _texts(str.startswith),
    "endsWith": _texts(str.endswith),
    "contains": _texts(lambda text, part: part in text),
}
