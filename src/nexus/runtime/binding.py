"""How a handler is called: which arguments it asks for, in which way it runs, what its results are.

A handler says by its annotations what it wants, and pays only for that:

    async def charge(order: OrderPlaced): ...                        the payload, decoded into the type
    async def charge(order: OrderPlaced, event: Event[OrderPlaced]): ... and the envelope
    async def audit(event: Event): ...                                only the envelope; nothing is decoded
    async def count(orders: list[OrderPlaced]): ...                   a batch, at most one event per key
    def resize(image: bytes, context: Context): ...                   raw bytes; a plain function runs in a thread
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

import msgspec

from nexus.errors import HandlerError
from nexus.event import Event, payload_decoder

RunIn = Literal["auto", "loop", "thread", "process"]


class Context(msgspec.Struct, frozen=True):
    """What a handler may know of its delivery beyond the event."""

    group: str
    topic: str
    partition: int
    position: int
    attempt: int
    """Number of this delivery, from 1; above 1 the event was delivered before."""
    fence: int
    """Grows with every new owner of the partition. Store it beside your own writes and refuse a lower one, and a
    former owner that woke up late cannot overwrite what the new one wrote."""
    replay: str | None = None
    """Id of the replay that delivers the event; None for an event that the group gets for itself."""


Build = Callable[[Event[Any], Callable[[], Context]], tuple[Any, ...]]


class Binding:
    """One handler, ready to be called."""

    def __init__(self, handler: Callable[..., Any], run_in: RunIn = "auto") -> None:
        """Raises `HandlerError` for a signature that cannot be called with an event."""
        self.handler = handler
        self.name = f"{_behind(handler).__module__}.{name_of(handler)}"
        is_async = inspect.iscoroutinefunction(_function_of(handler))
        if is_async and run_in in ("thread", "process"):
            raise HandlerError(f"handler {self.name} is async; it runs on the loop, not in a {run_in}")
        if not is_async and run_in == "loop":
            raise HandlerError(
                f"handler {self.name} is a plain function and would block the loop", hint="run_in='thread'"
            )
        self.run_in: Literal["loop", "thread", "process"] = (
            "loop" if is_async else "process" if run_in == "process" else "thread"
        )
        wishes = [_wish(self.name, parameter, kind) for parameter, kind in _parameters(handler, self.name)]
        if not wishes:
            raise HandlerError(f"handler {self.name} takes no argument", hint="take the payload, an Event or both")
        self._refuse_guesses(handler, [build for build, _ in wishes])
        batches = {many for _, many in wishes}
        if len(batches) > 1:
            raise HandlerError(f"handler {self.name} mixes lists and single arguments", hint="make all of them lists")
        self.batch = batches.pop()
        self._builders = [build for build, _ in wishes]
        self.arguments = self._single()
        self.only: Callable[[Event[Any]], Any] | None = None
        """How to make the argument of a handler that takes one and asks for no context: the commonest kind."""
        if len(self._builders) == 1 and self._builders[0] is not _context and not self.batch:
            (build,) = self._builders
            self.only = event_itself if build is _event else lambda event: build(event, None)

    def _refuse_guesses(self, handler: Callable[..., Any], builders: list[Callable[..., Any]]) -> None:
        """Raise `HandlerError` for a parameter without a type beside another for the payload: both would get it."""
        parameters = _open_parameters(handler)
        payloads = [one for one, build in zip(parameters, builders, strict=True) if build not in (_event, _context)]
        untyped = [one.name for one in payloads if one.annotation is one.empty]
        if untyped and len(payloads) > 1:
            raise HandlerError(
                f"handler {self.name}: each of {', '.join(one.name for one in payloads)} would get the payload",
                hint=f"say what {untyped[-1]} is: `{untyped[-1]}: Event`, `{untyped[-1]}: Context`, or leave it out",
            )

    def _single(self) -> Build:
        if len(self._builders) == 1:
            (only,) = self._builders
            return lambda event, context: (only(event, context),)
        builders = tuple(self._builders)
        return lambda event, context: tuple([build(event, context) for build in builders])


def name_of(handler: Callable[..., Any]) -> str:
    """Return what a handler is called: a partial like its function, an object like its class.

    Raises `HandlerError` for what cannot be called.
    """
    if not callable(handler):
        raise HandlerError(f"{handler!r} is no handler", hint="give a function, or an object that can be called")
    behind = _behind(handler)
    name = getattr(behind, "__qualname__", None)
    return name if isinstance(name, str) else type(behind).__qualname__


def _behind(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return what a partial completes."""
    while isinstance(handler, functools.partial):
        handler = handler.func
    return handler


def _function_of(handler: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function that runs, which knows its annotations: of an object that can be called its ``__call__``."""
    behind = _behind(handler)
    return behind if hasattr(behind, "__qualname__") else type(behind).__call__


def _open_parameters(handler: Callable[..., Any]) -> list[inspect.Parameter]:
    """Return the parameters that are to be filled: not those that a partial fills by their names."""
    filled = handler.keywords if isinstance(handler, functools.partial) else {}
    return [one for one in inspect.signature(handler).parameters.values() if one.name not in filled]


def _parameters(handler: Callable[..., Any], name: str) -> list[tuple[inspect.Parameter, Any]]:
    try:
        hints = typing.get_type_hints(_function_of(handler))
    except NameError as error:
        raise HandlerError(
            f"handler {name} has an annotation that cannot be resolved: {error}",
            hint="define the type at module level, before the bus starts",
        ) from error
    found = []
    for parameter in _open_parameters(handler):
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.KEYWORD_ONLY):
            raise HandlerError(f"handler {name}: parameter {parameter} cannot be filled", hint="use plain parameters")
        found.append((parameter, hints.get(parameter.name, parameter.empty)))
    return found


def _wish(name: str, parameter: inspect.Parameter, annotation: Any) -> tuple[Callable[..., Any], bool]:
    """Return how to make one argument, and whether the parameter is a list of them."""
    many = get_origin(annotation) is list
    wanted = get_args(annotation)[0] if many else annotation
    if wanted is Event or get_origin(wanted) is Event or (wanted is parameter.empty and parameter.name == "event"):
        return _event, many
    if wanted is Context or (wanted is parameter.empty and parameter.name in ("ctx", "context")):
        return _context, many
    if wanted in (parameter.empty, Any, object):
        return _data, many
    try:
        decode = payload_decoder(wanted)
    except Exception as error:
        raise HandlerError(
            f"handler {name}: parameter {parameter.name} has a type that cannot be decoded: {error}"
        ) from error
    return (lambda event, _: decode(event.body)), many


def event_itself(event: Event[Any]) -> Event[Any]:
    return event


def _event(event: Event[Any], _: object) -> Event[Any]:
    return event


def _context(_: object, context: Callable[[], Context]) -> Context:
    return context()


def _data(event: Event[Any], _: object) -> Any:
    return event.data
