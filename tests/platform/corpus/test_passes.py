"""How rows are dealt to shards, and how a record is found again: the arithmetic between the passes."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from proteinlm.models.sequences import Composition
from proteinlm.platform.corpus.passes import shard_plans
from proteinlm.platform.corpus.scratch import (
    MAX_CHUNKS,
    MAX_LINES,
    LineNumbers,
    Recipe,
    Scattered,
    place_of,
    unplaced,
)
from proteinlm.platform.data.sources import MAX_SOURCES, Source
from proteinlm.platform.settings.config import CorpusConfig

CONFIG = CorpusConfig(sources=(Path("a.fasta"), Path("b.lmdb")), out=Path("out"))


@given(runs=st.lists(st.integers(0, 40), min_size=1, max_size=12), shard_rows=st.integers(1, 50))
def test_shards_take_every_row_once_in_order_and_evenly(runs: list[int], shard_rows: int) -> None:
    plans = shard_plans("train", runs, shard_rows)
    dealt = [(bucket, row) for plan in plans for bucket, first, last in plan.parts for row in range(first, last)]
    assert dealt == [(bucket, row) for bucket, rows in enumerate(runs) for row in range(rows)]
    sizes = [sum(last - first for _, first, last in plan.parts) for plan in plans]
    assert [plan.number for plan in plans] == list(range(len(plans)))
    if sum(runs):
        assert len(plans) == max(1, round(sum(runs) / shard_rows))
        assert max(sizes) - min(sizes) <= 1


@given(
    parts=st.lists(
        st.tuples(st.integers(0, MAX_SOURCES - 1), st.integers(0, MAX_CHUNKS - 1), st.integers(0, MAX_LINES - 1)),
        min_size=2,
        max_size=2,
    )
)
def test_places_order_as_records_were_given(parts: list[tuple[int, int, int]]) -> None:
    places = [place_of(*part) for part in parts]
    assert [unplaced(place) for place in places] == parts
    assert (places[0] < places[1]) == (parts[0] < parts[1])
    assert max(places) < 1 << 63


def test_lines_are_counted_over_chunks_from_1_and_records_of_an_lmdb_from_0() -> None:
    sources = (Source("a.fasta", "fasta", None, 9), Source("b.lmdb", "lmdb", None, 9))
    lines = LineNumbers(Recipe("work", sources, ("a", "b"), {}, 1, CONFIG))
    for source, chunk, count in ((1, 1, 5), (0, 1, 7), (0, 0, 10), (1, 0, 5)):
        lines.add(Scattered(source, chunk, count, 0, 0, Composition(), ()))
    lines.finish()
    assert lines.locate(place_of(0, 0, 0)) == ("a.fasta", 1)
    assert lines.locate(place_of(0, 1, 3)) == ("a.fasta", 14)
    assert lines.locate(place_of(1, 1, 2)) == ("b.lmdb", 7)
