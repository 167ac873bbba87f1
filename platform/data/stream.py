"""Stream micro batches out of Parquet shards with Ray Data: the one door to `ray.data` for training.

    window numbers -> Ray Data tasks: read the shard, tokenise, make labels (masks), cut into micro batches
                   -> worker: one Arrow row per micro batch -> Batch

Each worker runs its own pipeline over the windows of its own lanes, in order (`preserve_order`), so nothing waits for
the other workers and the number of workers never changes what a lane carries. See plan.py for the order.

Shapes: N tokens, B proteins of a window or of a micro batch.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from proteinlm.models.alphabet import Alphabet, get_alphabet
from proteinlm.models.objectives import NOT_SCORED
from proteinlm.models.packed import pack
from proteinlm.platform.data.manifest import Split
from proteinlm.platform.data.plan import BANDS, BatchPlan, WindowPlace, cut_evenly, lanes_of, micro_batches_per_step
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, Task, Window

READER_MEMORY = 512 * 2**20
"""Bytes of the object store that one worker's pipeline may fill ahead of it."""

PREFETCHED_WINDOWS = 2


@dataclass(frozen=True)
class Reading:
    """Everything a reading task needs, as plain values that travel."""

    directory: str
    split: Split
    alphabet: str
    task: str
    task_options: dict[str, Any]
    seed: int
    max_length: int


@dataclass(frozen=True)
class _Slice:
    """One window to read: which shard, in which epoch, cut into how many micro batches."""

    place: WindowPlace
    micro_batches: int
    is_training: bool
    num_rows: int | None = None
    """The shard's first rows alone; None: all."""


def read_window(reading: Reading, wanted: _Slice) -> pa.Table:
    """Read, tokenise and label one window: a row per micro batch, arrays as bytes."""
    task = build_task(reading.task, **reading.task_options)
    shard = reading.split.shards[wanted.place.shard]
    table = pq.read_table(Path(reading.directory) / shard.file, columns=["id", "sequence", "length", *task.columns])
    table = table.slice(0, wanted.num_rows)
    first_row = sum(s.rows for s in reading.split.shards[: wanted.place.shard])
    window = tokenise(
        table,
        get_alphabet(reading.alphabet),
        rows=np.arange(first_row, first_row + table.num_rows, dtype=np.int64),
        seed=reading.seed,
        epoch=wanted.place.epoch,
        max_length=reading.max_length,
        crops_at_random=wanted.is_training,
    )
    tokens, labels = task.prepare(window)
    groups = cut_evenly(window.lengths, wanted.micro_batches, BANDS if wanted.is_training else 1)
    if wanted.is_training:
        # Groups come shortest first: in that order lengths would rise through every window.
        order = np.random.default_rng([reading.seed, wanted.place.epoch, wanted.place.shard]).permutation(len(groups))
        groups = [groups[i] for i in order]
    return _micro_batches(task, window, tokens, labels, groups)


def tokenise(
    table: pa.Table,
    alphabet: Alphabet,
    *,
    rows: NDArray[np.int64],
    seed: int,
    epoch: int,
    max_length: int,
    crops_at_random: bool,
) -> Window:
    """A table of proteins as a `Window`; proteins longer than `max_length` residues are cropped.

    The crop of a row depends on (seed, epoch, row) alone.
    """
    sequences = table.column("sequence").to_pylist()
    lengths = np.array([len(sequence) for sequence in sequences], dtype=np.int64)
    starts = np.zeros(len(sequences), dtype=np.int32)
    for i in np.flatnonzero(lengths > max_length):
        if crops_at_random:
            starts[i] = np.random.default_rng([seed, epoch, int(rows[i]), 0xC40]).integers(lengths[i] - max_length + 1)
        sequences[i] = sequences[i][starts[i] : starts[i] + max_length]
    tokens, token_lengths = alphabet.encode(sequences)
    return Window(tokens, token_lengths, rows, starts, table.drop_columns(["sequence"]), alphabet, seed, epoch)


def _micro_batches(
    task: Task,
    window: Window,
    tokens: NDArray[np.uint8],
    labels: NDArray[np.generic],
    groups: Sequence[NDArray[np.int64]],
) -> pa.Table:
    ends = np.cumsum(window.lengths, dtype=np.int64)
    starts = ends - window.lengths
    per_residue = task.label_level == "residue"
    num_specials = window.alphabet.specials_per_protein
    columns: dict[str, list[bytes]] = {"tokens": [], "lengths": [], "labels": [], "rows": []}
    num_residues = []
    for group in groups:
        index = np.concatenate([np.arange(starts[i], ends[i]) for i in group]) if len(group) else np.empty(0, np.int64)
        columns["tokens"].append(tokens[index].tobytes())
        columns["lengths"].append(window.lengths[group].astype(np.int32).tobytes())
        columns["labels"].append(labels[index if per_residue else group].astype(task.label_dtype).tobytes())
        columns["rows"].append(window.rows[group].tobytes())
        num_residues.append(len(index) - num_specials * len(group))
    table = pa.table({name: pa.array(values, pa.large_binary()) for name, values in columns.items()})
    return table.append_column("num_residues", pa.array(num_residues, pa.int64()))


