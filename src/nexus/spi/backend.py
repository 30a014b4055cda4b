"""What a backend must do: a partitioned log with fenced leases and cursors with holes.

Everything users call a feature (order per key, concurrency above partitions, retry, dead letters, fairness,
replay) is written once above this file. A backend's capabilities change cost, never meaning.

    topic       n partitions, fixed; each a totally ordered sequence of events
    position    an event's place in one partition; rises strictly, may have gaps, starts at 0 or above
    group       a durable consumer; has one cursor per partition
    cursor      epoch, low watermark, and what only the runtime reads (``state``)
    member      one process's (or one bus's) share in a group; owns partitions by lease

All methods are called on one event loop and none may block it. Nothing is pushed but *news*: ``wake`` is called
on the loop when there may be something to fetch or to know; it carries no data, may come too often, and never
comes too late (an append that returned is followed by a wake of every watcher of that topic, in other processes
of the same store too, within 250 ms at the latest and about a millisecond as a rule).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

from nexus.errors import IdConflict
from nexus.event import Event

Durability = Literal["none", "memory", "process", "disk", "replicated", "replicated+disk"]
"""What survives once an append returned: nothing promised, this process's life (``memory``), a kill of the process
(``process``), a power cut (``disk``), a lost node (``replicated``), or a power cut of all nodes."""


class TopicSpec(msgspec.Struct, frozen=True):
    """A topic as wished for."""

    name: str
    partitions: int = 16
    retention_age_s: float | None = None
    """Events older than this may go, consumed or not; None keeps them."""
    retention_bytes: int | None = None
    """When the topic is larger, its oldest events may go, consumed or not; None keeps them."""
    dedup: bool = True
    """Recognise events whose (source, id) is stored already. Journals (parking topics) do without."""


class TopicInfo(msgspec.Struct, frozen=True):
    """A topic as it is."""

    spec: TopicSpec
    first: tuple[int, ...]
    """Per partition: the lowest position that may still be kept."""
    end: tuple[int, ...]
    """Per partition: one above the highest position; where a reader of only new events starts."""
    sealed: tuple[int, ...]
    """Partitions that take no more events."""
    size_bytes: int
    durability: Durability
    """As observed, not as configured."""


class Capabilities(msgspec.Struct, frozen=True):
    """What a backend does natively. Changes cost, never meaning."""

    dedup: Literal["exact", "window", "ids", "sender"]
    """Which second copies of an event `append` recognises: all; those within a window of ids; the same, but what an
    event said is forgotten with it, so a copy of one that is trimmed passes for the same (``ids``); or those within a
    window that this backend object itself appended. With ``sender`` another process's copy is stored, and whoever
    consumes passes over it (`nexus.runtime.inbox`)."""
    positions_on_append: bool
    trim: bool
    max_body_bytes: int
    max_cursor_chars: int | None
    takeover_s: float = 1.0
    """The partitions of a member that died without a word have moved within this."""
    more_durable: str = ""
    """What to set in the store for more durability, in its own words; empty if there is nothing to set."""


class Stored(msgspec.Struct, frozen=True, gc=False):
    """An event at its place."""

    position: int
    recorded_at: float
    """When the store took it, seconds since 1970."""
    size: int
    """Bytes it takes, envelope included; what windows count."""
    event: Event[object]


class Appended(msgspec.Struct, frozen=True, gc=False):
    """Where an event is. ``duplicate``: it was there before, with the same content; this is its first place."""

    partition: int
    position: int | None
    duplicate: bool = False


class Want(msgspec.Struct, frozen=True, gc=False):
    """A wish to read: at most ``max_events`` events of one partition from ``position`` on."""

    topic: str
    partition: int
    position: int
    max_events: int


class Slice(msgspec.Struct, frozen=True, gc=False):
    """The answer to one `Want`."""

    topic: str
    partition: int
    events: Sequence[Stored]
    """In position order."""
    next: int
    """Where to go on reading; above the last event, across gaps."""
    more: bool
    """True if the answer stopped at a bound, not at the end of the partition."""
    trimmed: int | None = None
    """Set when ``position`` was below the lowest kept position: that lowest position. Events in between are gone.
    ``events`` then start there."""


class Cursor(msgspec.Struct, frozen=True):
    """How far a group is in one partition."""

    epoch: int
    low: int
    """Everything below is done. Backends show it as lag."""
    state: str = ""
    """Opaque to the backend; at most ``max_cursor_chars`` characters of printable ASCII."""


class Assigned(msgspec.Struct, frozen=True):
    """The member owns this partition from now on. ``cursor`` is the stored one, read after the lease was granted;
    None when the store has none although the group is known (a lost cursor)."""

    topic: str
    partition: int
    cursor: Cursor | None
    token: int = 0
    """A number that grows with each owner, if the backend has one; else 0. A lower bound of the epoch, never it."""


class Revoking(msgspec.Struct, frozen=True):
    """The member should settle and release this partition within ``deadline_s`` seconds from now."""

    topic: str
    partition: int
    deadline_s: float


class Lost(msgspec.Struct, frozen=True):
    """The member does not own this partition any more; its settles are refused."""

    topic: str
    partition: int
    reason: str


Change = Assigned | Revoking | Lost


class Settlement(msgspec.Struct, frozen=True):
    """A cursor to be stored; with ``release`` the partition is given up in the same step."""

    topic: str
    partition: int
    cursor: Cursor
    release: bool = False


Settled = Literal["ok", "fenced", "retry"]


Why = Literal["joined", "left", "expired", "rejoined", "released", "took over", "fenced"]
"""Why a partition changed hands: a member joined and nobody owned it; its owner left; the owner's lease ran out, as
others saw it, or as it saw itself (``rejoined``); the owner gave it up, for another to have it; the owner did not in
time, and another took it over; the owner wrote a cursor of an older ownership."""


class Handover(msgspec.Struct, frozen=True):
    """How a partition came to the member that owns it now, or to nobody."""

    at: float
    """When, seconds since 1970, by the clock of the process that wrote it down."""
    why: Why
    before: str | None
    """Name of the member that owned it until then, if any."""


class PartitionLag(msgspec.Struct, frozen=True):
    """Where a group stands in one partition."""

    topic: str
    partition: int
    low: int
    end: int
    epoch: int
    owner: str | None
    """Name of the member that owns it, if any."""
    oldest_at: float | None
    """When the event at ``low`` was recorded; None if the group is at the end or the event is gone."""
    state: str = ""
    """The stored cursor's ``state``."""
    handover: Handover | None = None
    """How it last changed hands; None if it never did, or if this backend does not know."""


