"""The catalogue of a store: the first word counts where two may disagree, the last where a wish may change."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nexus.core.catalogue import (
    Catalogue,
    Define,
    End,
    Record,
    Seal,
    Snapshot,
    Trim,
    decode_record,
    encode_record,
)
from nexus.spi.backend import TopicSpec


def folded(*records: Record) -> Catalogue:
    catalogue = Catalogue()
    for record in records:
        catalogue.apply(record)
    return catalogue


def test_the_first_definition_decides_about_partitions_and_the_last_about_retention() -> None:
    catalogue = folded(Define(TopicSpec("a", 4, dedup=False)), Define(TopicSpec("a", 8, retention_age_s=5.0)))
    assert catalogue.specs == {"a": TopicSpec("a", 4, retention_age_s=5.0, dedup=False)}


def test_a_seal_has_the_end_that_was_named_first() -> None:
    assert folded(Seal("a", 1)).sealed == {"a": {1: None}}
    assert folded(Seal("a", 1), End("a", 1, 7), End("a", 1, 9), Seal("a", 1)).sealed == {"a": {1: 7}}


def test_a_beginning_never_moves_back() -> None:
    assert folded(Trim("a", 0, 5), Trim("a", 0, 3)).first == {("a", 0): 5}


RECORDS: st.SearchStrategy[Record] = st.one_of(
    st.builds(Define, st.builds(TopicSpec, st.sampled_from("ab"), st.integers(1, 3), dedup=st.booleans())),
    st.builds(Seal, st.sampled_from("ab"), st.integers(0, 2)),
    st.builds(End, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9)),
    st.builds(Trim, st.sampled_from("ab"), st.integers(0, 2), st.integers(0, 9)),
)


@given(st.lists(RECORDS, max_size=20), st.lists(RECORDS, max_size=8))
def test_a_snapshot_stands_for_what_it_was_made_of(before: list[Record], after: list[Record]) -> None:
    catalogue = folded(*before)
    snapshot = decode_record(encode_record(catalogue.snapshot(7)))
    assert isinstance(snapshot, Snapshot)
    catalogue.apply(snapshot)
    other = Catalogue()
    other.restore(snapshot)
    for record in after:
        catalogue.apply(record)
        other.apply(record)
    assert (catalogue.specs, catalogue.sealed, catalogue.first) == (other.specs, other.sealed, other.first)
