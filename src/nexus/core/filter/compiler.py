"""Syntax tree to Python closures: what does each part of a filter answer for an event?

Nothing is ever passed to ``eval``: each node becomes one small function of a `Scope`, and what can be known before
the first event (names, numbers of arguments, expressions, literal times) is refused here, with its place.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec

from nexus.core.filter import parser, values
from nexus.core.filter.parser import Node
from nexus.core.filter.problem import near, problem
from nexus.core.filter.regex import Regex, RegexError, TooMuchWork
from nexus.core.filter.values import NoAnswer
from nexus.errors import FilterError
from nexus.event import Event

ATTRIBUTES = (
    "id", "source", "type", "subject", "time", "key", "tenant", "correlationid", "causationid", "datacontenttype",
    "dataschema", "expirytime", "traceparent", "tracestate",
)  # fmt: skip
"""Attributes of an event: all names that stand for themselves in a filter, but for `data` and `headers`."""

_RENAMED = {"partitionkey": "key", "nexustenant": "tenant", "correlation_id": "correlationid"}
_EXTENSION = re.compile(r"[a-z0-9]{1,64}")
_FUNCTIONS = ("has", "size", "timestamp", "duration", "int", "double")
_METHODS = ("startsWith", "endsWith", "contains", "matches", "size")


class Scope:
    """One event, as the parts of a filter see it; its data is decoded when the first of them asks."""

    __slots__ = ("_data", "_decoded", "event")

    def __init__(self, event: Event[Any]) -> None:
        self.event = event
        self._decoded = False
        self._data: object = None

    @property
    def data(self) -> object:
        if not self._decoded:
            try:
                self._data = self.event.data
            except (msgspec.DecodeError, UnicodeDecodeError):
                raise NoAnswer from None
            self._decoded = True
        return self._data


Step = Callable[[Scope], object]


class Compiler:
    """Makes the steps of one filter; afterwards ``needs_data`` tells whether any of them reads the data."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.needs_data = False

    def compile(self, node: Node) -> Callable[[Event[Any]], bool]:
        """Make the function that answers the whole filter for an event; no answer is false."""
        never_a_truth = isinstance(node, parser.ListOf | parser.MapOf) or (
            isinstance(node, parser.Constant) and not isinstance(node.value, bool)
        )
        if never_a_truth or (isinstance(node, parser.Binary) and node.operator in values.ARITHMETIC):
            raise self.fault(node, "a filter answers true or false; this is never either", "compare it with something")
        whole = self.step(node, 1)

        def answer(event: Event[Any]) -> bool:
            try:
                return whole(Scope(event)) is True
            # Data of a foreign producer may be nested deeper than Python recurses.
            except (NoAnswer, RecursionError):
                return False

        return answer

    def fault(self, node: Node, message: str, hint: str | None = None) -> FilterError:
        return problem(self.text, node.at, message, hint)

    def step(self, node: Node, depth: int) -> Step:
        if depth > parser.DEPTH_LIMIT:
            raise self.fault(node, f"nested deeper than {parser.DEPTH_LIMIT} levels")
        deeper = depth + 1
        match node:
            case parser.Constant(value=value):
                return lambda scope: value
            case parser.Name():
                return self._name(node)
            case parser.Select(target=target, field=field):
                holder = self.step(target, deeper)
                return lambda scope: values.select(holder(scope), field)
            case parser.Index(target=target, index=place):
                holder, index = self.step(target, deeper), self.step(place, deeper)
                return lambda scope: values.index(holder(scope), index(scope))
            case parser.Unary(operator=operator, operand=operand):
                inner = self.step(operand, deeper)
                return _not(inner) if operator == "!" else lambda scope: values.negate(inner(scope))
            case parser.Logic(operator=operator, parts=parts):
                return _logic([self.step(part, deeper) for part in parts], decides=operator == "||")
            case parser.Choice(condition=condition, then=then, otherwise=otherwise):
                return _choice(self.step(condition, deeper), self.step(then, deeper), self.step(otherwise, deeper))
            case parser.ListOf(items=items):
                steps = [self.step(item, deeper) for item in items]
                return lambda scope: [step(scope) for step in steps]
            case parser.MapOf(entries=entries):
                return self._map(entries, deeper)
            case parser.Binary():
                return self._binary(node, deeper)
            case _:
                assert isinstance(node, parser.Call), "the parser makes no other nodes"
                return self._call(node, deeper)

    # -- names ---------------------------------------------------------------------------------------------------

    def _name(self, node: parser.Name) -> Step:
        name = node.name
        if name == "data":
            self.needs_data = True
            return lambda scope: scope.data
        if name == "headers":
            return lambda scope: dict(scope.event.extensions or {})
        self._check_name(node)
        return _attribute(name)

    def _check_name(self, node: parser.Name) -> None:
        name = node.name
        if name in ATTRIBUTES:
            return
        # A field of the payload and an extension attribute may have any name. A bare one could mean either, and what is
        # never true is found late.
        meant = _RENAMED.get(name) or near(name, (*ATTRIBUTES, "data", "headers"))
        hint = f"a field of the payload is data.{name}"
        if _EXTENSION.fullmatch(name):
            hint += f", an extension attribute headers.{name}"
        raise self.fault(node, f"unknown name {name!r}", f"did you mean {meant!r}? Else {hint}" if meant else hint)

    # -- operators and literals ----------------------------------------------------------------------------------

    def _binary(self, node: parser.Binary, deeper: int) -> Step:
        left, right = self.step(node.left, deeper), self.step(node.right, deeper)
        # The commonest comparison, by a quicker way: a text equals nothing but a text, in Python too.
        if node.operator in ("==", "!=") and isinstance(node.right, parser.Constant) and type(node.right.value) is str:
            return _equals_text(left, node.right.value, node.operator == "==")
        operate = values.RELATIONS.get(node.operator) or values.ARITHMETIC[node.operator]
        return lambda scope: operate(left(scope), right(scope))

    def _map(self, entries: tuple[tuple[Node, Node], ...], deeper: int) -> Step:
        steps: dict[str, Step] = {}
        for key, value in entries:
            if not isinstance(key, parser.Constant) or not isinstance(key.value, str):
                raise self.fault(key, "the keys of a map are texts, as in {'a': 1}")
            if key.value in steps:
                raise self.fault(key, f"the key {key.value!r} is here twice")
            steps[key.value] = self.step(value, deeper)
        return lambda scope: {key: step(scope) for key, step in steps.items()}

    # -- functions and methods -----------------------------------------------------------------------------------

    def _call(self, node: parser.Call, deeper: int) -> Step:
        known = _FUNCTIONS if node.target is None else _METHODS
        if node.name not in known:
            meant = near(node.name, [name.lower() for name in known])
            proper = next((name for name in known if name.lower() == meant), None)
            what = "function" if node.target is None else "method"
            raise self.fault(node, f"unknown {what} {node.name!r}", f"did you mean {proper!r}?" if proper else None)
        operands = node.arguments if node.target is None else (node.target, *node.arguments)
        arguments = 0 if node.target is not None and node.name == "size" else 1
        if len(node.arguments) != arguments:
            raise self.fault(node, f"{node.name}() takes {arguments or 'no'} argument{'s' * (arguments != 1)}")
        if node.name == "has":
            return self._has(operands[0], deeper)
        first = self.step(operands[0], deeper)
        match node.name:
            case "size":
                return lambda scope: values.size(first(scope))
            case "int":
                return lambda scope: values.to_int(first(scope))
            case "double":
                return lambda scope: values.to_double(first(scope))
            case "timestamp":
                return self._read(operands[0], first, values.timestamp, "a time as 2013-01-01T12:00:00Z")
            case "duration":
                return self._read(operands[0], first, values.duration, "a duration as 1h30m or 1.5s")
            case "matches":
                return self._matches(first, operands[1])
        method, second = values.TEXT_METHODS[node.name], self.step(operands[1], deeper)
        return lambda scope: method(first(scope), second(scope))

    def _has(self, node: Node, deeper: int) -> Step:
        match node:
            case parser.Select(target=target, field=field):
                holder = self.step(target, deeper)
                return lambda scope: _has_field(holder(scope), field)
            case parser.Name(name=name) if name not in ("data", "headers"):
                self._check_name(node)
                return lambda scope: getattr(scope.event, name) is not None
            case _:
                raise self.fault(
                    node, "has() asks for an attribute or a field, as in has(data.total)", "for a key: 'key' in data"
                )

    def _read(self, node: Node, inner: Step, read: Callable[[object], object], form: str) -> Step:
        if not isinstance(node, parser.Constant):
            return lambda scope: read(inner(scope))
        try:
            value = read(node.value)
        except NoAnswer:
            raise self.fault(node, f"{node.value!r} is not {form}") from None
        return lambda scope: value

    def _matches(self, subject: Step, node: Node) -> Step:
        if not isinstance(node, parser.Constant) or not isinstance(node.value, str):
            raise self.fault(node, "the expression of matches() is a literal text")
        try:
            expression = Regex(node.value)
        except RegexError as error:
            where = f"{error} at character {error.at + 1} of the regular expression"
            raise self.fault(node, where, "docs/filters.md lists what is understood") from None

        def matches(scope: Scope) -> bool:
            text = subject(scope)
            if not isinstance(text, str):
                raise NoAnswer
            try:
                return expression.search(text)
            except TooMuchWork:
                raise NoAnswer from None

        return matches


