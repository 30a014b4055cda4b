"""Which filter judges which position."""

from __future__ import annotations

from nexus.core.cuts import CUTS_LIMIT, Cuts


def test_before_the_first_cut_filter_0_judges() -> None:
    cuts = Cuts(())
    assert cuts.stored
    assert (cuts.in_force, cuts.at(5)) == (0, 0)
    assert cuts.add(10, 7)
    assert (cuts.in_force, cuts.at(9), cuts.at(10)) == (7, 0, 7)


def test_nothing_is_fetched_until_a_cut_is_stored() -> None:
    cuts = Cuts(((0, 3),))
    cuts.add(10, 7)
    assert not cuts.stored
    assert cuts.offer(5) == ((0, 3), (10, 7))
    cuts.add(12, 8)
    cuts.settled()
    assert not cuts.stored, "the last came after the offer"
    cuts.offer(5)
    cuts.settled()
    assert cuts.stored


def test_what_the_watermark_has_passed_is_forgotten_but_for_the_last() -> None:
    cuts = Cuts(((0, 3), (10, 7), (20, 8)))
    assert cuts.offer(9) == ((0, 3), (10, 7), (20, 8))
    assert cuts.offer(15) == ((10, 7), (20, 8))
    cuts.settled()
    assert cuts.stored
    assert cuts.offer(20) == ((20, 8),)
    assert cuts.stored, "nothing was added"


def test_cuts_are_bounded() -> None:
    cuts = Cuts(())
    assert all(cuts.add(position, position + 1) for position in range(CUTS_LIMIT))
    assert not cuts.add(99, 100)
    assert cuts.in_force == CUTS_LIMIT
    cuts.offer(CUTS_LIMIT)
    assert cuts.add(99, 100)
