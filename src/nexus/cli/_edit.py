"""Change the payload of a dead letter: in an editor, or by a JSON merge patch; and show the difference."""

from __future__ import annotations

import difflib
import os
import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec

from nexus import InvalidEvent
from nexus.cli._asking import NobodyAnswers, confirm
from nexus.cli._exits import say
from nexus.cli._letters import pretty
from nexus.cli._text import escape
from nexus.core.envelope import DEPTH_LIMIT, check_json
from nexus.event import Event, is_json
from nexus.runtime.deadletters import DeadLetterInfo

Check = Callable[[DeadLetterInfo, bytes], None]
"""Raises `InvalidEvent` for a body that the dead letter cannot be given."""


def in_editor(letter: DeadLetterInfo, check: Check) -> bytes:
    """Have somebody edit the body; return the old one if nothing was changed. Raises `InvalidEvent`."""
    event = letter.edited or letter.event
    _refuse_binary(event)
    shown = pretty(event)
    with tempfile.TemporaryDirectory(prefix="nexus-dlq-") as folder:  # readable by its owner only
        file = Path(folder, "body.json" if is_json(event.datacontenttype) else "body.txt")
        file.write_text(shown + "\n", "utf-8")
        while True:
            _run_editor(file)
            text = file.read_bytes()
            if text.decode(errors="replace").rstrip("\n") == shown.rstrip("\n"):
                return event.body
            try:
                new = _checked(text, event)
                check(letter, new)
                return new
            except InvalidEvent as error:
                say(str(error))
                try:
                    again = confirm("Edit again?", default=True)
                except NobodyAnswers:
                    again = False
                if not again:
                    raise


def _run_editor(file: Path) -> None:
    editor = os.environ.get("VISUAL") or os.environ.get("EDITOR") or "vi"
    try:
        done = subprocess.run([*shlex.split(editor), str(file)], check=False)
    except (OSError, ValueError) as error:
        raise click.ClickException(
            f"the editor {editor!r} cannot be started: {error}; set EDITOR, or use --patch"
        ) from None
    if done.returncode:
        raise click.ClickException(f"the editor ended with {done.returncode}; nothing was done")


def patched(letter: DeadLetterInfo, patch: bytes, check: Check) -> bytes:
    """Apply a JSON merge patch (RFC 7396). Raises `InvalidEvent`."""
    event = letter.edited or letter.event
    if not is_json(event.datacontenttype):
        raise InvalidEvent(f"a merge patch is for JSON, and the body is {event.datacontenttype}")
    check_json(patch)
    check_json(event.body or b"null")
    merged = _merge(msgspec.Raw(event.body or b"null"), msgspec.Raw(patch), DEPTH_LIMIT)
    new = _checked(bytes(merged), event)
    check(letter, new)
    return new


def _merge(old: msgspec.Raw, patch: msgspec.Raw, depth: int) -> msgspec.Raw:
    """Merge object by object. Values stay bytes, so that numbers keep all their digits."""
    changes = _members(patch)
    if changes is None or depth == 0:
        return patch
    members = _members(old) or {}
    for name, value in changes.items():
        if bytes(value).strip() == b"null":
            members.pop(name, None)
        else:
            members[name] = _merge(members.get(name, msgspec.Raw(b"null")), value, depth - 1)
    return msgspec.Raw(msgspec.json.encode(members))


def _members(value: msgspec.Raw) -> dict[str, msgspec.Raw] | None:
    if not bytes(value).lstrip().startswith(b"{"):
        return None
    return msgspec.json.decode(value, type=dict[str, msgspec.Raw])


def _checked(text: bytes, event: Event[Any]) -> bytes:
    if not is_json(event.datacontenttype):
        return text
    check_json(text)
    return msgspec.json.format(text, indent=-1)


def _refuse_binary(event: Event[Any]) -> None:
    try:
        event.body.decode()
    except UnicodeDecodeError:
        raise InvalidEvent(f"the body is {event.datacontenttype} and no text, which an editor would damage") from None


def difference(letter: DeadLetterInfo, new: bytes) -> list[str]:
    """Return the lines that differ, in the manner of `diff -u`."""
    event = letter.edited or letter.event
    changed: Event[Any] = msgspec.structs.replace(event, body=new)
    lines = difflib.unified_diff(
        pretty(event).splitlines(), pretty(changed).splitlines(), "stored", "edited", lineterm="", n=3
    )
    return [click.style(escape(line), fg=_COLOURS.get(line[:1])) for line in lines]


_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
