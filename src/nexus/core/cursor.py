"""The cursor's text: what is done above the watermark, attempts, and how the last owner left.

At most 3,900 characters, because Kafka's commit metadata holds 4,095. Positions are written relative to the
watermark, in whichever of three forms is the smallest: runs, a bit set, or a compressed bit set.
"""

from __future__ import annotations

import zlib
from base64 import b64decode, b64encode
from collections.abc import Sequence

import msgspec

from nexus.errors import CorruptData

CHARS_LIMIT = 3_900
ATTEMPTS_LIMIT = 128
_VERSION = "1"
_RUNS, _BITS, _ZBITS = 0, 1, 2
_BITS_SPAN_LIMIT = 1 << 20  # a wider span is always smaller as runs, and must not cost memory


class State(msgspec.Struct, frozen=True):
    """What only the runtime reads of a cursor."""

    done: tuple[int, ...] = ()
    """Positions above the watermark that are done, rising."""
    attempts: tuple[tuple[int, int], ...] = ()
    """(position, attempts) of what is not done."""
    clean: bool = True
    """The owner released the partition in order; False while one owns it and after a crash."""
    unclean: int = 0
    """Takeovers that followed no release, since the watermark last moved."""
    place: int = 0
    """Where to begin reading the parking topic."""
    place_epoch: int = 0
    """The epoch in force at ``place``."""
    base: int = 0
    """The fold's base at ``place``: positions below are finished, or stand in the parking topic from there on."""
    place_reset: int = 0
    """Number of the last `Reset` before ``place``."""
    reset: int = 0
    """Number of the last `Reset` that this cursor has followed."""
    parked: int = 0
    """Events in the parking topic that will run again by themselves."""
    dead: int = 0
    """Dead letters in the parking topic."""
    cuts: tuple[tuple[int, int], ...] = ()
    """(position, number of a filter that holds from there on), both rising; before the first it is filter 0."""


class _Wire(msgspec.Struct, array_like=True, frozen=True):
    clean: bool
    unclean: int
    place: int
    place_epoch: int
    base: int
    attempts: list[int]
    form: int
    done: bytes
    place_reset: int = 0
    reset: int = 0
    cuts: list[int] = []
    parked: int = 0
    dead: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Wire)


def encode(low: int, state: State) -> str | None:
    """Return the text, or None if it would be longer than `CHARS_LIMIT`."""
    kept = state.attempts
    if len(kept) > ATTEMPTS_LIMIT:  # the highest counts matter most: they are nearest to their end
        kept = tuple(sorted(sorted(kept, key=lambda item: -item[1])[:ATTEMPTS_LIMIT]))
    attempts: list[int] = []
    for position, count in kept:
        attempts += (position - low, count)
    form, done = _smallest([position - low for position in state.done])
    wire = _Wire(
        state.clean, state.unclean, state.place, state.place_epoch, state.base, attempts, form, done,
        state.place_reset, state.reset, [number for at, filter in state.cuts for number in (at - low, filter)],
        state.parked, state.dead,
    )  # fmt: skip
    text = _VERSION + b64encode(_encoder.encode(wire)).decode()
    return text if len(text) <= CHARS_LIMIT else None


def decode(low: int, text: str) -> State:
    """Read what `encode` wrote; an empty text is a fresh cursor. Raises `CorruptData` for anything else.

    A text of an unknown version or a foreign format is an error, never an empty map: guessing would run again
    what is done.
    """
    if not text:
        return State()
    try:
        if text[0] != _VERSION:
            raise ValueError(f"unknown version {text[0]!r}")
        wire = _decoder.decode(b64decode(text[1:], validate=True))
        done = _positions(wire.form, wire.done)
        pairs = list(zip(wire.attempts[::2], wire.attempts[1::2], strict=True))
    except (ValueError, zlib.error, msgspec.MsgspecError) as error:
        raise CorruptData(f"the cursor cannot be read: {error}") from error
    return State(
        done=tuple(low + offset for offset in done),
        attempts=tuple((low + offset, count) for offset, count in pairs),
        clean=wire.clean,
        unclean=wire.unclean,
        place=wire.place,
        place_epoch=wire.place_epoch,
        base=wire.base,
        place_reset=wire.place_reset,
        reset=wire.reset,
        parked=wire.parked,
        dead=wire.dead,
        cuts=tuple((low + offset, filter) for offset, filter in zip(wire.cuts[::2], wire.cuts[1::2], strict=True)),
    )


def _smallest(offsets: Sequence[int]) -> tuple[int, bytes]:
    runs = _as_runs(offsets)
    if len(runs) < 32 or offsets[-1] > _BITS_SPAN_LIMIT:
        return _RUNS, runs
    bits = bytearray(offsets[-1] // 8 + 1)
    for offset in offsets:
        bits[offset >> 3] |= 1 << (offset & 7)
    forms = ((_RUNS, runs), (_BITS, bytes(bits)), (_ZBITS, zlib.compress(bits, 1)))
    return min(forms, key=lambda form: len(form[1]))


def _as_runs(offsets: Sequence[int]) -> bytes:
    """Write (gap, length) pairs as LEB128 numbers."""
    numbers: list[int] = []
    end = 0
    for offset in offsets:
        if numbers and offset == end:
            numbers[-1] += 1
        else:
            numbers += (offset - end, 1)
        end = offset + 1
    out = bytearray()
    for number in numbers:
        while number > 127:
            out.append(number & 127 | 128)
            number >>= 7
        out.append(number)
    return bytes(out)


def _positions(form: int, data: bytes) -> list[int]:
    if form == _ZBITS:
        data = zlib.decompress(data)
    if form != _RUNS:
        return [byte * 8 + bit for byte, value in enumerate(data) for bit in range(8) if value >> bit & 1]
    numbers: list[int] = []
    number = shift = 0
    for byte in data:
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            numbers.append(number)
            number = shift = 0
    offsets: list[int] = []
    end = 0
    for gap, length in zip(numbers[::2], numbers[1::2], strict=True):
        if length > _BITS_SPAN_LIMIT:
            raise ValueError("a run is too long")
        offsets.extend(range(end + gap, end + gap + length))
        end += gap + length
    return offsets
