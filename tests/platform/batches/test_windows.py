"""One window: every protein once, tokens and labels as a plain computation gives them, crops that say what they are."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from proteinlm.models.alphabet import get_alphabet
from proteinlm.models.masking import DEFAULT_MASKING, mask_tokens
from proteinlm.models.packed import NOT_SCORED
from proteinlm.platform.batches.order import Draw, WindowSlice
from proteinlm.platform.batches.windows import (
    Crop,
    ReadOptions,
    blank_batch,
    is_empty,
    read_window,
    to_batch,
    tokenise,
)
from proteinlm.platform.data.manifest import Manifest, split_of, write_shard
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.masked_language_modeling import masked_language_modeling
from proteinlm.tasks.task import Batch, Window
from tests.made.small_corpus import write_small_corpus
from tests.made.small_models import tiny_model

ESM = get_alphabet("esm")
MLM = "masked_language_modeling"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Manifest]:
    directory = tmp_path_factory.mktemp("corpus") / "made"
    directory.mkdir()
    return directory, write_small_corpus(directory)


def reading(corpus: tuple[Path, Manifest], *, max_length: int = 1024, crop: Crop = "random") -> ReadOptions:
    return ReadOptions(str(corpus[0]), corpus[1].split("train"), "esm", MLM, {}, 3, max_length, crop)


def batches(reading: ReadOptions, wanted: WindowSlice) -> list[Batch]:
    table = read_window(reading, wanted)
    return [
        to_batch(table, number, build_task(MLM), ESM) for number in range(table.num_rows) if not is_empty(table, number)
    ]


@pytest.mark.parametrize("draw", ["by_length", "random"])
def test_a_window_is_what_a_plain_computation_gives(draw: Draw, corpus: tuple[Path, Manifest]) -> None:
    epoch, shard, parts = 5, 2, 7
    wanted = WindowSlice.of(corpus[1].split("train"), shard, parts, True, epoch=epoch, draw=draw)
    found = batches(reading(corpus), wanted)
    table = pq.read_table(corpus[0] / corpus[1].split("train").shards[shard].file)
    sequences, rows = table.column("sequence").to_pylist(), 200 + np.arange(100)
    tokens, lengths = ESM.encode(sequences)
    masked, labels = mask_tokens(tokens, lengths, rows, DEFAULT_MASKING, alphabet=ESM, seed=3, epoch=epoch)
    ends = np.cumsum(lengths)
    expected = [
        [
            (
                int(rows[i]),
                masked[ends[i] - lengths[i] : ends[i]].tolist(),
                labels[ends[i] - lengths[i] : ends[i]].tolist(),
            )
            for i in group
        ]
        for group in wanted.cut(lengths, seed=3)
    ]
    assert len(found) == parts
    for batch, proteins in zip(found, expected, strict=True):
        borders = np.cumsum(batch.packed.lengths)[:-1]
        parts_of = zip(
            batch.rows,
            [piece.tolist() for piece in np.split(batch.packed.tokens.numpy(), borders)],
            [piece.tolist() for piece in np.split(batch.labels.numpy(), borders)],
            strict=True,
        )
        assert list(parts_of) == proteins
        assert batch.num_residues == batch.packed.num_tokens - 2 * len(batch.rows)


def test_labels_of_a_task_stay_with_their_residues(tmp_path: Path) -> None:
    """Class of a residue = its position modulo 3: through order, crop and cut each keeps its own."""
    lengths = [7, 30, 12, 19, 30, 4, 25, 9]
    table = {
        "id": [str(row) for row in range(len(lengths))],
        "sequence": ["ACDEFGHIKLMNPQRSTVWY"[row] * length for row, length in enumerate(lengths)],
        "length": lengths,
        "ss3": [[place % 3 for place in range(length)] for length in lengths],
        "valid_mask": [[True] * length for length in lengths],
    }
    split = split_of([write_shard(tmp_path, "train", 0, pa.table(table))])
    task = build_task("secondary_structure_q3")
    found = read_window(
        ReadOptions(str(tmp_path), split, "esm", task.name, {}, 0, 10), WindowSlice.of(split, 0, 3, True, epoch=2)
    )
    rows = []
    for number in range(3):
        batch = to_batch(found, number, task, ESM)
        borders = np.cumsum(batch.packed.lengths)[:-1]
        for row, labels in zip(batch.rows, np.split(batch.labels.numpy(), borders), strict=True):
            rows.append(row)
            assert labels[0] == labels[-1] == NOT_SCORED
            assert len(labels) == min(lengths[row], 10) + 2
            assert (np.diff(labels[1:-1]) % 3 == 1).all()
    assert sorted(rows) == list(range(len(lengths)))


def test_micro_batches_of_a_window_come_in_an_order_of_their_own_each_epoch(corpus: tuple[Path, Manifest]) -> None:
    def order(epoch: int, is_training: bool = True) -> list[tuple[int, ...]]:
        return [
            b.rows
            for b in batches(reading(corpus), WindowSlice.of(corpus[1].split("train"), 0, 8, is_training, epoch=epoch))
        ]

    assert order(0) != order(1)
    assert sorted(order(0)) == sorted(order(1))
    assert order(0, is_training=False) == order(1, is_training=False)


def test_more_micro_batches_than_proteins_leaves_some_empty(corpus: tuple[Path, Manifest]) -> None:
    wanted = WindowSlice.of(corpus[1].split("train"), 0, 5, False, num_rows=3)
    assert read_window(reading(corpus), wanted).num_rows == 5
    assert sorted(row for batch in batches(reading(corpus), wanted) for row in batch.rows) == [0, 1, 2]


def window(sequences: pa.ChunkedArray | pa.Array, max_length: int, crop: Crop, epoch: int = 0) -> Window:
    table = pa.table({"id": [str(i) for i in range(len(sequences))], "sequence": sequences})
    rows = np.arange(len(sequences)) + 40
    return tokenise(table, ESM, rows=rows, seed=1, epoch=epoch, max_length=max_length, crop=crop)


def sequences_of(found: Window) -> list[str]:
    return [ESM.decode(piece) for piece in np.split(found.tokens, np.cumsum(found.lengths)[:-1])]


PROTEINS = ["MKV", "ACDEFGHIKLMNPQRSTVWY", "", "WWWWW", "GAVLIMFWPSTCYNQDEKRH" * 2, "LL", "ACDEFGHIKLMNPQRSTVWY"]


@pytest.mark.parametrize("is_large", [False, True])
def test_letters_are_read_out_of_any_arrow_strings(is_large: bool) -> None:
    kind = pa.large_string() if is_large else pa.string()
    whole = pa.array(["XX", *PROTEINS, "ZZ"], kind)
    cut = pa.chunked_array([whole.slice(1, 3), pa.array([], kind), whole.slice(4, 4)])
    for sequences in (pa.array(PROTEINS, kind), whole.slice(1, 7), cut, pa.chunked_array([pa.array([""], kind)])):
        assert sequences_of(window(sequences, 100, "refuse")) == pa.chunked_array(sequences).to_pylist()


def test_a_letter_of_several_bytes_is_one_unknown_residue() -> None:
    found = window(pa.array(["AéK", "\u03b1L"]), 100, "random")
    assert found.lengths.tolist() == [5, 4]
    assert sequences_of(found) == ["A<unk>K", "<unk>L"]


def test_a_long_protein_keeps_a_stretch_that_depends_on_row_and_epoch_alone() -> None:
    crops = [window(pa.array(PROTEINS), 8, "random", epoch) for epoch in range(200)]
    for found in crops:
        assert sequences_of(found) == [
            sequence[start : start + 8] for sequence, start in zip(PROTEINS, found.starts.tolist(), strict=True)
        ]
        assert (found.starts[[0, 2, 3, 5]] == 0).all()
    starts = np.array([found.starts for found in crops])
    assert set(starts[:, 1]) == set(range(13)), "every stretch of 8 out of 20 comes"
    assert (starts[:, 1] != starts[:, 6]).any(), "the same protein in another row is cropped its own way"
    one = pa.table({"sequence": PROTEINS[4:5]})
    alone = tokenise(one, ESM, rows=np.array([44]), seed=1, epoch=7, max_length=8, crop="random")
    assert alone.starts[0] == starts[7, 4], "whatever else is in the window"


def test_crop_start_keeps_the_start_and_refuse_refuses(corpus: tuple[Path, Manifest]) -> None:
    assert sequences_of(window(pa.array(PROTEINS), 8, "start", 3)) == [sequence[:8] for sequence in PROTEINS]
    assert sequences_of(window(pa.array(PROTEINS), 40, "refuse")) == PROTEINS
    with pytest.raises(ValueError, match=r"batches.max_length is 39, and a protein has 40 residues"):
        window(pa.array(PROTEINS), 39, "refuse")
    training, scoring = (WindowSlice.of(corpus[1].split("train"), 0, 4, is_training) for is_training in (True, False))
    lengths = [
        n for batch in batches(reading(corpus, max_length=50, crop="start"), training) for n in batch.packed.lengths
    ]
    assert max(lengths) == 52
    with pytest.raises(ValueError, match="max_length is 50"):
        read_window(reading(corpus, max_length=50, crop="refuse"), training)
    assert len(batches(reading(corpus, max_length=50, crop="refuse"), scoring)) == 4, "scoring keeps the start instead"


@pytest.mark.parametrize("name", ["esm", "proteinlm"])
def test_a_blank_micro_batch_adds_exactly_nothing(name: str) -> None:
    task = masked_language_modeling()
    model = tiny_model(task, alphabet=name)
    blank = blank_batch(get_alphabet(name), task)
    assert (blank.rows, blank.num_residues, blank.labels.unique().tolist()) == ((), 0, [NOT_SCORED])
    columns = model(blank)
    assert not any(values.any() for values in columns.values())
    columns["loss"].sum().backward()
    assert all(p.grad is None or not p.grad.any() for p in model.parameters())
