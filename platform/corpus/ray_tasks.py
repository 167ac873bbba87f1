"""Many small tasks over the cluster through Ray Data, a bounded number of them waiting at a time."""

import copy
import logging
import pickle
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import pyarrow as pa

from proteinlm.cluster.connect import cluster_size
from proteinlm.platform.corpus.chunks import Chunk, stream_parts
from proteinlm.platform.data.sources import Source

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class RayDataRunner:
    """Runs the tasks of a build on the cluster through Ray Data."""

    chunk_bytes: int
    max_record_bytes: int
    max_tasks: int | None = None
    """At once; None is as many as there are CPUs."""

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """`function` of each item, in any order."""
        import ray.data

        rows = [{"item": pickle.dumps(item)} for item in items]
        tasks = ray.data.from_items(rows, override_num_blocks=min(len(rows), 4096))
        yield from _results(
            tasks.map_batches(
                _Guarded(function), batch_size=None, batch_format="pyarrow", num_cpus=1, concurrency=self.max_tasks
            )
        )

    def map_streams(
        self, function: Callable[[Chunk], Result], sources: Sequence[tuple[int, Source]]
    ) -> Iterator[Result]:
        """`function` of each chunk of the numbered compressed sources, in any order."""
        import ray.data

        rows = [{"item": pickle.dumps(numbered)} for numbered in sources]
        streams = ray.data.from_items(rows, override_num_blocks=len(rows))
        # Different CPU shares keep Ray Data from fusing the two into one task that would do both in turn; together they
        # are one CPU, so that a cluster of a single CPU can run both.
        chunks = streams.map_batches(
            _Streaming(self.chunk_bytes, self.max_record_bytes), batch_size=None, batch_format="pyarrow", num_cpus=0.25
        )
        yield from _results(
            chunks.map_batches(
                _Guarded(function), batch_size=None, batch_format="pyarrow", num_cpus=0.75, concurrency=self.max_tasks
            )
        )


@dataclass(frozen=True)
class _Streaming:
    """The chunks of compressed sources, one block each. An error travels in a chunk's place, as in `_Guarded`."""

    chunk_bytes: int
    max_record_bytes: int

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for content in rows.column("item").to_pylist():
            number, source = pickle.loads(content)
            try:
                for place, part in enumerate(stream_parts(source, self.chunk_bytes, self.max_record_bytes)):
                    yield _block("item", pickle.dumps(Chunk(number, place, part=part)))
            except (ValueError, OSError) as error:
                yield _block("item", pickle.dumps(error))


@dataclass(frozen=True)
class _Guarded:
    """Items in, results out, both pickled. What is wrong with the input comes back as a result, not as a crash.

    Ray wraps an error raised in a task in its own, with the task's traceback; a user is to read one plain message.
    """

    function: Callable[[Any], Any]

    def __call__(self, rows: pa.Table) -> Iterator[pa.Table]:
        for content in rows.column("item"):
            item = pickle.loads(content.as_buffer())
            try:
                result = item if isinstance(item, Exception) else self.function(item)
            except (ValueError, OSError) as error:
                result = error
            yield _block("result", pickle.dumps(result))


def _block(name: str, content: bytes) -> pa.Table:
    return pa.table({name: pa.array([content], pa.large_binary())})


def _results(tasks: Any) -> Iterator[Any]:
    for row in tasks.iter_rows():
        result = pickle.loads(row["result"])
        if isinstance(result, Exception):
            raise result
        yield result


@contextmanager
def quiet_data(chunk_bytes: int) -> Iterator[None]:
    """Ray Data without its progress bars and start messages, with small blocks and a bound on those that wait."""
    from ray.data import DataContext, ExecutionOptions, ExecutionResources

    context = copy.deepcopy(DataContext.get_current())
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = max(1, chunk_bytes // 4)  # a chunk goes out as soon as it is there
    waiting = int(2 * chunk_bytes * (2 + cluster_size().cpus))
    context.execution_options = ExecutionOptions(resource_limits=ExecutionResources(object_store_memory=waiting))
    # The second says once, as a warning, that the bars are off, which is what was asked for.
    loggers = {"ray.data": logging.WARNING, "ray.data._internal.progress": logging.ERROR}
    before = {name: logging.getLogger(name).level for name in loggers}
    try:
        for name, level in loggers.items():
            logging.getLogger(name).setLevel(level)
        with DataContext.current(context):
            yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)
