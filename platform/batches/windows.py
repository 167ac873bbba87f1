"""One window: a shard from Parquet, tokenised, labelled and cut into micro batches, as an Arrow table that travels.

    Parquet -> lengths -> cut (order.py) -> proteins in the order of the micro batches -> tokens -> labels
            -> one Arrow row per micro batch -> Batch

Proteins are put in order while they are Arrow's strings, which is a copy of whole sequences. From there on every micro
batch is a slice: an Arrow column is the window's own array and the places where it is cut.

Shapes: N tokens, B proteins of a window or of a micro batch, M micro batches of the window.
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from numpy.typing import NDArray

from proteinlm.models.alphabet import Alphabet, get_alphabet, joined_letters
from proteinlm.models.masking import row_keys
from proteinlm.models.packed import NOT_SCORED, pack
from proteinlm.platform.batches.order import WindowSlice
from proteinlm.platform.data.manifest import Split, read_shard
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, Task, Window

Crop = Literal["random", "start", "refuse"]
"""What is kept of a protein that is too long to train on: another stretch in each epoch, its start, or nothing."""

_CROP_STREAM = 0xC40 << 48
"""Added to the seed where crops are drawn, so that they have nothing to do with the masks."""


@dataclass(frozen=True)
class ReadOptions:
    """Everything a reading task needs, as plain values that travel."""

    directory: str
    split: Split
    alphabet: str
    task: str
    task_options: dict[str, Any]
    seed: int
    max_length: int
    """Residues; longer proteins are cropped."""
    crop: Crop = "random"
    """How they are in training; in scoring their start is kept."""


def read_window(reading: ReadOptions, wanted: WindowSlice) -> pa.Table:
    """Read, tokenise and label one window: a row per micro batch, arrays as bytes.

    Columns `tokens`, `labels`, `lengths` (int32), `rows` (int64) and `num_residues`. ValueError where a protein is too
    long and the crop is "refuse".
    """
    task = build_task(reading.task, **reading.task_options)
    alphabet = get_alphabet(reading.alphabet)
    table = read_shard(reading.directory, wanted.source, ["id", "sequence", "length", *task.columns])
    table = table.slice(0, wanted.num_rows)

    residues = pc.utf8_length(table.column("sequence")).to_numpy()
    lengths = np.minimum(residues, reading.max_length) + alphabet.specials_per_protein
    groups = wanted.cut(lengths, reading.seed)
    proteins = np.concatenate(groups)
    window = tokenise(
        table.take(proteins),
        alphabet,
        rows=wanted.first_row + proteins,
        seed=reading.seed,
        epoch=wanted.epoch,
        max_length=reading.max_length,
        crop=reading.crop if wanted.is_training else "start",
    )
    tokens, labels = task.prepare(replace(window, is_training=wanted.is_training))
    return _cut(task, window, tokens, labels, np.array([len(group) for group in groups]))


def tokenise(
    table: pa.Table,
    alphabet: Alphabet,
    *,
    rows: NDArray[np.int64],
    seed: int,
    epoch: int,
    max_length: int,
    crop: Crop,
) -> Window:
    """A table of proteins as a `Window`; proteins longer than `max_length` residues are cropped.

    A random crop of a row depends on (seed, epoch, row) alone. ValueError where a protein is too long and the crop is
    "refuse".
    """
    letters, residues = _letters(table.column("sequence"))
    starts = np.zeros(len(residues), dtype=np.int64)
    is_long = residues > max_length
    if is_long.any():
        if crop == "refuse":
            raise ValueError(f"batches.max_length is {max_length}, and a protein has {residues.max()} residues")
        if crop == "random":
            room = (residues[is_long] - max_length + 1).astype(np.uint64)
            starts[is_long] = row_keys(rows[is_long], seed=seed + _CROP_STREAM, epoch=epoch) % room
        letters = _cropped(letters, residues[is_long], np.cumsum(residues)[is_long], starts[is_long], max_length)
    tokens, lengths = alphabet.encode(letters, np.minimum(residues, max_length))
    columns = table.drop_columns(["sequence"])
    return Window(tokens, lengths, rows, starts.astype(np.int32), columns, alphabet, seed, epoch)


def _letters(sequences: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All letters one after the other and how many each sequence has [B]: views of Arrow's own memory."""
    array = sequences.cast(pa.large_string()).combine_chunks()
    _, offsets, content = array.buffers()
    borders = np.frombuffer(offsets, np.int64)[array.offset : array.offset + len(array) + 1]
    letters = np.frombuffer(content or b"", np.uint8)[borders[0] : borders[-1]]
    if letters.size and letters.max() > 127:  # several bytes make one letter
        return joined_letters(sequences.to_pylist())
    return letters, np.diff(borders)


