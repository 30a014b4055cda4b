"""Who owns which partition: members and partitions in, a balanced and stable plan out. Pure.

>>> assign(["a", "b"], [0, 1, 2])
{'a': [0], 'b': [1, 2]}

Every member computes the same plan from the same lists, in any order. It is rendezvous hashing with a cap: all pairs
of a member and a partition are ranked by a hash of both, and taken from the top while the member has room. So shares
differ by one at most, and when a member comes or goes, most of the others keep what they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar
from zlib import crc32

T = TypeVar("T")


def assign(members: Sequence[str], partitions: Sequence[T]) -> dict[str, list[T]]:
    """Share out ``partitions`` among ``members``; each list keeps the order of ``partitions``.

    Partitions are told apart by their ``repr``. Without members nobody owns anything, and the plan is empty.
    """
    names = sorted(set(members))
    if not names:
        return {}
    share, extras = divmod(len(partitions), len(names))
    seeds = [crc32(name.encode()) for name in names]
    hashes = [crc32(repr(partition).encode()) for partition in partitions]
    ranked = sorted(
        (_mix(seed, hashed), place, number) for number, seed in enumerate(seeds) for place, hashed in enumerate(hashes)
    )
    owner: dict[int, int] = {}
    counts = [0] * len(names)
    for _, place, number in ranked:
        if place in owner or counts[number] > share:
            continue
        if counts[number] == share:
            # Only so many members may have one more; without this, two full ones could leave a third with nothing.
            if not extras:
                continue
            extras -= 1
        owner[place] = number
        counts[number] += 1
    plan: dict[str, list[T]] = {name: [] for name in names}
    for place, partition in enumerate(partitions):
        plan[names[owner[place]]].append(partition)
    return plan


def _mix(seed: int, hashed: int) -> int:
    """Return 32 bits that depend on all bits of both.

    CRC-32 alone is linear: it would rank all partitions alike for two members (finalizer of MurmurHash3).
    """
    mixed = (seed * 0x9E3779B1 ^ hashed) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 16) * 0x85EBCA6B) & 0xFFFFFFFF
    mixed = ((mixed ^ mixed >> 13) * 0xC2B2AE35) & 0xFFFFFFFF
    return mixed ^ mixed >> 16
