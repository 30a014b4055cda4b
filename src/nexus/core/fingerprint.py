"""Fingerprints of errors: which failures are the same one? Pure: the text of an error in, twelve hex digits out.

Two failures are the same if the type of their exception is, the place that raised it, and what the message says apart
from its particulars: numbers, hex, quoted texts and ids. The place is the innermost frame of the user's own code, by
file and function and not by line, so that an edit elsewhere in the file changes nothing.

>>> fingerprint("ValueError: order 17 costs -3") == fingerprint("ValueError: order 4711 costs 0.5")
True
>>> fingerprint("ValueError: order 17 costs -3") == fingerprint("TypeError: order 17 costs -3")
False
>>> plain("KeyError: 'o-17' in 0x7f01, tried 3, 4 and 5 times by N547JB")
'KeyError: ? in ?, tried ? and ? times by ?'
"""

from __future__ import annotations

import hashlib
import re

LIMIT_CHARS = 1_024
"""Of the first line of a longer error only so much is looked at."""

_FRAME = re.compile(r'^[ |+]*File "([^"\n]*)", line \d+, in (.+)$', re.MULTILINE)
# Code that is installed, frozen into the interpreter, or Nexus's own way to the handler.
_FOREIGN = re.compile(r"^<|[/\\](?:site|dist)-packages[/\\]|[/\\]lib[/\\]python\d|[/\\]nexus[/\\]runtime[/\\]")
# A quote that begins a word, up to its end or, in a message that was cut, to the message's; not the one in "can't".
_QUOTED = re.compile(r"""(?<!\w)[bru]?(["'`])(?:(?:[^\\]|\\.)*?\1|.*$)|«[^»]*»""")
_HAS_DIGIT = re.compile(r"[+-]?[\w.:/@#%-]*\d(?:[\w.:/@#%+-]*[\w%])?(?:,\d+)*")  # a colon behind it is the message's
_HEX = re.compile(r"\b[0-9a-fA-F]{8,}\b")
_SERIES = re.compile(r"\?(?:[,;\s]+\?)+")


def plain(message: str) -> str:
    """Return a message with ``?`` for its particulars: quoted texts, and words that have a digit or are hex."""
    text = _QUOTED.sub("?", message[:LIMIT_CHARS])
    text = _HEX.sub("?", _HAS_DIGIT.sub("?", text))
    return _SERIES.sub("?", text).strip()


def own_frame(error: str) -> str:
    """Return file and function of the innermost frame that is the user's own; else of the innermost; "" without any."""
    frames = _FRAME.findall(error)
    own = [frame for frame in frames if not _FOREIGN.search(frame[0])] or frames
    if not own:
        return ""
    path, function = own[-1]
    file = re.split(r"[/\\]", path)[-1]
    return f"{file}:{function}"


def fingerprint(error: str, reason: str = "") -> str:
    """Return what errors of one kind share. ``error``: as a dead letter keeps it, ``Type: message`` on the first line,
    then the traceback. ``reason`` of the dead letter speaks where no error was given.
    """
    summary = error.partition("\n")[0]
    told = f"{plain(summary)}\n{own_frame(error)}" if summary else plain(reason)
    return hashlib.sha256(told.encode()).hexdigest()[:12]
