"""Tokens to a syntax tree: what is an operand of what? The grammar and the precedence are those of CEL.

expression   either ("?" either ":" expression)?
either       both ("||" both)*
both         relation ("&&" relation)*
relation     sum (("==" | "!=" | "<" | "<=" | ">" | ">=" | "in") sum)*
sum          product (("+" | "-") product)*
product      unary (("*" | "/" | "%") unary)*
unary        ("!" | "-") unary | member
member       primary ("." name | "." name "(" arguments ")" | "[" expression "]")*
primary      literal | name | name "(" arguments ")" | "(" expression ")" | "[" arguments "]" | "{" entries "}"
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from nexus.core.filter.lexer import Token, tokens
from nexus.core.filter.problem import problem
from nexus.errors import FilterError

DEPTH_LIMIT = 32

_INT_END = 2**63
_CONSTANTS: dict[object, bool | None] = {"true": True, "false": False, "null": None}
_RELATIONS = ("==", "!=", "<", "<=", ">", ">=", "in")
_WORDS = {"and": "&&", "or": "||", "not": "!", "is": "=="}


class Node(msgspec.Struct, frozen=True):
    """A part of the expression; ``at`` is the character to point at."""

    at: int


class Constant(Node, frozen=True):
    value: bool | int | float | str | None


class Name(Node, frozen=True):
    name: str


class Select(Node, frozen=True):
    target: Node
    field: str


class Index(Node, frozen=True):
    target: Node
    index: Node


class Call(Node, frozen=True):
    """``name(arguments)``, or ``target.name(arguments)``."""

    name: str
    target: Node | None
    arguments: tuple[Node, ...]


class Unary(Node, frozen=True):
    operator: str
    operand: Node


class Binary(Node, frozen=True):
    operator: str
    left: Node
    right: Node


class Logic(Node, frozen=True):
    """All of a chain of ``&&`` or of ``||``: one node, so that long chains are not deep."""

    operator: str
    parts: tuple[Node, ...]


class Choice(Node, frozen=True):
    condition: Node
    then: Node
    otherwise: Node


class ListOf(Node, frozen=True):
    items: tuple[Node, ...]


class MapOf(Node, frozen=True):
    entries: tuple[tuple[Node, Node], ...]


def parse(text: str) -> Node:
    """Read a whole filter. Raises `FilterError` at the first token that does not fit."""
    parser = _Parser(text)
    node = parser.expression()
    if parser.next.kind != "end":
        raise parser.unexpected()
    return node


class _Parser:
    """Recursive descent; recursion happens only in `_deeper`, which counts it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens = tokens(text)
        self.place = 0
        self.depth = 0

    @property
    def next(self) -> Token:
        return self.tokens[self.place]

    def take(self) -> Token:
        token = self.next
        self.place += 1
        return token

    def at_operator(self, *operators: str) -> bool:
        token = self.next
        # `in` is a name to the lexer, so that data.in can be a field.
        return (token.kind == "operator" or (token.value == "in" and token.kind == "name")) and token.value in operators

    def accept(self, *operators: str) -> Token | None:
        return self.take() if self.at_operator(*operators) else None

    def expect(self, operator: str) -> Token:
        if not self.at_operator(operator):
            raise self.unexpected(operator)
        return self.take()

    def unexpected(self, wanted: str | None = None) -> FilterError:
        token = self.next
        what = "the end" if token.kind == "end" else repr(token.value)
        message = f"unexpected {what}" + (f", expected {wanted!r}" if wanted else "")
        word = _WORDS.get(str(token.value)) if token.kind == "name" else None
        return problem(self.text, token.at, message, f"write {word!r}" if word else None)

    def _deeper(self, rule: Callable[[], Node]) -> Node:
        self.depth += 1
        if self.depth > DEPTH_LIMIT:
            raise problem(self.text, self.next.at, f"nested deeper than {DEPTH_LIMIT} levels")
        node = rule()
        self.depth -= 1
        return node

    def expression(self) -> Node:
        return self._deeper(self._choice)

    def _choice(self) -> Node:
        condition = self._chain("||", lambda: self._chain("&&", self._relation))
        mark = self.accept("?")
        if mark is None:
            return condition
        then = self._chain("||", lambda: self._chain("&&", self._relation))
        self.expect(":")
        return Choice(mark.at, condition, then, self.expression())

    def _chain(self, operator: str, operand: Callable[[], Node]) -> Node:
        first = operand()
        if not self.at_operator(operator):
            return first
        at, parts = self.next.at, [first]
        while self.accept(operator):
            parts.append(operand())
        return Logic(at, operator, tuple(parts))

    def _relation(self) -> Node:
        return self._binary(_RELATIONS, self._sum)

    def _sum(self) -> Node:
        return self._binary(("+", "-"), self._product)

    def _product(self) -> Node:
        return self._binary(("*", "/", "%"), self._unary)

    def _binary(self, operators: tuple[str, ...], operand: Callable[[], Node]) -> Node:
        node = operand()
        while mark := self.accept(*operators):
            node = Binary(mark.at, str(mark.value), node, operand())
        return node

    def _unary(self) -> Node:
        mark = self.accept("!", "-")
        if mark is None:
            return self._member()
        # The least integer has no positive twin, so its sign is read with it.
        if mark.value == "-" and self.next.kind == "int" and self.next.value == _INT_END:
            self.take()
            return Constant(mark.at, -_INT_END)
        return Unary(mark.at, str(mark.value), self._deeper(self._unary))

    def _member(self) -> Node:
        node = self._primary()
        while mark := self.accept(".", "["):
            if mark.value == "[":
                node = Index(mark.at, node, self.expression())
                self.expect("]")
                continue
            if self.next.kind != "name":
                raise self.unexpected("a name")
            name = self.take()
            if self.accept("("):
                node = Call(name.at, str(name.value), node, self._arguments(")"))
            else:
                node = Select(name.at, node, str(name.value))
        return node

    def _primary(self) -> Node:
        token = self.next
        if self.accept("("):
            node = self.expression()
            self.expect(")")
            return node
        if self.accept("["):
            return ListOf(token.at, self._arguments("]"))
        if self.accept("{"):
            return MapOf(token.at, self._entries())
        if token.kind in ("operator", "end") or (token.value == "in" and token.kind == "name"):
            raise self.unexpected()
        self.take()
        if token.kind != "name":
            if token.kind == "int" and token.value >= _INT_END:  # type: ignore[operator]  # kind says it is a number
                raise problem(self.text, token.at, f"{token.value} is over the largest integer, {_INT_END - 1}")
            return Constant(token.at, token.value)
        if token.value in _CONSTANTS:
            return Constant(token.at, _CONSTANTS[token.value])
        if self.accept("("):
            return Call(token.at, str(token.value), None, self._arguments(")"))
        return Name(token.at, str(token.value))

    def _arguments(self, close: str) -> tuple[Node, ...]:
        found: list[Node] = []
        while not self.accept(close):
            if found:
                self.expect(",")
            found.append(self.expression())
        return tuple(found)

    def _entries(self) -> tuple[tuple[Node, Node], ...]:
        found: list[tuple[Node, Node]] = []
        while not self.accept("}"):
            if found:
                self.expect(",")
            key = self.expression()
            self.expect(":")
            found.append((key, self.expression()))
        return tuple(found)
