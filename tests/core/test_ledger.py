"""The ledger: watermark over gaps, bounded by what is delivered."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.ledger import Ledger


@given(st.sets(st.integers(0, 60), min_size=1), st.data())
def test_the_watermark_is_the_lowest_delivered_that_is_not_done(positions: set[int], data: st.DataObject) -> None:
    ordered = sorted(positions)
    done_before = set(data.draw(st.lists(st.sampled_from(ordered), unique=True)))
    ledger = Ledger(ordered[0], done_before)
    running = {position for position in ordered if ledger.begin(position)}
    assert running == positions - done_before
    for position in data.draw(st.permutations(sorted(running))):
        ledger.finish(position)
        running.discard(position)
        assert ledger.low == (min(running) if running else ordered[-1] + 1)
        assert ledger.done == [p for p in ordered if p > ledger.low and p not in running]
    assert len(ledger) == 0


def test_attempts_are_kept_until_the_event_is_done() -> None:
    ledger = Ledger(0, attempts={1: 4})
    assert ledger.begin(0)
    assert ledger.begin(1)
    ledger.finish(1)
    assert ledger.attempts == {}
    assert ledger.low == 0
    assert ledger.next == 2


def test_what_was_trimmed_is_skipped_and_what_was_delivered_stays() -> None:
    ledger = Ledger(0, done=[5, 20], attempts={0: 1, 6: 2, 30: 1})
    ledger.begin(0)
    ledger.skip_to(10)
    assert (ledger.low, ledger.next, ledger.done) == (0, 10, [20])
    assert ledger.attempts == {0: 1, 30: 1}
    ledger.finish(0)
    assert ledger.low == 10