State = Literal["green", "yellow", "red"]
"""In order; works, could be better; must be set right."""


class Finding(msgspec.Struct, frozen=True):
    """One thing that was looked at, and how it is."""

    check: str
    """What it is about, in a word or two."""
    state: State
    found: str
    advice: str | None = None
    """What to set, wherever it is not green."""


@runtime_checkable
class Examined(Protocol):
    """What a backend may offer beyond `Backend`, and a log beyond `nexus.spi.log.Log`: it can tell what it runs on."""

    async def examine(self, levels: Mapping[str, Durability]) -> list[Finding]:
        """Look at the broker: which nodes answer, their versions, what this user may do, what survives and why.

        ``levels``: the durability of each topic, as it was observed. Works on connections of its own, whether the store
        is open or not, and stores nothing that opening it would not. Never raises for what is a finding.
        """


class Member(Protocol):
    """One member of one group. Cancelling any of its calls loses nothing."""

    def changes(self) -> list[Change]:
        """Take what changed since the last call, oldest first. ``wake`` is called when there is something."""

    async def fetch(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """Read at once what is there; never waits for events. One slice per want, in the same order.

        Wants name partitions that the member owns, and partitions of journals that go with them.
        Together the slices hold at most ``max_bytes``, but the first event found is always given,
        however large, so that nothing stalls.
        """

    async def settle(self, settlements: Sequence[Settlement]) -> list[Settled]:
        """Store cursors, durable when it returns ``ok``. One answer per settlement, in the same order.

        A cursor is stored if this member owns the partition and the stored epoch is not higher.
        Else ``fenced``: nothing was changed, and `Lost` follows. ``retry``: not now (disk full, rebalance);
        the member still owns the partition. Never raises for what one of these words can say.
        """

    async def leave(self) -> None:
        """Give up every partition as it stands and leave the group. Idempotent."""


class Backend(Protocol):
    """A store. See the module for the promises that hold for every method."""

    name: str
    capabilities: Capabilities

    async def open(self) -> None:
        """Connect. Raises `NewerFormat`, `CorruptData`, `ReadOnly`, `Unavailable` or `SettingsError`."""

    async def close(self) -> None:
        """Flush and let go of everything. Members that did not leave are dropped as by a crash. Idempotent."""

    async def ensure(self, topic: TopicSpec) -> TopicInfo:
        """Create the topic, or take its new retention over. Idempotent, also between processes.

        The number of partitions of an existing topic stands: raises `SettingsError` when another is wished for.
        """

    async def describe(self, topic: str) -> TopicInfo:
        """Say how the topic is. Raises `UnknownTopic`."""

    async def topics(self) -> list[str]:
        """Names of all topics, sorted; journals included."""

    async def append(self, topic: str, batch: Sequence[tuple[int, Event[object]]]) -> list[Appended | IdConflict]:
        """Store events, each in its partition, durable at the topic's level when this returns.

        One answer per event, in the same order. Within a call and a partition the order is kept. An event whose
        (source, id) is known to be stored (`Capabilities.dedup`) is answered with its first place, or with
        `IdConflict` if its content differs (`nexus.core.envelope.same_content`); nothing is stored for it.
        A call that is cancelled may still store all of its events; it never stores them out of order.
        Raises for the call as a whole, with nothing stored: `UnknownTopic`, `Sealed`, `StoreFull`, `ReadOnly`,
        `Unavailable`, `PayloadTooLarge`, `Closed`; with all, some or none stored: `UnknownOutcome`.
        After the call returned, or raised anything but `UnknownOutcome`, no copy of its events lands later.
        """

    async def read(self, wants: Sequence[Want], max_bytes: int) -> list[Slice]:
        """As `Member.fetch`, of any partition, without a group."""

    async def position_at(self, topic: str, partition: int, time: float) -> int:
        """Lowest position recorded at or after ``time`` (seconds since 1970), or the end."""

    def watch(self, topics: Sequence[str], wake: Callable[[], None]) -> Callable[[], None]:
        """Have ``wake`` called on this loop when one of the topics may have news; returns how to stop that."""

    async def claim(
        self,
        group: str,
        topics: Sequence[str],
        member: str,
        wake: Callable[[], None],
        start: Literal["latest", "earliest"],
    ) -> Member:
        """Join a group on existing topics under a name of one's own.

        A topic that the group has no cursors for gets them all in this step, durable: at the end (``latest``) or at
        the first kept event. Partitions are then shared evenly among the members, each owned by at most one while
        leases are honoured. The partitions of a member that died move within `Capabilities.takeover_s`, those of one
        that is frozen within 15 s. A member that cannot renew its lease gets `Lost` before anyone else can get
        `Assigned`.
        """

    async def groups(self) -> list[str]:
        """Names of all groups that have a cursor, sorted."""

    async def lag(self, group: str) -> list[PartitionLag]:
        """Where the group stands, by topic and partition. Raises `UnknownGroup`."""

    async def seal(self, topic: str, partition: int) -> int:
        """Refuse further appends to this partition, for ever and durably. Returns its end. Idempotent."""

    async def trim(self, topic: str, partition: int, before: int) -> None:
        """Forget events below ``before``. What is gone is answered with `Slice.trimmed`. May free lazily."""