def _cropped(
    letters: NDArray[np.uint8],
    residues: NDArray[np.int64],
    ends: NDArray[np.int64],
    starts: NDArray[np.int64],
    max_length: int,
) -> NDArray[np.uint8]:
    """`letters` without what is too much of the long proteins, of `residues` that end at `ends`."""
    first = ends - residues + starts
    borders = np.stack([ends - residues, first, first + max_length, ends], axis=1).reshape(-1)
    return np.concatenate(np.split(letters, borders)[::2])  # between the borders lies kept, dropped, kept, dropped ...


def _cut(
    task: Task,
    window: Window,
    tokens: NDArray[np.uint8],
    labels: NDArray[np.generic],
    counts: NDArray[np.int64],
) -> pa.Table:
    """The window's arrays as columns that are cut after each `counts` [M] proteins."""
    proteins = np.concatenate([[0], np.cumsum(counts)])
    places = np.concatenate([[0], np.cumsum(window.lengths, dtype=np.int64)])[proteins]
    labels = labels.astype(task.label_dtype, copy=False)
    num_residues = np.diff(places) - window.alphabet.specials_per_protein * counts
    return pa.table(
        {
            "tokens": _pieces(tokens, places),
            "lengths": _pieces(window.lengths, proteins),
            "labels": _pieces(labels, places if task.label_level == "residue" else proteins),
            "rows": _pieces(window.rows, proteins),
            "num_residues": pa.array(num_residues, pa.int64()),
        }
    )


def _pieces(values: NDArray[Any], borders: NDArray[np.int64]) -> pa.Array:
    """`values` cut at `borders` [M + 1], as M Arrow values of bytes, without a copy."""
    values = np.ascontiguousarray(values)
    offsets = borders * (values.nbytes // max(len(values), 1))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(values)]
    return pa.Array.from_buffers(pa.large_binary(), len(borders) - 1, buffers)


def is_empty(table: pa.Table, number: int) -> bool:
    """Whether micro batch `number` of `table` has no protein: where a window had fewer proteins than micro batches."""
    return bool(table.column("lengths")[number].as_buffer().size == 0)


def to_batch(table: pa.Table, number: int, task: Task, alphabet: Alphabet) -> Batch:
    """Micro batch `number` of a table that `read_window` gave."""

    def values(name: str, dtype: str) -> NDArray[Any]:
        return np.frombuffer(table.column(name)[number].as_buffer(), dtype)

    labels, lengths = values("labels", task.label_dtype).reshape(-1, *task.label_shape), values("lengths", "int32")
    return Batch(
        pack(values("tokens", "uint8"), lengths, alphabet),
        torch.from_numpy(labels.astype(_label_type(task))),
        tuple(values("rows", "int64").tolist()),
        num_residues=table.column("num_residues")[number].as_py(),
        num_scored=task.count(labels, lengths.astype(np.int64)),
    )


def blank_batch(alphabet: Alphabet, task: Task) -> Batch:
    """A micro batch of one protein without residues and without a label to score: its loss and gradient are zero."""
    tokens, lengths = alphabet.encode([""])
    shape = (len(tokens) if task.label_level == "residue" else 1, *task.label_shape)
    dtype = _label_type(task)
    unscored = NOT_SCORED if np.issubdtype(dtype, np.integer) else np.nan
    return Batch(pack(tokens, lengths, alphabet), torch.from_numpy(np.full(shape, unscored, dtype)), rows=())


def _label_type(task: Task) -> type[np.int64] | type[np.float32]:
    return np.int64 if np.issubdtype(task.label_dtype, np.integer) else np.float32
