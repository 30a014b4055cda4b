"""May this bus start on this backend? Compares what the settings ask for with what was observed.

>>> check_durability("process", "disk")
>>> check_durability("disk", "process")
Traceback (most recent call last):
nexus.errors.DurabilityUnavailable: NXS-1101 durability: 'disk' survives a power cut, the backend's 'process' does not
Next: set durability to 'process' or less, or use a backend that is set up for 'disk'
"""

from __future__ import annotations

from nexus.errors import DurabilityUnavailable
from nexus.spi.backend import Durability

_SURVIVES: dict[Durability, tuple[str, ...]] = {
    "none": (),
    "memory": ("the return of publish",),
    "process": ("the return of publish", "a kill of the process"),
    "disk": ("the return of publish", "a kill of the process", "a power cut"),
    # Copies in the memory of other machines outlive a node and not a power cut of the whole room, so this level is
    # beside `disk`, not above it.
    "replicated": ("the return of publish", "a kill of the process", "the loss of a node"),
    "replicated+disk": ("the return of publish", "a kill of the process", "a power cut", "the loss of a node"),
}


def check_durability(asked: Durability, observed: Durability, more_durable: str = "") -> None:
    """Raise `DurabilityUnavailable` unless ``observed`` survives everything that ``asked`` does.

    ``more_durable``: what to set in the store, as its backend says.
    """
    missing = [loss for loss in _SURVIVES[asked] if loss not in _SURVIVES[observed]]
    if missing:
        raise DurabilityUnavailable(
            f"durability: {asked!r} survives {missing[0]}, the backend's {observed!r} does not",
            hint=f"set durability to {observed!r} or less, or use a backend that is set up for {asked!r}"
            + (f": {more_durable}" if more_durable else ""),
        )
