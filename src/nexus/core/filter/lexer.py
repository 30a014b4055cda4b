"""Filter text to tokens: where do names, numbers, texts and operators begin and end?

>>> [token.value for token in tokens("type != 'a' && data.n >= 2")]
['type', '!=', 'a', '&&', 'data', '.', 'n', '>=', 2, '']
"""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from nexus.core.filter.problem import problem

LIMIT_BYTES = 4_096

Kind = Literal["name", "int", "float", "text", "operator", "end"]


class Token(NamedTuple):
    """A piece of the text and the character where it starts (from 0)."""

    kind: Kind
    value: str | int | float
    at: int


_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\r\n]+)
    | (?P<float>[0-9]+\.[0-9]+(?:[eE][+-]?[0-9]+)?|[0-9]+[eE][+-]?[0-9]+)
    | (?P<int>0[xX][0-9a-fA-F]+|[0-9]+)
    | (?P<raw>[rR](?:'[^'\n]*'|"[^"\n]*"))
    | (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<operator>==|!=|<=|>=|&&|\|\||[<>!+\-*/%?:.,()\[\]{}])
    """,
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"} | {c: c for c in "\\'\"`?"}
_HINTS = {"=": "equality is '=='", "&": "write '&&'", "|": "write '||'", "'": "the text has no closing quote"}
_HINTS['"'] = _HINTS["'"]


def tokens(text: str) -> list[Token]:
    """Cut ``text``; the last token is the end. Raises `FilterError` at the first piece that is none."""
    size = len(text.encode(errors="surrogatepass"))
    if size > LIMIT_BYTES:
        raise problem(text, 0, f"has {size:,} bytes; the limit is {LIMIT_BYTES:,}")
    found: list[Token] = []
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise problem(text, at, f"unexpected {text[at]!r}", _HINTS.get(text[at]))
        piece = match.group()
        match match.lastgroup:
            case "float":
                found.append(Token("float", _float(text, at, piece), at))
            case "int":
                found.append(Token("int", int(piece, 16 if piece[1:2] in ("x", "X") else 10), at))
            case "raw":
                found.append(Token("text", piece[2:-1], at))
            case "text":
                found.append(Token("text", _unescaped(text, at, piece[1:-1]), at))
            case "name":
                found.append(Token("name", piece, at))
            case "operator":
                found.append(Token("operator", piece, at))
        if match.lastgroup in ("int", "float") and re.match(r"\w", text[match.end() : match.end() + 1]):
            raise problem(text, match.end(), f"unexpected {text[match.end()]!r} after a number")
        at = match.end()
    found.append(Token("end", "", at))
    return found


def _float(text: str, at: int, piece: str) -> float:
    value = float(piece)
    if math.isinf(value):
        raise problem(text, at, f"{piece} is too large for a float")
    return value


def _unescaped(text: str, at: int, inner: str) -> str:
    def replace(match: re.Match[str]) -> str:
        two, four, eight, char = match.groups()
        code = int(two or four or eight or "0", 16)
        if char is None and code <= 0x10FFFF and not 0xD800 <= code <= 0xDFFF:
            return chr(code)
        if char in _ESCAPED:
            return _ESCAPED[char]
        place = at + 1 + match.start()
        raise problem(
            text, place, f"unknown escape {match.group()}", r"write \\ for a backslash, or r'...' for a regex"
        )

    return _ESCAPE.sub(replace, inner)
