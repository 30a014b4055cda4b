"""Follows a journal and keeps what it folds to.

A journal is a topic of one partition. To change what it says, a record is appended and then read back in its place:
only there it is known whether it was granted, and every other reader comes to the same answer.

A journal does not grow for ever: after some records, whoever wrote the last one writes a snapshot of the fold and
trims what stands below it. A reader that finds the beginning gone goes on at the first snapshot that reaches back to
what is kept. A broker may also forget the beginning by its own rules; as long as it keeps more than twice the distance
of two snapshots, one is always there. Where a broker cannot forget on request, it is asked to keep no more than many
times that distance, which is bounded in bytes too; a journal is long there, and its reader begins at a snapshot near
the end. For a snapshot that is larger than an event may be there are parts, so that none is ever missing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, Protocol, TypeVar
from uuid import uuid4

import msgspec

from nexus.clock import Clock
from nexus.errors import NexusError, UnknownOutcome
from nexus.event import Event
from nexus.spi.backend import Slice, Stored, TopicSpec, Want
from nexus.spi.log import Log

log = logging.getLogger("nexus.coordination")

SNAPSHOT_EVERY = 1_000
"""Records after which a snapshot is written."""
SNAPSHOT_BYTES = 8 * 1024 * 1024
"""Bytes of records after which a snapshot is written, if that is sooner."""
KEPT_BYTES = 256 * 1024 * 1024
"""What a broker that cannot forget on request is asked to keep of a journal. Twice the distance of two snapshots must
be in it with room to spare: several processes may write one at once, an attempt may fail, and files go as a whole."""
RECORD_TYPE = "nexus.journal.record"
PART_TYPE = "nexus.journal.part"
_MSGPACK = "application/msgpack"
_READ_EVENTS = 1_000
_READ_BYTES = 8 * 1024 * 1024
_FOLD_EVENTS = 100
"""Records that are folded in before others get their turn on the loop."""
_ATTRIBUTES_BYTES = 256
"""What a record takes beside its body, and a part beside its piece, at most."""
_IN_PARTS = 16
"""Records of which parts are awaited, at most; those of a writer that died never come."""


class Fold(Protocol):
    """What a journal folds to."""

    def apply(self, record: Any, at: float) -> Any: ...

    def snapshot(self, through: int) -> Any: ...

    def restore(self, snapshot: Any) -> None: ...


class Part(msgspec.Struct, frozen=True, array_like=True):
    """A piece of a record that is larger than an event may be."""

    record: str
    number: int
    of: int
    piece: bytes


_decode_part = msgspec.msgpack.Decoder(Part).decode


class Pieces:
    """Puts together records that were written in parts."""

    def __init__(self) -> None:
        self._pieces: dict[str, list[bytes]] = {}

    def add(self, part: Part) -> bytes | None:
        """Return the record, if this was the last of it. Parts come in order; if one is missing, none counts."""
        pieces = self._pieces.pop(part.record, [])
        if part.number == 0:
            pieces = []  # perhaps again, by who reads the same page twice
        if part.number != len(pieces):
            return None
        pieces.append(part.piece)
        if len(pieces) == part.of:
            return b"".join(pieces)
        self._pieces[part.record] = pieces
        if len(self._pieces) > _IN_PARTS:
            del self._pieces[next(iter(self._pieces))]
        return None


F = TypeVar("F", bound=Fold)


class Replica(Generic[F]):
    """One journal, as this process knows it."""

    def __init__(
        self,
        store: Log,
        topic: str,
        fold: F,
        decode: Callable[[bytes], Any],
        encode: Callable[[Any], bytes],
        snapshot: type,
        clock: Clock,
        folded: Callable[[Any, Any], None] = lambda record, answer: None,
    ) -> None:
        """``folded`` is called with each record that was folded in, and what the fold answered."""
        self.topic = topic
        self.fold = fold
        self.confirmed_at = float("-inf")
        """When it was last certain, by the monotonic clock, that nothing is missing here."""
        self._log = store
        self._decode = decode
        self._encode = encode
        self._snapshot = snapshot
        self._clock = clock
        self._folded = folded
        self._next = 0
        self._started = False
        self._since_snapshot = 0
        self._bytes_since_snapshot = 0
        self._snapshot_from = 0
        self._pieces = Pieces()
        self._reading = asyncio.Lock()
        self._answers: dict[str, asyncio.Future[Any]] = {}
        self._reasons: set[str] = set()
        """Codes of the errors for which it was said that no snapshot could be written."""

    async def create(self) -> None:
        """Make the journal, unless it is there."""
        kept = None if self._log.capabilities.trim else KEPT_BYTES
        await self._log.create(TopicSpec(self.topic, 1, retention_bytes=kept, dedup=False))

    async def refresh(self, *, fresh: bool = True) -> None:
        """Fold in what is new; all that was appended before the call if ``fresh``. Raises `BackendError`."""
        asked = self._clock.monotonic()
        async with self._reading:
            if self._started and self.confirmed_at > asked:
                return  # what was read while this waited began after it was asked for
            began = self._clock.monotonic()
            more = True
            while more:
                part = await (self._page(self._next, fresh=fresh) if self._started else self._begin())
                if part.trimmed is not None:  # so far behind that the journal was cut short meanwhile
                    self._started = False
                    continue
                await self._take(part.events)
                self._next = max(self._next, part.next)
                more = part.more
            if fresh:
                self.confirmed_at = began

    async def _page(self, position: int, *, fresh: bool = True) -> Slice:
        (part,) = await self._log.read([Want(self.topic, 0, position, _READ_EVENTS)], _READ_BYTES, fresh=fresh)
        return part

    async def _begin(self) -> Slice:
        """Find where to begin; return what is to be folded in first, and where to go on.

        The fold is the journal's from then on: whatever fails later, it goes on where it stands.
        """
        start = await self._near_end()
        while True:
            part = await self._page(start)
            if start == 0 and part.trimmed is None:
                self._next, self._started = 0, True
                return part
            found = await self._from_snapshot(part, max(start, part.trimmed or 0))
            if found is not None:
                self._started = True
                return found
            start = 0

    async def _near_end(self) -> int:
        """Return a position above which there are snapshots, as a rule; 0 where the journal is short anyway."""
        if self._log.capabilities.trim:
            return 0
        state = await self._log.describe(self.topic)
        return max(0, state.end[0] - 3 * SNAPSHOT_EVERY)

    async def _from_snapshot(self, part: Slice, low: int) -> Slice | None:
        """Restore the first snapshot that reaches back to ``low``, where ``part`` begins; return all that was read.

        None if it must be begun again, at the beginning of the journal.
        """
        kept = part.trimmed is not None
        events: list[Stored] = []
        while True:
            for stored in part.events:
                record = self._record(stored)
                if isinstance(record, self._snapshot) and record.through + 1 >= low:  # type: ignore[attr-defined]
                    self.fold.restore(record)
                    self._next = record.through + 1  # type: ignore[attr-defined]
                    return msgspec.structs.replace(part, events=[*events, *part.events], trimmed=None)
            events += part.events
            if not part.more:
                break
            await asyncio.sleep(0)
            part = await self._page(part.next)
            if part.trimmed is not None:
                return None
        if not kept:
            return None
        log.warning("%s begins at position %d, and no snapshot reaches back to it", self.topic, low)
        self._next = 0
        return msgspec.structs.replace(part, events=events, trimmed=None)

    async def _take(self, events: Sequence[Stored]) -> None:
        """Fold in many records, and let others have their turn between."""
        for at in range(0, len(events), _FOLD_EVENTS):
            if at:
                await asyncio.sleep(0)
            some = events[at : at + _FOLD_EVENTS]
            self._fold_in(some)
            self._next = max(self._next, some[-1].position + 1)
        if len(events) >= _READ_EVENTS:
            await asyncio.sleep(0)

    async def submit(self, record: Any) -> Any:
        """Append a record, fold it in, and return what the fold answers.

        Raises `BackendError` or `UnknownOutcome`; then it may still be folded in later.
        """
        event = self._event(record)
        answer = self._answers[event.id] = asyncio.get_running_loop().create_future()
        try:
            (place,) = await self._log.append(self.topic, [(0, event)], dedup=False)
            if not self._reading.locked() and place.position == self._next and self._started:
                self._fold_in([Stored(self._next, 0.0, 0, event)])
                self._next += 1
            if not answer.done():
                await self.refresh()
            if not answer.done():  # the journal was cut short above it meanwhile, by others
                raise UnknownOutcome(f"{self.topic}: what became of a record is not known", hint="try again")
            if self._since_snapshot >= SNAPSHOT_EVERY or self._bytes_since_snapshot >= SNAPSHOT_BYTES:
                await self._write_snapshot()
            return answer.result()
        finally:
            self._answers.pop(event.id, None)

    def _event(self, record: Any) -> Event[Any]:
        return self._made(RECORD_TYPE, self._encode(record))

    def _events(self, record: Any) -> list[Event[Any]]:
        """Make a record into an event, or into parts if it is larger than one may be."""
        body, limit = self._encode(record), self._log.capabilities.max_body_bytes
        if len(body) <= limit:
            return [self._made(RECORD_TYPE, body)]
        size = max(1, limit - _ATTRIBUTES_BYTES)
        pieces = [body[at : at + size] for at in range(0, len(body), size)]
        id = uuid4().hex
        parts = (Part(id, number, len(pieces), piece) for number, piece in enumerate(pieces))
        return [self._made(PART_TYPE, msgspec.msgpack.encode(part)) for part in parts]

    def _made(self, type: str, body: bytes) -> Event[Any]:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        return Event(uuid4().hex, "nexus", type, now, None, body, datacontenttype=_MSGPACK)

    def _fold_in(self, events: Any) -> None:
        for stored in events:
            if stored.position < self._next:
                continue
            record = self._record(stored)
            if stored.event.type != PART_TYPE:
                self._bytes_since_snapshot += len(stored.event.body) + _ATTRIBUTES_BYTES
            if record is None:
                continue
            if isinstance(record, self._snapshot):
                self._since_snapshot = self._bytes_since_snapshot = 0
                self._snapshot_from = record.through + 1  # type: ignore[attr-defined]
                continue
            self._since_snapshot += 1
            answer = self.fold.apply(record, stored.event.time.timestamp())
            waiting = self._answers.get(stored.event.id)
            if waiting is not None and not waiting.done():
                waiting.set_result(answer)
            self._folded(record, answer)

    def _record(self, stored: Stored) -> Any:
        body: bytes | None = stored.event.body
        try:
            if stored.event.type == PART_TYPE:
                body = self._pieces.add(_decode_part(stored.event.body))
            return None if body is None else self._decode(body)
        except Exception as error:  # somebody else wrote into it; every reader passes over it alike
            log.warning("%s, position %d, is no record: %s", self.topic, stored.position, error)
            return None

    async def _write_snapshot(self) -> None:
        """Make the journal short. What fails here is tried again before long."""
        self._since_snapshot = self._bytes_since_snapshot = 0
        through, before = self._next - 1, self._snapshot_from
        record = self.fold.snapshot(through)
        try:
            await self._log.append(self.topic, [(0, event) for event in self._events(record)], dedup=False)
        except NexusError as error:
            self._since_snapshot += SNAPSHOT_EVERY * 9 // 10
            self._bytes_since_snapshot += SNAPSHOT_BYTES * 9 // 10
            self._stays_long(error)
            return
        try:
            # Only what the snapshot before holds: a reader that is just starting may stand above it.
            await self._log.trim(self.topic, 0, before)
        except NexusError as error:
            self._stays_long(error)

    def _stays_long(self, error: NexusError) -> None:
        """Say why the journal is not made short, once for each reason: it grows, and who starts reads it for longer."""
        if error.code not in self._reasons:
            self._reasons.add(error.code)
            log.warning("%s is not made short, and grows: %s", self.topic, error.message)
