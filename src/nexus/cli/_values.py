"""Values that people type: durations, rates, places in time; and the refusal of secrets among them."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click

from nexus.core.envelope import check_json
from nexus.errors import InvalidEvent

_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_DURATION = r"(?:[0-9]{1,9}(?:\.[0-9]{1,9})?(?:ms|s|m|h|d|w))+"

Place = str | float
"""``earliest``, ``latest``, ``@id``, or seconds since 1970."""


def seconds(text: str) -> float:
    """Read a duration such as ``1h30m``. Raises `ValueError`."""
    if not re.fullmatch(_DURATION, text):
        raise ValueError(f"{text!r} is not a duration such as 30s or 1h30m")
    return sum(float(number) * _UNIT_S[unit] for number, unit in re.findall(r"([0-9.]+)(ms|[smhdw])", text))


def per_second(text: str) -> float:
    """Read a rate such as ``500/s`` or ``30/m``; without a unit it is per second. Raises `ValueError`."""
    match = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:/(s|m|h))?", text)
    rate = float(match[1]) / _UNIT_S[match[2] or "s"] if match else 0.0
    if rate <= 0:
        raise ValueError(f"{text!r} is not a rate such as 500/s")
    return rate


def moment(text: str) -> datetime:
    """Read an RFC 3339 time with its offset. Raises `ValueError`."""
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is not a time such as 2026-01-31T12:00:00Z") from None
    if time.tzinfo is None:
        raise ValueError(f"{text!r} has no offset; end it with Z for UTC")
    return time


def payload(text: str) -> bytes:
    """Return the JSON that somebody typed, as strict as it is published. Raises `InvalidEvent`."""
    try:
        body = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidEvent(f"payload is not UTF-8 at character {error.start}") from None
    try:
        check_json(body)
    except InvalidEvent as error:
        if "not JSON" in error.message and re.fullmatch(r"[^\W\d_][^\"'\\\n]*", text):  # words, not quoted
            error.hint = f"write text as '\"{text}\"'"
        raise
    return body


def place(text: str, now: float) -> Place:
    """Read ``earliest``, ``latest``, ``-10m``, a time or ``@ID``. Raises `ValueError`."""
    if text in ("earliest", "latest") or (text.startswith("@") and len(text) > 1):
        return text
    if text.startswith("-"):
        return now - seconds(text[1:])
    try:
        return moment(text).timestamp()
    except ValueError as error:
        raise ValueError(f"{error}; or earliest, latest, -10m, @ID") from None


def command(text: str) -> tuple[str, ...]:
    """Read a command and its arguments, split as a shell does. Raises `ValueError` if it could not be run."""
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be split into words: {error}") from None
    if not words:
        raise ValueError("this names no command; give one such as './handle --fast'")
    if shutil.which(words[0]) is None:
        raise ValueError(
            f"there is no program {words[0]!r} that can be run; give one on the PATH, the path of an executable file, "
            "or for what only a shell knows \"sh -c '...'\""
        )
    return words


if TYPE_CHECKING:
    _ParamType = click.ParamType[Any]
else:
    _ParamType = click.ParamType  # generic only since click 8.5


class Read(_ParamType):
    """An option's type, made of a function that reads it."""

    def __init__(self, name: str, read: Callable[[str], Any]) -> None:
        self.name = name
        self._read = read

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


DURATION = Read("duration", seconds)
RATE = Read("rate", per_second)
TIME = Read("time", moment)
COMMAND = Read("command", command)


def _plain_url(url: str) -> str:
    """Refuse a URL with a secret in it: other users of the machine can see arguments, and the shell keeps them."""
    scheme, found, rest = url.partition("://")
    if not found or not re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme):
        raise ValueError("this is not a URL such as sqlite:///path")
    secret = re.search(r"(?i)[?&][^=&]*(password|passwd|secret|token|api_?key)[^=&]*=.", rest) is not None
    if scheme not in ("sqlite", "memory"):
        before_host = rest.rpartition("@")[0]
        secret = secret or ":" in before_host
    if secret:
        raise ValueError(
            "a URL with a password is not taken as an argument, where others can read it; "
            "give it in NEXUS_BACKEND, or in a file that NEXUS_BACKEND_FILE names"
        )
    return url


URL = Read("url", _plain_url)