def _attribute(name: str) -> Step:
    def attribute(scope: Scope) -> object:
        value = getattr(scope.event, name)
        # A time without offset cannot be compared with one that has it; valid events have none such.
        if value is None or (isinstance(value, datetime) and value.tzinfo is None):
            raise NoAnswer
        return value

    return attribute


def _has_field(holder: object, field: str) -> bool:
    if isinstance(holder, dict):
        return field in holder
    raise NoAnswer


def _equals_text(left: Step, text: str, wanted: bool) -> Step:
    return lambda scope: (left(scope) == text) is wanted


def _not(inner: Step) -> Step:
    def negated(scope: Scope) -> bool:
        value = inner(scope)
        if value is True or value is False:
            return not value
        raise NoAnswer

    return negated


def _logic(parts: list[Step], decides: bool) -> Step:
    """``&&`` (decided by a false) or ``||`` (by a true): a part that decides wins over parts without an answer."""

    def logic(scope: Scope) -> bool:
        answered = True
        for part in parts:
            try:
                value = part(scope)
            except NoAnswer:
                answered = False
                continue
            if value is decides:
                return decides
            if value is not (not decides):
                answered = False
        if answered:
            return not decides
        raise NoAnswer

    return logic


def _choice(condition: Step, then: Step, otherwise: Step) -> Step:
    def choice(scope: Scope) -> object:
        value = condition(scope)
        if value is True:
            return then(scope)
        if value is False:
            return otherwise(scope)
        raise NoAnswer

    return choice
