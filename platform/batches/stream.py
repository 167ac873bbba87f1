"""Stream micro batches out of Parquet shards with Ray Data: the one door to `ray.data` for training.

    windows to read -> Ray Data tasks: read them (windows.py) -> worker: micro batches, one after the other -> Batch

Each worker runs its own pipeline over the windows of its own lanes, in order (`preserve_order`), so nothing waits for
the other workers and the number of workers never changes what a lane carries. See order.py for the order.
"""

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import islice
from typing import cast

import pyarrow as pa

from proteinlm.models.alphabet import get_alphabet
from proteinlm.platform.batches.order import BatchPlan, Share, WindowSlice, lanes_of, micro_batches_per_step
from proteinlm.platform.batches.windows import (
    ReadOptions,
    blank_batch,
    is_empty,
    read_window,
    to_batch,
)
from proteinlm.platform.data.manifest import Shard, Split
from proteinlm.tasks.catalog import build_task
from proteinlm.tasks.task import Batch, Task

READER_MEMORY = 256 * 2**20
"""Bytes of the object store that one worker's pipeline may fill ahead of it."""

RESIDUES_PER_TASK = 2_000_000
"""Windows of about so many residues are read by one Ray task and come as one block: each costs some milliseconds."""

MAX_TASKS = 256
"""Tasks of one Ray Data pipeline, which spends about a millisecond on each before it starts. A longer run is several
pipelines in turn, with a fraction of a second in between after half a billion residues."""

PREFETCHED_BLOCKS = 2

READERS = 2
"""Tasks of one pipeline at once. They reserve no CPU: reading takes a few hundredths of one, and where workers hold all
CPUs a task that asks for one waits for ever, or has the autoscaler add a node of GPUs to read on."""


def training_steps(
    reading: ReadOptions, plan: BatchPlan, *, rank: int, world_size: int, first_step: int, last_step: int
) -> Iterator[list[Batch]]:
    """For every global step in [first_step, last_step): the micro batches of this worker's lanes, in lane order.

    Every worker has equally many: one that owns fewer lanes than another gets a blank micro batch, which adds nothing
    to loss and gradient. ValueError where there are more workers than lanes.
    """
    share = Share(plan, lanes_of(rank, world_size, plan.lanes), first_step, last_step)
    task = build_task(reading.task, **reading.task_options)
    num_blanks = micro_batches_per_step(plan.lanes, world_size) - len(share.lanes)
    blanks = [blank_batch(get_alphabet(reading.alphabet), task)] * num_blanks
    windows = (share.window(number) for number in range(share.num_windows))
    steps = share.steps(_stream(reading, windows, task))
    return ([*(to_batch(*place, task, get_alphabet(reading.alphabet)) for place in lanes), *blanks] for lanes in steps)


def validation_batches(
    reading: ReadOptions, *, rank: int, world_size: int, micro_batch_residues: int, max_residues: int | None
) -> tuple[list[Batch], int]:
    """Micro batches of one worker, from a fixed prefix of the split, and how many of them count.

    Over all workers every row counts once. The lists of all workers have one length (filled up with a micro batch that
    does not count), because an engine that shards parameters must run the same number of forward passes everywhere.
    """
    counts = prefix_rows(reading.split, max_residues)
    mean = reading.split.residues / reading.split.rows
    parts = [max(1, round(count * mean / micro_batch_residues)) for count in counts]
    windows = (
        WindowSlice.of(reading.split, number, parts[number], False, num_rows=count)
        for number, count in enumerate(counts)
    )
    task = build_task(reading.task, **reading.task_options)
    places = [place for place in _stream(reading, windows, task) if not is_empty(*place)]
    mine = places[rank::world_size]
    filling = places[:1] * (-(-len(places) // world_size) - len(mine))
    return [to_batch(*place, task, get_alphabet(reading.alphabet)) for place in [*mine, *filling]], len(mine)


def prefix_rows(split: Split, max_residues: int | None) -> list[int]:
    """How many rows of each shard, from the first shard on, make up about `max_residues` residues (None: all)."""
    left = split.rows if max_residues is None else max(1, round(max_residues * split.rows / split.residues))
    counts = []
    for shard in split.shards:
        counts.append(min(shard.rows, left))
        left -= counts[-1]
    return [count for count in counts if count]


def _stream(reading: ReadOptions, windows: Iterator[WindowSlice], task: Task) -> Iterator[tuple[pa.Table, int]]:
    """The micro batches of `windows`, in order: a table that holds it, and its row in there.

    Of a task's records, what makes one Ray task is read here, in some 30 ms: a pipeline takes longer to start.
    """
    per_task = max(1, round(RESIDUES_PER_TASK * len(reading.split.shards) / reading.split.residues))
    while part := list(islice(windows, per_task * MAX_TASKS)):
        num_tasks = -(-len(part) // per_task)
        tables: Iterator[pa.Table]
        if task.records and num_tasks == 1:
            tables = map(partial(read_window, reading), part)
        else:
            tables = _pipeline(reading, part, num_tasks)
        for table in tables:
            for number in range(table.num_rows):
                yield table, number


def _pipeline(reading: ReadOptions, windows: Sequence[WindowSlice], num_tasks: int) -> Iterator[pa.Table]:
    """Ray Data over `windows`, in order, as Arrow tables of one or more of them."""
    import ray.data
    from ray.data import DataContext, ExecutionResources, TaskPoolStrategy

    # It tells of every pipeline, where a progress bar may be, and of an error in a hundred lines, which we say in one.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current().copy()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources(object_store_memory=READER_MEMORY)
    items = [asdict(window) | {"source": window.source.model_dump()} for window in windows]
    # To a task goes what it needs of the split and no more: unpickling the manifest of a large corpus takes longer than
    # reading a window.
    read = partial(_read, replace(reading, split=Split(shards=(), residue_counts={}, longest=0)))
    with DataContext.current(context):
        tables = ray.data.from_items(items, override_num_blocks=num_tasks).map_batches(
            read, batch_size=None, batch_format="pyarrow", num_cpus=0, compute=TaskPoolStrategy(min(READERS, num_tasks))
        )
    blocks = tables.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=PREFETCHED_BLOCKS)
    try:
        for block in blocks:
            yield cast(pa.Table, block)
    except ValueError as error:  # of a task: Ray puts a traceback before its message and advice after it
        raise ValueError(str(getattr(error, "cause", error)).partition("\n")[0]) from error


def _read(reading: ReadOptions, windows: pa.Table) -> Iterator[pa.Table]:
    for window in windows.to_pylist():
        yield read_window(reading, WindowSlice(**(window | {"source": Shard(**window["source"])})))