def to_batch(row: dict[str, Any], task: Task) -> Batch:
    """The `Batch` that one Arrow row carries."""
    lengths = np.frombuffer(row["lengths"], np.int32)
    labels = np.frombuffer(row["labels"], task.label_dtype).reshape(-1, *task.label_shape)
    return Batch(
        pack(np.frombuffer(row["tokens"], np.uint8), lengths),
        torch.from_numpy(labels.copy()).to(_label_type(task)),
        tuple(np.frombuffer(row["rows"], np.int64).tolist()),
        num_residues=int(row["num_residues"]),
    )


def _label_type(task: Task) -> torch.dtype:
    return torch.int64 if np.issubdtype(task.label_dtype, np.integer) else torch.float32


def training_steps(
    reading: Reading, plan: BatchPlan, *, rank: int, world_size: int, first_step: int, last_step: int
) -> Iterator[list[Batch]]:
    """For every global step in [first_step, last_step): the micro batches of this worker's lanes, in lane order.

    Every worker has equally many: one that owns fewer lanes than another gets a blank micro batch, which adds nothing
    to loss and gradient. ValueError where there are more workers than lanes.
    """
    num_blanks = micro_batches_per_step(plan.lanes, world_size) - len(lanes_of(rank, world_size, plan.lanes))
    blank = blank_batch(get_alphabet(reading.alphabet), build_task(reading.task, **reading.task_options))
    steps = _lane_steps(reading, plan, lanes_of(rank, world_size, plan.lanes), first_step, last_step)
    return ([*batches, *[blank] * num_blanks] for batches in steps)


def _lane_steps(
    reading: Reading, plan: BatchPlan, mine: Sequence[int], first_step: int, last_step: int
) -> Iterator[list[Batch]]:
    if first_step >= last_step:
        return
    first_round, skipped = plan.place_of(first_step)
    rounds = plan.place_of(last_step - 1)[0] + 1 - first_round
    task = build_task(reading.task, **reading.task_options)

    def wanted(number: int) -> _Slice:
        round_, lane = divmod(number, len(mine))
        return _Slice(plan.lane_window(mine[lane], first_round + round_), plan.micro_batches, is_training=True)

    windows = _pipeline(reading, wanted, rounds * len(mine))
    step = first_step
    while step < last_step:
        lanes = [next(windows).to_pylist() for _ in mine]
        for number in range(skipped, plan.micro_batches):
            if step == last_step:
                break
            yield [to_batch(lane[number], task) for lane in lanes]
            step += 1
        skipped = 0


def blank_batch(alphabet: Alphabet, task: Task) -> Batch:
    """A micro batch of one protein without residues and without a label to score: its loss and gradient are zero."""
    tokens, lengths = alphabet.encode([""])
    labels = torch.full((len(tokens) if task.label_level == "residue" else 1, *task.label_shape), NOT_SCORED)
    return Batch(pack(tokens, lengths), labels.to(_label_type(task)), rows=(), num_residues=0)


def validation_batches(
    reading: Reading, *, rank: int, world_size: int, micro_batch_residues: int, max_residues: int | None
) -> tuple[list[Batch], int]:
    """Micro batches of one worker, from a fixed prefix of the split, and how many of them count.

    Over all workers every row counts once. The lists of all workers have one length (filled up with a micro batch that
    does not count), because an engine that shards parameters must run the same number of forward passes everywhere.
    """
    counts = prefix_rows(reading.split, max_residues)
    mean = reading.split.residues / reading.split.rows

    def wanted(number: int) -> _Slice:
        parts = max(1, round(counts[number] * mean / micro_batch_residues))
        return _Slice(WindowPlace(0, number), parts, is_training=False, num_rows=counts[number])

    task = build_task(reading.task, **reading.task_options)
    rows = [row for table in _pipeline(reading, wanted, len(counts)) for row in table.to_pylist() if row["lengths"]]
    mine = rows[rank::world_size]
    filling = rows[:1] * (-(-len(rows) // world_size) - len(mine))
    return [to_batch(row, task) for row in [*mine, *filling]], len(mine)


def prefix_rows(split: Split, max_residues: int | None) -> list[int]:
    """How many rows of each shard, from the first shard on, make up about `max_residues` residues (None: all)."""
    left = split.rows if max_residues is None else max(1, round(max_residues * split.rows / split.residues))
    counts = []
    for shard in split.shards:
        counts.append(min(shard.rows, left))
        left -= counts[-1]
    return [count for count in counts if count]


def _pipeline(reading: Reading, wanted: Callable[[int], _Slice], count: int) -> Iterator[pa.Table]:
    """Ray Data over window numbers 0 .. count - 1, in order: one Arrow table per window."""
    import ray.data
    from ray.data import DataContext, ExecutionResources

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=READER_MEMORY)
    # One block a window, so that a window is ready as soon as it is read; very long runs share blocks.
    windows = ray.data.range(count, override_num_blocks=min(count, 4096)).map_batches(
        partial(_read_numbered, reading, wanted), batch_size=1, batch_format="pyarrow"
    )
    for block in windows.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=PREFETCHED_WINDOWS):
        table = cast(pa.Table, block)
        for number in pc.unique(table.column("window")).to_pylist():
            yield table.filter(pc.equal(table.column("window"), number))


def _read_numbered(reading: Reading, wanted: Callable[[int], _Slice], numbers: pa.Table) -> pa.Table:
    (number,) = numbers.column("id").to_pylist()
    table = read_window(reading, wanted(number))
    return table.append_column("window", pa.array([number] * table.num_rows, pa.int64()))
