"""The figures of a corpus, against figures made by hand; leakage is found where there is some."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from rich.console import Console

from proteinlm.platform.corpus.passes import shard_ranges
from proteinlm.platform.corpus.stats import SORTED_WINDOW, Padding, corpus_stats, histogram, quantile, render
from proteinlm.platform.data.manifest import Manifest, split_of, write_manifest, write_shard

Rows = list[tuple[str, str | None, str | None]]


def write_corpus(directory: Path, splits: dict[str, Rows], shard_rows: int = 3) -> None:
    """A corpus of (sequence, family, clan) rows, as they are given."""
    directory.mkdir()
    written = {}
    for name, rows in splits.items():
        table = pa.table(
            {
                "id": [f"{name}{number}" for number in range(len(rows))],
                "sequence": [sequence for sequence, _, _ in rows],
                "length": pa.array([len(sequence) for sequence, _, _ in rows], pa.int32()),
                "family": pa.array([family for _, family, _ in rows], pa.string()),
                "clan": pa.array([clan for _, _, clan in rows], pa.string()),
            }
        )
        ranges = shard_ranges(len(rows), shard_rows)
        written[name] = split_of(
            [
                write_shard(directory, name, number, table.slice(first, last - first))
                for number, (first, last) in enumerate(ranges)
            ]
        )
    held_out = {"clans": ["CL0009"], "families": ["PF00009"]}
    write_manifest(
        directory,
        Manifest(
            kind="corpus", splits=written, settings={"held_out": held_out}, counts={"read": 12}, is_simulated=True
        ),
    )


CLEAN: dict[str, Rows] = {
    "train": [("ACDEFGHIKL"[:length] * 2, f"PF{length:05d}", "CL0001") for length in range(1, 9)],
    "valid": [("W" * 40, None, None), ("WY", "PF00002", "CL0001")],
    "holdout": [("MMM", "PF00009", "CL0009"), ("MM", "PF00010", "CL0001")],
}


def test_counts_and_lengths(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", CLEAN)
    stats = corpus_stats(tmp_path / "c")
    train = stats.splits["train"]
    assert (train.proteins, train.residues, train.families, train.clans, train.longest) == (8, 72, 8, 1, 16)
    assert (train.mean_length, train.median_length, train.percentile_99_length) == (9.0, 8.0, 16.0)
    assert train.histogram == ((1, 16, 8),)
    assert stats.splits["valid"].histogram == ((1, 31, 1), (32, 40, 1))
    assert train.padding_random == {8: 16 * 8 / 72, 32: 16 * 8 / 72, 128: 16 * 8 / 72}
    assert 1.5 < train.floor_training_mix < train.floor_masked
    assert stats.leakage.is_clean
    assert stats.leakage.shared_sequences == {"valid and holdout": 0, "valid and train": 0, "holdout and train": 0}


def test_padding_is_counted_across_shards() -> None:
    lengths = np.arange(1, 11)
    shuffled = np.array([10, 1, 9, 2, 8, 3, 7, 4, 6, 5])
    random, window = Padding(4, 4), Padding(4, SORTED_WINDOW)
    for part in np.split(shuffled, [3, 4, 9]):
        random.add(part)
        window.add(part)
    assert random.finish() == 10 * 4 + 8 * 4 + 6 * 2
    assert window.finish() == 4 * 4 + 8 * 4 + 10 * 2
    assert lengths.sum() == 55


def test_quantiles_and_histograms_count_every_protein() -> None:
    by_length = np.bincount([1, 31, 32, 32, 3000])
    assert histogram(by_length)[:2] == ((1, 31, 2), (32, 63, 2))
    assert histogram(by_length)[-1] == (2048, 3000, 1)
    assert [quantile(np.cumsum(by_length), share) for share in (0.2, 0.5, 0.99)] == [1, 32, 3000]


@pytest.mark.parametrize(
    ("row", "families", "clans", "shared"),
    [
        (("AAA", "PF00009", None), ("PF00009",), (), 0),
        (("AAA", None, "CL0009"), (), ("CL0009",), 0),
        (("AAA", "PF00010", "CL0001"), ("PF00010",), (), 0),  # not listed, but the split holdout has it
        (("MMM", None, None), (), (), 1),
        (("MM", None, None), (), (), 1),
    ],
)
def test_leakage_is_found(
    tmp_path: Path,
    row: tuple[str, str | None, str | None],
    families: tuple[str, ...],
    clans: tuple[str, ...],
    shared: int,
) -> None:
    write_corpus(tmp_path / "c", {**CLEAN, "train": [*CLEAN["train"], row]})
    leakage = corpus_stats(tmp_path / "c").leakage
    assert (leakage.held_out_families, leakage.held_out_clans) == (families, clans)
    assert leakage.shared_sequences["holdout and train"] == shared
    assert not leakage.is_clean


def test_the_figures_are_shown(tmp_path: Path) -> None:
    write_corpus(tmp_path / "c", CLEAN)
    console = Console(record=True, width=100, file=io.StringIO())
    console.print(render(corpus_stats(tmp_path / "c")))
    text = console.export_text()
    for shown in ("simulated proteins", "99th percentile", "random batches of 128", "Leakage: none", "1-16", "2.", "█"):
        assert shown in text


def test_a_missing_corpus_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no data set at .*gone"):
        corpus_stats(tmp_path / "gone")
