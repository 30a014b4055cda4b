"""Filters: does a subscription want this event? A subset of CEL over the event's attributes, headers and data.

>>> from datetime import UTC, datetime
>>> from nexus.event import Event
>>> event = Event(id="1", source="/shop", type="order.placed", time=datetime(2013, 1, 1, tzinfo=UTC),
...               body=b'{"total": 120, "country": "CH"}')
>>> compile_filter("type.startsWith('order.') && data.total > 100").matches(event)
True
>>> compile_filter("data.discount > 0").matches(event)  # no such field: no answer, so not wanted
False
>>> compile_filter("typ == 'order.placed'")
Traceback (most recent call last):
nexus.errors.FilterError: NXS-2200 filter: unknown name 'typ' (character 1)
  typ == 'order.placed'
  ^
Next: did you mean 'type'? Else a field of the payload is data.typ, an extension attribute headers.typ
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nexus.errors import FilterError
from nexus.event import Event

__all__ = ["Filter", "compile_filter"]


class Filter:
    """A filter, read once. Repeatable and without state that an answer depends on."""

    __slots__ = ("_answer", "needs_data", "text")

    def __init__(self, text: str, answer: Callable[[Event[Any]], bool], needs_data: bool) -> None:
        self.text = text
        self.needs_data = needs_data
        """Whether the payload may have to be decoded."""
        self._answer = answer

    def __repr__(self) -> str:
        return f"Filter({self.text!r})"

    def matches(self, event: Event[Any]) -> bool:
        """Tell whether the filter is true for ``event``. Without an answer (a field is missing) it is not."""
        return self._answer(event)


def compile_filter(text: str) -> Filter:
    """Read a filter. Raises `FilterError` with the place of the fault."""
    # Here and not above: most programs have no filter, and reading this language costs 5 ms of every start.
    from nexus.core.filter.compiler import Compiler
    from nexus.core.filter.parser import parse

    if not isinstance(text, str):
        raise FilterError(f"filter must be text, not {type(text).__name__}")
    compiler = Compiler(text)
    answer = compiler.compile(parse(text))
    return Filter(text, answer, compiler.needs_data)
